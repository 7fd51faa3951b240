"""Label distributions: a Gaussian around the label."""

from torch import Tensor
from torch.nn import functional

from gor_head.heads.bins import CategoricalHead

SIGMA = 2.0
"""Standard deviation of the label distribution in spacings of the bins: 2 years for ages."""


class DLDLHead(CategoricalHead):
    """Kullback–Leibler divergence from a Gaussian around the label; predicts the expectation.

    ```
    target = exp(-(label - centres)² / (2 * (2 * spacing)²)), divided by its sum
    loss = sum(target * (log target - log softmax(outputs)))
    prediction = sum(softmax(outputs) * centres)
    ```

    Inputs:

    | tensor | meaning |
    |---|---|
    | outputs `[B, K]` | logits of the bins |
    | labels `[B]` | any numbers; beyond the training labels the target narrows towards the nearest bin |

    This is DLDL as of 2017, with the divergence alone; DLDL-v2 (2018) adds the absolute error of the expectation. The
    standard deviation is 2 median spacings of the bins: 2 years for ages, as in the papers. Near the ends the target
    is cut off: with even bins its expectation lies up to 1.3 spacings inside of the label.

    Related: `SORDHead` falls off with the distance itself.

    Reference: Gao et al., "Deep Label Distribution Learning With Label Ambiguity", 2017.

    Example:

    ```python
    >>> import torch
    >>> from gor_head.heads.dldl import DLDLHead
    >>> head = DLDLHead(8, centres=[10.0, 11.0, 12.0], edges=[10.5, 11.5])
    >>> targets = head.log_targets(torch.tensor([11.0])).exp()
    >>> [round(p, 3) for p in targets[0].tolist()]
    [0.319, 0.362, 0.319]
    ```
    """

    name = "dldl"

    def log_targets(self, labels: Tensor) -> Tensor:
        """Logarithm of the label distribution, `[B]` → float32 `[B, K]`."""
        distance = labels.double()[:, None] - self.bins.positions(labels.device)
        return (-0.5 * (distance / (SIGMA * self.bins.spacing)) ** 2).log_softmax(1).float()

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        logs = outputs.float().log_softmax(1)
        return functional.kl_div(logs, self.log_targets(labels), reduction="none", log_target=True).sum(1)
