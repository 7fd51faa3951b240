"""Greedy decoding (equation 4): the likeliest token at every step."""

import torch
from torch import Tensor

from gor_head.decoding.walk import walk
from gor_head.interface import CodeModel


@torch.no_grad()
def greedy(model: CodeModel, memory: Tensor) -> Tensor:
    """Memory `[B, L, D]` → token ids `[B, T]`.

    The likeliest first token need not be that of the median, nor of the likeliest code; prefer
    [`gor_head.decoding.quantile`][gor_head.decoding.quantile] where the absolute error counts.
    """
    return walk(model, memory, lambda log_probs, _: log_probs.argmax(dim=1))
