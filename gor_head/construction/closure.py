"""What makes an initial vocabulary cover every label: tail tokens for the largest labels, closure for the rest."""

import numpy as np

from gor_head.construction.greedy import Codes, Units, greedy_codes

CLOSURE_ROUNDS = 256
"""Tokens that closure adds one by one; labels that are still open then become tokens themselves."""


def with_tail(tokens: Units, largest: int, max_length: int) -> Units:
    """Tokens with doublings of the largest one, if `max_length` times it does not reach the largest label.

    A quantile says nothing about the tail beyond it: the largest label may be hundreds of times the largest token.
    """
    if not len(tokens) or largest <= max_length * int(tokens[-1]):
        return tokens
    tail, value = [], 2 * int(tokens[-1])
    while value <= largest:
        tail.append(value)
        value *= 2
    return np.concatenate([tokens, np.array(tail, dtype=np.int64)])


def close(tokens: Units, units: Units, slack: Units, *, max_length: int) -> Units:
    """Add tokens until the greedy code of every label ends within tolerance and within `max_length`.

    While a label ends above its tolerance with room in its code, the smallest such residual becomes a token. Those that
    run out of room get the smallest residual before their last step, and after
    [`CLOSURE_ROUNDS`][gor_head.construction.closure.CLOSURE_ROUNDS] such tokens every label that is still open becomes
    a token, so that this always ends.

    Args:
        tokens: Token values in units, ascending, `[v]`.
        units: Distinct labels, ascending, `[d]`.
        slack: Residual at which each code may stop, `[d]`.
        max_length: The largest number of value tokens in a code.

    Returns:
        The tokens and those added, ascending.
    """
    tokens = with_tail(tokens, int(units[-1]), max_length)
    codes = greedy_codes(units, slack, tokens, max_length=max_length)
    for _ in range(CLOSURE_ROUNDS):
        bad = np.flatnonzero(codes.residual > slack)
        if not bad.size:
            return tokens
        open_ended = bad[codes.length[bad] < max_length]
        if open_ended.size:
            # Below every other token, so it only goes on where codes ended: nothing else is encoded anew.
            tokens = np.insert(tokens, 0, codes.residual[open_ended].min())
            codes = _go_on(codes, open_ended, units, slack, tokens, max_length)
        else:
            before_last = codes.residual[bad] + codes.tokens[bad, max_length - 1]
            tokens = np.union1d(tokens, before_last.min())
            codes = greedy_codes(units, slack, tokens, max_length=max_length)
    while (missed := units[codes.residual > slack]).size:
        tokens = np.union1d(tokens, missed)
        codes = greedy_codes(units, slack, tokens, max_length=max_length)
    return tokens


def _go_on(codes: Codes, rows: Units, units: Units, slack: Units, tokens: Units, max_length: int) -> Codes:
    """Codes with those of some rows continued by the present tokens."""
    begun = Codes(codes.tokens[rows], codes.length[rows], codes.residual[rows])
    new = greedy_codes(units[rows], slack[rows], tokens, max_length=max_length, prefix=begun)
    width = max(codes.tokens.shape[1], new.tokens.shape[1])
    values = np.pad(codes.tokens, ((0, 0), (0, width - codes.tokens.shape[1])))
    length, residual = codes.length.copy(), codes.residual.copy()
    values[rows] = np.pad(new.tokens, ((0, 0), (0, width - new.tokens.shape[1])))
    length[rows], residual[rows] = new.length, new.residual
    return Codes(values, length, residual)
