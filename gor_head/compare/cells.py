"""One cell of a comparison: a method trained on one split of a table, its predictions, and the file that keeps them."""

import hashlib
import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from gor_head.tables import Table
from gor_head.vocabulary import CoDiVocabulary

TEST_SHARE = 0.2


class Method(Protocol):
    """What a comparison needs of a method: `gor_head.compare.methods.Method` is one."""

    @property
    def name(self) -> str: ...

    @property
    def make(self) -> Callable[..., Any]:
        """`make(random_state=…, **settings)` → scikit-learn regressor."""
        ...

    @property
    def reads(self) -> Mapping[str, Mapping[str, Any]]:
        """Row of the comparison → keyword arguments of `predict`: one training may be read in several ways."""
        ...


@dataclass(frozen=True, order=True)
class Cell:
    """Name of one training: table, method and seed."""

    table: str
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.table}, {self.method}, seed {self.seed}"

    def path(self, folder: Path) -> Path:
        """File of the cell in the output folder of a comparison."""
        return folder / "cells" / f"{slug(self.table)}--{slug(self.method)}--{self.seed}.npz"


@dataclass(frozen=True)
class Result:
    """What a cell measured.

    Attributes:
        samples: Positions of the test rows in the table, ascending, `[n]`.
        truth: Labels of the test rows, `[n]`.
        predictions: Row of the comparison → predictions, `[n]`.
        fit_seconds: Time of training.
        predict_seconds: Row of the comparison → time of predicting the test rows.
    """

    samples: NDArray[np.int64]
    truth: NDArray[np.float64]
    predictions: dict[str, NDArray[np.float64]]
    fit_seconds: float
    predict_seconds: dict[str, float]


def slug(name: str) -> str:
    """A name as a part of a file name: anything but letters, digits, dot, `_` and `-` becomes `_`."""
    return re.sub(r"[^\w.-]+", "_", name)


def split(n: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of training and test rows of a table of n rows, 80 % and 20 %, each ascending."""
    train, test = train_test_split(np.arange(n), test_size=TEST_SHARE, random_state=seed)
    return np.sort(train), np.sort(test)


def fingerprint(table: Table) -> str:
    """Hash of a table's columns, features and labels."""
    digest = hashlib.sha256(json.dumps([table.target, table.kinds]).encode())
    digest.update(pd.util.hash_pandas_object(table.features, index=False).to_numpy().tobytes())
    digest.update(table.labels.tobytes())
    return digest.hexdigest()[:16]


def cell_settings(cell: Cell, method: Method, data: str, *, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All that a cell's predictions depend on, as plain JSON: every parameter of the estimator, defaults included.

    Raises:
        ValueError: If the method does not take the settings.
    """
    try:
        estimator = method.make(random_state=cell.seed, **settings)
    except TypeError as error:
        raise ValueError(f"{method.name} does not take these settings ({error}).") from None
    content = {
        "table": cell.table,
        "data": data,
        "method": cell.method,
        "seed": cell.seed,
        "test_share": TEST_SHARE,
        "reads": {row: dict(arguments) for row, arguments in method.reads.items()},
        "estimator": type(estimator).__name__,
        "parameters": estimator.get_params(deep=False),
    }
    return json.loads(json.dumps(content, default=_plain))


def taken(method: Method, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings that a method takes and does not fix itself."""
    used = {}
    for name, value in settings.items():
        try:
            method.make(random_state=0, **{name: value})
        except TypeError:
            continue
        used[name] = value
    return used


def _plain(value: Any) -> Any:
    """For JSON; a vocabulary by all that it holds."""
    return value.to_dict() if isinstance(value, CoDiVocabulary) else repr(value)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for PyTorch, BLAS and OpenMP: cells share the machine, and its number of cores changes no result."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


def measure(table: Table, method: Method, seed: int, *, settings: Mapping[str, Any]) -> tuple[Result, list[str]]:
    """Train a method on the split of a seed and predict its test rows in every way that the method is read.

    Returns:
        The result, and the warnings of the training.

    Raises:
        ValueError: If a prediction is no finite number, or there is not one per row.
    """
    train, test = split(len(table.labels), seed)
    features = table.features.iloc[test].reset_index(drop=True)
    with one_thread(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        start = time.perf_counter()
        model = method.make(random_state=seed, **settings)
        model.fit(table.features.iloc[train].reset_index(drop=True), table.labels[train])
        fit_seconds = time.perf_counter() - start
        predictions, predict_seconds = {}, {}
        for row, arguments in method.reads.items():
            start = time.perf_counter()
            predicted = np.asarray(model.predict(features, **arguments), dtype=np.float64)
            predict_seconds[row] = time.perf_counter() - start
            if predicted.shape != test.shape:
                raise ValueError(f"predictions of {row}: wanted shape {test.shape}, got {predicted.shape}.")
            wrong = ~np.isfinite(predicted)
            if wrong.any():
                raise ValueError(f"predictions of {row}: {int(wrong.sum())} of {len(test)} are no finite numbers.")
            predictions[row] = predicted
    result = Result(test, table.labels[test], predictions, fit_seconds, predict_seconds)
    return result, sorted({f"{warning.category.__name__}: {warning.message}" for warning in caught})


def write(path: Path, result: Result, settings: Mapping[str, Any], *, notes: list[str]) -> None:
    """Write a cell's file at once: under its name there is never half a file."""
    about = {
        "settings": settings,
        "rows": list(result.predictions),
        "fit_seconds": result.fit_seconds,
        "predict_seconds": result.predict_seconds,
        "warnings": notes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez_compressed(
            file,
            about=np.array(json.dumps(about)),
            samples=result.samples,
            truth=result.truth,
            predictions=np.stack(list(result.predictions.values())),
        )
    os.replace(part, path)


def read(path: Path) -> tuple[Result, dict[str, Any]]:
    """Result and settings in a cell's file.

    Raises:
        ValueError: If the file is not one of a cell.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            about = json.loads(str(content["about"]))
            result = Result(
                samples=content["samples"],
                truth=content["truth"],
                predictions=dict(zip(about["rows"], content["predictions"], strict=True)),
                fit_seconds=about["fit_seconds"],
                predict_seconds=about["predict_seconds"],
            )
            return result, about["settings"]
    except Exception as error:  # what a damaged file raises is up to zip, zlib, numpy and json
        raise ValueError(f"{path}: not the file of a cell ({error}); remove it to have it made anew.") from None


def check_settings(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Make sure that a cell's file was made with the settings wanted now.

    Raises:
        ValueError: If not, naming the file and what differs.
    """
    found, wanted = _flat(found), _flat(wanted)
    differing = [
        f"{name} {found.get(name)!r} (wanted {wanted.get(name)!r})"
        for name in {**wanted, **found}
        if found.get(name) != wanted.get(name)
    ]
    if differing:
        raise ValueError(
            f"{path}: made with {', '.join(differing)}. Remove the file to have it made anew, or give another folder."
        )


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the estimator's parameters among them, so that only those are named that differ."""
    return {**settings, **settings.get("parameters", {}), "parameters": None}
