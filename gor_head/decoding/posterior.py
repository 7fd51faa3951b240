"""The whole predictive distribution, for vocabularies with few codes: every prefix is decoded once."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gor_head.decoders import select
from gor_head.intervals import Intervals, Prefixes
from gor_head.model import GoRModel
from gor_head.vocabulary import EOS, PAD, SOS

MOST_CODES = 4096
"""Codes up to which the distribution is enumerated."""

AT_ONCE = 65_536
"""Codes of all rows that are in memory together: more rows than that are taken in turn."""


@dataclass(frozen=True)
class Posterior:
    """A distribution over all codes of a vocabulary.

    Args:
        codes: Token ids, `[C, T]`, by ascending number.
        values: Their numbers, float64, `[C]`.
        log_probs: log P(code) of each row, `[B, C]`.
    """

    codes: Tensor
    values: Tensor
    log_probs: Tensor

    def mean(self) -> Tensor:
        """Expected number of each row, float64 `[B]`."""
        # Normalised anew: probabilities that add up to 1 in float32 move the mean of numbers far from 0.
        return self.log_probs.double().softmax(dim=1) @ self.values


@dataclass(frozen=True)
class Trie:
    """All prefixes, level by level: for each level the parent of every prefix, its last token and its state."""

    parents: list[Tensor]
    tokens: list[Tensor]
    states: list[Prefixes]


def _trie(intervals: Intervals, limit: int) -> Trie:
    state = intervals.start(1)
    device = state.low.device
    trie = Trie([torch.zeros(1, dtype=torch.int64, device=device)], [torch.tensor([SOS], device=device)], [state])
    prefixes = 1
    while True:
        # Every prefix is one code: itself and EOS.
        legal = intervals.legal_tokens(state)
        legal[:, : EOS + 1] = False
        parent, token = legal.nonzero(as_tuple=True)
        if not len(parent):
            return trie
        prefixes += len(parent)
        if prefixes > limit:
            raise ValueError(f"The vocabulary has more than {limit} codes: too many to enumerate.")
        state = intervals.advance(Prefixes(*(part[parent] for part in vars(state).values())), token)
        trie.parents.append(parent)
        trie.tokens.append(token)
        trie.states.append(state)


def enumerate_codes(intervals: Intervals, limit: int = MOST_CODES) -> Tensor:
    """All codes of a vocabulary by ascending number, token ids `[C, T]`.

    Raises:
        ValueError: If there are more than `limit`.
    """
    return _codes(_trie(intervals, limit))[0]


def count_codes(intervals: Intervals, limit: int = MOST_CODES) -> int | None:
    """How many codes a vocabulary has, or None if more than `limit`."""
    try:
        return sum(len(tokens) for tokens in _trie(intervals, limit).tokens)
    except ValueError:
        return None


def _codes(trie: Trie) -> tuple[Tensor, Tensor]:
    """Codes `[C, T]` by ascending number, and the order that sorts the prefixes, level by level, so."""
    longest = len(trie.tokens)
    levels: list[Tensor] = []
    before = trie.tokens[0][:, None][:, :0]
    for depth, (parent, token) in enumerate(zip(trie.parents, trie.tokens, strict=True)):
        if depth:
            before = torch.cat([before[parent], token[:, None]], dim=1)
        ending = torch.full((len(before), 1), EOS, device=before.device)
        padding = torch.full((len(before), longest - depth - 1), PAD, device=before.device)
        levels.append(torch.cat([before, ending, padding], dim=1))
    order = torch.cat([state.low for state in trie.states]).argsort()
    return torch.cat(levels)[order], order


def posterior(model: GoRModel, memory: Tensor, limit: int = MOST_CODES) -> Posterior:
    """Probability of every code, for each row of memory `[B, L, D]`; gradients flow if they are on.

    Raises:
        ValueError: If the vocabulary has more than `limit` codes.
    """
    trie = _trie(model.intervals, limit)
    rows = len(memory)
    cache = model.decoder.start(memory)
    reached = memory.new_zeros(rows, 1)
    following: Tensor | None = None
    leaves: list[Tensor] = []
    for parent, token, state in zip(trie.parents, trie.tokens, trie.states, strict=True):
        count = len(token)
        if following is not None:
            reached = reached[:, parent] + following[:, parent, token]
            first = torch.arange(rows, device=memory.device)[:, None] * following.shape[1]
            cache = select(cache, (first + parent).flatten())
        states = Prefixes(*(part.repeat(rows) for part in vars(state).values()))
        log_probs, cache = model.step(token.repeat(rows), cache, states)
        following = log_probs.unflatten(0, (rows, count))
        leaves.append(reached + following[:, :, EOS])
    codes, order = _codes(trie)
    return Posterior(codes, model.vocabulary.decode(codes), torch.cat(leaves, dim=1)[:, order])


def posterior_mean(model: GoRModel, memory: Tensor) -> Tensor:
    """Expected number of each row of memory `[B, L, D]`, float64 `[B]`; gradients flow if they are on.

    Not more than `AT_ONCE` codes are in memory together; where gradients need what was computed before, it is computed
    again.

    Raises:
        ValueError: If the vocabulary has more than 4 096 codes.
    """

    def of_some(rows: Tensor) -> Tensor:
        return posterior(model, rows).mean()

    codes = count_codes(model.intervals)
    parts = memory.split(max(1, AT_ONCE // codes)) if codes else (memory,)
    if len(parts) == 1 or not torch.is_grad_enabled():
        return torch.cat([of_some(part) for part in parts])
    return torch.cat([cast(Tensor, checkpoint(of_some, part, use_reentrant=False)) for part in parts])
