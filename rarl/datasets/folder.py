"""Your own images: a folder and a CSV that gives each file its value, or the votes of several raters."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gor_head.numbers import read_number, write_number
from gor_head.rows import hint, listed, read_rows
from rarl.datasets.files import Names
from rarl.datasets.images import decode, is_url, read_bytes
from rarl.datasets.raters import check_raters, choose_votes, draw_votes, mean_votes
from rarl.datasets.source import ImageSource
from rarl.task import OrdinalTask, get_task

VOTE = re.compile(r"value_[0-9]+")
"""Name of a column of votes."""


class FolderSource(ImageSource):
    """Images listed in a CSV with the header `file,value`, `file,value,std` or `file,value_1,value_2,…`.

    With columns of votes the value of an image is the mean of all its votes, as
    [`mean_votes`][rarl.datasets.raters.mean_votes] takes it. `raters` makes labels for training of fewer: of that many
    votes, drawn among those of the image, or drawn about its value with its standard deviation `std`.

    Nothing is skipped: a row that cannot be used is an error that names the CSV line, the file, the value seen and
    what was wanted. Files are opened on access; call [`verify`][rarl.datasets.source.verify] to open all of them now.

    Args:
        folder: Folder that relative files are looked up in.
        csv: UTF-8 CSV; `file` is relative to the folder, absolute, or an http(s) URL; `value` is a decimal number in
            ASCII digits. Other columns are ignored, `value_1` too where there is `value`, and `std` without `raters`.
        task: What the values measure.
        min_pixels: Least height times width of a loaded image.
        max_pixels: Largest height times width of a loaded image.
        raters: Votes that the label of an image in training is the mean of; `None` for its value.
        seed: Seed of the draw of votes.

    Raises:
        FileNotFoundError: If the folder, the CSV or a listed file is missing.
        ValueError: If the file is not a CSV in UTF-8, the header is wrong or has a name twice, there is no row, a value
            or vote is not a number in the task's range, a deviation is negative, a file is listed twice, or there are
            fewer votes than `raters`, or none to draw from.

    Example:

    ```python
    source = FolderSource("cells", "cells/counts.csv", task="count")
    ```
    """

    def __init__(
        self,
        folder: str | Path,
        csv: str | Path,
        task: str | OrdinalTask,
        *,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        raters: int | None = None,
        seed: int = 0,
    ) -> None:
        self.folder, self.csv = Path(folder), Path(csv)
        check_raters(raters)
        task = get_task(task)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{folder}: wanted a folder of images, but there is no such folder.")
        if not self.csv.is_file():
            raise FileNotFoundError(f"{csv}: wanted a CSV with the header file,value, but there is no such file.")
        names = Names(self.folder)
        self._files: list[str] = []
        lines: list[int] = []
        rows: list[list[float]] = []
        seen: dict[str, int] = {}
        columns, listed_rows = _rows(self.csv, raters)
        for line, listed_file, texts in listed_rows:
            where = f"{csv} line {line}, file {listed_file!r}"
            row = [_number(text, task, where, name) for name, text in zip(columns, texts, strict=True)]
            file = _existing(listed_file, names, where)
            key = file if is_url(file) else os.path.abspath(self.folder / file)
            if key in seen:
                first = seen[key]
                raise ValueError(
                    f"{where}: listed in line {lines[first]} already, as {self._files[first]!r} with {columns[0]} "
                    f"{write_number(rows[first][0])} (here {write_number(row[0])}); wanted each file once."
                )
            seen[key] = len(lines)
            rows.append(row)
            self._files.append(file)
            lines.append(line)
        if not rows:
            raise ValueError(f"{csv}: no images listed below the header; wanted at least one.")
        self._lines = np.asarray(lines, dtype=np.int64)
        numbers = np.asarray(rows)
        values = numbers[:, 0] if columns[0] == "value" else mean_votes(numbers, task)
        labels = None
        if raters is not None and columns[-1] == "std":
            votes = draw_votes(values, numbers[:, 1], task, raters=raters, seed=(seed,))
            labels = mean_votes(votes, task)
        elif raters is not None:
            labels = mean_votes(choose_votes(numbers, raters=raters, seed=(seed,)), task)
        super().__init__(task, values, min_pixels, max_pixels=max_pixels, labels=labels)

    def name(self, i: int) -> str:
        return self._files[i]

    def where(self, i: int) -> str:
        return f"{self.csv} line {self._lines[i]}, file {self._files[i]!r}"

    def read(self, i: int) -> tuple[Image.Image, bytes]:
        file = self._files[i]
        data = read_bytes(file if is_url(file) else str(self.folder / file))
        return decode(data), data


def _rows(path: Path, raters: int | None) -> tuple[list[str], Iterator[tuple[int, str, list[str]]]]:
    """The columns of values, and line, file and these columns of each row of a CSV.

    The columns are `value`; with raters, `value` and `std`; or those of votes.
    """
    rows = read_rows(path)
    _, header = next(rows)
    votes = [name for name in header if VOTE.fullmatch(name)]
    columns = ["value"] if "value" in header or not votes else votes
    missing = [name for name in ("file", *columns) if name not in header]
    if missing:
        raise ValueError(f"{path}: wanted a header with file,value, got {listed(header)}{hint(missing, header)}.")
    if raters is not None and columns == ["value"]:
        if "std" not in header:
            wanted = "columns of votes without a column value" if votes else "a column std, or columns of votes"
            raise ValueError(
                f"raters: {path} has no votes to draw from; wanted {wanted} (file,value,std or "
                f"file,value_1,value_2,…), got {listed(header)}."
            )
        columns = ["value", "std"]
    return columns, _fields(rows, header.index("file"), [header.index(name) for name in columns])


def _fields(
    rows: Iterator[tuple[int, list[str]]], file: int, columns: Sequence[int]
) -> Iterator[tuple[int, str, list[str]]]:
    for line, row in rows:
        yield line, row[file], [row[column] for column in columns]


def _existing(file: str, names: Names, where: str) -> str:
    found = file if is_url(file) else names.find(file)
    if found is not None:
        return found
    near = names.near(file)
    raise FileNotFoundError(
        f"{where}: no such file in {names.folder}{f' (there is {near!r})' if near else ''}; wanted a relative or "
        "absolute path or a URL."
    )


def _number(text: str, task: OrdinalTask, where: str, column: str) -> float:
    value = read_number(text)
    if column == "std":
        if value is None or value < 0:
            raise ValueError(f"{where}: std {text!r}: wanted a standard deviation of 0 or more, a finite number.")
        return value
    where = where if column == "value" else f"{where}, {column}"
    if value is None:
        raise ValueError(
            f"{where}: value {text!r} is not a finite number; task {task.name!r} wants: {task.value_range}."
        )
    return task.check_value(value, where)
