"""Value regression: the absolute error."""

from torch import Tensor

from gor_head.heads.base import StandardisedHead


class L1Head(StandardisedHead):
    """Absolute error of the standardised label; its least is at the conditional median.

    ```
    z = (label - location) / scale
    loss = |output - z|
    prediction = location + scale * output
    ```

    Inputs:

    | tensor | meaning |
    |---|---|
    | outputs `[B, 1]` | standardised prediction |
    | labels `[B]` | any numbers |

    Related: `QuantileHead`, whose middle output has half of this loss. It has no quantiles.

    Reference: least absolute deviations (Laplace).

    Example:

    ```python
    >>> import torch
    >>> from gor_head.heads.l1 import L1Head
    >>> head = L1Head(8, location=40.0, scale=20.0)
    >>> head.loss(torch.tensor([[0.5]]), torch.tensor([60.0])).tolist(), head.predict(torch.tensor([[0.5]])).tolist()
    ([0.5], [50.0])
    ```
    """

    name = "l1"

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs[:, 0].float() - self.standardise(labels)).abs()

    def predict(self, outputs: Tensor) -> Tensor:
        return self.restore(outputs[:, 0])
