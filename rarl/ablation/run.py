"""Executes runs, each in a process of its own, and keeps what came of them: what is there already is not made again."""

import json
import math
import multiprocessing
import os
import runpy
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

from rarl.ablation.plan import Run
from rarl.evaluation.reports import Report

RESULTS = "results.json"
COMMAND = "command.txt"
"""File in the folder of a run that says what is executed there."""
CURVES = ("reward", "grad_norm", "rmo/stagnant_fraction", "frac_reward_zero_std", "rewards/regression_reward/mean")
"""What is kept of the training log, beside steps."""

PRELOADED = ["rarl.recipe", "rarl.trainer", "rarl.evaluation.protocol", "trl"]
"""Imported once, before processes part: they take longer to import than some runs take."""


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes:
        setting: Name of the setting.
        row: Name of the row.
        seed: The seed.
        command: What was executed; see [`Run.command`][rarl.ablation.plan.Run.command].
        seconds: Wall time of the run itself, evaluation included, without that of the run that it started from.
        report: The report on held-out prompts, as JSON.
        curve: Key of the training log, one of [`CURVES`][rarl.ablation.run.CURVES], or `step` → values over the logged
            steps; empty where nothing was trained.
        train_seconds: Wall time of training alone, `None` where nothing was trained.
    """

    setting: str
    row: str
    seed: int
    command: str
    seconds: float
    report: dict[str, Any]
    curve: dict[str, list[float | None]]
    train_seconds: float | None

    @property
    def name(self) -> str:
        """As [`Run.name`][rarl.ablation.plan.Run.name]."""
        return f"{self.setting}/seed{self.seed}/{self.row}"


def read_results(path: Path) -> dict[str, Result]:
    """Results by name; none if there is no such file.

    Raises:
        ValueError: If the file holds something else.
    """
    if not path.is_file():
        return {}
    try:
        results = [Result(**each) for each in json.loads(path.read_text(encoding="utf-8"))]
        for result in results:
            Report.from_json(result.report, f"{path}: {result.name}")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: wanted a list of results that rarl ablate wrote: {error}") from None
    return {result.name: result for result in results}


def write_results(results: Sequence[Result], path: Path) -> None:
    """Write results, one a line, by way of a file beside it, so that an interrupted run leaves the old ones."""
    lines = ",\n".join(json.dumps(asdict(result), allow_nan=False) for result in sorted(results, key=lambda r: r.name))
    partial = path.with_suffix(".partial")
    partial.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    partial.replace(path)


def run_all(
    runs: Sequence[Run],
    folder: Path,
    *,
    jobs: int = 1,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> tuple[dict[str, Result], dict[str, str]]:
    """Execute what has no result yet.

    A run whose result was made by the same command is kept; what it left is needed only where another run starts from
    it. Runs that start from one that failed are not executed. Runs share the cores: each has as many threads as cores
    over `jobs`.

    Args:
        runs: Each after those that it starts from.
        folder: Where `results.json` and, in a folder each, the runs lie.
        jobs: Runs at a time.
        progress: Called with runs done, runs in all, and the run just done.

    Returns:
        Name → result of the runs that have one; name → what went wrong.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = read_results(folder / RESULTS)
    done = {run.name for run in runs if run.name in known and known[run.name].command == run.command}
    # A start whose result is known but whose adapter is gone is trained again, and what that starts from before it.
    for run in reversed(runs):
        needed = run.start
        if needed is not None and run.name not in done and not (folder / needed.name / "adapter_config.json").is_file():
            done.discard(needed.name)
    waiting = [run for run in runs if run.name not in done]
    failures: dict[str, str] = {}
    total, finished = len(waiting), 0
    progress(0, total, "")
    # Set whatever it was: threads of runs beside each other would spin against each other.
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    # Imports are done once and forked, where a system can fork.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(PRELOADED)
    going: dict[Future[float], Run] = {}
    # A pool a place: a process that is killed breaks its own only.
    pools = [ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) for _ in range(jobs)]
    free, used = list(range(jobs)), {}
    try:
        while waiting or going:
            for run in list(waiting):
                start = None if run.start is None else run.start.name
                if start in failures:
                    waiting.remove(run)
                    finished += 1
                    failures[run.name] = f"it starts from {start}, which failed"
                elif len(going) < jobs and (start is None or start in done):
                    waiting.remove(run)
                    place = free.pop()
                    future = pools[place].submit(execute, run, folder)
                    going[future], used[future] = run, place
            if not going:
                continue
            for future in wait(going, return_when=FIRST_COMPLETED).done:
                run, place = going.pop(future), used.pop(future)
                free.append(place)
                finished += 1
                try:
                    results = known | {run.name: result_of(run, folder, future.result())}
                    write_results(list(results.values()), folder / RESULTS)
                    known = results
                    done.add(run.name)
                except Exception as error:
                    if isinstance(error, BrokenProcessPool):
                        pools[place] = ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1)
                    failures[run.name] = f"{error} (see {folder / run.name / 'log.txt'})"
                progress(finished, total, run.name)
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)
    return {run.name: known[run.name] for run in runs if run.name in done}, failures


