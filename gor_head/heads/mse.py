"""Value regression: the squared error."""

from torch import Tensor

from gor_head.heads.base import StandardisedHead


class MSEHead(StandardisedHead):
    """Squared error of the standardised label (value regression); its least is at the conditional mean.

    ```
    z = (label - location) / scale
    loss = (output - z)²
    prediction = location + scale * output
    ```

    Inputs:

    | tensor | meaning |
    |---|---|
    | outputs `[B, 1]` | standardised prediction |
    | labels `[B]` | any numbers |

    Related: `L1Head` for the median. It has no quantiles.

    Reference: row "VR" of the tables in GoR.

    Example:

    ```python
    >>> import torch
    >>> from gor_head.heads.mse import MSEHead
    >>> head = MSEHead(8, location=40.0, scale=20.0)
    >>> head.loss(torch.tensor([[0.5]]), torch.tensor([60.0])).tolist(), head.predict(torch.tensor([[0.5]])).tolist()
    ([0.25], [50.0])
    ```
    """

    name = "mse"

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs[:, 0].float() - self.standardise(labels)) ** 2

    def predict(self, outputs: Tensor) -> Tensor:
        return self.restore(outputs[:, 0])
