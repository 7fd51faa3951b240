"""The windowed decoding of GoR's predecessor: every step adds an expectation about its likeliest token."""

import torch
from torch import Tensor

from gor_head.decoding.walk import walk
from gor_head.interface import CodeModel
from gor_head.losses import windowed_sum


@torch.no_grad()
def window(model: CodeModel, memory: Tensor) -> Tensor:
    """Memory `[B, L, D]` → numbers, float64 `[B]`: along the greedy code, the sum of
    [`windowed_sum`][gor_head.losses.windowed_sum]'s steps."""
    total = torch.zeros(len(memory), dtype=torch.float64, device=memory.device)

    def choose(log_probs: Tensor, rows: Tensor) -> Tensor:
        token = log_probs.argmax(dim=1)
        total[rows] += windowed_sum(log_probs.double()[:, None], token[:, None], model.values)
        return token

    walk(model, memory, choose)
    return total + model.vocabulary.offset
