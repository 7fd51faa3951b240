"""Figures about a vocabulary and about predictions."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gor_head.grid import as_labels
from gor_head.intervals import bounds
from gor_head.numbers import write_number
from gor_head.vocabulary import CoDiVocabulary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gor_head.estimator import GoRRegressor

COLUMNS = 3
"""Rows of data side by side in [`refinement`][gor_head.plots.refinement]."""


def token_frequencies(vocabulary: CoDiVocabulary, path: str | Path) -> None:
    """Draw how often the labels of the fit use each token, before and after pruning by CoDi (GoR, figure 5a).

    Both axes are logarithmic: tokens and their counts span orders of magnitude. A token that no code uses stands at 0.

    Args:
        vocabulary: From [`CoDiVocabulary.fit`][gor_head.vocabulary.CoDiVocabulary.fit].
        path: Image file to write; its folder must exist.

    Raises:
        ValueError: If the vocabulary was not fitted, or has no value tokens.
    """
    frequency_figure(vocabulary.summary()).savefig(path, dpi=120)


def frequency_figure(summary: dict[str, Any]) -> "Figure":
    """The figure of [`token_frequencies`][gor_head.plots.token_frequencies]: two panels with common axes, a stem per
    token.

    Args:
        summary: What [`CoDiVocabulary.summary`][gor_head.vocabulary.CoDiVocabulary.summary] returned.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if "before" not in summary:
        raise ValueError("vocabulary: wanted one made by fit, got one without counts of its tokens.")
    if not summary["before"]["size"]:
        raise ValueError("vocabulary: wanted at least 1 value token, got none; all labels are zero.")
    figure = Figure(figsize=(7.5, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 1, sharex=True, sharey=True)
    usages = [summary["before"], summary["after"]]
    values = [value for usage in usages for value in usage["values"]]
    most = max(max(usage["occurrences"]) for usage in usages)
    for number, (axis, stage, usage) in enumerate(zip(axes, ("before", "after"), usages, strict=True)):
        axis.vlines(usage["values"], 0, usage["occurrences"], color=f"C{number}", linewidth=1.5)
        axis.plot(usage["values"], usage["occurrences"], "o", color=f"C{number}", markersize=4)
        # Linear from 0 to 1: a token that is used once stands apart from one that is not used.
        axis.set_yscale("symlog", linthresh=1)
        axis.set_ylim(0, 3 * most)
        axis.set_xscale("log")
        axis.set_xlim(min(values) / 2, max(values) * 2)
        axis.grid(alpha=0.3)
        axis.set_ylabel("occurrences of the token")
        axis.set_title(f"{stage} CoDi: vocabulary of {usage['size']}, codes of {usage['mean_length']:.2f} tokens")
    axes[-1].set_xlabel("token value, units of the label")
    return figure


def pruning(vocabulary: CoDiVocabulary, path: str | Path) -> None:
    """Draw what pruning buys and costs: the mean code length against the number of tokens, from the initial vocabulary
    to what is left.

    Args:
        vocabulary: From [`CoDiVocabulary.fit`][gor_head.vocabulary.CoDiVocabulary.fit].
        path: Image file to write; its folder must exist.

    Raises:
        ValueError: If the vocabulary was not fitted, or by an algorithm that leaves no such record.
    """
    pruning_figure(vocabulary.summary()).savefig(path, dpi=120)


def pruning_figure(summary: dict[str, Any]) -> "Figure":
    """The figure of [`pruning`][gor_head.plots.pruning].

    Args:
        summary: What [`CoDiVocabulary.summary`][gor_head.vocabulary.CoDiVocabulary.summary] returned.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if "pruning" not in summary:
        raise ValueError("vocabulary: wanted one made by fit, got one without a record of its pruning.")
    sizes, lengths = zip(*summary["pruning"], strict=True)
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.plot(sizes, lengths, "o-", markersize=4, linewidth=1)
    for place, word in ((0, "initial"), (-1, "left")):
        axis.annotate(
            f"{word}: {sizes[place]} tokens, {lengths[place]:.2f} a code",
            (sizes[place], lengths[place]),
            textcoords="offset points",
            xytext=(0, -16) if place == 0 else (8, 8),
            ha="right" if place == 0 else "left",
        )
    if summary.get("mean_length") is not None:
        axis.axhline(summary["mean_length"], color="0.4", linestyle="--", linewidth=1, label="limit")
        axis.legend()
    axis.margins(0.12)
    axis.grid(alpha=0.3)
    axis.set_xlabel("value tokens")
    axis.set_ylabel("value tokens of a code, mean over the labels")
    return figure


def refinement(regressor: "GoRRegressor", X: Any, path: str | Path, *, truth: Any = None) -> None:
    """Draw how each prediction comes about, token by token: what is left of the range after every step.

    Args:
        regressor: A fitted [`gor_head.GoRRegressor`][gor_head.estimator.gor.GoRRegressor].
        X: A few rows, as in `predict`.
        path: Image file to write; its folder must exist.
        truth: True labels of the rows, drawn as dashed lines.
    """
    refinement_figure(regressor, X, truth).savefig(path, dpi=120)


def refinement_figure(regressor: "GoRRegressor", X: Any, truth: Any = None) -> "Figure":
    """The figure of [`refinement`][gor_head.plots.refinement]: a panel per row; a bar is the interval of numbers whose
    code begins so, a point the sum so far. The first interval, and any other without an upper end, is cut at the
    largest training token's sum."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    vocabulary = regressor.vocabulary_
    truth = None if truth is None else as_labels(truth, "truth")
    steps = regressor.explain(X)
    intervals = regressor.predict_interval(X)
    lines = -(-len(steps) // COLUMNS)
    figure = Figure(figsize=(3.2 * COLUMNS, 2.6 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(lines, COLUMNS, sharey=True, squeeze=False).flat)
    ids = {float(value): token for token, value in enumerate(vocabulary.values)}
    top = max(float(intervals.max()), 0.0 if truth is None else float(max(truth))) * 1.15
    for row, (axis, added) in enumerate(zip(panels, steps, strict=False)):
        tokens = added[1:] if vocabulary.offset else added
        sums: list[float] = []
        prefix: list[int] = []
        for step in range(len(tokens) + 1):
            low, high = bounds(vocabulary, prefix)
            sums.append(low)
            axis.plot(
                [step, step], [low, min(high, top)], color="tab:blue", alpha=0.35, linewidth=7, solid_capstyle="butt"
            )
            if step < len(tokens):
                prefix.append(ids[tokens[step]])
        axis.plot(range(len(sums)), sums, "o-", color="tab:blue", markersize=4, label="sum so far")
        end = len(sums)
        axis.plot([end, end], intervals[row], color="tab:red", linewidth=3, label="5 % to 95 %")
        if truth is not None:
            axis.axhline(truth[row], color="0.3", linestyle="--", linewidth=1, label="label")
        axis.set_xticks(range(end + 1), ["start", *(f"+{write_number(token)}" for token in tokens), ""])
        summed = " + ".join(map(write_number, added)) or "0"
        axis.set_title(f"{summed} = {write_number(sums[-1])}", fontsize=9)
    for axis in panels[len(steps) :]:
        axis.set_visible(False)
    figure.axes[0].legend(fontsize=8)
    return figure
