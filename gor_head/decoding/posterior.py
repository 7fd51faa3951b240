"""The whole predictive distribution, for vocabularies with few codes: every prefix is decoded once."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gor_head.decoders import select
from gor_head.enumeration import MOST_CODES, build_trie, codes_of, count_codes
from gor_head.interface import CodeModel
from gor_head.intervals import Prefixes
from gor_head.vocabulary import EOS

AT_ONCE = 65_536
"""Codes of all rows that are in memory together: more rows than that are taken in turn."""


@dataclass(frozen=True)
class Posterior:
    """A distribution over all codes of a vocabulary.

    Args:
        codes: Token ids, `[C, T]`, by ascending number.
        values: Numbers of the codes, float64, `[C]`.
        log_probs: log P(code) of each row, `[B, C]`.
    """

    codes: Tensor
    values: Tensor
    log_probs: Tensor

    def mean(self) -> Tensor:
        """Expected number of each row, float64 `[B]`."""
        # Normalised anew: probabilities that add up to 1 in float32 move the mean of numbers far from 0.
        return self.log_probs.double().softmax(dim=1) @ self.values


def posterior(model: CodeModel, memory: Tensor, limit: int = MOST_CODES) -> Posterior:
    """Probability of every code, for each row of memory `[B, L, D]`; gradients flow if they are on.

    Raises:
        ValueError: If the vocabulary has more than `limit` codes.
    """
    trie = build_trie(model.intervals, limit)
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
    codes, order = codes_of(trie)
    return Posterior(codes, model.vocabulary.decode(codes), torch.cat(leaves, dim=1)[:, order])


def posterior_mean(model: CodeModel, memory: Tensor) -> Tensor:
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
