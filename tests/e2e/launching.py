"""Starts recipes and commands as a user does, in processes of their own."""

import functools
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest import mock

from filelock import FileLock

from tests.paths import ROOT

OWN_SHORT = ["--max_steps", "2", "--num_prompts", "32", "--eval_prompts", "4", "--per_device_train_batch_size", "16"]
SHORT = [*OWN_SHORT, "--size", "200"]  # of the built-in images
TIMEOUT = 600  # seconds; only for what would wait for ever
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # launches run side by side; threads that spin against each other are far slower
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONPATH": str(ROOT),
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "200",
}
FORKED = ENVIRONMENT | {"ACCELERATE_USE_CPU": "true"}  # which is what `accelerate launch --cpu` sets
# What every recipe imports takes longer than what they do here: one server imports it, each run is a fork of it.
PRELOADED = ["rarl.cli", "rarl.recipe", "rarl.trainer", "gor_head.vlm", "trl", "peft"]

# Launches of two processes wait for each other, whoever tests: each takes two cores, and DeepSpeed compiles what it
# needs into one folder of the user's.
two_processes = FileLock(Path(tempfile.gettempdir()) / f"rarl_two_processes_{os.getuid()}.lock")


def start(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`, on the CPU and without the Hub unless `environment` says otherwise."""
    environment = {**os.environ, **ENVIRONMENT, **environment}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT)


def launch(recipe: str, folder: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A recipe in one process: under `accelerate launch` if it wants an environment, else forked."""
    script = str(ROOT / "recipes" / recipe)
    if environment:
        command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu", script]
        return start([*command, *flags], folder, **environment)
    return fork(functools.partial(runpy.run_path, script, run_name="__main__"), folder, script, *flags)


def rarl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The `rarl` command."""
    return fork(_app, folder, "rarl", *arguments)


def fork(program: Callable[[], Any], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in `folder`, in a new process that has imported already what the recipes import."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with mock.patch.dict(os.environ, FORKED):
        forkserver.ensure_running()
    with tempfile.TemporaryDirectory() as outputs:
        process = context.Process(target=_run, args=(program, str(folder), list(arguments), outputs))
        process.start()
        process.join(TIMEOUT)
        if process.is_alive():
            process.kill()
        process.join()
        stdout, stderr = (Path(outputs, name).read_text() for name in ("stdout", "stderr"))
    assert process.exitcode is not None
    return subprocess.CompletedProcess(list(arguments), process.exitcode, stdout, stderr)


def _run(program: Callable[[], Any], folder: str, arguments: list[str], outputs: str) -> None:
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(os.path.join(outputs, name), os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.update(FORKED)
    os.chdir(folder)
    sys.argv = arguments
    program()


def _app() -> None:
    from rarl.cli import app

    app()


def succeeded(result: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """The result itself, of a command that must not fail."""
    assert result.returncode == 0, result.stderr[-3000:]
    return result


def error_line(result: subprocess.CompletedProcess[str]) -> str:
    """What a recipe says that must fail plainly: `Error: ...` without a traceback, and before a model is loaded."""
    assert result.returncode != 0, result.stdout
    assert "Loading weights" not in result.stderr
    own = "\n" + result.stderr.split("Traceback")[0]  # the launcher adds its own to any failure
    assert "\nError: " in own, result.stderr[-3000:]
    return own.split("\nError: ")[1]
