"""Initial vocabulary from quantiles of the residuals (GoR, algorithm 2)."""

import math
import warnings
from dataclasses import dataclass

import numpy as np

from gor_head.construction.closure import with_tail
from gor_head.construction.greedy import Units, covers

MAX_ROUNDS = 512
"""Rounds of algorithm 2: on heavy tails, where each round subtracts a small quantile once, it would take thousands."""

WITNESSES = 64
"""Uncovered labels that are tested each round, so that all labels are tested only when these are covered."""


@dataclass(frozen=True)
class QuantileResult:
    """Outcome of algorithm 2.

    Args:
        tokens: Token values in units, ascending.
        rounds: Rounds that were run.
        error: The algorithm's own error at its end: the largest residual / label, with each token subtracted once.
    """

    tokens: Units
    rounds: int
    error: float


def order_statistic(values: Units, counts: Units, q: float) -> int:
    """The smallest value with at least a share q of all values at or below it: exact, never interpolated.

    Args:
        values: Distinct values, ascending, `[d]`.
        counts: How often each of the values occurs, `[d]`.
        q: Share in 0..1.
    """
    cumulative = np.cumsum(counts)
    # 1e-9: 0.55 · 100 is 55.00000000000001 as a float, but the 55th value is meant.
    rank = max(1, math.ceil(q * int(cumulative[-1]) - 1e-9))
    return int(values[np.searchsorted(cumulative, rank)])


def quantile_tokens(
    units: Units, counts: Units, slack: Units, *, q: float, tolerance: float, max_length: int
) -> QuantileResult:
    """Take the q-quantile of the residuals as a token, subtract it where it fits, repeat (algorithm 2).

    Ends when the greedy codes cover every label, when the algorithm's own error is within tolerance, or after
    [`MAX_ROUNDS`][gor_head.construction.quantile.MAX_ROUNDS]; what is still uncovered is left to closure. If the share
    of positive labels is 1−q or less, the quantile of all residuals is 0 from the start; it is then taken over the
    positive ones, with a warning. The same happens, silently, when the quantile of all residuals reaches 0 later, where
    the paper stops.

    Args:
        units: Distinct labels, ascending, `[d]`.
        counts: How often each of the distinct labels occurs, `[d]`.
        slack: Residual at which each code may stop, `[d]`.
        q: Quantile in 0..1.
        tolerance: ε.
        max_length: The largest number of value tokens in a code.
    """
    largest = int(units[-1])
    residual, count, label = units, counts, units
    if order_statistic(units, counts, q) == 0:
        positive = int(counts[units > 0].sum())
        warnings.warn(
            f"Only {positive} of {int(counts.sum())} labels are positive, so the {q}-quantile of all labels is 0: "
            "tokens are quantiles of the positive residuals.",
            stacklevel=4,
        )
    tokens: set[int] = set()
    witnesses = np.arange(len(units))[-WITNESSES:]
    error, rounds = math.inf, 0
    while rounds < MAX_ROUNDS and error > tolerance:
        value = order_statistic(residual, count, q)
        if value == 0:
            value = order_statistic(residual[residual > 0], count[residual > 0], q)
        tokens.add(value)
        residual, count, label = subtract_once(residual, count, label, value=value)
        left = residual > 0
        error = float((residual[left] / label[left]).max(initial=0.0))
        rounds += 1
        candidate = with_tail(np.array(sorted(tokens), dtype=np.int64), largest, max_length)
        if covers(units[witnesses], slack[witnesses], candidate, max_length=max_length).all():
            missed = np.flatnonzero(~covers(units, slack, candidate, max_length=max_length))
            if not missed.size:
                break
            witnesses = missed[:: len(missed) // WITNESSES + 1]
    return QuantileResult(np.array(sorted(tokens), dtype=np.int64), rounds, error)


def subtract_once(residual: Units, count: Units, label: Units, *, value: int) -> tuple[Units, Units, Units]:
    """One round's update of the residuals; labels with equal residuals become one entry.

    Args:
        residual: Distinct residuals, ascending, `[m]`.
        count: Labels with each residual, `[m]`.
        label: Smallest label with each residual: the one with the largest relative error, `[m]`.
        value: Token that is subtracted from residuals at or above it.

    Returns:
        The three arrays after the update, of m or fewer entries.
    """
    residual = np.where(residual >= value, residual - value, residual)
    order = np.argsort(residual, kind="stable")  # two sorted runs: merged in O(m)
    residual, count, label = residual[order], count[order], label[order]
    starts = np.flatnonzero(np.diff(residual, prepend=-1))
    return residual[starts], np.add.reduceat(count, starts), np.minimum.reduceat(label, starts)
