"""Greedy codes of many labels at once (GoR, section 2.4.2), and the test whether a set of tokens covers all labels.

Everything is in grid units, int64. A code is its token values in descending order, 0 behind its end.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Units = NDArray[np.int64]


@dataclass(frozen=True)
class Codes:
    """Codes of n labels.

    Args:
        tokens: Token values in units, 0 behind the end, `[n, longest]`.
        length: Value tokens of each code, EOS not counted, `[n]`.
        residual: What each code leaves of its label, in units, `[n]`.
    """

    tokens: Units
    length: Units
    residual: Units


def slack_units(units: Units, tolerance: float) -> Units:
    """Largest residual at which a code may stop: floor(ε·y), `[n]` → `[n]`. 0 for ε = 0."""
    return np.floor(units * tolerance).astype(np.int64)


def greedy_codes(units: Units, slack: Units, tokens: Units, *, max_length: int, prefix: Codes | None = None) -> Codes:
    """Take the largest token that fits until the residual is at most `slack`, nothing fits, or the code is full.

    Args:
        units: Labels, ≥ 0, `[n]`.
        slack: Residual at which each code may stop, `[n]`.
        tokens: Token values, > 0, ascending, `[v]`.
        max_length: The largest number of value tokens in a code.
        prefix: Begun codes to go on from; not changed.

    Returns:
        Codes; a label is covered if `residual <= slack`.
    """
    if prefix is None:
        zero = np.zeros(len(units), dtype=np.int64)
        prefix = Codes(np.zeros((len(units), 0), dtype=np.int64), zero, units)
    codes, length, residual = prefix.tokens.copy(), prefix.length.copy(), prefix.residual.copy()
    if not len(tokens):
        return Codes(codes, length, residual)
    active = np.flatnonzero((residual > slack) & (residual >= tokens[0]) & (length < max_length))
    while active.size:
        left, position = residual[active], length[active]
        chosen = tokens[np.searchsorted(tokens, left, side="right") - 1]
        if position.max() >= codes.shape[1]:
            codes = np.pad(codes, ((0, 0), (0, 4)))
        codes[active, position] = chosen
        residual[active] = left = left - chosen
        length[active] = position = position + 1
        active = active[(left > slack[active]) & (left >= tokens[0]) & (position < max_length)]
    return Codes(codes[:, : int(length.max(initial=0))], length, residual)


def covers(units: Units, slack: Units, tokens: Units, *, max_length: int) -> NDArray[np.bool_]:
    """Whether the greedy code of each label ends within tolerance and within `max_length`, `[n]`."""
    return greedy_codes(units, slack, tokens, max_length=max_length).residual <= slack
