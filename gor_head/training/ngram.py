"""N-gram prediction: the decoder learns to go on from its own soft predictions."""

import torch
from torch import Tensor

from gor_head.interface import CodeModel
from gor_head.training.base import Strategy
from gor_head.training.teacher_forcing import TeacherForcing
from gor_head.vocabulary import SOS


class NGram(Strategy):
    """Chained passes: the inputs of pass n are the expected embeddings under pass n − 1, so that gradients run from
    outputs to inputs.

    Formula: loss = Σₙ discountⁿ⁻¹ · loss of pass n, all with the true codes as targets.

    Args:
        n: Passes; 1 is the first alone.
        discount: Weight of a pass relative to the one before.
        first: Strategy of the first pass, teacher forcing by default.

    Reference: TeaForN, Goodman et al. 2020; GoR, section 3.2.4.
    """

    def __init__(self, n: int = 2, discount: float = 0.5, first: Strategy | None = None) -> None:
        if n < 1:
            raise ValueError(f"n: wanted 1 or more passes, got {n}.")
        if not 0 <= discount <= 1:
            raise ValueError(f"discount: wanted a number from 0 to 1, got {discount}.")
        self.n = n
        self.discount = discount
        self.first = first or TeacherForcing()

    def passes(self, model: CodeModel, memory: Tensor, codes: Tensor, *, progress: float) -> list[tuple[float, Tensor]]:
        """See [`Strategy.passes`][gor_head.training.base.Strategy.passes]."""
        passes = self.first.passes(model, memory, codes, progress=progress)
        if self.n == 1:
            return passes
        legal = model.legal(codes)
        start = model.embedding(torch.full_like(codes[:, :1], SOS))
        for i in range(1, self.n):
            expected = passes[-1][1][:, :-1].exp() @ model.embedding.weight
            log_probs = model.head(model.hidden(memory, torch.cat([start, expected], dim=1)), legal)
            passes.append((self.discount**i, log_probs))
        return passes
