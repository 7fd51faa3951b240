"""Classification over bins, with the expectation or the median as prediction."""

import torch
from torch import Tensor
from torch.nn import functional

from gor_head.heads.bins import CategoricalHead


class CrossEntropyMeanHead(CategoricalHead):
    """Cross-entropy of the label's bin; predicts the expectation (DEX).

    ```
    loss = -log softmax(outputs)[bin of label]
    prediction = sum(softmax(outputs) * centres)
    ```

    Inputs:

    | tensor | meaning |
    |---|---|
    | outputs `[B, K]` | logits of the bins |
    | labels `[B]` | any numbers; labels between or beyond the training labels count for the nearest bin |

    Centres are the means of the bins. Related: `CrossEntropyMedianHead`, trained alike.

    Reference: Rothe, Timofte and Van Gool, "DEX: Deep EXpectation of Apparent Age from a Single Image", 2015.

    Example:

    ```python
    >>> import torch
    >>> from gor_head.heads.cross_entropy import CrossEntropyMeanHead
    >>> head = CrossEntropyMeanHead(8, centres=[10.0, 20.0], edges=[15.0])
    >>> head.predict(torch.tensor([[0.0, 0.0]])).tolist()
    [15.0]
    ```
    """

    name = "cross_entropy_mean"

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(outputs.float(), self.bins.index(labels), reduction="none")


class CrossEntropyMedianHead(CrossEntropyMeanHead):
    """Cross-entropy of the label's bin; predicts the median, which has the least expected absolute error.

    ```
    loss = -log softmax(outputs)[bin of label]
    prediction = first centre at which the cumulative softmax(outputs) reaches 0.5
    ```

    Inputs:

    | tensor | meaning |
    |---|---|
    | outputs `[B, K]` | logits of the bins |
    | labels `[B]` | any numbers; labels between or beyond the training labels count for the nearest bin |

    Centres are the medians of the bins. Related: `CrossEntropyMeanHead`, trained alike.

    Reference: the Bayes rule of the absolute error.

    Example:

    ```python
    >>> import torch
    >>> from gor_head.heads.cross_entropy import CrossEntropyMedianHead
    >>> head = CrossEntropyMedianHead(8, centres=[10.0, 20.0, 90.0], edges=[15.0, 55.0])
    >>> head.predict(torch.tensor([[0.0, 0.0, 0.0]])).tolist()
    [20.0]
    ```
    """

    name = "cross_entropy_median"
    centre = "median"

    def predict(self, outputs: Tensor) -> Tensor:
        return self.quantiles(outputs, torch.tensor([0.5]))[:, 0]
