"""A comparison as one figure."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gor_head.compare.summary import Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPREAD = 0.28
"""Half the height over which the tables of a row are spread, so that equal points do not hide each other."""


def plot_comparison(comparison: Comparison, path: str | Path) -> None:
    """Draw every row's MAE relative to the best of each table: a line per row, a point per table, a bar at the mean.

    Filled points are best or tied with the best. Rows are ordered by their mean, the best one on top.

    Args:
        comparison: What is drawn.
        path: Image file to write; its folder must exist.

    Raises:
        ValueError: If no row is whole on any table.
    """
    comparison_figure(comparison).savefig(path, dpi=120)


def comparison_figure(comparison: Comparison) -> "Figure":
    """The figure of [`plot_comparison`][gor_head.compare.plot.plot_comparison]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    means = {row: overall.relative for row, overall in comparison.rows.items() if overall is not None}
    if not means:
        raise ValueError("comparison: no row has all its cells on any table; nothing to draw.")
    rows = sorted(means, key=lambda row: means[row])
    tables = list(comparison.entries)
    offsets = [SPREAD * (2 * index / max(1, len(tables) - 1) - 1) for index in range(len(tables))]

    figure = Figure(figsize=(8, 1.4 + 0.42 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xscale("log")
    for line, row in enumerate(rows):
        axes.axhspan(line - 0.5, line + 0.5, color="0.95" if line % 2 else "white", zorder=0)
        for table, offset in zip(tables, offsets, strict=True):
            entry = comparison.entries[table][row]
            if entry is not None and math.isfinite(entry.relative):
                colour = "tab:blue" if entry.standing.tied else "white"
                axes.plot(
                    entry.relative, line + offset, "o", color=colour, markeredgecolor="tab:blue", markersize=5, zorder=2
                )
        if math.isfinite(means[row]):
            axes.plot([means[row]] * 2, [line - 0.42, line + 0.42], color="tab:red", linewidth=2.5, zorder=3)
    axes.axvline(1, color="0.4", linewidth=0.8, zorder=1)
    axes.set_yticks(range(len(rows)), rows, parse_math=False)  # names, not formulas
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("MAE relative to the best of the table (log scale)")
    points: dict[str, Any] = {"color": "w", "marker": "o", "markeredgecolor": "tab:blue"}
    handles = [
        Line2D([], [], **points, markerfacecolor="tab:blue", label="a table: best or tied"),
        Line2D([], [], **points, markerfacecolor="white", label="a table: behind"),
        Line2D([], [], color="tab:red", linewidth=2.5, label="mean over tables"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    return figure
