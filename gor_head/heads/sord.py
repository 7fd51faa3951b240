"""Soft labels that fall off with the distance."""

from torch import Tensor
from torch.nn import functional

from gor_head.heads.bins import CategoricalHead


class SORDHead(CategoricalHead):
    """Cross-entropy against soft labels, a softmax of the negative distance; predicts the expectation.

    ```
    target = softmax(-|label - centres| / spacing)
    loss = -sum(target * log softmax(outputs))
    prediction = sum(softmax(outputs) * centres)
    ```

    Inputs:

    | tensor | meaning |
    |---|---|
    | outputs `[B, K]` | logits of the bins |
    | labels `[B]` | any numbers; beyond the training labels the target is that of the nearest one |

    The distance is standardised by the median spacing of the bins: for ages it is one year, as in the paper. Near the
    ends the target is lopsided: with even bins its expectation lies up to 0.6 spacings inside of the label.

    Related: `DLDLHead` falls off with the square of the distance.

    Reference: Diaz and Marathe, "Soft Labels for Ordinal Regression", 2019.

    Example:

    ```python
    >>> import torch
    >>> from gor_head.heads.sord import SORDHead
    >>> head = SORDHead(8, centres=[10.0, 11.0, 12.0], edges=[10.5, 11.5])
    >>> targets = head.targets(torch.tensor([11.0]))
    >>> [round(p, 3) for p in targets[0].tolist()]
    [0.212, 0.576, 0.212]
    ```
    """

    name = "sord"

    def targets(self, labels: Tensor) -> Tensor:
        """Soft labels, `[B]` → float32 `[B, K]`."""
        distance = (labels.double()[:, None] - self.bins.positions(labels.device)).abs()
        return (-distance / self.bins.spacing).softmax(1).float()

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(outputs.float(), self.targets(labels), reduction="none")
