"""From training labels to tokens: two pipelines, ours and the paper's to the letter (GoR, algorithms 2 and 1)."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gor_head.construction.binary import binary_tokens
from gor_head.construction.closure import close
from gor_head.construction.codi import CodiUpdate, codi, mean_code_length, prune, token_usage
from gor_head.construction.greedy import Codes, Units, greedy_codes, slack_units
from gor_head.construction.manual import manual_tokens
from gor_head.construction.place import place_tokens, smallest_base
from gor_head.construction.quantile import quantile_tokens
from gor_head.construction.settings import Initializer
from gor_head.construction.strict import strict_prune, strict_quantile_tokens
from gor_head.grid import MAX_UNITS, Grid, as_labels, choose_resolution, distinct_values, hash_labels, rounding
from gor_head.numbers import write_number

STRICT_REFINEMENT = 10**6
"""Grid points per unit of the labels under `strict_paper`, whose tokens are interpolated."""

STRICT_LENGTH = 1024
"""The largest number of tokens in a code while the literal algorithms run: the paper has no limit."""


_INITIAL: dict[str, Callable[[Units], Units]] = {
    "manual": lambda units: manual_tokens(int(units[-1])),
    "binary": lambda units: binary_tokens(int(units[-1])),
    "place": lambda units: place_tokens(int(units[-1])),
    "labels": lambda units: units,
}
"""Initial tokens of distinct labels above 0, in units, by initializer; those of `"quantile"` want counts and more."""


@dataclass(frozen=True)
class Fit:
    """What a vocabulary is made of.

    Attributes:
        tokens: Token values in units, ascending, `[V]`.
        grid: Conversion between labels and units.
        max_length: The largest number of value tokens in a code.
        statistics: What was counted on the way.
        labels_hash: Hash of the labels on the grid.
    """

    tokens: Units
    grid: Grid
    max_length: int
    statistics: dict[str, Any]
    labels_hash: str


@dataclass(frozen=True)
class GridLabels:
    """Training labels on a grid.

    Attributes:
        grid: The grid, whose offset all units below are counted from.
        units: Distinct labels, ascending, `[d]`.
        counts: How often each of the distinct labels occurs, `[d]`.
        number: Labels in all.
    """

    grid: Grid
    units: Units
    counts: Units
    number: int


def fit(
    labels: Any,
    *,
    initializer: Initializer,
    q: float,
    tolerance: float,
    beta: float,
    max_length: int,
    mean_length: float | None,
    codi_update: CodiUpdate,
    resolution: float | None,
    from_smallest: bool,
) -> Fit:
    """Our pipeline: initial tokens, closure, and pruning with rollback; every label keeps a code.

    Args are those of [`CoDiVocabulary.fit`][gor_head.vocabulary.CoDiVocabulary.fit]; `from_smallest` is `offset="min"`.
    """
    known = labels_on_grid(labels, tolerance=tolerance, resolution=resolution, from_smallest=from_smallest)
    units, counts = known.units, known.counts
    slack, largest = slack_units(units, tolerance), int(units[-1])
    statistics: dict[str, Any] = {"labels": known.number, "distinct_labels": len(units)}
    if largest == 0:
        initial = np.zeros(0, dtype=np.int64)
    elif len(units) == 1:
        initial = units
    elif initializer == "quantile":
        result = quantile_tokens(units, counts, slack, q=q, tolerance=tolerance, max_length=max_length)
        initial = result.tokens
        statistics |= {"quantile_rounds": result.rounds, "subtract_once_error": result.error}
    else:
        initial = _INITIAL[initializer](units[units > 0])
    if largest:
        initial = close(initial, units, slack, max_length=max_length)
    before = greedy_codes(units, slack, initial, max_length=max_length)
    pruned = prune(
        initial,
        units,
        counts,
        slack=slack,
        beta=beta,
        max_length=max_length,
        mean_length=mean_length,
        update=codi_update,
    )
    statistics |= {"before": usage(initial, before, known), "after": usage(pruned.tokens, pruned.codes, known)}
    statistics |= {"pruning": [list(step) for step in pruned.path]}
    return Fit(pruned.tokens, known.grid, max_length, statistics, hash_labels(units, counts))


def fit_strictly(
    labels: Any,
    *,
    q: float,
    tolerance: float,
    beta: float,
    max_length: int,
    resolution: float | None,
    from_smallest: bool,
) -> Fit:
    """The paper's pipeline: algorithm 2, then algorithm 1, to the letter; labels that lose their code are warned of.

    Args are those of [`CoDiVocabulary.fit`][gor_head.vocabulary.CoDiVocabulary.fit]; `from_smallest` is `offset="min"`.
    """
    known = labels_on_grid(
        labels, tolerance=tolerance, resolution=resolution, from_smallest=from_smallest, refinement=STRICT_REFINEMENT
    )
    units, counts = known.units, known.counts
    slack, largest = slack_units(units, tolerance), int(units[-1])
    statistics: dict[str, Any] = {"labels": known.number, "distinct_labels": len(units)}
    if largest == 0:
        initial = np.zeros(0, dtype=np.int64)
    elif len(units) == 1:
        initial = units
    else:
        result = strict_quantile_tokens(units, counts, q=q, tolerance=tolerance)
        initial = result.tokens
        statistics |= {"quantile_rounds": result.rounds, "subtract_once_error": result.error}
    before = greedy_codes(units, slack, initial, max_length=STRICT_LENGTH)
    tokens, codes = strict_prune(
        initial, units, counts, slack=slack, beta=beta, tolerance=tolerance, max_length=STRICT_LENGTH
    )
    uncovered = int(counts[codes.residual > slack].sum())
    if uncovered:
        warnings.warn(
            f"strict_paper: {uncovered} of {known.number} labels miss the tolerance {tolerance}.", stacklevel=3
        )
    statistics |= {"before": usage(initial, before, known), "after": usage(tokens, codes, known)}
    longest = max(max_length, int(codes.length.max(initial=0)))
    return Fit(tokens, known.grid, longest, statistics, hash_labels(units, counts))


def fit_for_language_model(labels: Any, *, maximum: float | None, resolution: float | None, size: int) -> Fit:
    """Few tokens a number, and at most `size` of them: a token for each number, or else places of the smallest base.

    Args are those of
    [`CoDiVocabulary.for_language_model`][gor_head.vocabulary.CoDiVocabulary.for_language_model].
    """
    known = labels_on_grid(labels, tolerance=0.0, resolution=resolution, from_smallest=False)
    units, counts = known.units, known.counts
    ends = units if maximum is None else np.append(units, known.grid.units(as_labels([maximum])))
    largest, distinct = int(ends.max()), np.unique(ends[ends > 0])
    if largest <= size:
        tokens, places = np.arange(1, largest + 1), 1
    elif len(distinct) <= size:
        tokens, places = distinct, 1
    else:
        base, places = smallest_base(largest, size)
        tokens = place_tokens(largest, base)
    codes = greedy_codes(units, np.zeros_like(units), tokens, max_length=places)
    statistics = {"labels": known.number, "distinct_labels": len(units)}
    used = usage(tokens, codes, known)
    return Fit(tokens, known.grid, places, statistics | {"before": used, "after": used}, hash_labels(units, counts))


def labels_on_grid(
    labels: Any, *, tolerance: float, resolution: float | None, from_smallest: bool, refinement: int = 1
) -> GridLabels:
    """Labels as whole numbers of units, distinct and counted.

    Args:
        labels: The labels as they came, `[n]`.
        tolerance: ε; a resolution that moves labels by more is warned of.
        resolution: Grid step; the default one if `None`.
        from_smallest: Whether units are counted from the smallest label.
        refinement: Grid points per step, or as many as the largest label leaves room for.

    Raises:
        ValueError: If labels are no finite numbers in one dimension, or negative where 0 is the smallest code.
    """
    array = as_labels(labels)
    values, counts = distinct_values(array)
    negative = int(counts[values < 0].sum())
    if negative and not from_smallest:
        raise ValueError(
            f"labels: wanted numbers from 0 on, got {negative} negative of {array.size} (smallest "
            f"{write_number(values[0])}); offset='min' codes the distance from the smallest."
        )
    grid = Grid(resolution or choose_resolution(values, array.dtype))
    if refinement > 1:
        grid = Grid(grid.resolution / min(refinement, MAX_UNITS // max(1, int(np.abs(grid.units(values)).max()))))
    units = grid.units(values)
    start = int(units[0]) if from_smallest else 0
    if resolution is not None:
        room = tolerance * np.maximum(values - grid.values(np.array(start)), 0) + rounding(values, array.dtype)
        moved = int(counts[np.abs(grid.values(units) - values) > room].sum())
        if moved:
            warnings.warn(
                f"resolution {write_number(resolution)} moves {moved} of {array.size} labels by more than the "
                f"tolerance {tolerance}; give a finer one.",
                stacklevel=4,
            )
    units, counts = merge(units - start, counts)
    return GridLabels(Grid(grid.resolution, start), units, counts, array.size)


def merge(units: NDArray[np.int64], counts: NDArray[np.int64]) -> tuple[Units, Units]:
    """Distinct labels that fall on one grid point become one, both ascending, `[d]` → `[m]`."""
    starts = np.flatnonzero(np.diff(units, prepend=units[0] - 1))
    return units[starts], np.add.reduceat(counts, starts)


def usage(tokens: Units, codes: Codes, known: GridLabels) -> dict[str, Any]:
    """What [`CoDiVocabulary.summary`][gor_head.vocabulary.CoDiVocabulary.summary] says of some tokens and the codes of
    the labels in them."""
    units, counts = known.units, known.counts
    occurrences, labels = token_usage(codes, counts, tokens)
    positive = units > 0
    return {
        "size": len(tokens),
        "values": Grid(known.grid.resolution).values(tokens).tolist(),
        "occurrences": occurrences.tolist(),
        "labels": labels.tolist(),
        "codi": codi(codes, counts, tokens).tolist(),
        "longest": int(codes.length.max(initial=0)),
        "mean_length": mean_code_length(codes, counts),
        "max_relative_error": float((codes.residual[positive] / units[positive]).max(initial=0.0)),
    }
