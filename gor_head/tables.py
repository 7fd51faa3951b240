"""CSV files as features and labels; what is wrong with a file is said with its name, line and value."""

import csv
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Kind = Literal["number", "category"]
"""What a column of features holds: a number, or text that stands for a category."""


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
        """Kind of every column of features: what [`read_table`] needs to read another file alike."""
        return {
            str(name): "category" if isinstance(column.dtype, pd.CategoricalDtype) else "number"
            for name, column in self.features.items()
        }


def read_table(
    path: str | Path, target: str | Sequence[str], drop: Sequence[str] = (), kinds: Mapping[str, Kind] | None = None
) -> Table:
    """Read features and labels of a CSV file with a header; blank lines are skipped.

    A column is one of categories if any of its fields is not a number; an empty field is then a category, too. In a
    column of numbers no field may be missing.

    Args:
        path: The file.
        target: Name of the label's column, or several names of which the file has one.
        drop: Columns that are no features, such as a customer's number; those that the file has are left out.
        kinds: Columns of features to read, and how, see [`Table.kinds`]; by default all, text as categories.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is empty or no table, lacks a column or the name of one, or a label or a number is
            missing or not finite.
    """
    path = Path(path)
    frame = _read(path, kinds)
    names = [target] if isinstance(target, str) else list(target)
    found = [name for name in names if name in frame.columns]
    if len(found) != 1:
        wanted = f"the column {names[0]!r}" if len(names) == 1 else f"one of the columns {_listed(names)}"
        hint = "" if found else _hint(names, frame.columns)
        raise ValueError(f"{path}: wanted {wanted} as label, got {_listed(found or frame.columns)}{hint}.")
    labels = _numbers(frame[found[0]], path, found[0])
    features = _features(frame.drop(columns=found), path, drop, kinds)
    return Table(path.stem, features, labels, found[0])


def read_features(path: str | Path, drop: Sequence[str] = (), kinds: Mapping[str, Kind] | None = None) -> pd.DataFrame:
    """Read the features of a CSV file, `[n, d]`, as [`read_table`] does; no label is needed."""
    return _features(_read(Path(path), kinds), Path(path), drop, kinds)


def read_labels(path: str | Path, column: str | None = None) -> NDArray[np.float64]:
    """Read one column of finite numbers, `[n]`, by default the only column of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: As [`read_table`], or if no column is named and the file has several.
    """
    path = Path(path)
    frame = _read(path, None)
    if column is None and len(frame.columns) > 1:
        raise ValueError(f"{path}: name the column of the labels, it has {_listed(frame.columns)}.")
    name = frame.columns[0] if column is None else column
    if name not in frame.columns:
        hint = _hint([name], frame.columns)
        raise ValueError(f"{path}: wanted the column {name!r}, got {_listed(frame.columns)}{hint}.")
    return _numbers(frame[name], path, name)


