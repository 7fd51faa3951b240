"""Table columns → what the encoder takes: standardised numbers and category ids, fitted on training rows only."""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from gor_head.numbers import read_number, write_number

FARTHEST = 1e4
"""Deviations from the mean to which numbers are cut: of n training rows none is farther than √n, and what a network
makes of 1e30 is no number."""


@dataclass(frozen=True)
class TableFeatures:
    """How the columns of a table are read.

    Args:
        names: Column names; positions for an array.
        mean: Mean of each numeric column; None for a categorical one.
        scale: Standard deviation of each numeric column, 1 where it is 0; None for a categorical one.
        categories: Known categories of each categorical column, as text; None for a numeric one.
    """

    names: list[str]
    mean: list[float | None]
    scale: list[float | None]
    categories: list[list[str] | None]

    def __post_init__(self) -> None:
        """Refuse what a damaged file may hold.

        Raises:
            ValueError: If the lists are of unequal length, or a column is neither numeric nor categorical.
        """
        parts = (self.names, self.mean, self.scale, self.categories)
        if not all(isinstance(part, list) and len(part) == len(self.names) for part in parts):
            raise ValueError("features: wanted lists of one entry per column as names, mean, scale and categories.")
        for name, *column in zip(*parts, strict=True):
            if not (isinstance(name, str) and (_is_numeric(*column) or _is_categorical(*column))):
                raise ValueError(f"features: column {name!r}: wanted mean and scale, or categories, got {column}.")

    @classmethod
    def fit(cls, X: Any) -> "TableFeatures":
        """Learn means, scales and categories from a DataFrame or a numeric array `[n, F]`.

        In a DataFrame, columns of text, bool or pandas' categorical type are categorical; the others must be numeric.

        Raises:
            ValueError: If a column is of another type, or a value is missing or infinite.
        """
        names, columns = _columns(X)
        mean: list[float | None] = []
        scale: list[float | None] = []
        categories: list[list[str] | None] = []
        for index, (name, column) in enumerate(zip(names, columns, strict=True)):
            if column.dtype.kind == "O":
                if not isinstance(X.dtypes.iloc[index], pd.CategoricalDtype):
                    _warn_of_numbers(name, column)
                mean.append(None)
                scale.append(None)
                categories.append(sorted(set(column)))
            else:
                with np.errstate(over="ignore", invalid="ignore"):
                    mean.append(float(column.mean()))
                    deviation = float(column.std())
                if not np.isfinite(deviation):
                    raise ValueError(
                        f"X: column {name!r}: wanted numbers whose squares can be added, got "
                        f"{write_number(np.abs(column).max())}."
                    )
                # Sums of equal numbers may differ by rounding; that is no scale to divide by.
                scale.append(deviation if deviation > 1e-12 * float(np.abs(column).max()) else 1.0)
                categories.append(None)
        return cls(names, mean, scale, categories)

    def transform(self, X: Any) -> dict[str, Tensor]:
        """Columns `numeric` float32 `[n, F]` and `categorical` int64 `[n, C]`, whichever there are.

        A category that training rows do not have becomes id 0; a column of nothing else is said in a warning.

        Raises:
            ValueError: If columns are not of the kinds that training had, or hold what
                [`TableFeatures.fit`][gor_head.features.TableFeatures.fit] refuses.
        """
        _, columns = _columns(X)
        if len(columns) != len(self.names):
            raise ValueError(f"X: wanted {len(self.names)} columns, got {len(columns)}.")
        numeric: list[NDArray[Any]] = []
        categorical: list[NDArray[Any]] = []
        for name, column, mean, scale, known in zip(
            self.names, columns, self.mean, self.scale, self.categories, strict=True
        ):
            if (column.dtype.kind == "O") != (known is not None):
                wanted = "numbers" if known is None else "categories"
                raise ValueError(
                    f"X: column {name!r}: wanted {wanted}, as in training, got {column[:1].tolist()[0]!r}."
                )
            if known is not None:
                ids = {category: i + 1 for i, category in enumerate(known)}
                categorical.append(np.array([ids.get(value, 0) for value in column], dtype=np.int64))
                if not categorical[-1].any():
                    some = ", ".join(map(repr, known[:3]))
                    warnings.warn(
                        f"X: column {name!r}: no row has a category of training ({some}, …), but {column[0]!r}.",
                        stacklevel=3,
                    )
            elif mean is not None and scale is not None:
                numeric.append(((column - mean) / scale).clip(-FARTHEST, FARTHEST))
        table: dict[str, Tensor] = {}
        if numeric:
            table["numeric"] = torch.from_numpy(np.stack(numeric, axis=1).astype(np.float32))
        if categorical:
            table["categorical"] = torch.from_numpy(np.stack(categorical, axis=1))
        return table

    def encoder_sizes(self) -> dict[str, Any]:
        """`numeric` and `categories` of [`gor_head.encoders.FFNEncoder`][gor_head.encoders.FFNEncoder]."""
        known = [len(categories) + 1 for categories in self.categories if categories is not None]
        return {"numeric": len(self.names) - len(known), "categories": known}


