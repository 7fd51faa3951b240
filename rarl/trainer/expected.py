"""Supervised fine-tuning on the expected error of the numbers that answers state, in digits or in value tokens.

Where the reasoning of a perfect answer states an image's value, the model has a probability for every legal number (see
[`rarl.number_trie`][rarl.number_trie]). So it has an expected error there, which is differentiated: numbers that are
far off cost more than near ones, and none has to be sampled. The probabilities are exact: ways in which a number might
go on, and the answer does not, are laid behind it as a tree (see
[`rarl.shared_prefix.branches`][rarl.shared_prefix.branches]). Numbers in one token each need none.

References: regression-aware fine-tuning (RAFT, arXiv:2403.04182), which is the squared error of the mean; number token
loss (arXiv:2411.02083), whose Wasserstein distance of single tokens is here that of whole numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from trl.trainer.utils import pad

from gor_head.vlm.repairs import mend_token_rows
from gor_head.vlm.sft import NumberLossTrainer
from rarl.inputs import tokenizer_of
from rarl.number_trie import NumberTrie
from rarl.shared_prefix.branches import MAX_TOKENS, TokenTree, answer_and_branch_logits
from rarl.shared_prefix.groups import num_tiles, split_images
from rarl.shared_prefix.layout import attention_dtype
from rarl.shared_prefix.scoring import prompt_groups
from rarl.shared_prefix.support import innermost, unsupported

ExpectedError = Literal["absolute", "squared"]


def expected_errors(log_probs: Tensor, numbers: Tensor, true: Tensor, kind: ExpectedError) -> Tensor:
    """How far off distributions over numbers are, float64 `[p]`.

    Args:
        log_probs: Log-probabilities of the numbers, `[p, K]`.
        numbers: The numbers, `[K]`.
        true: True number of each distribution, `[p]`.
        kind: `"absolute"`: the expected distance from the true number, which is the Wasserstein distance from it.
            `"squared"`: half the squared distance of the mean from it (RAFT).
    """
    probabilities = log_probs.double().exp()
    if kind == "absolute":
        return (probabilities * (numbers[None, :] - true[:, None]).abs()).sum(dim=1)
    return 0.5 * (probabilities @ numbers - true).square()


@dataclass
class NumberCollator:
    """A collator of TRL's SFT that also says where answers state numbers.

    Args:
        collator: Makes everything else of a batch.
        trie: The legal numbers.
    """

    collator: Callable[[list[dict[str, Any]]], Any]
    trie: NumberTrie

    def __call__(self, examples: list[dict[str, Any]]) -> Any:
        """Rows → the collator's batch, and `num_images` `[b]`; row and token of the answer at which each number of its
        reasoning begins, `number_places` `[p, 2]`, and `numbers` `[p]`."""
        counts = [
            len(row["images"] or []) if "images" in row else int(row.get("image") is not None) for row in examples
        ]
        batch = self.collator(examples)
        found: dict[tuple[int, int], tuple[int, int]] = {}
        for row, labels in enumerate(batch["labels"]):
            for each in self.trie.find(labels[labels != -100].tolist()):
                if each.place == "reasoning":
                    found.setdefault((row, each.image_id), (each.start, each.number))
        places = [(row, start) for (row, _), (start, _) in found.items()]
        batch["num_images"] = torch.tensor(counts)
        batch["number_places"] = torch.tensor(places, dtype=torch.int64).view(-1, 2)
        batch["numbers"] = self.trie.numbers[[number for _, number in found.values()]]
        return batch


class ExpectedErrorTrainer(NumberLossTrainer):
    """TRL's SFTTrainer on perfect answers, plus the expected error of the numbers in their reasoning.

    In the log, `number_error` is the mean error of these numbers in label units, by batch (`"squared"`: the root of the
    mean squared distance of the mean from the truth), and `numbers_per_answer` says how many were found: what stands in
    an answer and is no legal number of the task in its usual tokens has its likelihood only.

    Args:
        trie: Legal numbers of the task.
        expected_error: `"absolute"`, the expected distance from the true number, or `"squared"`, half the squared
            distance of the mean from it (RAFT).
        number_weight: λ, above 0.
        kwargs: Further arguments of [`NumberLossTrainer`][gor_head.vlm.sft.NumberLossTrainer]; rows have the columns
            `prompt` and `completion`, and `images` if there are any.

    Raises:
        ValueError: If there is no such loss, λ is not above 0, answers are packed or cut or prompts trained on, nothing
            can be laid behind the model's answers (see [`rarl.shared_prefix.support`][rarl.shared_prefix.support]), or
            there would be more than 256 tokens behind each number.
        RuntimeError: In training, if rows of value tokens that are to be trained stay as they are.
    """

    def __init__(
        self,
        *args: Any,
        trie: NumberTrie,
        expected_error: ExpectedError = "absolute",
        number_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        if expected_error not in get_args(ExpectedError):
            raise ValueError(f"expected_error: wanted {' or '.join(get_args(ExpectedError))}, got {expected_error!r}.")
        self.tree, self.nodes = TokenTree.of(trie.prefixes)
        if len(self.tree.tokens) > MAX_TOKENS:
            raise ValueError(
                f"trie: a number would have {len(self.tree.tokens)} tokens behind it, for {len(trie.numbers)} legal "
                f"numbers; wanted at most {MAX_TOKENS}."
            )
        if not number_weight > 0:
            raise ValueError(f"number_weight: wanted a number above 0, got {number_weight}; SFT has no such loss.")
        super().__init__(*args, number_weight=number_weight, **kwargs)
        kept = {"packing": False, "padding_free": False, "max_length": None}
        seen = {name: getattr(self.args, name) for name in kept} | {"completion_only_loss": self.completion_only_loss}
        for name, wanted in {**kept, "completion_only_loss": True}.items():
            if seen[name] != wanted:
                raise ValueError(f"{name}: wanted {wanted} for expected errors, got {seen[name]}.")
        model = self.accelerator.unwrap_model(cast(nn.Module, self.model))
        if self.is_fsdp_enabled:
            raise ValueError("expected errors are untested under FSDP; wanted DDP or DeepSpeed.")
        if (reason := unsupported(model.config)) is not None:
            raise ValueError(f"model: expected errors lay numbers behind answers, but {reason}.")
        self.trie, self.expected_error = trie, expected_error
        self.data_collator = NumberCollator(self.data_collator, trie)
        mend_token_rows(model)
        self.check_rows()

    def count_numbers(self, batch: Any) -> int:
        """How many legal numbers the reasonings of a micro-batch state."""
        return len(batch["number_places"])

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss, plus λ times the mean expected error of the numbers."""
        logits, tokens, log_probs = self._scores(model, inputs)
        nll = nn.functional.cross_entropy(logits.float(), tokens, reduction="sum")
        numbers = self.trie.numbers.to(log_probs.device) / self.number_scale
        errors = expected_errors(log_probs, numbers, inputs["numbers"] / self.number_scale, self.expected_error)
        self._log_numbers(errors.detach(), len(inputs["labels"]))
        loss = self.total_loss(nll, torch.tensor(len(tokens), device=nll.device), errors, num_items_in_batch)
        return (loss, {"logits": logits}) if return_outputs else loss

    def _scores(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the answers' tokens `[n, V]` and these `[n]`; log-probabilities of all numbers where the reasoning
        states one, `[p, K]`."""
        base_model = innermost(self.accelerator.unwrap_model(model))
        tokenizer = tokenizer_of(self.processing_class)
        batch, width = parted(inputs, tokenizer.pad_token_id)
        counts = inputs["num_images"].tolist()
        tiles = num_tiles(self.processing_class, inputs["input_ids"].tolist(), inputs, counts)
        images = split_images(inputs | {"num_tiles": tiles}, counts)
        groups = prompt_groups(base_model, **batch, completion_length=width, images=images)
        device = inputs["input_ids"].device.type
        with self.accelerator.autocast():
            logits, tokens, branches = answer_and_branch_logits(
                model,
                groups,
                batch["input_ids"][:, -width:],
                completion_mask=batch["attention_mask"][:, -width:],
                images=images,
                places=inputs["number_places"],
                tree=self.tree,
                config=base_model.config,
                dtype=attention_dtype(base_model, device),
            )
        return logits, tokens, self.trie.log_probs(branches[:, self.nodes])

    def _log_numbers(self, errors: Tensor, rows: int) -> None:
        own = torch.stack([errors.sum(), errors.new_tensor(len(errors)), errors.new_tensor(rows)])
        total, numbers, answers = self.accelerator.gather(own[None]).sum(dim=0).tolist()
        metrics = self._metrics["train" if cast(nn.Module, self.model).training else "eval"]
        metrics["numbers_per_answer"].append(numbers / answers)
        if numbers:
            mean = total / numbers
            mean = mean if self.expected_error == "absolute" else (2 * mean) ** 0.5
            metrics["number_error"].append(mean * self.number_scale)


def parted(inputs: dict[str, Any], pad_token_id: int) -> tuple[dict[str, Tensor], int]:
    """A batch of TRL's SFT, as GRPO has it: prompts padded on the left, then answers padded on the right.

    Args:
        inputs: `input_ids`, `attention_mask`, `labels` (−100 for the prompt), and types of tokens if there are any, of
            `[b, t]` each.
        pad_token_id: Fills up.

    Returns:
        The same fields but the labels, `[b, p + r]`, and the width r of the answers.
    """
    answer = inputs["labels"] != -100
    prompt = inputs["attention_mask"].bool() & ~answer
    names = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
    fields, width = {}, int(answer.sum(dim=1).max())
    for name in [name for name in names if inputs.get(name) is not None]:
        value = pad_token_id if name == "input_ids" else 0
        rows: list[Sequence[Tensor]] = [
            [row[which] for row, which in zip(inputs[name], part, strict=True)] for part in (prompt, answer)
        ]
        sides = zip(rows, ("left", "right"), strict=True)
        fields[name] = torch.cat(
            [pad(list(part), padding_value=value, padding_side=side) for part, side in sides], dim=1
        )
    return fields, width
