"""What a begun code says about its label, and which tokens may follow.

After a greedy prefix with sum s the label lies in [s, s + B): B is infinite at first, and choosing token ω makes it
min(B, next larger token) − ω. Token ω may follow iff some label in that interval would be coded with it:

    ω < B  and  r > ⌊ε·(s + r)⌋  with  r = min(B, next larger token) − 1, the largest residual that picks ω

The second condition is the relative stop: a label whose residual is within ε would have ended before. After
`max_length` tokens only EOS may follow; EOS may follow every legal prefix. Hence codes descend and the tokens that may
follow, EOS first and then by id, split the interval into disjoint parts in ascending order.

Everything is int64 in grid units, for a batch, on the device of the tables; nothing is read back to the host.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from gor_head.grid import MAX_UNITS
from gor_head.vocabulary import EOS, FIRST_VALUE, PAD, UNBOUNDED, CoDiVocabulary


@dataclass(frozen=True)
class Prefixes:
    """The state of n begun codes.

    Args:
        low: s, the sum of the tokens so far, in units, int64 `[n]`.
        width: B, so that the label lies in [s, s + B), in units, int64 `[n]`; 2**62 for no upper end.
        length: Value tokens so far, int64 `[n]`.
        finished: Whether EOS has been chosen, bool `[n]`.
        legal: Whether every token so far was a legal one, bool `[n]`.
    """

    low: Tensor
    width: Tensor
    length: Tensor
    finished: Tensor
    legal: Tensor


@dataclass(frozen=True)
class Intervals:
    """Tables of a vocabulary from which legal tokens and intervals follow; make it with
    [`Intervals.of`][gor_head.intervals.Intervals.of].

    Args:
        tokens: Value of each id in units, 0 for PAD, SOS and EOS, int64 `[V + 3]`.
        above: The next larger token of each value token, 2**62 for the largest, int64 `[V + 3]`.
        tolerance: ε, 0 where codes end only when nothing fits.
        max_length: The largest number of value tokens in a code.

    Example:

    ```python
    >>> import torch
    >>> from gor_head import CoDiVocabulary
    >>> from gor_head.intervals import Intervals
    >>> intervals = Intervals.of(CoDiVocabulary([1, 5, 50], tolerance=0))
    >>> state = intervals.advance(intervals.start(1), torch.tensor([4]))
    >>> state.low.tolist(), state.width.tolist()
    ([5], [45])
    >>> intervals.legal_tokens(state).nonzero()[:, 1].tolist()
    [2, 3, 4]
    ```
    """

    tokens: Tensor
    above: Tensor
    tolerance: float
    max_length: int

    @classmethod
    def of(cls, vocabulary: CoDiVocabulary, device: torch.device | str = "cpu") -> "Intervals":
        """Tables of a vocabulary on a device."""
        values = torch.from_numpy(vocabulary.tokens).to(device)
        control = torch.zeros(FIRST_VALUE, dtype=torch.int64, device=device)
        top = torch.full((min(1, len(values)),), UNBOUNDED, dtype=torch.int64, device=device)
        return cls(
            tokens=torch.cat([control, values]),
            above=torch.cat([control, values[1:], top]),
            tolerance=vocabulary.tolerance,
            max_length=vocabulary.max_length,
        )

    def start(self, n: int) -> Prefixes:
        """n empty prefixes."""
        zero = torch.zeros(n, dtype=torch.int64, device=self.tokens.device)
        return Prefixes(zero, torch.full_like(zero, UNBOUNDED), zero, zero.bool(), ~zero.bool())

    def legal_tokens(self, state: Prefixes) -> Tensor:
        """Ids that may follow each prefix, bool `[n, V + 3]`.

        SOS never; EOS unless finished; PAD after EOS only, and then it alone. A prefix that was itself illegal is
        judged by its own interval all the same; see `legal` of the state.
        """
        ids = torch.arange(len(self.tokens), device=self.tokens.device)
        return self._may_follow(Prefixes(*(part[:, None] for part in vars(state).values())), ids)

    def _may_follow(self, state: Prefixes, ids: Tensor) -> Tensor:
        """The rule: whether each prefix may be followed by a token, bool; prefixes and ids of shapes that broadcast."""
        residual = torch.minimum(state.width, self.above[ids]) - 1
        # The same float64 product and floor as in the encoder, so that both stop at the same label.
        slack = torch.floor((state.low + residual).double() * self.tolerance).long()
        allowed = (self.tokens[ids] < state.width) & (residual > slack) & (state.length < self.max_length)
        allowed = torch.where(ids < FIRST_VALUE, ids == EOS, allowed)
        return torch.where(state.finished, ids == PAD, allowed)

    def advance(self, state: Prefixes, ids: Tensor) -> Prefixes:
        """Prefixes with one more token each.

        Args:
            state: Prefixes, n of them.
            ids: Token ids, integers `[n]`; PAD changes nothing.
        """
        ids = ids.long()
        value = self.tokens[ids]
        taken = (ids >= FIRST_VALUE) & ~state.finished
        return Prefixes(
            low=torch.where(taken, state.low + value, state.low),
            # Not below 0 after an illegal token: then no label is left.
            width=torch.where(taken, (torch.minimum(state.width, self.above[ids]) - value).clamp(min=0), state.width),
            length=state.length + taken,
            finished=state.finished | (ids == EOS),
            legal=state.legal & self._may_follow(state, ids),
        )

    def before_each(self, ids: Tensor) -> Prefixes:
        """State before each token of whole codes: token ids `[n, t]` without SOS → n·t prefixes, code by code."""
        states = [self.start(len(ids))]
        for column in ids[:, :-1].unbind(1):
            states.append(self.advance(states[-1], column))
        return Prefixes(
            *(torch.stack([getattr(state, field.name) for state in states], 1).flatten() for field in fields(Prefixes))
        )

    def prefixes(self, ids: Tensor) -> Prefixes:
        """State after whole prefixes: token ids `[n, t]` without SOS → n prefixes."""
        state = self.start(len(ids))
        for column in ids.unbind(1):
            state = self.advance(state, column)
        return state


def legal_ids(vocabulary: CoDiVocabulary, prefix: list[int]) -> list[int]:
    """Ids that may follow a begun code (without SOS), ascending: those that some number's code goes on with.

    Raises:
        ValueError: If no code begins like this.
    """
    intervals, state = _begun(vocabulary, prefix)
    return intervals.legal_tokens(state)[0].nonzero()[:, 0].tolist()


def bounds(vocabulary: CoDiVocabulary, prefix: list[int]) -> tuple[float, float]:
    """Interval [low, high) of the numbers whose code begins like this, in units of the label; high may be infinite.

    Raises:
        ValueError: If no code begins like this.
    """
    _, state = _begun(vocabulary, prefix)
    low, width = int(state.low[0]), int(state.width[0])
    grid = vocabulary.grid
    high = float(grid.values(np.array(low + width))) if width <= MAX_UNITS else float("inf")
    return float(grid.values(np.array(low))), high


def _begun(vocabulary: CoDiVocabulary, prefix: list[int]) -> tuple[Intervals, Prefixes]:
    if not all(isinstance(token, int | np.integer) for token in prefix):
        raise ValueError(f"prefix: wanted integers, got {prefix}.")
    if not all(0 <= token < len(vocabulary) for token in prefix):
        raise ValueError(f"prefix: wanted ids from 0 to {len(vocabulary) - 1}, got {prefix}.")
    intervals = Intervals.of(vocabulary)
    state = intervals.prefixes(torch.tensor([prefix], dtype=torch.int64))
    if not state.legal[0]:
        raise ValueError(f"prefix: no code begins with the ids {prefix}.")
    return intervals, state
