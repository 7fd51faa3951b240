"""CSV files as features and labels; what is wrong with a file is said with its name, line and value."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gor_head.numbers import read_number, resembles_number
from gor_head.rows import hint, listed, read_rows

Kind = Literal["number", "category"]
"""What a column of features holds: a number, or text that stands for a category."""

BOOLEANS = {"True": 1.0, "true": 1.0, "TRUE": 1.0, "False": 0.0, "false": 0.0, "FALSE": 0.0}
"""A column of nothing else is one of numbers."""

NO_VALUE = ("", "?", "-", ".", "na", "n/a", "#n/a", "<na>", "nan", "null", "none", "inf", "-inf")
"""How files spell, in any case, that there is no number or word; a column of nothing else is refused."""


@dataclass(frozen=True)
class Table:
    """Samples with labels.

    Attributes:
        name: Name of the file, less its extension.
        features: Columns of numbers, and pandas categoricals for columns of text, `[n, d]`.
        labels: Finite numbers, float64, `[n]`.
        target: Name of the label's column.
    """

    name: str
    features: pd.DataFrame
    labels: NDArray[np.float64]
    target: str

    @property
    def kinds(self) -> dict[str, Kind]:
        """Kind of every column of features: what [`read_table`][gor_head.tables.read_table] needs to read another file
        alike."""
        return {
            str(name): "category" if isinstance(column.dtype, pd.CategoricalDtype) else "number"
            for name, column in self.features.items()
        }


def read_table(
    path: str | Path,
    target: str | Sequence[str],
    drop: Sequence[str] = (),
    *,
    kinds: Mapping[str, Kind] | None = None,
    categories: Collection[str] = (),
) -> Table:
    """Read features and labels of a CSV file with a header; blank lines are skipped.

    A column is one of numbers if all its fields are numbers, or all True or False; it is one of categories if none of
    them resembles a number, and an empty field is then a category, too. Anything between, such as one `?` among
    numbers or thousands set off by commas, is an error, unless the column is named among the categories.

    Args:
        path: The file.
        target: Name of the label's column, or several names of which the file has one.
        drop: Columns that are no features, such as a customer's number; those that the file has are left out.
        kinds: Columns of features to read, and how, see [`Table.kinds`][gor_head.tables.Table.kinds]; by default all.
        categories: Columns to read as categories whatever they hold, if `kinds` is not given.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is empty or no table, lacks a column or the name of one, a label or a number is
            missing or not finite, or a column holds numbers beside other text.
    """
    text = _read(Path(path))
    names = [target] if isinstance(target, str) else list(target)
    found = [name for name in names if name in text.columns]
    if len(found) != 1:
        wanted = f"the column {names[0]!r}" if len(names) == 1 else f"one of the columns {listed(names)}"
        end = "" if found else hint(names, text.columns)
        raise ValueError(f"{path}: wanted {wanted} as label, got {listed(found or text.columns)}{end}.")
    labels = text.numbers(found[0])
    return Table(text.path.stem, _features(text, {*drop, found[0]}, kinds, categories), labels, found[0])


def read_features(
    path: str | Path,
    drop: Sequence[str] = (),
    kinds: Mapping[str, Kind] | None = None,
    *,
    categories: Collection[str] = (),
) -> pd.DataFrame:
    """Read the features of a CSV file, `[n, d]`, as [`read_table`][gor_head.tables.read_table] does; no label is
    needed."""
    return _features(_read(Path(path)), set(drop), kinds, categories)


def read_labels(path: str | Path, column: str | None = None) -> NDArray[np.float64]:
    """Read one column of finite numbers, `[n]`, by default the only column of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: As [`read_table`][gor_head.tables.read_table], or if no column is named and the file has several.
    """
    text = _read(Path(path))
    if column is None and len(text.columns) > 1:
        raise ValueError(f"{path}: name the column of the labels, it has {listed(text.columns)}.")
    name = next(iter(text.columns)) if column is None else column
    if name not in text.columns:
        end = hint([name], text.columns)
        raise ValueError(f"{path}: wanted the column {name!r}, got {listed(text.columns)}{end}.")
    return text.numbers(name)


def column_names(path: str | Path) -> list[str]:
    """Names in the header of a CSV file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is empty, or its header is one of numbers, lacks a name or has one twice.
    """
    _, header = next(read_rows(Path(path)))
    _check_names(Path(path), header)
    return header


@dataclass(frozen=True)
class _Text:
    """A table before its fields are read: `[n]` texts a column, and the line of each row."""

    path: Path
    lines: Sequence[int]
    columns: Mapping[str, Sequence[str]]

    def numbers(self, name: str, booleans: bool = False, advice: str = "") -> NDArray[np.float64]:
        """A column as float64; if it is not all finite numbers (or, if allowed, all booleans), an error that ends in
        `advice`."""
        fields = self.columns[name]
        if booleans and all(field in BOOLEANS for field in fields):
            return np.array([BOOLEANS[field] for field in fields])
        values = [read_number(field) for field in fields]
        wrong = [row for row, value in enumerate(values) if value is None]
        if wrong:
            raise ValueError(
                f"{self.path}, line {self.lines[wrong[0]]}: wanted a finite number in column {name!r}, got "
                f"{fields[wrong[0]]!r} ({len(wrong)} of {len(fields)} rows){advice}."
            )
        return np.array(values, dtype=np.float64)

    def is_words(self, name: str) -> bool:
        """Whether a column holds text of which nothing resembles a number."""
        distinct = set(self.columns[name])
        named = any(field.strip().lower() not in NO_VALUE for field in distinct)
        return named and not distinct <= set(BOOLEANS) and not any(map(resembles_number, distinct))


def _read(path: Path) -> _Text:
    rows = read_rows(path)
    _, header = next(rows)
    _check_names(path, header)
    found = list(rows)
    if not found:
        raise ValueError(f"{path}: wanted rows below the header, got none.")
    fields = zip(*(row for _, row in found), strict=True)
    return _Text(path, [line for line, _ in found], dict(zip(header, fields, strict=True)))


def _check_names(path: Path, header: Sequence[str]) -> None:
    if all(read_number(name) is not None for name in header):
        raise ValueError(f"{path}: wanted a header of column names in line 1, got the numbers {listed(header)}.")
    unnamed = next((number for number, name in enumerate(header, 1) if not name.strip()), None)
    if unnamed is not None:
        raise ValueError(
            f"{path}: wanted a name for every column, got none for column {unnamed} of {len(header)}; "
            "pandas writes an index so, unless told index=False."
        )


def _features(
    text: _Text, drop: Collection[str], kinds: Mapping[str, Kind] | None, categories: Collection[str]
) -> pd.DataFrame:
    advice = "" if kinds is not None else "; mend the file, drop the column, or name it as one of categories"
    if kinds is None:
        chosen: Mapping[str, Kind] = {
            name: "category" if name in categories or text.is_words(name) else "number"
            for name in text.columns
            if name not in drop
        }
    else:
        chosen = kinds
    missing = [name for name in chosen if name not in text.columns]
    if missing:
        end = hint(missing, text.columns)
        raise ValueError(f"{text.path}: wanted the columns {listed(missing)}, got {listed(text.columns)}{end}.")
    if not chosen:
        raise ValueError(f"{text.path}: no column of features is left.")
    columns: dict[str, Any] = {
        name: text.numbers(name, booleans=True, advice=advice)
        if kind == "number"
        else pd.Series(text.columns[name], dtype=str).astype("category")
        for name, kind in chosen.items()
    }
    return pd.DataFrame(columns)
