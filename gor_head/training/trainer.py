"""transformers' Trainer for the models of this package: checkpoints, resume, logging and early stopping are its own."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer

from gor_head.interface import TARGETS
from gor_head.metrics import rmse
from gor_head.training.data import collate


def error_metrics(evaluation: EvalPrediction) -> dict[str, float]:
    """MAE and RMSE of evaluated rows."""
    truth, prediction = np.asarray(evaluation.label_ids), np.asarray(evaluation.predictions)
    errors = np.abs(prediction.astype(np.float64) - truth.astype(np.float64))
    # Sum first, then divide: whole errors of equal sum tie exactly, and the checkpoint that is kept rests on it.
    return {"mae": float(errors.mean()), "rmse": rmse(truth, prediction)}


class OrdinalTrainer(Trainer):
    """Trainer that tells the model how far training is, and evaluates numbers instead of logits.

    Args:
        read: (model, memory `[B, L, D]`) → numbers `[B]`: how evaluation reads a prediction.
        kwargs: Further arguments of `transformers.Trainer`; the data are [`Rows`][gor_head.training.data.Rows], whose
            columns are all used, whatever `args.remove_unused_columns` says.
    """

    def __init__(self, *args: Any, read: Callable[[Any, Tensor], Tensor], **kwargs: Any) -> None:
        kwargs.setdefault("data_collator", collate)
        kwargs.setdefault("compute_metrics", error_metrics)
        super().__init__(*args, **kwargs)
        # It would wrap the collator in one for lists of dicts, and go by `forward`, which takes any column.
        self.args.remove_unused_columns = False
        self.read = read

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Loss at the present share of the training steps."""
        progress = self.state.global_step / max(1, self.state.max_steps)
        return super().compute_loss(model, inputs | {"progress": progress}, *args, **kwargs)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Numbers and labels of a batch; the loss is not computed, as no decision rests on it."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs["labels"]
        features = {name: x for name, x in inputs.items() if name not in ("labels", "sample_weight", *TARGETS)}
        inner = cast(Any, self.accelerator.unwrap_model(model))
        with torch.no_grad():
            numbers = self.read(inner, inner.encoder(**features))
        return None, numbers, labels
