"""How a GoR model learns: strategies, one a file, and the trainer.

A strategy is called with a model, memory, codes, labels and the progress of the training, and gives each row's loss. To
add one, copy a file and enter it in `STRATEGIES`.
"""

from collections.abc import Callable

from gor_head.training.base import Strategy
from gor_head.training.curriculum import Curriculum
from gor_head.training.free_running import FreeRunning
from gor_head.training.ngram import NGram
from gor_head.training.teacher_forcing import TeacherForcing

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "teacher_forcing": TeacherForcing,
    "free_running": FreeRunning,
    "curriculum": Curriculum,
    "ngram": NGram,
    "paper": lambda: NGram(first=Curriculum()),
}

__all__ = ["STRATEGIES", "Curriculum", "FreeRunning", "NGram", "Strategy", "TeacherForcing"]