def execute(run: Run, folder: Path) -> float:
    """Train or evaluate, in a process of its own; the output goes into `log.txt`. Returns seconds.

    Raises:
        RuntimeError: If it failed; with the last line of its output.
    """
    out = folder / run.name
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    adapter = [] if run.start is None else ["--adapter", str(folder / run.start.name)]
    sys.argv = [str(run.script or "evaluate"), *run.arguments, *adapter, "--output_dir", str(out), *resumed(run, out)]
    with (out / "log.txt").open("w", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            if run.script is None:
                evaluate_only(run, out)
            else:
                runpy.run_path(str(run.script), run_name="__main__")
        except SystemExit as error:
            if error.code:
                print(error.code, file=log)
                raise RuntimeError(str(error.code)) from None
        except Exception as error:
            traceback.print_exc(file=log)
            raise RuntimeError(f"{type(error).__name__}: {error}") from None
    return time.perf_counter() - started


def resumed(run: Run, out: Path) -> list[str]:
    """Arguments by which a run goes on from the newest whole checkpoint that the same command left in its folder; none
    if there is no such. Checkpoints of other commands, and parts of ones, are removed."""
    said = out / COMMAND
    is_same = said.is_file() and said.read_text(encoding="utf-8") == run.command
    while (newest := get_last_checkpoint(str(out))) is not None:
        # The random state is written last.
        if is_same and (Path(newest) / "trainer_state.json").is_file() and any(Path(newest).glob("rng_state*.pth")):
            break
        shutil.rmtree(newest)
    said.write_text(run.command, encoding="utf-8")
    return [] if newest is None or run.script is None else ["--resume_from_checkpoint", newest]


def evaluate_only(run: Run, out: Path) -> None:
    """Report on the model that a run starts from, on the prompts that recipes evaluate on."""
    from trl import SFTConfig

    from rarl.evaluation.reports import write_report
    from rarl.models import load_model, resolve_model
    from rarl.recipe import evaluate_run, parse, prepare_data

    decode: Any = run.decode
    _, arguments, model_args = parse(SFTConfig, Path(run.arguments[1]))
    data = prepare_data(arguments)
    model, processor = load_model(resolve_model(model_args.model_name_or_path), arguments.adapter)
    report = evaluate_run(model, processor, data, arguments, decode=decode, resolution=run.resolution)
    write_report(report, out / "report.json")


def result_of(run: Run, folder: Path, seconds: float) -> Result:
    """The result that a run left in its folder."""
    out = folder / run.name
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    state = out / "trainer_state.json"
    curve: dict[str, list[float | None]] = {}
    trained: float | None = None
    if run.script is not None and state.is_file():
        content = json.loads(state.read_text(encoding="utf-8"))
        logged = [entry for entry in content["log_history"] if "loss" in entry]
        curve = {"step": [entry["step"] for entry in logged]}
        for key in CURVES:
            if any(key in entry for entry in logged):
                curve[key] = [_rounded(entry.get(key)) for entry in logged]
        seconds_of = [entry["train_runtime"] for entry in content["log_history"] if "train_runtime" in entry]
        trained = seconds_of[-1] if seconds_of else None
    return Result(run.setting, run.row, run.seed, run.command, round(seconds, 1), report, curve, trained)


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")
