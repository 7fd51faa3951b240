"""The training loss of GoR: negative log-likelihood plus λ times a Huber loss on the number (equation 7)."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gor_head.vocabulary import PAD

HuberOf = Literal["expectation", "window", "exact"]

WINDOW = 10
"""Ids on either side of the likeliest that `window` keeps."""


def nll(log_probs: Tensor, codes: Tensor) -> Tensor:
    """−log P(code) of each row (equation 6).

    Args:
        log_probs: Log-probabilities of the next token, `[B, T, V]`.
        codes: Token ids, `[B, T]`; PAD counts nothing.

    Returns:
        `[B]`, ≥ 0.
    """
    token = log_probs.gather(2, codes[..., None]).squeeze(2)
    return -token.masked_fill(codes == PAD, 0.0).sum(dim=1)


def expected_sum(log_probs: Tensor, codes: Tensor, values: Tensor) -> Tensor:
    """Sum over a code's steps of the expected token value, each under its given prefix, in label units, float64 `[B]`.

    Args:
        log_probs: Log-probabilities of the next token, `[B, T, V]`.
        codes: The prefixes, `[B, T]`; steps at PAD count nothing.
        values: Value of each id, 0 for control tokens, float64 `[V]`.
    """
    # In float64: autocast would take a float32 product to bfloat16.
    steps = log_probs.exp().double() @ values
    return steps.masked_fill(codes == PAD, 0.0).sum(dim=1)


def windowed_sum(log_probs: Tensor, codes: Tensor, values: Tensor) -> Tensor:
    """As [`expected_sum`][gor_head.losses.expected_sum], over the ids within `WINDOW` of the likeliest and not
    renormalised, as GoR's predecessor."""
    ids = torch.arange(log_probs.shape[2], device=log_probs.device)
    near = (ids - log_probs.argmax(dim=2, keepdim=True)).abs() <= WINDOW
    steps = (log_probs.exp() * near).double() @ values
    return steps.masked_fill(codes == PAD, 0.0).sum(dim=1)


def huber(prediction: Tensor, labels: Tensor, delta: float = 1.0) -> Tensor:
    """Huber loss per row: error²/2 up to δ, then δ·(|error| − δ/2); all in label units, `[B]`."""
    return F.huber_loss(prediction, labels.to(prediction.dtype), reduction="none", delta=delta)
