"""Ordinal regression by binary decisions, each given the ones before."""

import torch
from torch import Tensor
from torch.nn import functional

from gor_head.heads.bins import DecisionHead


class CORNHead(DecisionHead):
    """Conditional binary decisions "above bin m, given above bin m − 1", each trained on the rows that reach it.

    ```
    P(bin > m) = product over j up to m of sigmoid(output_j)
    loss = sum over m up to the bin of label of BCE(sigmoid(output_m), bin of label > m)
    prediction = centre of bin 1 + number of m with P(bin > m) > 0.5
    ```

    Inputs:

    | tensor | meaning |
    |---|---|
    | outputs `[B, K - 1]` | logits of the conditional decisions |
    | labels `[B]` | any numbers; labels between or beyond the training labels count for the nearest bin |

    The loss of a row is the negative log-likelihood of its bin. The paper divides the sum over a batch by its number
    of decisions, this head leaves rows as they are. The prediction is the median; centres are the medians of the bins.

    Related: `ORCNNHead`, whose decisions are independent and need not agree.

    Reference: Shi, Cao and Raschka, "Deep Neural Networks for Rank-Consistent Ordinal Regression Based On Conditional
    Probabilities", 2021.

    Example:

    ```python
    >>> import torch
    >>> from gor_head.heads.corn import CORNHead
    >>> head = CORNHead(8, centres=[10.0, 20.0, 40.0], edges=[15.0, 30.0])
    >>> head.predict(torch.tensor([[2.0, 0.0]])).tolist()
    [20.0]
    ```
    """

    name = "corn"
    centre = "median"

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        decisions = torch.arange(outputs.shape[1], device=outputs.device)
        index = self.bins.index(labels)[:, None]
        each = functional.binary_cross_entropy_with_logits(
            outputs.float(), (index > decisions).float(), reduction="none"
        )
        # Not multiplied by 0: an infinite loss of a decision that the row does not reach would become NaN.
        return each.where(index >= decisions, 0.0).sum(1)

    def survival(self, outputs: Tensor) -> Tensor:
        return super().survival(outputs).cumprod(1)

    def predict(self, outputs: Tensor) -> Tensor:
        return self.quantiles(outputs, torch.tensor([0.5]))[:, 0]
