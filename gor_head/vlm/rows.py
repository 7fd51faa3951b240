"""Training the rows of value tokens: a learning rate of their own, steps in which only they learn, and a check that
they do."""

from typing import Any, cast

import torch
from torch import nn
from torch.distributed.tensor import DTensor
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
        steps: Optimizer steps with a learning rate above 0 after which rows must have moved.
    """

    def __init__(self, steps: int = 2) -> None:
        self.steps = steps
        self._before: dict[str, torch.Tensor] = {}
        self._taken = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Keep the rows that training begins with; of a sharded model a process may have none of them."""
        self._taken = 0
        rows = row_parameters(model)
        whole = not any(isinstance(each, DTensor) for each in rows.values())
        self._before = {name: each.detach().clone() for name, each in rows.items()} if whole else {}

    def on_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """Count the step, if it was one, and look at the rows when there have been enough.

        Raises:
            RuntimeError: If rows are what they were.
        """
        if not self._before or getattr(optimizer, "step_was_skipped", False) or not row_rate(optimizer):
            return
        self._taken += 1
        if self._taken < self.steps:
            return
        now = row_parameters(model)
        still = [name for name, row in self._before.items() if torch.equal(now[name].detach(), row)]
        self._before = {}
        if still:
            raise RuntimeError(
                f"value tokens: after {self.steps} steps {still[0]} is what it was; wanted rows that are trained, got "
                "an optimizer without them."
            )


def row_rate(optimizer: Any) -> float:
    """Learning rate of the rows; that of what learns fastest if they have no group of their own."""
    groups = optimizer.param_groups
    return max(group["lr"] for group in ([group for group in groups if group.get("rows")] or groups))


class RowTraining(Trainer):
    """A trainer of transformers whose value-token rows have a learning rate of their own and may learn first.

    Attributes:
        row_learning_rate: Learning rate of the rows; `None` for that of everything else.
        grounding_steps: Optimizer steps in which only rows are trained: new tokens find their place in a model that
            stays as it is.
    """

    row_learning_rate: float | None = None
    grounding_steps: int = 0

    def check_rows(self) -> None:
        """Watch that rows move, once the model of the trainer is made.

        Raises:
            ValueError: If there are settings of rows, but no adapter that trains rows; or if their rate is not above 0.
        """
        if self.row_learning_rate is not None and not self.row_learning_rate > 0:
            raise ValueError(f"row_learning_rate: wanted a number above 0, got {self.row_learning_rate}.")
        self.add_callback(MovedRows())
        if row_parameters(cast(nn.Module, self.model)):
            return
        for name in ("row_learning_rate", "grounding_steps"):
            if getattr(self, name):
                raise ValueError(
                    f"{name}: wanted an adapter that trains the rows of value tokens (use_peft), got "
                    f"{getattr(self, name)} and a model without."
                )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The log of transformers, whose learning rate is that of everything else, and that of the rows."""
        groups = self.optimizer.param_groups if self.optimizer is not None else []
        if "learning_rate" in logs and any(group.get("rows") for group in groups):
            logs["row_learning_rate"] = row_rate(self.optimizer)
        super().log(logs, start_time)

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
            ValueError: If the schedule is of a kind that cannot be held back, or ends before the rest would learn.
        """
        made = self.lr_scheduler is None
        if made and self.grounding_steps >= num_training_steps:
            raise ValueError(
                f"grounding_steps: wanted fewer than the {num_training_steps} steps of training, got "
                f"{self.grounding_steps}."
            )
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
        scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]
        return scheduler


def _held_back(schedule: Any, steps: int) -> Any:
    return lambda step: 0.0 if step < steps else schedule(step)
