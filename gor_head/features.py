"""Table columns → what the encoder takes: standardised numbers and category ids, fitted on training rows only."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class TableFeatures:
    """How the columns of a table are read.

    Args:
        names: Column names; positions for an array.
        mean: Of each numeric column; NaN for a categorical one.
        scale: Standard deviation of each numeric column, 1 where it is 0; NaN for a categorical one.
        categories: Known categories of each categorical column, as text; None for a numeric one.
    """

    names: list[str]
    mean: list[float]
    scale: list[float]
    categories: list[list[str] | None]

    @classmethod
    def fit(cls, X: Any) -> "TableFeatures":
        """Learn means, scales and categories from a DataFrame or a numeric array `[n, F]`.

        In a DataFrame, columns of text, bool or pandas' categorical type are categorical; the others must be numeric.
        """
        names, columns = _columns(X)
        mean: list[float] = []
        scale: list[float] = []
        categories: list[list[str] | None] = []
        for column in columns:
            if column.dtype.kind == "O":
                mean.append(np.nan)
                scale.append(np.nan)
                categories.append(sorted(set(column)))
            else:
                mean.append(float(column.mean()))
                deviation = float(column.std())
                # Sums of equal numbers may differ by rounding; that is no scale to divide by.
                scale.append(deviation if deviation > 1e-12 * max(1.0, float(np.abs(column).max())) else 1.0)
                categories.append(None)
        return cls(names, mean, scale, categories)

    def transform(self, X: Any) -> dict[str, Tensor]:
        """Columns `numeric` float32 `[n, F]` and `categorical` int64 `[n, C]`, whichever there are.

        A category that training rows do not have becomes id 0.
        """
        names, columns = _columns(X)
        if len(names) != len(self.names):
            raise ValueError(f"X: wanted {len(self.names)} columns, got {len(names)}.")
        numeric: list[NDArray[Any]] = []
        categorical: list[NDArray[Any]] = []
        for name, column, mean, scale, known in zip(
            names, columns, self.mean, self.scale, self.categories, strict=True
        ):
            if (column.dtype.kind == "O") != (known is not None):
                wanted = "numbers" if known is None else "categories"
                raise ValueError(f"X: column {name!r}: wanted {wanted}, as in training, got {column[0]!r}.")
            if known is None:
                numeric.append((column - mean) / scale)
            else:
                ids = {category: i + 1 for i, category in enumerate(known)}
                categorical.append(np.array([ids.get(value, 0) for value in column], dtype=np.int64))
        table: dict[str, Tensor] = {}
        if numeric:
            table["numeric"] = torch.from_numpy(np.stack(numeric, axis=1).astype(np.float32))
        if categorical:
            table["categorical"] = torch.from_numpy(np.stack(categorical, axis=1))
        return table

    def encoder_sizes(self) -> dict[str, Any]:
        """`numeric` and `categories` of [`gor_head.encoders.FFNEncoder`]."""
        known = [len(categories) + 1 for categories in self.categories if categories is not None]
        return {"numeric": len(self.names) - len(known), "categories": known}


def _columns(X: Any) -> tuple[list[str], list[NDArray[Any]]]:
    """Names, and columns as float64 or as objects holding text."""
    if not isinstance(X, pd.DataFrame):
        array = np.asarray(X, dtype=np.float64)
        return [str(i) for i in range(array.shape[1])], list(array.T)
    columns = []
    for name in X.columns:
        series = X[name]
        missing = int(series.isna().sum())
        if missing:
            row = int(np.flatnonzero(series.isna().to_numpy())[0])
            raise ValueError(f"X: column {name!r} has {missing} missing values (NaN), the first in row {row}.")
        if (
            isinstance(series.dtype, pd.CategoricalDtype)
            or not pd.api.types.is_numeric_dtype(series)
            or series.dtype == bool
        ):
            columns.append(series.astype(str).to_numpy(dtype=object))
        else:
            values = series.to_numpy(dtype=np.float64)
            if not np.isfinite(values).all():
                raise ValueError(f"X: column {name!r} holds infinity in row {int(np.argmin(np.isfinite(values)))}.")
            columns.append(values)
    return [str(name) for name in X.columns], columns
