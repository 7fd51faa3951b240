"""When checkpoints are written."""

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback


class SaveBetweenWindows(TrainerCallback):
    """Puts a checkpoint off while buffered completions are in use, which it would lose, until they are used up.

    A run that goes on from such a checkpoint would sample anew in the middle. The checkpoint of the last step is
    written in any case.

    Args:
        inside: Whether completions are in use.
    """

    def __init__(self, inside: Callable[[], bool]) -> None:
        self._inside = inside
        self._due = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Save now what was due, or keep it due."""
        self._due |= control.should_save
        control.should_save = self._due and (not self._inside() or state.global_step >= state.max_steps)
        self._due &= not control.should_save
        return control

    on_epoch_end = on_step_end