def _read(path: Path, kinds: Mapping[str, Kind] | None) -> pd.DataFrame:
    header = _header(path)
    text = {name: str for name, kind in (kinds or {}).items() if kind == "category" and name in header}
    settings: dict[str, Any] = {
        "index_col": False,
        "encoding": "utf-8-sig",
        "low_memory": False,
        "float_precision": "round_trip",  # labels sit on a grid: no last digit may be off
        "compression": None,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(path, dtype=text, **settings)
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        _check_widths(path, header)
        raise ValueError(f"{path}: not a table ({error}).") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8 ({error.reason} at byte {error.start}).") from None
    if frame.iloc[:, -1].isna().any():  # also how a row that is too short looks
        _check_widths(path, header)
    if not len(frame):
        raise ValueError(f"{path}: wanted rows below the header, got none.")
    # "NA" and the like mean a missing number, but among words they are words.
    words = [name for name in frame if not pd.api.types.is_numeric_dtype(frame[name]) and frame[name].isna().any()]
    if words:
        frame[words] = pd.read_csv(path, usecols=words, dtype=str, na_filter=False, **settings)[words]
    return frame


def _header(path: Path) -> list[str]:
    header = next((row for _, row in _rows(path)), None)
    if header is None:
        raise ValueError(f"{path}: the file is empty; a header and rows are wanted.")
    if all(_is_number(name) for name in header):
        raise ValueError(f"{path}: wanted a header of column names in line 1, got the numbers {_listed(header)}.")
    unnamed = next((place for place, name in enumerate(header, 1) if not name.strip()), None)
    if unnamed is not None:
        raise ValueError(
            f"{path}: wanted a name for every column, got none for column {unnamed} of {len(header)}; "
            "pandas writes an index so, unless told index=False."
        )
    double = next((name for place, name in enumerate(header) if name in header[:place]), None)
    if double is not None:
        raise ValueError(f"{path}: the column {double!r} is there more than once.")
    return header


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line and fields of every row that is not blank, the header first."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        last = ""

        def lines() -> Iterator[str]:
            nonlocal last
            for last in file:  # noqa: UP028
                yield last

        reader = csv.reader(lines())
        try:
            for row in reader:
                # By its line, not its fields: `""` is a row with an empty field, a line of spaces is none.
                if last.strip(" \t\r\n"):
                    yield reader.line_num, row
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not text in UTF-8 ({error.reason}).") from None
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: not a table ({error}).") from None


def _check_widths(path: Path, header: Sequence[str]) -> None:
    for line, row in _rows(path):
        if len(row) != len(header):
            raise ValueError(
                f"{path}, line {line}: wanted {len(header)} fields as in the header, got {len(row)}{_hint((), header)}."
            )


def _features(frame: pd.DataFrame, path: Path, drop: Sequence[str], kinds: Mapping[str, Kind] | None) -> pd.DataFrame:
    if kinds is None:
        features = frame.drop(columns=[name for name in drop if name in frame.columns])
        kinds = {name: "number" if pd.api.types.is_numeric_dtype(features[name]) else "category" for name in features}
    missing = [name for name in kinds if name not in frame.columns]
    if missing:
        hint = _hint(missing, frame.columns)
        raise ValueError(f"{path}: wanted the columns {_listed(missing)}, got {_listed(frame.columns)}{hint}.")
    if not kinds:
        raise ValueError(f"{path}: no column of features is left.")
    columns = {
        name: _numbers(frame[name], path, name) if kind == "number" else frame[name].astype("category")
        for name, kind in kinds.items()
    }
    return pd.DataFrame(columns)


def _numbers(column: pd.Series, path: Path, name: str) -> NDArray[np.float64]:
    """A column as float64; if it is not all finite numbers, an error."""
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~np.isfinite(values)
    if wrong.any():
        row = int(wrong.argmax())
        line, fields = next(found for place, found in enumerate(_rows(path)) if place == row + 1)
        value = fields[list(column_names(path)).index(name)]
        raise ValueError(
            f"{path}, line {line}: wanted a finite number in column {name!r}, got {value!r} "
            f"({int(wrong.sum())} of {len(wrong)} rows)."
        )
    return values


def column_names(path: str | Path) -> list[str]:
    """Names in the header of a CSV file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is empty, or its header is one of numbers, lacks a name or has one twice.
    """
    return _header(Path(path))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _hint(wanted: Iterable[str], columns: Iterable[str]) -> str:
    """What may be wrong with a header that lacks a column, as the end of a message."""
    columns = [str(name) for name in columns]
    separator = next((mark for mark in ";\t|" if mark in columns[0]), None) if len(columns) == 1 else None
    if separator:
        return f"; are its fields parted by {separator!r}? Commas are wanted"
    stripped = {str(name).strip() for name in wanted}
    blank = next((name for name in columns if name != name.strip() and name.strip() in stripped), None)
    return f"; mind the blank in {blank!r}" if blank else ""


def _listed(names: Any, most: int = 10) -> str:
    names = [repr(str(name)) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
