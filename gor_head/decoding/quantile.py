"""Exact quantiles of the predictive distribution, in as many decoder steps as the code has tokens.

The tokens that may follow a prefix split its interval into disjoint parts in ascending order: EOS (the prefix's own
sum), then token by token upward. So the part that holds a quantile is found from the next-token distribution alone; the
level is rescaled to that part, and the descent goes on inside it.
"""

import torch
from torch import Tensor

from gor_head.decoding.walk import walk
from gor_head.interface import CodeModel

MEDIAN = torch.tensor([0.5], dtype=torch.float64)
"""The level of the median, as [`quantile`][gor_head.decoding.quantile.quantile] takes it."""

ROUNDING = 1e-12
"""Share of the whole by which a cumulative probability may miss a level and count as reaching it."""


@torch.no_grad()
def quantile(model: CodeModel, memory: Tensor, levels: Tensor) -> Tensor:
    """Codes of quantiles: the least number whose cumulative probability reaches the level.

    Args:
        model: A model in evaluation mode.
        memory: The encoder's output, `[B, L, D]`.
        levels: Levels in 0..1, `[Q]`; 0.5 is the median.

    Returns:
        Token ids, `[B, Q, T]`; numbers ascend with the levels, up to rounding (float64) at the parts' borders.

    Raises:
        ValueError: If a level is outside 0..1, or there is none.
    """
    if levels.ndim != 1 or not len(levels) or not bool(((levels >= 0) & (levels <= 1)).all()):
        raise ValueError(f"levels: wanted one or more numbers from 0 to 1 in one dimension, got {levels.tolist()}.")
    target = levels.to(memory.device, torch.float64).repeat(len(memory))

    def choose(log_probs: Tensor, rows: Tensor) -> Tensor:
        token, target[rows] = descend(log_probs.double().exp(), target[rows])
        return token

    codes = walk(model, memory.repeat_interleave(len(levels), dim=0), choose)
    return codes.unflatten(0, (len(memory), len(levels)))


def descend(probabilities: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """One step of the descent.

    Args:
        probabilities: Probabilities of the next token, by ascending id, float64 `[n, V]`.
        levels: Level of each row inside what is left, `[n]`.

    Returns:
        Token whose part holds each level, and the level inside that part, both `[n]`.
    """
    upper = probabilities.cumsum(dim=1)
    # A total a little off 1 would leave a level near 1 without a part.
    target = levels * upper[:, -1]
    possible = probabilities > 0
    # Sums such as 0.1 + 0.2 end a little below their level; they reach it all the same.
    reached = upper >= target[:, None] - ROUNDING * upper[:, -1:]
    token = (reached & possible).to(torch.uint8).argmax(dim=1)
    mass = probabilities.gather(1, token[:, None]).squeeze(1)
    below = upper.gather(1, token[:, None]).squeeze(1) - mass
    return token, ((target - below) / mass).clamp(0, 1)
