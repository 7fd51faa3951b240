"""Training the rows of value tokens: a learning rate of their own, steps in which only they learn, and a check that
they do."""

from typing import Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback

ROWS = ".trainable_tokens_delta."
"""In the names of the parameters in which peft trains rows."""


def row_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trained rows of a model's embedding and head, by name."""
    return {name: each for name, each in model.named_parameters() if ROWS in name and each.requires_grad}


class MovedRows(TrainerCallback):
    """Stops a run whose rows of value tokens stay as they are: nothing would be learnt of them.

    Args:
        model: The model that is trained.
        steps: Optimizer steps after the warm-up by which rows must have moved; or the last step, if that comes first.
    """

    def __init__(self, model: nn.Module, steps: int = 2) -> None:
        self.steps = steps
        self._rows = row_parameters(model)
        self._before: dict[str, torch.Tensor] = {}
        self._due = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._before = {name: each.detach().clone() for name, each in self._rows.items()}
        warmup = args.get_warmup_steps(state.max_steps)
        self._due = min(max(state.global_step, warmup) + self.steps, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step < self._due or not self._before:
            return
        still = [name for name, row in self._rows.items() if torch.equal(row.detach(), self._before[name])]
        self._before = {}
        if still:
            raise RuntimeError(
                f"value tokens: after {state.global_step} steps {still[0]} is what it was; wanted rows that are "
                "trained, got a learning rate of 0, or an optimizer without them."
            )


class RowTraining(Trainer):
    """A trainer of transformers whose value-token rows have a learning rate of their own and may learn first.

    Attributes:
        row_learning_rate: Learning rate of the rows; `None` for that of everything else.
        grounding_steps: Optimizer steps in which only rows are trained: new tokens find their place in a model that
            stays as it is.
    """

    row_learning_rate: float | None = None
    grounding_steps: int = 0

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer of transformers, the rows in groups of their own."""
        if self.optimizer is not None:
            return self.optimizer
        optimizer = super().create_optimizer(model)
        trained = cast(nn.Module, self.model if model is None else model)
        rows = {id(each) for each in row_parameters(trained).values()}
        for group in list(optimizer.param_groups):
            taken = [each for each in group["params"] if id(each) in rows]
            if not taken:
                continue
            group["params"] = [each for each in group["params"] if id(each) not in rows]
            own = {name: value for name, value in group.items() if name != "params"}
            if self.row_learning_rate is not None:
                own["lr"] = self.row_learning_rate
            optimizer.add_param_group({"params": taken, **own, "rows": True})
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule of transformers; with `grounding_steps`, 0 for all but the rows at first.

        Raises:
            ValueError: If the schedule is of a kind that cannot be held back.
        """
        made = self.lr_scheduler is None
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if not made or not self.grounding_steps:
            return scheduler
        if not isinstance(scheduler, LambdaLR):
            raise ValueError(
                f"grounding_steps: wanted a schedule such as linear, cosine or constant, got "
                f"{self.args.lr_scheduler_type}."
            )
        for place, group in enumerate(scheduler.optimizer.param_groups):
            if not group.get("rows"):
                scheduler.lr_lambdas[place] = _held_back(scheduler.lr_lambdas[place], self.grounding_steps)
                group["lr"] = 0.0
        return scheduler


def _held_back(schedule: Any, steps: int) -> Any:
    return lambda step: 0.0 if step < steps else schedule(step)
