"""Classification with a penalty on the mean and on the variance of the distribution."""

import torch
from torch import Tensor
from torch.nn import functional

from gor_head.heads.bins import CategoricalHead

MEAN_WEIGHT = 0.2
VARIANCE_WEIGHT = 0.05


class MeanVarianceHead(CategoricalHead):
    """Cross-entropy of the label's bin plus mean and variance losses; predicts the expectation.

    ```
    p = softmax(outputs)
    m = sum(p * j)                     # j = 1..K counts the bins
    v = sum(p * (j - m)²)
    loss = -log p[bin of label] + 0.2 * (m - bin of label)² / 2 + 0.05 * v
    prediction = sum(p * centres)
    ```

    Inputs:

    | tensor | meaning |
    |---|---|
    | outputs `[B, K]` | logits of the bins |
    | labels `[B]` | any numbers; labels between or beyond the training labels count for the nearest bin |

    Mean and variance are counted in bins, as in the paper, where a bin is a year: the two weights then mean the same
    for labels of any unit.

    Related: `CrossEntropyMeanHead` without the two penalties.

    Reference: Pan et al., "Mean-Variance Loss for Deep Age Estimation from a Face", 2018.

    Example:

    ```python
    >>> import torch
    >>> from gor_head.heads.mean_variance import MeanVarianceHead
    >>> head = MeanVarianceHead(8, centres=[10.0, 11.0], edges=[10.5])
    >>> round(head.loss(torch.tensor([[0.0, 0.0]]), torch.tensor([10.0])).item(), 4)  # ln 2 + 0.1 * 0.25 + 0.05 * 0.25
    0.7306
    ```
    """

    name = "mean_variance"

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        index = self.bins.index(labels)
        counter = torch.arange(outputs.shape[1], dtype=torch.float32, device=outputs.device)
        probabilities = outputs.float().softmax(1)
        mean = probabilities @ counter
        variance = (probabilities * (counter - mean[:, None]) ** 2).sum(1)
        entropy = functional.cross_entropy(outputs.float(), index, reduction="none")
        return entropy + MEAN_WEIGHT * (mean - index) ** 2 / 2 + VARIANCE_WEIGHT * variance
