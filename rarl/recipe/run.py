"""Setting up and training, as users see them: one line for what they can mend, and no step too many."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState


@contextmanager
def setting_up() -> Iterator[None]:
    """Set up a run: an error inside, which the user can mend, is one line, without a traceback.

    Training, evaluation and what follows stand after the block: an error there is a defect, and has its traceback.
    """
    # TRL's own, in its configurations and at every step.
    warnings.filterwarnings("ignore", message=r"`(is_)?gradient_checkpointing\w*` is deprecated")
    try:
        yield
    except (ValueError, OSError, ImportError, NotImplementedError) as error:
        sys.exit("Error: " + " ".join(str(error).splitlines()))


class _NothingLeft(Exception):
    """A checkpoint that holds all steps of its run."""


class _StopIfDone(TrainerCallback):
    """Ends a resumed run that has no step left: transformers would take one more."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            raise _NothingLeft


def train(trainer: Any) -> None:
    """Train, from the checkpoint of `resume_from_checkpoint` if there is one, and not beyond `max_steps`."""
    checkpoint = trainer.args.resume_from_checkpoint
    if checkpoint is None:
        trainer.train()
        return
    trainer.add_callback(_StopIfDone())
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except _NothingLeft:
        state = trainer.state
        if trainer.is_world_process_zero():
            print(f"{checkpoint} has {state.global_step} of {state.max_steps} steps: nothing is left to train.")
        ended = Path(trainer.args.output_dir) / "trainer_state.json"
        if ended.is_file() and (whole := TrainerState.load_from_json(str(ended))).global_step == state.global_step:
            trainer.state = whole  # with the lines that are logged at the end