def is_number(dtype: Any) -> bool:
    """Whether a column of this type is read as numbers; bool is a category."""
    return pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)


def _is_numeric(mean: Any, scale: Any, categories: Any) -> bool:
    numbers = all(isinstance(number, int | float) and math.isfinite(number) for number in (mean, scale))
    return categories is None and numbers and scale > 0


def _is_categorical(mean: Any, scale: Any, categories: Any) -> bool:
    texts = isinstance(categories, list) and all(isinstance(category, str) for category in categories)
    return mean is None and scale is None and texts


def _warn_of_numbers(name: str, column: NDArray[Any]) -> None:
    """Say that a column of text is one of numbers but for a few fields, such as a `?` for a missing one."""
    numbers = np.array([read_number(text) is not None for text in column])
    if numbers.any() and not numbers.all():
        odd = int(np.argmin(numbers))
        warnings.warn(
            f"X: column {name!r} is read as categories, but {int(numbers.sum())} of its {len(numbers)} texts are "
            f"numbers; the first other is {column[odd]!r} in row {odd}. Give numbers, or pandas' type category.",
            stacklevel=4,
        )


def _is_category(dtype: Any) -> bool:
    kinds = pd.api.types
    return isinstance(dtype, pd.CategoricalDtype) or kinds.is_bool_dtype(dtype) or kinds.is_string_dtype(dtype)


def _columns(X: Any) -> tuple[list[str], list[NDArray[Any]]]:
    """Names, and columns as float64 or as objects holding text."""
    if len(X) == 0:
        raise ValueError("X: wanted one or more rows, got none.")
    if not isinstance(X, pd.DataFrame):
        array = np.asarray(X, dtype=np.float64)
        return [str(i) for i in range(array.shape[1])], list(array.T)
    columns = []
    for name, given in X.items():
        missing = np.flatnonzero(given.isna().to_numpy())
        if len(missing):
            raise ValueError(
                f"X: column {name!r} has {len(missing)} missing values (NaN), the first in row {missing[0]}."
            )
        # Numbers in a column of objects are numbers.
        series = given.infer_objects()
        if is_number(series.dtype) and not pd.api.types.is_complex_dtype(series.dtype):
            values = series.to_numpy(dtype=np.float64)
            if not np.isfinite(values).all():
                raise ValueError(f"X: column {name!r} holds infinity in row {int(np.argmin(np.isfinite(values)))}.")
            columns.append(values)
        elif _is_category(given.dtype) or pd.api.types.is_object_dtype(series.dtype):
            columns.append(series.astype(str).to_numpy(dtype=object))
        else:
            raise ValueError(f"X: column {name!r}: wanted numbers, text, bool or categories, got {series.dtype}.")
    return [str(name) for name in X.columns], columns
