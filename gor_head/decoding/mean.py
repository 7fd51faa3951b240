"""The mean of the predictive distribution: exact where the codes can be enumerated, else by Monte Carlo."""

import torch
from torch import Tensor

from gor_head.decoding.posterior import MOST_CODES, count_codes, posterior
from gor_head.decoding.sample import sample
from gor_head.model import GoRModel

AT_ONCE = 65_536
"""Prefixes decoded together while codes are enumerated: more rows than fit are taken in turn."""


@torch.no_grad()
def mean(
    model: GoRModel, memory: Tensor, samples: int = 256, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Expected number of each row, and its standard error.

    Args:
        model: In evaluation mode.
        memory: `[B, L, D]`.
        samples: Codes drawn per row for vocabularies of more than 4 096 codes.
        generator: For these draws.

    Returns:
        Means and standard errors, float64 `[B]`; the errors are 0 where all codes were enumerated.
    """
    codes = count_codes(model.intervals, MOST_CODES)
    if codes is None:
        drawn = torch.stack([model.vocabulary.decode(sample(model, memory, generator)) for _ in range(samples)])
        return drawn.mean(dim=0), drawn.std(dim=0) / samples**0.5
    chunks = memory.split(max(1, AT_ONCE // codes))
    means = torch.cat([posterior(model, chunk).mean() for chunk in chunks])
    return means, torch.zeros_like(means)
