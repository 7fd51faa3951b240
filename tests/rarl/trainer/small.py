"""Small trainers for tests."""

import copy
from pathlib import Path
from typing import Any

from rarl.trainer import RARLConfig, RARLTrainer

GROUP = 4


def settings_in(folder: Path) -> dict[str, Any]:
    """Arguments of `GRPOConfig`: two groups of four answers a step, one step, on the CPU, without KL."""
    return {
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
    }


def trainer_of(model: Any, processor: Any, folder: Path, *, rows: Any, rewards: Any, **overrides: Any) -> RARLTrainer:
    """A trainer of a copy of a model, without mutation."""
    args = RARLConfig(**{**settings_in(folder), "rmo": False, **overrides})
    return RARLTrainer(copy.deepcopy(model), rewards, args, rows, processing_class=processor)
