"""Curriculum learning as scheduled sampling: true inputs give way to the model's own."""

import math
from typing import Literal

import torch
from torch import Tensor

from gor_head.interface import CodeModel
from gor_head.training.base import Strategy
from gor_head.training.free_running import mixed_pass

Schedule = Literal["linear", "sigmoid", "exponential"]


def truth_probability(progress: float, schedule: Schedule = "linear", floor: float = 0.5) -> float:
    """Probability that an input is the true token.

    With s the progress in 0..1, falling from 1 to `floor`:

        linear:       1 − s
        sigmoid:      (σ(6 − 12 s) − σ(−6)) / (σ(6) − σ(−6))
        exponential:  (e^(−5 s) − e^(−5)) / (1 − e^(−5))

    Raises:
        ValueError: If the schedule is unknown.
    """
    share = min(max(progress, 0.0), 1.0)
    if schedule == "linear":
        left = 1 - share
    elif schedule == "sigmoid":
        low, high = 1 / (1 + math.exp(6)), 1 / (1 + math.exp(-6))
        left = (1 / (1 + math.exp(12 * share - 6)) - low) / (high - low)
    elif schedule == "exponential":
        left = (math.exp(-5 * share) - math.exp(-5)) / (1 - math.exp(-5))
    else:
        raise ValueError(f"schedule: wanted linear, sigmoid or exponential, got {schedule!r}.")
    return floor + (1 - floor) * left


class Curriculum(Strategy):
    """Scheduled sampling: a coin for every row and step decides between the true token and the model's own.

    Args:
        schedule: How the probability of the true token falls, see
            [`truth_probability`][gor_head.training.curriculum.truth_probability].
        floor: Where it ends.

    Reference: Bengio et al. 2009 and 2015; GoR, section 3.2.4.
    """

    def __init__(self, schedule: Schedule = "linear", floor: float = 0.5) -> None:
        truth_probability(0.0, schedule)
        if not 0 <= floor <= 1:
            raise ValueError(f"floor: wanted a number from 0 to 1, got {floor}.")
        self.schedule: Schedule = schedule
        self.floor = floor

    def passes(self, model: CodeModel, memory: Tensor, codes: Tensor, *, progress: float) -> list[tuple[float, Tensor]]:
        """See [`Strategy.passes`][gor_head.training.base.Strategy.passes]; while all inputs are true, one parallel
        pass."""
        truth = truth_probability(progress, self.schedule, self.floor)
        from_model = torch.rand(codes.shape, device=codes.device) >= truth
        if not bool(from_model.any()):
            return [(1.0, model.log_probs(memory, codes))]
        return [(1.0, mixed_pass(model, memory, codes, from_model=from_model))]
