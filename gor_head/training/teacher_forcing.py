"""Teacher forcing: the decoder sees the true prefix."""

from torch import Tensor

from gor_head.interface import CodeModel
from gor_head.training.base import Strategy


class TeacherForcing(Strategy):
    """All steps at once, each after the true tokens before it.

    Formula: loss = −Σₜ log P(τₜ | h, τ₍₁..ₜ₋₁₎) + λ·Huber.

    Reference: Sutskever et al. 2014; GoR, equation 6.
    """

    def passes(self, model: CodeModel, memory: Tensor, codes: Tensor, *, progress: float) -> list[tuple[float, Tensor]]:
        """See [`Strategy.passes`][gor_head.training.base.Strategy.passes]."""
        return [(1.0, model.log_probs(memory, codes))]
