"""Your own images: a folder and a CSV that gives each file its value."""

import csv as csv_module
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from rarl.datasets.images import decode, is_url, read_bytes
from rarl.datasets.source import ImageSource
from rarl.task import OrdinalTask, get_task


class FolderSource(ImageSource):
    """Images listed in a CSV with the header `file,value`.

    Nothing is skipped: a row that cannot be used is an error that names the CSV line, the file, the value seen and
    what was wanted. Files are opened on access; call [`verify`](rarl.datasets.source.verify) to open all of them now.

    Args:
        folder: Folder that relative files are looked up in.
        csv: UTF-8 CSV; `file` is relative to the folder, absolute, or an http(s) URL. Other columns are ignored.
        task: What the values measure.
        min_pixels: Least height times width of a loaded image.
        max_pixels: Largest height times width of a loaded image.

    Raises:
        FileNotFoundError: If the folder, the CSV or a listed file is missing.
        ValueError: If the file is not a CSV in UTF-8, the header is wrong, there is no row, a value is not a number in
            the task's range, or a file is listed twice.

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
        min_pixels: int | None = None,
        max_pixels: int | None = None,
    ) -> None:
        self.folder, self.csv = Path(folder), Path(csv)
        task = get_task(task)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{folder}: wanted a folder of images, but there is no such folder.")
        if not self.csv.is_file():
            raise FileNotFoundError(f"{csv}: wanted a CSV with the header file,value, but there is no such file.")
        self._files: list[str] = []
        lines: list[int] = []
        values: list[float] = []
        seen: dict[str, int] = {}
        for line, row in _rows(self.csv):
            where = f"{csv} line {line}, file {row['file']!r}"
            values.append(_number(row["value"], task, where))
            self._files.append(self._existing(row["file"], where))
            lines.append(line)
            if seen.setdefault(row["file"], line) != line:
                raise ValueError(f"{where}: listed in line {seen[row['file']]} already; wanted each file once.")
        if not values:
            raise ValueError(f"{csv}: no images listed below the header; wanted at least one.")
        self._lines = np.asarray(lines, dtype=np.int64)
        super().__init__(task, values, min_pixels, max_pixels)

    def _existing(self, file: str, where: str) -> str:
        if file and (is_url(file) or (self.folder / file).is_file()):
            return file
        raise FileNotFoundError(f"{where}: no such file in {self.folder}; wanted a relative or absolute path or a URL.")

    def name(self, i: int) -> str:
        return self._files[i]

    def where(self, i: int) -> str:
        return f"{self.csv} line {self._lines[i]}, file {self._files[i]!r}"

    def read(self, i: int) -> tuple[Image.Image, bytes]:
        file = self._files[i]
        data = read_bytes(file if is_url(file) else str(self.folder / file))
        return decode(data), data


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line and fields of each row of a CSV with the header `file,value`."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv_module.DictReader(stream)
        try:
            header = reader.fieldnames or []
            if not {"file", "value"} <= set(header):
                raise ValueError(f"{path}: wanted a header with file,value, got {','.join(header) or 'an empty file'}.")
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError(
                        f"{path} line {reader.line_num}, file {row['file']!r}: wanted {len(header)} fields as in the "
                        "header, got another number."
                    )
                yield reader.line_num, row
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: wanted a CSV in UTF-8, got other bytes: {error}.") from None
        except csv_module.Error as error:
            raise ValueError(f"{path} behind line {reader.line_num}: wanted a CSV, but {error}.") from None


def _number(text: str, task: OrdinalTask, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(
            f"{where}: value {text!r} is not a number; task {task.name!r} wants: {task.value_range}."
        ) from None
    return task.check_value(value, where)
