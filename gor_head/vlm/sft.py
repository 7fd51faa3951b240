"""Supervised fine-tuning on answers with value tokens: NLL of all tokens plus λ·Huber of the numbers (equation 7)."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from trl import SFTTrainer

from gor_head.losses import huber
from gor_head.vlm.repairs import give_heads_a_bias
from gor_head.vlm.tokens import ValueTokens, check_lora
from gor_head.vocabulary import EOS


def expected_numbers(logits: Tensor, labels: Tensor, tokens: ValueTokens) -> tuple[Tensor, Tensor]:
    """Expected number and true number of every code in the labels.

    The expected number is the sum over the code's steps, its end included, of the expected token value under the true
    prefix; the expectation is over the value tokens and `</gor>`, the others left out. A number without tags is one
    step, and its expectation is over the numbers.

    Args:
        logits: Logits of the next token, `[b, s, V]`.
        labels: Labels of the same positions (already shifted), −100 where there is none, `[b, s]`.
        tokens: Value tokens.

    Returns:
        Expected and true numbers of the c codes, float64 `[c]` each.
    """
    columns = torch.tensor(tokens.columns, device=logits.device)
    values = torch.from_numpy(tokens.vocabulary.values[EOS:]).to(logits.device)  # 0 for the end, then by id
    column_of = torch.full((logits.shape[-1],), -1, dtype=torch.int64, device=logits.device)
    column_of[columns] = torch.arange(len(columns), device=logits.device)
    label = column_of[labels.clamp(min=0)].masked_fill(labels < 0, -1)
    in_code = label >= 0
    # Codes are numbered by their ends: a step belongs to the code whose end is the next one.
    ends = (in_code if tokens.vocabulary.tagless else label == 0).flatten()
    number = ends.cumsum(0) - ends.long()
    steps = in_code.flatten().nonzero().squeeze(1)
    expected = logits.flatten(0, 1)[steps][:, columns].double().softmax(dim=1) @ values
    total = torch.zeros(int(ends.sum()) + 1, dtype=torch.float64, device=logits.device)
    predicted = total.index_add(0, number[steps], expected)
    true = total.index_add(0, number[steps], values[label.flatten()[steps]])
    return predicted[:-1], true[:-1]


class GoRSFTTrainer(SFTTrainer):
    """TRL's SFTTrainer with a Huber loss on the numbers that answers write in value tokens.

    Args:
        tokens: Value tokens of the model.
        huber_weight: λ; 0 is plain SFT. The likelihood is a mean over all tokens, most of them text, so that a λ of 1
            would drown it.
        huber_scale: Unit of the error in label units, for example the standard deviation of the labels.
        kwargs: Further arguments of `SFTTrainer`.

    Raises:
        ValueError: If LoRA is to train a matrix with the rows of value tokens in another way, too.
    """

    def __init__(
        self, *args: Any, tokens: ValueTokens, huber_weight: float = 0.1, huber_scale: float = 1.0, **kwargs: Any
    ) -> None:
        model = kwargs.get("model", args[0] if args else None)
        if isinstance(model, nn.Module):
            for config in (kwargs.get("peft_config"), *getattr(model, "peft_config", {}).values()):
                check_lora(model, config)
        super().__init__(*args, **kwargs)
        self.tokens, self.huber_weight, self.huber_scale = tokens, huber_weight, huber_scale
        give_heads_a_bias(cast(nn.Module, self.model))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss, plus λ times the mean Huber loss over the batch's codes."""
        if not self.huber_weight:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"]
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"}, use_cache=False)
        logits, shifted = outputs.logits[:, :-1], labels[:, 1:]
        nll = nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), shifted.flatten(), ignore_index=-100, reduction="sum"
        )
        count = (shifted != -100).sum() if num_items_in_batch is None else num_items_in_batch
        predicted, true = expected_numbers(logits, shifted, self.tokens)
        error = huber(predicted / self.huber_scale, true / self.huber_scale).sum() / max(1, len(true))
        loss = nll / count + self.huber_weight * error.to(nll.dtype) / self._parts(num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _parts(self, num_items_in_batch: Any) -> int:
        """Micro-batches whose losses are added up to a step: a sum of means has to be a mean again."""
        return 1 if num_items_in_batch is None else self.current_gradient_accumulation_steps
