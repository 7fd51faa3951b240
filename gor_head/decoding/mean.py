"""The mean of the predictive distribution: exact where the codes can be enumerated, else by Monte Carlo."""

import torch
from torch import Tensor

from gor_head.decoding.posterior import AT_ONCE, posterior_mean
from gor_head.decoding.sample import sample
from gor_head.enumeration import MOST_CODES, count_codes
from gor_head.interface import CodeModel


@torch.no_grad()
def mean(
    model: CodeModel, memory: Tensor, samples: int = 256, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Expected number of each row, and its standard error.

    Args:
        model: A model in evaluation mode.
        memory: The encoder's output, `[B, L, D]`.
        samples: Codes drawn per row for vocabularies of more than 4 096 codes.
        generator: Source of the draws.

    Returns:
        Means and standard errors, float64 `[B]`; the errors are 0 where all codes were enumerated.
    """
    if count_codes(model.intervals, MOST_CODES) is not None:
        means = posterior_mean(model, memory)
        return means, torch.zeros_like(means)
    at_once = max(1, AT_ONCE // max(1, len(memory)))
    drawn = torch.cat(
        [
            model.vocabulary.decode(sample(model, memory.repeat_interleave(count, dim=0), generator)).view(-1, count)
            for count in (min(at_once, samples - start) for start in range(0, samples, at_once))
        ],
        dim=1,
    )
    return drawn.mean(dim=1), drawn.std(dim=1) / samples**0.5
