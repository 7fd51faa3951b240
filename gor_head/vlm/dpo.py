"""DPO on single numbers: of two answers that differ in one code, only that code is compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

from gor_head.versions import check_versions
from gor_head.vlm.repairs import mend_token_rows
from gor_head.vlm.rows import RowTraining
from gor_head.vlm.tokens import ValueTokens
from gor_head.vocabulary import EOS

check_versions("trl")

WITH_MARGIN = ("sigmoid", "hinge", "robust", "exo_pair")
"""Losses of TRL that are functions of β·Δ."""


def check_margin(margin: float, beta: float, loss_types: Sequence[str]) -> None:
    """Refuse a margin beside a loss that has none.

    Raises:
        ValueError: If β is 0, or a loss but `"sft"` is no function of β·Δ.
    """
    losses = set(loss_types) - {"sft"}
    if margin and not (beta > 0 and losses and losses <= set(WITH_MARGIN)):
        raise ValueError(
            f"margin: wanted a beta above 0 and a loss among {', '.join(WITH_MARGIN)} (beside sft), got beta={beta} "
            f"and {', '.join(loss_types)}."
        )


def differing_codes(ids: Tensor, mask: Tensor, tokens: ValueTokens) -> Tensor:
    """The mask of completions, narrowed to the code in which chosen and rejected differ, from the first token that does
    to the end of the code.

    What stands before it is common to both, so its likelihood cancels; what follows says the same under another
    prefix, and is none of the preference.

    Args:
        ids: Token ids, first those of the chosen answers, then those of the rejected ones, `[2n, t]`. The completions
            of a pair begin at the same place.
        mask: 1 at the tokens of the completions, `[2n, t]`.
        tokens: Value tokens of the model.

    Raises:
        ValueError: If a pair is the same, or differs first in what is no code.
    """
    chosen, rejected = ids.chunk(2)
    both = (mask.chunk(2)[0] | mask.chunk(2)[1]).bool()
    differs = both & (chosen != rejected)
    first = differs.to(torch.uint8).argmax(dim=1).repeat(2)
    place = torch.arange(ids.shape[1], device=ids.device)
    after = place[None, :] >= first[:, None]
    columns = torch.tensor(tokens.columns, device=ids.device)
    start = ids.gather(1, first[:, None])
    if not bool(differs.any(dim=1).all()) or not bool(torch.isin(start, columns).all()):
        raise ValueError("preferences: wanted pairs that differ in one number in value tokens, got others.")
    if tokens.vocabulary.tagless:
        return mask * (place[None, :] == first[:, None])
    ended = (after & (ids == tokens.end_id)).int().cumsum(dim=1)
    return mask * (after & ((ended == 0) | ((ended == 1) & (ids == tokens.end_id))))


def number_gaps(ids: Tensor, mask: Tensor, tokens: ValueTokens) -> Tensor:
    """Distance of the two numbers of each pair in label units, float64 `[n]`: what their codes have in common before
    the [`differing_codes`][gor_head.vlm.dpo.differing_codes] cancels."""
    known = torch.zeros(int(ids.max()) + 1, dtype=torch.float64, device=ids.device)
    columns = torch.tensor(tokens.columns, device=ids.device)
    values = torch.from_numpy(tokens.vocabulary.values[EOS:]).to(ids.device)
    inside = columns < len(known)
    known[columns[inside]] = values[inside]
    chosen, rejected = (known[ids] * mask).sum(dim=1).chunk(2)
    return (chosen - rejected).abs()


@dataclass
class NumberPreferenceCollator(DataCollatorForVisionPreference):
    """TRL's collator for pairs about images, with the mask narrowed to the
    [`differing_codes`][gor_head.vlm.dpo.differing_codes].

    Args:
        tokens: Value tokens of the model.
    """

    tokens: ValueTokens | None = None

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Rows `prompt`, `images`, `chosen`, `rejected` → tensors of 2n answers."""
        batch = super().torch_call(examples)
        if self.tokens is not None:
            batch["completion_mask"] = differing_codes(batch["input_ids"], batch["completion_mask"], self.tokens)
        return batch


