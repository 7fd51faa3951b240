"""Labels as whole numbers of grid units: checks of the input, choice of the resolution, conversion both ways.

Sums of token values must be exact, or a greedy code runs away from its label. Labels therefore live on an integer grid
(int64) from the first step on: one unit is 1 year for ages, 0.01 for prices in cents.
"""

import hashlib
import math
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gor_head.numbers import write_number

MAX_UNITS = 2**53
"""Largest number of units of a label: up to here every whole number is a float64."""

FALLBACK_STEPS = 10_000
"""Units per range of labels that no power of ten holds exactly."""


def is_tensor(values: Any) -> bool:
    """Whether these are a tensor of PyTorch, which is not imported for it: without it nothing is one."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(values, torch.Tensor)


def as_labels(labels: Any, what: str = "labels") -> NDArray[Any]:
    """Labels of any kind as a one-dimensional numpy array, `[n]`, in the dtype in which they came.

    Args:
        labels: Sequence of numbers, numpy array, pandas Series or torch tensor, `[n]`.
        what: Name of the argument, for messages.

    Raises:
        ValueError: If they are not numbers, not one-dimensional, empty, or hold NaN or infinity; the message names how
            many.
    """
    if is_tensor(labels):
        labels = labels.detach().cpu()
        labels = (labels.float() if str(labels.dtype) == "torch.bfloat16" else labels).numpy()
    try:
        array = np.asarray(labels)
    except ValueError:
        raise ValueError(f"{what}: wanted one number per sample, shape (n,), got rows of unequal length.") from None
    if array.size and array.dtype.kind not in "iufb":
        raise ValueError(f"{what}: wanted numbers, got dtype {array.dtype} (first value {array.reshape(-1)[0]!r}).")
    if array.ndim != 1:
        raise ValueError(f"{what}: wanted one number per sample, shape (n,), got shape {array.shape}.")
    if not array.size:
        raise ValueError(f"{what}: wanted at least 1 number, got none.")
    if array.dtype.kind == "f":
        bad = array.size - np.count_nonzero(np.isfinite(array))
        if bad:
            raise ValueError(f"{what}: wanted finite numbers, got {bad} NaN or infinite of {array.size}.")
    elif array.dtype.kind == "b":
        return array.astype(np.int64)
    elif max(int(array.max()), -int(array.min())) > MAX_UNITS:
        raise ValueError(f"{what}: wanted whole numbers up to 2**53 in size, got {int(array.max())}.")
    return array


def distinct_values(values: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distinct numbers, ascending, and how often each occurs: `[n]` → `[d]`, `[d]`.

    Small whole numbers are counted in O(n); anything else is sorted.
    """
    largest = float(values.max())
    if 0 <= float(values.min()) and largest <= max(4 * values.size, 1 << 20):
        units = values.astype(np.int64)
        if np.array_equal(units, values):
            counts = np.bincount(units)
            distinct = np.flatnonzero(counts)
            return distinct.astype(np.float64), counts[distinct].astype(np.int64)
    distinct, counts = np.unique(values, return_counts=True)
    return distinct.astype(np.float64) + 0.0, counts.astype(np.int64)


@dataclass(frozen=True)
class Grid:
    """Conversion between labels and whole numbers of units.

    Args:
        resolution: Size of one unit, in units of the label, > 0.
        offset: Units that are subtracted from every label, so that codes start at 0.
    """

    resolution: float
    offset: int = 0

    @property
    def steps(self) -> int | None:
        """Units per 1 when that is a whole number: 2933 / 100 is the float nearest to 29.33, 2933 * 0.01 is not."""
        if not 1e-22 <= self.resolution < 1:
            return None
        steps = round(1 / self.resolution)
        return steps if 1 / steps == self.resolution else None

    def units(self, values: NDArray[Any], what: str = "labels") -> NDArray[np.int64]:
        """Nearest whole number of units above the offset, shape kept.

        Raises:
            ValueError: If a label has more than 2**53 units.
        """
        numbers = np.asarray(values, dtype=np.float64)
        steps = self.steps
        with np.errstate(over="ignore"):
            scaled = np.rint(numbers * float(steps) if steps else numbers / self.resolution)
        if scaled.size and not np.abs(scaled).max() <= MAX_UNITS:
            raise ValueError(
                f"{what}: the largest, {write_number(np.abs(numbers).max())}, has more than 2**53 units of resolution "
                f"{write_number(self.resolution)}; give a coarser `resolution`."
            )
        return scaled.astype(np.int64) - self.offset

    def values(self, units: NDArray[Any]) -> NDArray[np.float64]:
        """Labels of whole numbers of units, float64, shape kept: the inverse of [`units`][gor_head.grid.Grid.units] on
        the grid."""
        numbers = (np.asarray(units, dtype=np.int64) + self.offset).astype(np.float64)
        return numbers / float(self.steps) if self.steps else numbers * self.resolution


def exact_resolution(values: NDArray[np.float64], dtype: np.dtype[Any]) -> float | None:
    """The coarsest power of ten of which all labels are whole multiples, `None` where there is none.

    Args:
        values: Labels, `[d]`.
        dtype: Type in which the labels came: 0.1 as float32 counts as 0.1.
    """
    largest = float(np.abs(values).max())
    if largest == 0:
        return 1.0
    kind = dtype if dtype.kind == "f" else np.dtype(np.float64)
    top = math.floor(math.log10(largest))
    for exponent in range(min(top, 22), top - 17, -1):
        resolution = float(f"1e{exponent}")
        if resolution == 0 or largest / resolution > MAX_UNITS:
            return None
        grid = Grid(resolution)
        # Most resolutions fail on the first labels, so look at few before looking at all.
        if all(np.array_equal(grid.values(grid.units(v)).astype(kind), v.astype(kind)) for v in (values[:256], values)):
            return resolution
    return None


def choose_resolution(values: NDArray[np.float64], dtype: np.dtype[Any]) -> float:
    """Default resolution: the coarsest exact power of ten, else 1e-4 of the range of the labels, with a warning.

    Equal labels that no power of ten holds are one unit each.
    """
    exact = exact_resolution(values, dtype)
    if exact is not None:
        return exact
    low, high = float(values.min()), float(values.max())
    if low == high:
        return abs(low)
    resolution = (high - low) / FALLBACK_STEPS if math.isfinite(high - low) else high / FALLBACK_STEPS
    warnings.warn(
        f"No power of ten holds all labels exactly: they are rounded to 1e-4 of their range, {resolution}. "
        "Give `resolution` for another grid.",
        stacklevel=5,
    )
    return resolution


def rounding(values: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """How far labels may be from numbers on the grid because of their type: 0.1 as float32 counts as 0.1."""
    return 4 * np.finfo(dtype if dtype.kind == "f" else np.float64).eps * np.abs(values)


def hash_labels(units: NDArray[np.int64], counts: NDArray[np.int64]) -> str:
    """SHA-256 of labels: distinct units, ascending, and how often each occurs."""
    return hashlib.sha256(units.astype("<i8").tobytes() + counts.astype("<i8").tobytes()).hexdigest()
