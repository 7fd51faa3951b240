"""What all direct heads have in common: settings from training labels, a loss per row, predictions in label units."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from gor_head.grid import as_labels


class Head(nn.Module, ABC):
    """A direct head on pooled features: one linear layer, a loss, and a prediction in units of the label.

    Heads hold no buffers: what they know of the labels stays in Python numbers, so that casting a model to bfloat16 or
    building it on the meta device leaves it as it was. Losses are computed in float32, predictions in float64.

    Args:
        features: D, width of the pooled features.
        outputs: W, width of the raw outputs; each head knows its own.

    Attributes:
        name: Key of the head in `gor_head.heads.HEADS`.

    Example:

    ```python
    >>> import numpy as np, torch
    >>> from gor_head.heads import HEADS
    >>> labels = np.array([21.0, 30.0, 58.0, 58.0])
    >>> settings = HEADS["cross_entropy_mean"].settings(labels)
    >>> head = HEADS["cross_entropy_mean"](8, **settings)
    >>> outputs = head(torch.randn(4, 8))
    >>> head.loss(outputs, torch.from_numpy(labels)).shape, head.predict(outputs).dtype
    (torch.Size([4]), torch.float64)
    ```
    """

    name: ClassVar[str]

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, outputs)

    @classmethod
    @abstractmethod
    def settings(cls, labels: NDArray[Any]) -> dict[str, Any]:
        """Arguments of the constructor besides `features`, fit for JSON, from training labels only, `[n]`.

        Raises:
            ValueError: If labels are no finite numbers in one dimension, or none at all.
        """

    def forward(self, features: Tensor) -> Tensor:
        """Raw outputs of pooled features: `[B, D]` → `[B, W]`."""
        outputs: Tensor = self.linear(features)
        return outputs

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Loss of each row, not reduced and without sample weights: `[B, W]`, `[B]` → float32 `[B]`."""

    @abstractmethod
    def predict(self, outputs: Tensor) -> Tensor:
        """Predictions in units of the label: `[B, W]` → float64 `[B]`."""

    def quantiles(self, outputs: Tensor, levels: Tensor) -> Tensor:
        """Quantiles of the predictive distribution in units of the label: `[B, W]`, `[Q]` → float64 `[B, Q]`.

        Args:
            outputs: Raw outputs, `[B, W]`.
            levels: Probabilities above 0 and below 1, `[Q]`.

        Raises:
            NotImplementedError: If the head predicts a number and no distribution.
            ValueError: If a level is out of range.
        """
        raise NotImplementedError(f"The {self.name} head predicts one number and no distribution: it has no quantiles.")


class StandardisedHead(Head):
    """A head that works on labels less their mean, divided by their standard deviation.

    Args:
        features: D, width of the pooled features.
        location: Mean of the training labels.
        scale: Standard deviation of the training labels, 1 where they are all equal.
        outputs: W, width of the raw outputs.
    """

    def __init__(self, features: int, *, location: float, scale: float, outputs: int = 1) -> None:
        super().__init__(features, outputs)
        self.location = location
        self.scale = scale

    @classmethod
    def settings(cls, labels: NDArray[Any]) -> dict[str, Any]:
        location, scale = location_and_scale(as_labels(labels).astype(np.float64))
        return {"location": location, "scale": scale}

    def standardise(self, labels: Tensor) -> Tensor:
        """Labels `[B]` → float32 `[B]` of mean 0 and standard deviation 1 over the training labels."""
        return ((labels.double() - self.location) / self.scale).float()

    def restore(self, standardised: Tensor) -> Tensor:
        """The inverse of `standardise`, any shape → float64."""
        return standardised.double() * self.scale + self.location


def location_and_scale(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and standard deviation of numbers `[n]`; of equal numbers, the number and 1."""
    # Compared, not computed: the standard deviation of three times 0.1 is 1e-17.
    if values.min() == values.max():
        return float(values[0]), 1.0
    return float(values.mean()), float(values.std())


def as_levels(levels: Tensor, outputs: Tensor) -> Tensor:
    """Levels `[Q]` as float64 on the device of the outputs.

    Raises:
        ValueError: If they have another shape or are not above 0 and below 1.
    """
    if levels.ndim != 1:
        raise ValueError(f"levels: wanted one number per quantile, shape (Q,), got shape {tuple(levels.shape)}.")
    outside = levels[~((levels > 0) & (levels < 1))]
    if len(outside):
        raise ValueError(f"levels: wanted numbers above 0 and below 1, got {outside[0].item():g}.")
    return levels.to(outputs.device).double()
