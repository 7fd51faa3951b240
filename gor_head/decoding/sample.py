"""Codes drawn from the model's distribution."""

import torch
from torch import Tensor

from gor_head.decoding.walk import walk
from gor_head.interface import CodeModel


@torch.no_grad()
def sample(model: CodeModel, memory: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Memory `[B, L, D]` → one code a row, token ids `[B, T]`; repeat the memory's rows for more."""
    return walk(model, memory, lambda log_probs, _: log_probs.exp().multinomial(1, generator=generator).squeeze(1))
