"""Zero-inflated log-normal: labels that are often zero and otherwise have a long tail."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from gor_head.grid import as_labels
from gor_head.heads.base import Head, as_levels, location_and_scale

LEAST_SIGMA = math.sqrt(torch.finfo(torch.float32).eps)
"""Lower bound of σ in standardised logarithms; as in the paper's code."""


class ZILNHead(Head):
    """Negative log-likelihood of a zero-inflated log-normal distribution; predicts its mean.

    ```
    p = sigmoid(output_0)
    μ = location + scale * output_1
    σ = scale * softplus(output_2)
    y = max(label - shift, 0)
    loss = -log(1 - p)                                                  where y = 0
    loss = -log p + log y + log σ + log(2π) / 2 + (log y - μ)² / (2σ²)  where y > 0
    prediction = shift + p * exp(μ + σ² / 2)
    ```

    Inputs:

    | tensor | meaning |
    |---|---|
    | outputs `[B, 3]` | logit of a label above zero, standardised μ, raw σ |
    | labels `[B]` | numbers ≥ 0; see `shift` |

    The shift is 0 unless training labels are negative: then it is the smallest of them, which takes the place of zero,
    and so do smaller labels at test time. Without zeros among the training labels, p learns to be 1. Location and scale
    standardise the logarithm, so that training starts near the labels whatever their unit; the likelihood is that of
    the labels themselves. The mean grows with exp(σ² / 2) and may be far above all labels; the median does not.

    Related: `QuantileHead` assumes no shape.

    Args:
        features: D, width of the pooled features.
        shift: min(0, smallest training label).
        location: Mean of log y over positive y, 0 without any.
        scale: Standard deviation of log y over positive y, 1 where they are all equal.

    Reference: Wang, Liu and Miao, "A Deep Probabilistic Model for Customer Lifetime Value Prediction", 2019.

    Example:

    ```python
    >>> import math, torch
    >>> from gor_head.heads.ziln import ZILNHead
    >>> head = ZILNHead(8, shift=0.0, location=0.0, scale=1.0)
    >>> outputs = torch.tensor([[0.0, 2.0, math.log(math.e - 1)]])  # p = 0.5, μ = 2, σ = 1
    >>> round(head.predict(outputs).item(), 3)  # 0.5 * exp(2.5)
    6.091
    >>> head.quantiles(outputs, torch.tensor([0.4, 0.75]))[0].round(decimals=3).tolist()
    [0.0, 7.389]
    ```
    """

    name = "ziln"

    def __init__(self, features: int, *, shift: float, location: float, scale: float) -> None:
        super().__init__(features, 3)
        self.shift = shift
        self.location = location
        self.scale = scale

    @classmethod
    def settings(cls, labels: NDArray[Any]) -> dict[str, Any]:
        values = as_labels(labels).astype(np.float64)
        shift = min(0.0, float(values.min()))
        positive = values[values > shift] - shift
        location, scale = location_and_scale(np.log(positive)) if positive.size else (0.0, 1.0)
        return {"shift": shift, "location": location, "scale": scale}

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        logit, mean, raw = outputs.float().unbind(1)
        y = labels.double() - self.shift
        positive = y > 0
        # A stand-in for zeros: an infinite logarithm in the branch not taken would make the gradient NaN.
        log_y = y.where(positive, 1.0).log()
        standardised = ((log_y - self.location) / self.scale).float()
        sigma = functional.softplus(raw).clamp(min=LEAST_SIGMA)
        constant = 0.5 * math.log(2 * math.pi) + math.log(self.scale)
        density = log_y.float() + sigma.log() + constant + ((standardised - mean) / sigma) ** 2 / 2
        zero = functional.binary_cross_entropy_with_logits(logit, positive.float(), reduction="none")
        return zero + density.where(positive, 0.0)

    def predict(self, outputs: Tensor) -> Tensor:
        probability, mean, sigma = self.distribution(outputs)
        return self.shift + probability * (mean + sigma**2 / 2).exp()

    def quantiles(self, outputs: Tensor, levels: Tensor) -> Tensor:
        probability, mean, sigma = (parameter[:, None] for parameter in self.distribution(outputs))
        # Level within the part above zero; 0 or less where the quantile is zero.
        inner = (as_levels(levels, outputs) - (1 - probability)) / probability
        above = (mean + sigma * torch.special.ndtri(inner.clamp(0, 1))).exp()
        return self.shift + above.where(inner > 0, 0.0)

    def distribution(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """p, μ and σ of each row: `[B, 3]` → float64 `[B]` each."""
        logit, mean, raw = outputs.double().unbind(1)
        sigma = functional.softplus(raw).clamp(min=LEAST_SIGMA)
        return logit.sigmoid(), self.location + self.scale * mean, self.scale * sigma
