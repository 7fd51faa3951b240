"""What estimators refuse before training, and settings as plain JSON."""

import inspect
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gor_head.features import is_number


def is_real(value: Any) -> bool:
    """Whether a setting is one real number."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def check_real(estimator: Any, valid: Callable[[Any], bool], wanted: str, *names: str) -> None:
    """Refuse settings that are no real number, or not a valid one."""
    for name in names:
        value = getattr(estimator, name)
        if not (is_real(value) and valid(value)):
            raise ValueError(f"{name}: wanted {wanted}, got {value!r}.")


def check_arguments(name: str, given: Collection[str], taker: Callable[..., Any], *, others: Sequence[str]) -> None:
    """Refuse arguments that `taker` does not take or that come from elsewhere (`others`); miss none that it needs."""
    known = {key: each for key, each in inspect.signature(taker).parameters.items() if key not in others}
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(f"{name}: wanted arguments among {', '.join(known)}, got {unknown[0]!r}.")
    lacking = [key for key, each in known.items() if each.default is each.empty and key not in given]
    if lacking:
        raise ValueError(f"{name}: wanted {lacking[0]!r} too, got {', '.join(sorted(given)) or 'no argument'}.")


def check_choice(name: str, value: Any, known: Iterable[Any]) -> None:
    """Refuse a name that is not among the known ones."""
    if not isinstance(value, str | None) or value not in known:
        raise ValueError(f"{name}: wanted one of {', '.join(map(str, known))}, got {value!r}.")


def check_whole(estimator: Any, *names: str) -> None:
    """Refuse settings that are no whole number from 1."""
    for name in names:
        value = getattr(estimator, name)
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}: wanted a whole number from 1, got {value!r}.")


def is_mixed(X: Any) -> bool:
    """Whether X is a table with columns that are no numbers."""
    return isinstance(X, pd.DataFrame) and not all(map(is_number, X.dtypes))


def refuse_text(values: Any, name: str) -> None:
    """Text that looks like numbers, such as `1_0`, would be taken for numbers."""
    try:
        array = np.asarray(values)
    except ValueError:  # rows of unequal length, which others refuse
        return
    if array.dtype.kind in "OSUT" and array.ndim:
        for index, value in enumerate(np.asarray(values, dtype=object).flat):
            if isinstance(value, str | bytes):
                row = index // (array.size // len(array))
                raise ValueError(f"{name}: wanted numbers, got text in row {row}: {str(value)!r}.")


def read_pixels(X: Any) -> Tensor:
    """Images of X as float32 `[n, 3, height, width]`."""
    wanted = "wanted floats of shape (n, 3, height, width), n from 1"
    if isinstance(X, pd.DataFrame):
        raise ValueError(f"X: {wanted}, got a table of {X.shape[1]} columns; the encoder of tables is 'ffn'.")
    try:
        pixels = torch.as_tensor(X)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"X: {wanted}, got {type(X).__name__} ({error}).") from None
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not len(pixels) or not pixels.is_floating_point():
        raise ValueError(f"X: {wanted}, got {pixels.dtype} of {tuple(pixels.shape)}.")
    finite = torch.isfinite(pixels).flatten(1).all(dim=1)
    if not finite.all():
        raise ValueError(f"X: image {int(finite.long().argmin())} holds NaN or infinity, wanted finite numbers.")
    return pixels.float()


def plain(value: Any) -> Any:
    """For JSON: numpy's numbers and arrays as Python's, paths as text."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"settings: wanted what JSON can hold, got {value!r}.")


def as_json(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as a file would give them back: what takes an int may refuse numpy's."""
    return json.loads(json.dumps(settings, default=plain))
