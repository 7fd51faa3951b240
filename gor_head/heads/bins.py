"""Bins of labels, and the heads that give each bin a probability."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gor_head.grid import as_labels, distinct_values
from gor_head.heads.base import Head, as_levels

MOST_BINS = 100
"""Up to here every distinct training label is a bin of its own."""

Centre = Literal["mean", "median"]


@dataclass(frozen=True)
class Bins:
    """K adjacent intervals of labels.

    Args:
        centres: The label that stands for each bin, ascending, `[K]`.
        edges: Borders between neighbouring bins, ascending, `[K - 1]`; a label on a border belongs to the lower bin.
    """

    centres: list[float]
    edges: list[float]

    @classmethod
    def of(cls, labels: NDArray[Any], centre: Centre = "mean") -> "Bins":
        """Bins of training labels `[n]`.

        Up to 100 distinct labels are a bin each. More than that go into at most 100 bins of equal mass, where a label
        heavier than a bin (the zeros among amounts spent) counts as one bin: it would otherwise take the bins of the
        rest. The centre of a bin is the mean or the median of the training labels within. Borders lie halfway between
        the labels of neighbouring bins, so that any other label goes to the bin with the nearest training label.

        Raises:
            ValueError: If labels are no finite numbers in one dimension, or none at all.
        """
        values, counts = distinct_values(as_labels(labels))
        index = np.arange(len(values)) if len(values) <= MOST_BINS else equal_mass(counts, MOST_BINS)
        first = np.flatnonzero(np.diff(index, prepend=-1))
        last = np.append(first[1:], len(values)) - 1
        # Halved before they are added: the sum of two large labels may be no float.
        edges = values[last[:-1]] / 2 + values[first[1:]] / 2
        if centre == "median":
            centres = [weighted_median(values[a : b + 1], counts[a : b + 1]) for a, b in zip(first, last, strict=True)]
        else:
            mean = np.add.reduceat(values * counts, first) / np.add.reduceat(counts, first)
            # Three times 0.1 is not 0.3: without this a label would not be the centre of its own bin.
            centres = mean.clip(values[first], values[last]).tolist()
        return cls(centres=centres, edges=edges.tolist())

    @property
    def spacing(self) -> float:
        """Median distance between neighbouring centres, 1 for a single bin: 1 year for ages, however they are spread.

        The unit of distance of soft labels. The standard deviation of the labels would blur a label over half of all
        bins: the expectation of such a target lies far from the label.
        """
        return float(np.median(np.diff(self.centres))) if len(self.centres) > 1 else 1.0

    def index(self, labels: Tensor) -> Tensor:
        """Bin of each label, `[B]` → int64 `[B]`; beyond the ends the outermost bin."""
        return torch.bucketize(labels.double(), torch.tensor(self.edges, dtype=torch.float64, device=labels.device))

    def positions(self, device: torch.device) -> Tensor:
        """Centres as float64 tensor, `[K]`."""
        return torch.tensor(self.centres, dtype=torch.float64, device=device)


class CategoricalHead(Head):
    """A head with one logit per bin, whose softmax is the predictive distribution; predicts the expectation.

    Args:
        features: D, width of the pooled features.
        centres: The label that stands for each bin, `[K]`.
        edges: Borders between the bins, `[K - 1]`.
    """

    centre: ClassVar[Centre] = "mean"

    def __init__(self, features: int, *, centres: list[float], edges: list[float]) -> None:
        super().__init__(features, len(centres))
        self.bins = Bins(centres, edges)

    @classmethod
    def settings(cls, labels: NDArray[Any]) -> dict[str, Any]:
        return asdict(Bins.of(labels, cls.centre))

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.double().softmax(1) @ self.bins.positions(outputs.device)

    def quantiles(self, outputs: Tensor, levels: Tensor) -> Tensor:
        levels = as_levels(levels, outputs).expand(len(outputs), -1).contiguous()
        index = torch.searchsorted(outputs.double().softmax(1).cumsum(1), levels)
        # Rounding may leave the last sum below a level close to 1.
        return self.bins.positions(outputs.device)[index.clamp(max=len(self.bins.centres) - 1)]


class DecisionHead(Head):
    """A head with one logit for each decision "the label lies above bin m", m = 1..K−1.

    A single bin has one decision, which is always no.

    Args:
        features: D, width of the pooled features.
        centres: The label that stands for each bin, `[K]`.
        edges: Borders between the bins, `[K - 1]`.
    """

    centre: ClassVar[Centre] = "mean"

    def __init__(self, features: int, *, centres: list[float], edges: list[float]) -> None:
        super().__init__(features, max(1, len(centres) - 1))
        self.bins = Bins(centres, edges)

    @classmethod
    def settings(cls, labels: NDArray[Any]) -> dict[str, Any]:
        return asdict(Bins.of(labels, cls.centre))

    def survival(self, outputs: Tensor) -> Tensor:
        """Probability that the label lies above bin m: `[B, M]` → float64 `[B, M]`."""
        return outputs.double().sigmoid()

    def quantiles(self, outputs: Tensor, levels: Tensor) -> Tensor:
        # Counting puts probabilities that do not descend into order: the quantile of the rearranged distribution.
        above = self.survival(outputs)[:, None] > 1 - as_levels(levels, outputs)[:, None]
        return self.bins.positions(outputs.device)[above.sum(2).clamp(max=len(self.bins.centres) - 1)]


def equal_mass(counts: NDArray[np.int64], bins: int) -> NDArray[np.int64]:
    """Bin of each distinct label in ascending order, at most `bins` of them, of equal mass: `[d]` → `[d]`, d > bins.

    Mass is the count, cut off at the mass of one bin. That mass t solves Σ min(count, t) = bins · t.
    """
    heaviest = np.sort(counts)[::-1]
    rest = counts.sum() - np.concatenate([[0], np.cumsum(heaviest[: bins - 1])])
    each = rest / (bins - np.arange(bins))
    mass = float(each[np.argmax(heaviest[:bins] <= each)])
    capped = np.minimum(counts, mass)
    middle = (np.cumsum(capped) - capped / 2) / mass
    return np.minimum(np.floor(middle), bins - 1).astype(np.int64)


def weighted_median(values: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    """Median of labels given as ascending distinct values and their counts, `[d]`, `[d]`."""
    below = np.cumsum(counts)
    total = int(below[-1])
    low, high = np.searchsorted(below, [(total + 1) // 2, total // 2 + 1])
    return float(values[low] / 2 + values[high] / 2)
