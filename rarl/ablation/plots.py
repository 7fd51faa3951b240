"""The table as a figure, a panel a column, a point a seed, a bar the mean; and rewards as they were learned."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rarl.ablation.rows import ROWS
from rarl.ablation.run import Result
from rarl.ablation.summary import COLUMNS, TESTED, by_row, label_of, settings_of, spread


def is_reinforced(row: str) -> bool:
    """Whether reinforcement learning is among what a row, and the rows that it starts from, was trained by."""
    entry = ROWS[row]
    return (entry.recipe or "").startswith("rarl") or (entry.start is not None and is_reinforced(entry.start))


def plot_results(
    results: Sequence[Result], path: str | Path, *, lines: Mapping[str, Mapping[str, float]] | None = None
) -> None:
    """Draw the results: a row of panels a setting, rows of the table from top to bottom, those with reinforcement
    learning in another colour.

    Args:
        results: At least one.
        path: Image file to write; its folder must exist.
        lines: What no row is, to compare with: name → column → its value there, a line across.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings = settings_of(results)
    tables = {setting: by_row([each for each in results if each.setting == setting]) for setting in settings}
    heights = [0.28 * len(tables[setting]) + 1.1 for setting in settings]
    figure = Figure(figsize=(11, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(len(settings), 1, squeeze=False, height_ratios=heights)[:, 0]
    for setting, part in zip(settings, parts, strict=True):
        part.suptitle(label_of(setting), fontsize=10, fontweight="bold")
        rows = tables[setting]
        known = [
            column
            for column in TESTED
            if any(each.get(column) is not None for seeds in rows.values() for each in seeds.values())
        ] or list(TESTED)
        line = part.subplots(1, len(known), sharey=True, squeeze=False)[0]
        for axis, column in zip(line, known, strict=True):
            for place, (row, seeds) in enumerate(rows.items()):
                numbers = [found for each in seeds.values() if (found := each.get(column)) is not None]
                summed = spread(numbers)
                if summed is None:
                    continue
                colour = "C1" if is_reinforced(row) else "C0"
                axis.barh(place, summed[0], color=colour, alpha=0.35, height=0.7)
                axis.plot(numbers, [place] * len(numbers), "o", color=colour, markersize=3.5)
            for number, (name, values) in enumerate((lines or {}).items(), start=2):
                if column in values:
                    axis.axvline(values[column], color=f"C{number}", linestyle="--", label=name)
            axis.set_title(COLUMNS[column], fontsize=10)
            axis.grid(axis="x", alpha=0.3)
        line[0].set_yticks(range(len(rows)), [ROWS[row].label for row in rows], fontsize=8)
        line[0].invert_yaxis()
    drawn = {each.get_label(): each for axis in figure.axes for each in axis.get_legend_handles_labels()[0]}
    if drawn:
        figure.legend(handles=list(drawn.values()), loc="outside lower center", ncols=len(drawn), fontsize=8)
    figure.savefig(path, dpi=120)


def plot_learning(results: Sequence[Result], path: str | Path, *, window: int = 5) -> None:
    """Draw total rewards over steps and over seconds: a row of panels a setting, a line the mean over the seeds of a
    row, its band the standard deviation.

    Args:
        results: Those that have logged rewards are drawn; wanted at least one.
        path: Image file to write; its folder must exist.
        window: Logged rewards that are averaged.

    Raises:
        ValueError: If no run has logged a reward.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    learned = [each for each in results if each.curve.get("reward")]
    if not learned:
        raise ValueError(f"No reward is logged in the runs {', '.join(each.name for each in results) or '(none)'}.")
    settings = settings_of(learned)
    figure = Figure(figsize=(11, 3.6 * len(settings)), layout="constrained")
    FigureCanvasAgg(figure)
    for setting, line in zip(settings, figure.subplots(len(settings), 2, squeeze=False), strict=True):
        of_setting = [each for each in learned if each.setting == setting]
        for number, row in enumerate(name for name in ROWS if any(each.row == name for each in of_setting)):
            runs = [each for each in of_setting if each.row == row]
            shortest = min(len(each.curve["reward"]) for each in runs)
            rewards = np.array([each.curve["reward"][:shortest] for each in runs], dtype=np.float64)
            kernel = np.ones(min(window, shortest)) / min(window, shortest)
            smooth = np.array([np.convolve(each, kernel, mode="valid") for each in rewards])
            steps = np.array(runs[0].curve["step"][shortest - smooth.shape[1] : shortest], dtype=np.float64)
            seconds = np.mean([each.train_seconds or np.nan for each in runs])
            mean, deviation = smooth.mean(axis=0), smooth.std(axis=0)
            for axis, place in zip(line, (steps, steps / steps[-1] * seconds), strict=True):
                axis.plot(place, mean, color=f"C{number}", label=f"{ROWS[row].label} ({len(runs)})")
                axis.fill_between(place, mean - deviation, mean + deviation, color=f"C{number}", alpha=0.15)
        for axis, name in zip(line, ("step", "seconds of training"), strict=True):
            axis.set_xlabel(name)
            axis.set_ylabel("total reward")
            axis.set_title(label_of(setting), fontsize=9)
            axis.grid(alpha=0.3)
        line[0].legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=120)
