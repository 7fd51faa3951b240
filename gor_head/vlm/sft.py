"""Supervised fine-tuning on answers with value tokens: NLL of all tokens, plus a loss that knows how far off a number
is (equation 7)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from trl import SFTTrainer

from gor_head.intervals import Intervals
from gor_head.losses import huber
from gor_head.vlm.repairs import give_heads_a_bias
from gor_head.vlm.rows import RowTraining
from gor_head.vlm.tokens import ValueTokens, check_lora
from gor_head.vocabulary import EOS, PAD

NumberLoss = Literal["huber", "squared", "wasserstein"]


@dataclass(frozen=True)
class CodeSteps:
    """The steps of the codes in some labels: what was to be chosen, and what the model would choose.

    Attributes:
        probabilities: The model's over what may follow the true prefix, ends first, then by value, float64 `[s, 1+V]`.
        values: Values of these, 0 for the end, float64 `[1+V]`.
        truth: Which of them is in the labels, `[s]`.
        code: The code that each step belongs to, `[s]`.
        codes: Number of whole codes.
    """

    probabilities: Tensor
    values: Tensor
    truth: Tensor
    code: Tensor
    codes: int

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, tokens: ValueTokens) -> "CodeSteps":
        """The steps of whole codes.

        Args:
            logits: Logits of the next token, `[b, s, V]`.
            labels: Labels of the same positions (already shifted), −100 where there is none, `[b, s]`.
            tokens: Value tokens.
        """
        columns = torch.tensor(tokens.columns, device=logits.device)
        values = torch.from_numpy(tokens.vocabulary.values[EOS:]).to(logits.device)
        column_of = torch.full((logits.shape[-1],), -1, dtype=torch.int64, device=logits.device)
        column_of[columns] = torch.arange(len(columns), device=logits.device)
        label = column_of[labels.clamp(min=0)].masked_fill(labels < 0, -1)
        in_code = label >= 0
        # Codes are numbered by their ends: a step belongs to the code whose end is the next one.
        ends = (in_code if tokens.vocabulary.tagless else label == 0).flatten()
        number = ends.cumsum(0) - ends.long()
        codes = int(ends.sum())
        steps = (in_code.flatten() & (number < codes)).nonzero().squeeze(1)
        truth, code = label.flatten()[steps], number[steps]
        probabilities = logits.flatten(0, 1)[steps][:, columns].double()
        if not tokens.vocabulary.tagless:
            probabilities = probabilities.masked_fill(~_legal(truth, code, codes, tokens), -torch.inf)
        return cls(probabilities.softmax(dim=1), values, truth, code, codes)

    def per_code(self, of_steps: Tensor) -> Tensor:
        """Sums over the steps of each code, `[s]` → `[c]`."""
        return torch.zeros(self.codes, dtype=torch.float64, device=of_steps.device).index_add(0, self.code, of_steps)

    def expected(self) -> Tensor:
        """Expected number of each code: the sum of the expected values of its steps, each under the true prefix."""
        return self.per_code(self.probabilities @ self.values)

    def true(self) -> Tensor:
        """True number of each code."""
        return self.per_code(self.values[self.truth])

    def distance(self) -> Tensor:
        """Expected distance of what is chosen at a step from the truth, which is the Wasserstein distance of the step's
        distribution from it (number token loss, arXiv:2411.02083), summed over the steps of a code. Of numbers in one
        token each it is the expected absolute error, of longer ones an approximation."""
        apart = (self.values[None, :] - self.values[self.truth][:, None]).abs()
        return self.per_code((self.probabilities * apart).sum(dim=1))


def _legal(truth: Tensor, code: Tensor, codes: int, tokens: ValueTokens) -> Tensor:
    """What may follow the true prefix of each step, bool `[s, 1+V]`."""
    first = torch.zeros(codes + 1, dtype=torch.int64, device=code.device)
    first[1:] = torch.bincount(code, minlength=codes).cumsum(0)
    place = torch.arange(len(code), device=code.device) - first[code]
    longest = int(place.max()) + 1 if len(place) else 1
    ids = torch.full((codes, longest), PAD, dtype=torch.int64, device=code.device)
    ids[code, place] = truth + EOS
    intervals = Intervals.of(tokens.vocabulary, code.device)
    return intervals.legal_tokens(intervals.before_each(ids))[code * longest + place][:, EOS:]


def check_plain_loss(args: Any) -> None:
    """Refuse settings of TRL's loss that a loss of numbers beside it does not have.

    Args:
        args: A `trl.SFTConfig`.

    Raises:
        ValueError: Names the setting, its value and the one that is wanted.
    """
    wanted = {"loss_type": "nll", "label_smoothing_factor": 0.0, "use_liger_kernel": False}
    for name, value in wanted.items():
        if getattr(args, name, value) != value:
            raise ValueError(f"{name}: wanted {value} beside the loss of numbers, got {getattr(args, name)}.")


class NumberLossTrainer(RowTraining, SFTTrainer, ABC):
    """TRL's SFTTrainer with a second loss, of the numbers that answers state; which one, a subclass says.

    Args:
        number_weight: λ; the loss is that of TRL, plus λ times the mean loss of the step's numbers.
        number_scale: Unit of the error in label units, for example the standard deviation of the labels.
        number_annealed: Whether λ falls to 0 in a straight line over the steps.
        row_learning_rate: Learning rate of the value tokens' rows; that of everything else if `None`.
        grounding_steps: Optimizer steps at the start in which only these rows are trained.
        kwargs: Further arguments of `SFTTrainer`.

    Raises:
        ValueError: If `number_scale` is not above 0, or TRL's loss is another than the plain one.
    """

    def __init__(
        self,
        *args: Any,
        number_weight: float,
        number_scale: float = 1.0,
        number_annealed: bool = False,
        row_learning_rate: float | None = None,
        grounding_steps: int = 0,
        **kwargs: Any,
    ) -> None:
        if not number_scale > 0:
            raise ValueError(f"number_scale: wanted a number above 0, got {number_scale}.")
        super().__init__(*args, **kwargs)
        if number_weight:
            check_plain_loss(self.args)
            # The loss is computed here, whatever the model takes: tokens of a step are to be counted.
            self.model_accepts_loss_kwargs = True
        self.number_weight, self.number_scale = number_weight, number_scale
        self.number_annealed = number_annealed
        self.row_learning_rate, self.grounding_steps = row_learning_rate, grounding_steps
        self._numbers = torch.tensor(0.0)

    @abstractmethod
    def count_numbers(self, batch: Any) -> int:
        """How many numbers of a micro-batch have a loss."""

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """The micro-batches of a step, and its tokens, as transformers counts them; its numbers are counted, too."""
        batches, tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not self.number_weight:
            return batches, tokens
        numbers = torch.tensor(float(sum(map(self.count_numbers, batches))), device=device)
        self._numbers = self.accelerator.gather(numbers).sum()
        return batches, tokens

    def _weight(self) -> float:
        done = self.state.global_step / max(1, self.state.max_steps) if self.number_annealed else 0.0
        return self.number_weight * (1 - done)

    def total_loss(self, nll: Tensor, count: Tensor, errors: Tensor, num_items_in_batch: Any) -> Tensor:
        """The loss of a micro-batch, as transformers wants it: added up over those of a step, averaged over processes.

        Both means are over the whole step, however it is cut into micro-batches and processes.

        Args:
            nll: Sum of the negative log-likelihoods of its tokens.
            count: Number of these.
            errors: Loss of each of its numbers, `[c]`.
            num_items_in_batch: Tokens of the step, as transformers counts them; `None` where it counts none, and a
                micro-batch is taken by itself.
        """
        weight, error = self._weight(), errors.sum().to(nll.dtype)
        if num_items_in_batch is None:
            return nll / count + weight * error / max(1, len(errors))
        # Gradients are averaged over processes, of which each has a part of what is counted.
        ranks = self.accelerator.num_processes // self.get_tp_size() if self.args.n_gpu <= 1 else self.args.n_gpu
        of_tokens = ranks if self.args.average_tokens_across_devices else 1
        return of_tokens * nll / num_items_in_batch + ranks * weight * error / self._numbers.clamp(min=1)


class GoRSFTTrainer(NumberLossTrainer):
    """TRL's SFTTrainer with a loss on the numbers that answers write in value tokens.

    Args:
        tokens: Value tokens of the model.
        number_loss: `"huber"` or `"squared"` of the error of the expected number, or `"wasserstein"`, the expected
            distance from the truth.
        number_weight: λ; 0 is plain SFT. The likelihood is a mean over all tokens, most of them text, so that a λ of 1
            would drown it.
        kwargs: Further arguments of [`NumberLossTrainer`][gor_head.vlm.sft.NumberLossTrainer].

    Raises:
        ValueError: If LoRA is to train a matrix with the rows of value tokens in another way, too; or if there is no
            such loss.
        RuntimeError: In training, if rows that are to be trained stay as they are.
    """

    def __init__(
        self,
        *args: Any,
        tokens: ValueTokens,
        number_loss: NumberLoss = "huber",
        number_weight: float = 0.1,
        **kwargs: Any,
    ) -> None:
        if number_loss not in get_args(NumberLoss):
            raise ValueError(f"number_loss: wanted one of {', '.join(get_args(NumberLoss))}, got {number_loss!r}.")
        model = kwargs.get("model", args[0] if args else None)
        if isinstance(model, nn.Module):
            for config in (kwargs.get("peft_config"), *getattr(model, "peft_config", {}).values()):
                check_lora(model, config)
        super().__init__(*args, number_weight=number_weight, **kwargs)
        self.tokens, self.number_loss = tokens, number_loss
        give_heads_a_bias(cast(nn.Module, self.model))
        self.check_rows()

    def count_numbers(self, batch: Any) -> int:
        """How many codes the labels of a micro-batch have."""
        ends = self.tokens.columns if self.tokens.vocabulary.tagless else [self.tokens.end_id]
        return int(torch.isin(batch["labels"], torch.tensor(ends, device=batch["labels"].device)).sum())

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss, plus λ times the mean loss of the numbers."""
        if not self.number_weight:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"]
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"}, use_cache=False)
        logits, shifted = outputs.logits[:, :-1], labels[:, 1:]
        nll = nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), shifted.flatten(), ignore_index=-100, reduction="sum"
        )
        errors = self._errors(CodeSteps.of(logits, shifted, self.tokens))
        loss = self.total_loss(nll, (shifted != -100).sum(), errors, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _errors(self, steps: CodeSteps) -> Tensor:
        """Loss of each number, `[c]`."""
        if self.number_loss == "wasserstein":
            return steps.distance() / self.number_scale
        predicted, true = steps.expected() / self.number_scale, steps.true() / self.number_scale
        return huber(predicted, true) if self.number_loss == "huber" else 0.5 * (predicted - true).square()
