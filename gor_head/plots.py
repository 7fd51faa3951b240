"""Figures about a vocabulary."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gor_head.vocabulary import CoDiVocabulary

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def token_frequencies(vocabulary: CoDiVocabulary, path: str | Path) -> None:
    """Draw how often the labels of the fit use each token, before and after pruning by CoDi (GoR, figure 5a).

    Both axes are logarithmic: tokens and their counts span orders of magnitude. A token that no code uses stands at 0.

    Args:
        vocabulary: From [`CoDiVocabulary.fit`].
        path: Image file to write; its folder must exist.

    Raises:
        ValueError: If the vocabulary was not fitted, or has no value tokens.
    """
    frequency_figure(vocabulary.summary()).savefig(path, dpi=120)


def frequency_figure(summary: dict[str, Any]) -> "Figure":
    """The figure of [`token_frequencies`]: two panels with common axes, a stem per token.

    Args:
        summary: What [`CoDiVocabulary.summary`] returned.
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
