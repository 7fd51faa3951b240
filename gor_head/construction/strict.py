"""Algorithms 1 and 2 of the paper to the letter, for comparison. They do not cover all labels in general.

Percentiles are interpolated, so tokens fall between the labels' own grid points: callers pass labels in units of a grid
a million times finer than the labels. Labels of 0 are left out of the errors, which divide by the label.
"""

import numpy as np

from gor_head.construction.codi import codi
from gor_head.construction.greedy import Codes, Units, greedy_codes
from gor_head.construction.quantile import MAX_ROUNDS, QuantileResult


def interpolated_percentile(values: Units, counts: Units, q: float) -> int:
    """Linearly interpolated quantile as in `numpy.percentile`, rounded to whole units.

    Args:
        values: Values in any order, `[d]`.
        counts: How often each of the values occurs, `[d]`.
        q: Share in 0..1.
    """
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(counts[order])
    rank = q * (int(cumulative[-1]) - 1)
    below = int(rank)
    low, high = values[order][np.searchsorted(cumulative, [below, min(below + 1, cumulative[-1] - 1)], side="right")]
    return int(low) + round((rank - below) * int(high - low))


def strict_quantile_tokens(units: Units, counts: Units, *, q: float, tolerance: float) -> QuantileResult:
    """Algorithm 2 to the letter: ends at its own error, at a quantile of 0, or after `MAX_ROUNDS` rounds."""
    residual, tokens = units.copy(), set[int]()
    positive = units > 0
    error, rounds = np.inf, 0
    while error > tolerance and rounds < MAX_ROUNDS:
        value = interpolated_percentile(residual, counts, q)
        if value == 0:
            break
        tokens.add(value)
        residual = np.where(residual >= value, residual - value, residual)
        error = float((residual[positive] / units[positive]).max(initial=0.0))
        rounds += 1
    return QuantileResult(np.array(sorted(tokens), dtype=np.int64), rounds, error)


def strict_prune(
    tokens: Units, units: Units, counts: Units, *, slack: Units, beta: float, tolerance: float, max_length: int
) -> tuple[Units, Codes]:
    """Algorithm 1 to the letter: CoDi once, remove, then test; the set that fails the test is what is returned."""
    initial = len(tokens)
    codes = greedy_codes(units, slack, tokens, max_length=max_length)
    scores = codi(codes, counts, tokens)
    positive = units > 0

    def error(of: Codes) -> float:
        return float((of.residual[positive] / units[positive]).max(initial=0.0))

    while len(tokens) and error(codes) < tolerance and len(tokens) >= beta * initial:
        keep = np.arange(len(tokens)) != int(np.argmin(scores))
        tokens, scores = tokens[keep], scores[keep]
        codes = greedy_codes(units, slack, tokens, max_length=max_length)
    return tokens, codes
