"""Starts recipes and commands as a user does, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OWN_SHORT = ["--max_steps", "2", "--num_prompts", "32", "--eval_prompts", "4", "--per_device_train_batch_size", "16"]
SHORT = [*OWN_SHORT, "--size", "200"]  # of the built-in images


def start(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`, on the CPU and without the Hub unless `environment` says otherwise."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",  # launches run side by side; threads that spin against each other are far slower
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
        **environment,
    }
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def launch(recipe: str, folder: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`accelerate launch` of a recipe with one process."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu"]
    return start([*command, str(ROOT / "recipes" / recipe), *flags], folder, **environment)


def rarl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The `rarl` command."""
    return start([sys.executable, "-c", "from rarl.cli import app; app()", *arguments], folder)


def succeeded(result: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """The result itself, of a command that must not fail."""
    assert result.returncode == 0, result.stderr[-3000:]
    return result


def error_line(result: subprocess.CompletedProcess[str]) -> str:
    """What a recipe says that must fail plainly: `Error: ...` without a traceback, and before a model is loaded."""
    assert result.returncode != 0, result.stdout
    assert "Loading weights" not in result.stderr
    own = result.stderr.split("Traceback")[0]  # the launcher adds its own to any failure
    assert "\nError: " in own, result.stderr[-3000:]
    return own.split("\nError: ")[1]
