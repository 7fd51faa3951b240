"""The table as a figure: a panel a column, a point a seed, a bar the mean."""

from collections.abc import Sequence
from pathlib import Path

from rarl.ablation.rows import ROWS, SETTINGS
from rarl.ablation.run import Result
from rarl.ablation.summary import COLUMNS, TESTED, by_row, spread


def plot_results(results: Sequence[Result], path: str | Path) -> None:
    """Draw the results: a row of panels a setting, rows of the table from top to bottom.

    Args:
        results: At least one.
        path: Image file to write; its folder must exist.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings = list(dict.fromkeys(result.setting for result in results))
    tables = {setting: by_row([each for each in results if each.setting == setting]) for setting in settings}
    heights = [0.28 * len(tables[setting]) + 0.9 for setting in settings]
    figure = Figure(figsize=(11, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        len(settings), len(TESTED), squeeze=False, gridspec_kw={"height_ratios": heights}, sharey="row"
    )
    for setting, line in zip(settings, axes, strict=True):
        rows = tables[setting]
        for axis, column in zip(line, TESTED, strict=True):
            for place, (row, seeds) in enumerate(rows.items()):
                numbers = [found for each in seeds.values() if (found := each.get(column)) is not None]
                summed = spread(numbers)
                if summed is None:
                    continue
                colour = "C1" if "rarl" in row or row.startswith(("stage", "one_stage")) else "C0"
                axis.barh(place, summed[0], color=colour, alpha=0.35, height=0.7)
                axis.plot(numbers, [place] * len(numbers), "o", color=colour, markersize=3.5)
            axis.set_title(COLUMNS[column], fontsize=10)
            axis.grid(axis="x", alpha=0.3)
        line[0].set_yticks(range(len(rows)), [ROWS[row].label for row in rows], fontsize=8)
        line[0].invert_yaxis()
        line[0].set_ylabel(SETTINGS[setting].label if setting in SETTINGS else setting, fontsize=9)
    figure.savefig(path, dpi=120)
