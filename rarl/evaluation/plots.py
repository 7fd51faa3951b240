"""Reward curves from trainer logs."""

import json
import math
import re
from pathlib import Path
from typing import Any

LogHistory = list[dict[str, Any]]


def read_history(path: str | Path) -> LogHistory:
    """The `log_history` of a run.

    Args:
        path: A `trainer_state.json`, or the output folder of a run: its own `trainer_state.json`, else the one of its
            latest checkpoint, is read.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the file holds no `log_history`.
    """
    path = Path(path)
    if path.is_dir():
        checkpoints = [folder for folder in path.glob("checkpoint-*") if folder.name.split("-")[-1].isdecimal()]
        checkpoints.sort(key=lambda folder: int(folder.name.split("-")[-1]), reverse=True)
        candidates = [folder / "trainer_state.json" for folder in [path, *checkpoints]]
        path = next((candidate for candidate in candidates if candidate.is_file()), candidates[0])
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; the trainer_state.json of a training run is wanted.")
    state = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(state, dict) or not isinstance(state.get("log_history"), list):
        raise ValueError(f"{path} holds no log_history; the trainer_state.json of a training run is wanted.")
    return state["log_history"]


def reward_terms(history: LogHistory) -> list[str]:
    """Keys of the training rewards in a log history: each term's mean, then the weighted total."""
    keys = dict.fromkeys(key for entry in history for key in entry)
    return [key for key in keys if re.fullmatch(r"rewards/.+/mean", key)] + (["reward"] if "reward" in keys else [])


def curve(history: LogHistory, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of a key, over the entries where it is finite: a term that no row of a step uses logs NaN."""
    points = [(entry["step"], entry[key]) for entry in history if key in entry and math.isfinite(entry[key])]
    return [step for step, _ in points], [value for _, value in points]


def running_mean(values: list[float], window: int) -> list[float]:
    """Mean of each value and up to `window − 1` values before it."""
    return [sum(values[max(0, end - window) : end]) / (end - max(0, end - window)) for end in range(1, len(values) + 1)]


def term_title(key: str) -> str:
    """`rewards/regression_reward/mean` → `regression`; the total is called so."""
    return "total" if key == "reward" else key.split("/")[1].removesuffix("_reward")


def plot_curves(histories: dict[str, LogHistory], path: str | Path) -> None:
    """Draw reward terms over steps, a panel per term, a colour per run; faint the log, bold its running mean.

    Args:
        histories: Run name → `log_history` of its `trainer_state.json`.
        path: Image file to write; its folder must exist.

    Raises:
        ValueError: If no run has logged a reward.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    terms = list(dict.fromkeys(term for history in histories.values() for term in reward_terms(history)))
    if not terms:
        raise ValueError(f"No reward is logged in the runs {', '.join(histories) or '(none)'}; nothing to draw.")
    terms.sort(key=lambda term: term == "reward")
    columns = min(3, len(terms))
    rows = -(-len(terms) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, term in zip(axes, terms, strict=False):
        for number, history in enumerate(histories.values()):
            steps, values = curve(history, term)
            colour = f"C{number}"
            axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            axis.plot(steps, running_mean(values, max(1, len(values) // 5)), color=colour, linewidth=1.8)
        axis.set_title(term_title(term), parse_math=False)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    for axis in list(figure.axes)[len(terms) :]:
        axis.set_axis_off()
    handles = [figure.axes[0].plot([], [], color=f"C{number}")[0] for number in range(len(histories))]
    legend = figure.legend(handles, list(histories), loc="outside lower center", ncols=len(histories), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name with $ is no formula
    figure.savefig(path, dpi=120)
