"""Quantile regression: the pinball loss at many levels."""

import torch
from torch import Tensor

from gor_head.heads.base import StandardisedHead, as_levels

STEP = 0.05
LEVELS = tuple(round(STEP * i, 2) for i in range(1, 20))
"""Levels of the outputs: 0.05, 0.1, …, 0.95."""

_ROUNDING = 1e-6
"""A level may come as float32."""


class QuantileHead(StandardisedHead):
    """Pinball loss of the standardised label at the levels 0.05, 0.1, …, 0.95; predicts the median.

    ```
    z = (label - location) / scale
    loss = mean over levels a of max(a * (z - output_a), (a - 1) * (z - output_a))
    prediction = location + scale * sort(output)[middle]
    ```

    Inputs:

    | tensor | meaning |
    |---|---|
    | outputs `[B, 19]` | standardised quantiles, in training in any order |
    | labels `[B]` | any numbers |

    Outputs are sorted at prediction, so quantiles never cross; sorting never adds to the loss (Chernozhukov et al.,
    "Quantile and Probability Curves Without Crossing", 2010). Quantiles between the levels are interpolated; beyond
    0.05 and 0.95 the head knows nothing and refuses.

    Related: `L1Head`, the median alone.

    Reference: Koenker and Bassett, "Regression Quantiles", 1978.

    Example:

    ```python
    >>> import torch
    >>> from gor_head.heads.quantile import QuantileHead
    >>> head = QuantileHead(8, location=40.0, scale=20.0)
    >>> outputs = torch.arange(-9.0, 10.0)[None] / 4
    >>> head.predict(outputs).tolist()
    [40.0]
    >>> [round(q) for q in head.quantiles(outputs, torch.tensor([0.05, 0.5, 0.95]))[0].tolist()]
    [-5, 40, 85]
    ```
    """

    name = "quantile"

    def __init__(self, features: int, *, location: float, scale: float) -> None:
        super().__init__(features, location=location, scale=scale, outputs=len(LEVELS))

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        levels = torch.tensor(LEVELS, dtype=torch.float32, device=outputs.device)
        error = self.standardise(labels)[:, None] - outputs.float()
        return torch.maximum(levels * error, (levels - 1) * error).mean(1)

    def predict(self, outputs: Tensor) -> Tensor:
        return self.restore(outputs.sort(1).values[:, LEVELS.index(0.5)])

    def quantiles(self, outputs: Tensor, levels: Tensor) -> Tensor:
        wanted = as_levels(levels, outputs)
        outside = wanted[(wanted < LEVELS[0] - _ROUNDING) | (wanted > LEVELS[-1] + _ROUNDING)]
        if len(outside):
            raise ValueError(
                f"levels: the quantile head is trained from {LEVELS[0]} to {LEVELS[-1]} and wants levels within, "
                f"got {outside[0].item():g}."
            )
        ordered = self.restore(outputs.sort(1).values)
        position = ((wanted - LEVELS[0]) / STEP).clamp(0, len(LEVELS) - 1)
        below = position.floor().long().clamp(max=len(LEVELS) - 2)
        return torch.lerp(ordered[:, below], ordered[:, below + 1], position - below)
