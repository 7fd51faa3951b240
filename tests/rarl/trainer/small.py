"""Small trainers for tests."""

import copy
from pathlib import Path
from typing import Any

from rarl.trainer import RARLConfig, RARLTrainer

GROUP = 4


def trainer_of(model: Any, processor: Any, folder: Path, *, rows: Any, rewards: Any, **overrides: Any) -> RARLTrainer:
    """A trainer of a copy of a model: two groups of four answers a step, on the CPU, without KL and mutation."""
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2 * GROUP,
        "num_generations": GROUP,
        "max_completion_length": 64,
        "max_steps": 1,
        "logging_steps": 1,
        "beta": 0.0,
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "rmo": False,
    }
    args = RARLConfig(**{**settings, **overrides})
    return RARLTrainer(copy.deepcopy(model), rewards, args, rows, processing_class=processor)
