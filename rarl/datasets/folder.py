"""Your own images: a folder and a CSV that gives each file its value."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from gor_head.numbers import read_number, write_number
from gor_head.rows import hint, listed, read_rows
from rarl.datasets.files import Names
from rarl.datasets.images import decode, is_url, read_bytes
from rarl.datasets.source import ImageSource
from rarl.task import OrdinalTask, get_task


class FolderSource(ImageSource):
    """Images listed in a CSV with the header `file,value`.

    Nothing is skipped: a row that cannot be used is an error that names the CSV line, the file, the value seen and
    what was wanted. Files are opened on access; call [`verify`][rarl.datasets.source.verify] to open all of them now.

    Args:
        folder: Folder that relative files are looked up in.
        csv: UTF-8 CSV; `file` is relative to the folder, absolute, or an http(s) URL; `value` is a decimal number in
            ASCII digits. Other columns are ignored.
        task: What the values measure.
        min_pixels: Least height times width of a loaded image.
        max_pixels: Largest height times width of a loaded image.

    Raises:
        FileNotFoundError: If the folder, the CSV or a listed file is missing.
        ValueError: If the file is not a CSV in UTF-8, the header is wrong or has a name twice, there is no row, a value
            is not a number in the task's range, or a file is listed twice.

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
    ) -> None:
        self.folder, self.csv = Path(folder), Path(csv)
        task = get_task(task)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{folder}: wanted a folder of images, but there is no such folder.")
        if not self.csv.is_file():
            raise FileNotFoundError(f"{csv}: wanted a CSV with the header file,value, but there is no such file.")
        names = Names(self.folder)
        self._files: list[str] = []
        lines: list[int] = []
        values: list[float] = []
        seen: dict[str, int] = {}
        for line, listed_file, text in _rows(self.csv):
            where = f"{csv} line {line}, file {listed_file!r}"
            value = _number(text, task, where)
            file = _existing(listed_file, names, where)
            key = file if is_url(file) else os.path.abspath(self.folder / file)
            if key in seen:
                first = seen[key]
                raise ValueError(
                    f"{where}: listed in line {lines[first]} already, as {self._files[first]!r} with value "
                    f"{write_number(values[first])} (here {write_number(value)}); wanted each file once."
                )
            seen[key] = len(lines)
            values.append(value)
            self._files.append(file)
            lines.append(line)
        if not values:
            raise ValueError(f"{csv}: no images listed below the header; wanted at least one.")
        self._lines = np.asarray(lines, dtype=np.int64)
        super().__init__(task, values, min_pixels, max_pixels=max_pixels)

    def name(self, i: int) -> str:
        return self._files[i]

    def where(self, i: int) -> str:
        return f"{self.csv} line {self._lines[i]}, file {self._files[i]!r}"

    def read(self, i: int) -> tuple[Image.Image, bytes]:
        file = self._files[i]
        data = read_bytes(file if is_url(file) else str(self.folder / file))
        return decode(data), data


def _rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, file and value of each row of a CSV with the header `file,value`."""
    rows = read_rows(path)
    _, header = next(rows)
    missing = [name for name in ("file", "value") if name not in header]
    if missing:
        raise ValueError(f"{path}: wanted a header with file,value, got {listed(header)}{hint(missing, header)}.")
    file, value = header.index("file"), header.index("value")
    for line, row in rows:
        yield line, row[file], row[value]


def _existing(file: str, names: Names, where: str) -> str:
    found = file if is_url(file) else names.find(file)
    if found is not None:
        return found
    near = names.near(file)
    raise FileNotFoundError(
        f"{where}: no such file in {names.folder}{f' (there is {near!r})' if near else ''}; wanted a relative or "
        "absolute path or a URL."
    )


def _number(text: str, task: OrdinalTask, where: str) -> float:
    value = read_number(text)
    if value is None:
        raise ValueError(
            f"{where}: value {text!r} is not a finite number; task {task.name!r} wants: {task.value_range}."
        )
    return task.check_value(value, where)
