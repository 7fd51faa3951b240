"""All codes of a vocabulary, where they are few: every prefix is met once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gor_head.intervals import Intervals, Prefixes
from gor_head.vocabulary import EOS, PAD, SOS

MOST_CODES = 4096
"""Codes up to which the distribution is enumerated."""


@dataclass(frozen=True)
class Trie:
    """All prefixes, level by level: for each level the parent of every prefix, its last token and its state."""

    parents: list[Tensor]
    tokens: list[Tensor]
    states: list[Prefixes]


def build_trie(intervals: Intervals, limit: int = MOST_CODES) -> Trie:
    """All prefixes of the codes of a vocabulary.

    Raises:
        ValueError: If there are more than `limit`.
    """
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
    return codes_of(build_trie(intervals, limit))[0]


def count_codes(intervals: Intervals, limit: int = MOST_CODES) -> int | None:
    """How many codes a vocabulary has, or None if more than `limit`."""
    try:
        return sum(len(tokens) for tokens in build_trie(intervals, limit).tokens)
    except ValueError:
        return None


def codes_of(trie: Trie) -> tuple[Tensor, Tensor]:
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
