"""CSV files as rows of text; what is wrong with a file is said with its name and line."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def read_rows(path: Path, longest_field: int = 131_072) -> Iterator[tuple[int, list[str]]]:
    """Line and fields of every row of a CSV file that is not blank, the header first.

    Args:
        path: The file.
        longest_field: Characters that a field may have.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is empty, not in UTF-8 or no CSV, the header has a name twice, or a row has more or
            fewer fields than the header.
    """
    header: list[str] | None = None
    csv.field_size_limit(longest_field)
    with path.open(newline="", encoding="utf-8-sig") as file:
        last = ""

        def lines() -> Iterator[str]:
            nonlocal last
            for last in file:  # noqa: UP028
                yield last

        reader = csv.reader(lines(), strict=True)
        try:
            for row in reader:
                # By its line, not its fields: `""` is a row with an empty field, a line of spaces is none.
                if not last.strip(" \t\r\n"):
                    continue
                if header is None:
                    header = row
                    _check_header(path, header)
                elif len(row) != len(header):
                    raise ValueError(
                        f"{path}, line {reader.line_num}: wanted {len(header)} fields as in the header, got "
                        f"{len(row)}{hint((), header)}."
                    )
                yield reader.line_num, row
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}: not text in UTF-8 (byte {error.object[error.start]:#04x}: {error.reason})."
            ) from None
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: not a CSV ({error}).") from None
    if header is None:
        raise ValueError(f"{path}: the file is empty; a header and rows are wanted.")


def _check_header(path: Path, header: list[str]) -> None:
    names = [name.strip() for name in header]
    double = next((name for index, name in enumerate(names) if name and name in names[:index]), None)
    if double is not None:
        raise ValueError(f"{path}: the column {double!r} is there more than once.")


def hint(wanted: Iterable[str], columns: Iterable[str]) -> str:
    """What may be wrong with a header that lacks wanted columns, as the end of a message."""
    columns = [str(name) for name in columns]
    separator = next((mark for mark in ";\t|" if mark in columns[0]), None) if len(columns) == 1 else None
    if separator:
        return f"; are its fields parted by {separator!r}? Commas are wanted"
    names = {str(name).strip().casefold() for name in wanted}
    near = next((name for name in columns if name.strip().casefold() in names and name not in wanted), None)
    if near is None:
        return ""
    return f"; mind the blank in {near!r}" if near != near.strip() else f"; mind the case of {near!r}"


def listed(names: Any, most: int = 10) -> str:
    """Names in quotes, the first ones of many."""
    names = [repr(str(name)) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
