"""The Coverage–Distinctiveness Index and pruning by it (GoR, equation 5 and algorithm 1).

    CoDi_j = (1/N Σ_i count(ω_j, τ_i) / T_i) · log(N / (|{i | ω_j ∈ τ_i}| + 1))

T_i leaves EOS out, N counts every label; the empty code of a zero label adds 0. The index is ≤ 0 for a token that N−1
or more labels use, so such a token is tried first.

Algorithm 1 removes a token, then tests, and returns the set that failed. Here a removal is undone if a label then
misses the tolerance or needs more than `max_length` tokens, or if codes get longer than `mean_length` in the mean, and
the token with the next-lowest index is tried. Each token is tried once. Greedy codes are prefix-stable, so removing ω
changes only codes with ω in them, and those only from ω on: only these tails are encoded anew.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gor_head.construction.greedy import Codes, Units, greedy_codes

CodiUpdate = Literal["static", "recompute"]

PROBES = 256
"""Labels on which a removal is tried before it is tried on all: most bad removals show here."""


def token_usage(codes: Codes, counts: Units, tokens: Units) -> tuple[Units, Units]:
    """Occurrences of each token over all labels, and labels whose code holds it: `[v]`, `[v]`.

    Args:
        codes: Codes of the d distinct labels.
        counts: How often each distinct label occurs, `[d]`.
        tokens: Token values, ascending, `[v]`.
    """
    used = codes.tokens > 0
    index = np.searchsorted(tokens, codes.tokens[used])
    weight = np.broadcast_to(counts[:, None], codes.tokens.shape)
    # Codes descend, so equal tokens stand side by side and the first of each run counts the label once.
    first = used.copy()
    first[:, 1:] &= codes.tokens[:, 1:] != codes.tokens[:, :-1]
    occurrences = np.bincount(index, weight[used], len(tokens))
    labels = np.bincount(np.searchsorted(tokens, codes.tokens[first]), weight[first], len(tokens))
    return np.rint(occurrences).astype(np.int64), np.rint(labels).astype(np.int64)


def codi(codes: Codes, counts: Units, tokens: Units) -> NDArray[np.float64]:
    """CoDi of each token (equation 5), `[v]`; arguments as in
    [`token_usage`][gor_head.construction.codi.token_usage]."""
    used = codes.tokens > 0
    share = np.broadcast_to((counts / np.maximum(codes.length, 1))[:, None], codes.tokens.shape)
    total = int(counts.sum())
    coverage = np.bincount(np.searchsorted(tokens, codes.tokens[used]), share[used], len(tokens)) / total
    _, labels = token_usage(codes, counts, tokens)
    return coverage * np.log(total / (labels + 1))


def smallest_size(initial_size: int, beta: float) -> int:
    """Fewest tokens that pruning may leave: max(1, ceil(β·W)), and 0 of 0."""
    return max(1, math.ceil(beta * initial_size)) if initial_size else 0


def recode(codes: Codes, units: Units, slack: Units, *, tokens: Units, removed: int, max_length: int) -> Codes | None:
    """Codes after one token has gone, `None` if a label is then no longer covered.

    Args:
        codes: Codes with the token, all within tolerance.
        units: Labels, `[d]`.
        slack: Residual at which each code may stop, `[d]`.
        tokens: Tokens that stay, ascending.
        removed: Value of the token that goes.
        max_length: The largest number of value tokens in a code.
    """
    rows = np.flatnonzero((codes.tokens == removed).any(axis=1))
    if not rows.size:
        return codes
    for part in (rows[:: len(rows) // PROBES + 1], rows):
        position = np.argmax(codes.tokens[part] == removed, axis=1)
        begun = np.where(np.arange(codes.tokens.shape[1]) < position[:, None], codes.tokens[part], 0)
        prefix = Codes(begun, position, units[part] - begun.sum(axis=1))
        new = greedy_codes(units[part], slack[part], tokens, max_length=max_length, prefix=prefix)
        if (new.residual > slack[part]).any():
            return None
    width = max(codes.tokens.shape[1], new.tokens.shape[1])
    values = np.pad(codes.tokens, ((0, 0), (0, width - codes.tokens.shape[1])))
    length, residual = codes.length.copy(), codes.residual.copy()
    values[rows] = np.pad(new.tokens, ((0, 0), (0, width - new.tokens.shape[1])))
    length[rows], residual[rows] = new.length, new.residual
    return Codes(values[:, : int(length.max())], length, residual)


@dataclass(frozen=True)
class Pruned:
    """What pruning leaves.

    Args:
        tokens: The tokens that stay, ascending, `[V]`.
        codes: The codes of the distinct labels in them.
        path: Size and mean code length at the start and after each removal.
    """

    tokens: Units
    codes: Codes
    path: list[tuple[int, float]]


def mean_code_length(codes: Codes, counts: Units) -> float:
    """Mean number of value tokens over all labels; arguments as in
    [`token_usage`][gor_head.construction.codi.token_usage]."""
    return float((codes.length * counts).sum() / counts.sum())


def prune(
    tokens: Units,
    units: Units,
    counts: Units,
    *,
    slack: Units,
    beta: float,
    max_length: int,
    mean_length: float | None = None,
    update: CodiUpdate,
) -> Pruned:
    """Remove tokens of low CoDi while every label stays covered (algorithm 1, with rollback).

    Args:
        tokens: Initial vocabulary, ascending, in units; covers every label. `[W]`.
        units: Distinct labels, ascending, `[d]`.
        counts: How often each of the distinct labels occurs, `[d]`.
        slack: Residual at which each code may stop, `[d]`.
        beta: Share of the initial vocabulary that is kept at least.
        max_length: The largest number of value tokens in a code.
        mean_length: The largest mean number of value tokens over all labels, or that of the initial tokens if it is
            larger; `None` for no limit.
        update: `"static"` computes CoDi once (paper), `"recompute"` after each removal. Ties remove the larger value.
    """
    codes = greedy_codes(units, slack, tokens, max_length=max_length)
    path = [(len(tokens), mean_code_length(codes, counts))]
    budget = math.inf if mean_length is None else max(mean_length, path[0][1])
    smallest = smallest_size(len(tokens), beta)
    tried: set[int] = set()
    scores = codi(codes, counts, tokens)
    ranking = removal_order(tokens, scores)
    while len(tokens) > smallest:
        candidate = next((token for token in ranking if token not in tried), None)
        if candidate is None:
            break
        tried.add(candidate)
        rest = tokens[tokens != candidate]
        shorter = recode(codes, units, slack, tokens=rest, removed=candidate, max_length=max_length)
        if shorter is None or (mean := mean_code_length(shorter, counts)) > budget:
            continue
        tokens, codes = rest, shorter
        path.append((len(tokens), mean))
        if update == "recompute":
            ranking = removal_order(tokens, codi(codes, counts, tokens))
    return Pruned(tokens, codes, path)


def removal_order(tokens: Units, scores: NDArray[np.float64]) -> list[int]:
    """Tokens by ascending CoDi, the larger of a tie first. Differences below 1e-12 are float rounding, hence ties."""
    return [int(token) for token in tokens[np.lexsort((-tokens, np.round(scores, 12)))]]