class FallenLikelihood(TrainerCallback):
    """Ends training when the chosen answers have become less likely than they were for the reference.

    DPO widens a margin, and may do so by making both answers of a pair less likely.

    Args:
        fall: Nats by which the mean log-likelihood of the chosen answers of a logging interval may have fallen.
        beta: β of the trainer, which its logged rewards are multiplied by.
    """

    def __init__(self, fall: float, beta: float) -> None:
        self.fall, self.beta = fall, beta

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        reward = (logs or {}).get("rewards/chosen")
        if reward is None or reward >= -self.beta * self.fall:
            return
        control.should_training_stop = True
        if state.is_world_process_zero:
            print(
                f"Step {state.global_step}: training ends, since the chosen answers have become less likely, by "
                f"{-reward / self.beta:.2f} nats in the mean; {self.fall:g} were allowed."
            )


class NumberDPOTrainer(RowTraining, DPOTrainer):
    """TRL's DPOTrainer on pairs that differ in one number.

    Args:
        model: As `DPOTrainer` takes it.
        processing_class: The processor of the model, with the value tokens.
        tokens: Value tokens of the model.
        margin: Offset of a pair's loss, times the distance of its two numbers in units of `margin_scale`: the further
            off the rejected number is, the larger a margin is wanted (arXiv:2402.10571). 0 is plain DPO. In the log
            rewards of rejected answers have the offset added, and margins and accuracies are by those.
        margin_scale: Unit of the distance in label units, for example the standard deviation of the labels.
        chosen_fall: Training ends when the chosen numbers have become less likely by more than this, in nats; see
            [`FallenLikelihood`][gor_head.vlm.dpo.FallenLikelihood].
        row_learning_rate: Learning rate of the value tokens' rows; that of everything else if `None`.
        kwargs: Further arguments of `DPOTrainer`.

    Raises:
        ValueError: If there is a `data_collator`, the data have no images, or there is a margin beside losses that are
            no function of β·Δ.
        RuntimeError: In training, if rows that are to be trained stay as they are.
    """

    def __init__(
        self,
        model: Any,
        *,
        processing_class: Any,
        tokens: ValueTokens,
        margin: float = 0.0,
        margin_scale: float = 1.0,
        chosen_fall: float = 1.0,
        row_learning_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("data_collator") is not None:
            raise ValueError("data_collator: pairs of numbers have their own; wanted none, got one.")
        super().__init__(model, processing_class=processing_class, **kwargs)
        if not isinstance(self.data_collator, DataCollatorForVisionPreference):
            raise ValueError("train_dataset: wanted pairs about images, in a column 'images', got none.")
        self.data_collator = NumberPreferenceCollator(**vars(self.data_collator), tokens=tokens)
        check_margin(margin, self.beta, self.loss_types)
        self.tokens, self.margin, self.margin_scale = tokens, margin, margin_scale
        self.row_learning_rate = row_learning_rate
        mend_token_rows(self.accelerator.unwrap_model(self.model))
        self.check_rows()
        self.add_callback(FallenLikelihood(chosen_fall, self.beta))

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        if not self.margin:
            return super()._compute_loss(model, inputs, return_outputs)
        # log σ(β·Δ − m) is log σ of β times a Δ whose reference found the rejected number less likely by m / β.
        chosen, rejected = self.compute_ref_log_probs(model, inputs)
        gaps = number_gaps(inputs["input_ids"], inputs["completion_mask"], self.tokens) / self.margin_scale
        shifted = rejected - (self.margin / self.beta * gaps).to(rejected.dtype)
        self.precompute_ref_logps = True
        try:
            return super()._compute_loss(
                model, {**inputs, "ref_chosen_logps": chosen, "ref_rejected_logps": shifted}, return_outputs
            )
        finally:
            self.precompute_ref_logps = False
