"""Ordinal regression by independent binary decisions."""

import torch
from torch import Tensor
from torch.nn import functional

from gor_head.heads.bins import DecisionHead


class ORCNNHead(DecisionHead):
    """Independent binary decisions "the label lies above bin m"; predicts the sum of probability times width.

    ```
    loss = sum over m of BCE(sigmoid(output_m), bin of label > m)
    prediction = centre_1 + sum over m of sigmoid(output_m) * (centre_m+1 - centre_m)
    ```

    Inputs:

    | tensor | meaning |
    |---|---|
    | outputs `[B, K - 1]` | logits of the decisions |
    | labels `[B]` | any numbers; labels between or beyond the training labels count for the nearest bin |

    The prediction is GoR's assumption 1 with widths from centre to centre, so that right decisions give the centre of
    the label's bin, not its border; for decisions that descend it is the expectation. The paper's weights of the
    decisions are all 1. Nothing makes the probabilities descend; quantiles are taken after putting them into order.

    Related: `CORNHead`, whose decisions are conditional on each other.

    Reference: Niu et al., "Ordinal Regression with Multiple Output CNN for Age Estimation", 2016; GoR, assumption 1.

    Example:

    ```python
    >>> import torch
    >>> from gor_head.heads.or_cnn import ORCNNHead
    >>> head = ORCNNHead(8, centres=[10.0, 20.0, 40.0], edges=[15.0, 30.0])
    >>> head.predict(torch.tensor([[0.0, 0.0]])).tolist()
    [25.0]
    ```
    """

    name = "or_cnn"

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        decisions = torch.arange(outputs.shape[1], device=outputs.device)
        above = (self.bins.index(labels)[:, None] > decisions).float()
        return functional.binary_cross_entropy_with_logits(outputs.float(), above, reduction="none").sum(1)

    def predict(self, outputs: Tensor) -> Tensor:
        centres = self.bins.positions(outputs.device)
        widths = centres.diff()
        return centres[0] + self.survival(outputs)[:, : len(widths)] @ widths
