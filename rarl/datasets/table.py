"""Your own texts: a table with a column of texts and one of values, or of the votes of several raters."""

import glob
import json
import re
import reprlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_dataset, load_from_disk

from gor_head.numbers import read_number
from gor_head.rows import hint, listed, read_rows
from rarl.datasets.raters import check_raters, choose_votes, draw_votes, mean_votes
from rarl.datasets.source import ItemSource, text_identity
from rarl.fetching import FETCHES, fetched
from rarl.task import OrdinalTask, get_task

_UNSEEN = re.compile("[\u200b-\u200f\u2060\ufeff]")
"""Characters that take no room: a text of nothing else is empty."""

LONGEST_TEXT = 2**31 - 1
"""Characters of a field of a CSV."""

READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}
"""Ending of a file → the reader of `datasets` for it; CSV files are read strictly, line by line."""


class TableSource(ItemSource):
    """Texts of a table: a CSV, Parquet or JSONL file, a folder or id of a data set of `datasets`, or such a data set.

    A value is the number in `value_column`, or the mean of the votes in `votes_column`, a list of numbers for each text
    (in a CSV as `[3, 4, 2]`), as [`mean_votes`][rarl.datasets.raters.mean_votes] takes it. `raters` makes labels for
    training of fewer votes: drawn among those of the text, or about its value with the deviation in `std_column`.

    Nothing is skipped: a row that cannot be used is an error that names the row, the value seen and what was wanted.
    Texts are taken for copies of each other if they differ in case, in blanks or in the form of their characters only.

    Args:
        table: The file, folder, id or data set; of what was fetched, its name and the file, as in
            `"film-reviews/reviews.csv"`. CSV and JSON are in UTF-8.
        task: What the values measure, of kind `"text"`.
        text_column: Column of the texts.
        value_column: Column of the values; `None` if there are votes.
        votes_column: Column of the votes; `None` if there are values.
        std_column: Column of the deviation of a vote, which `raters` draws with.
        table_split: Split of a data set of `datasets` that has several.
        raters: Votes that the label of a text in training is the mean of; `None` for its value.
        seed: Seed of the draw of votes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the table cannot be read or has no rows, a column is missing, a text is empty or none, a value or
            vote is no number in the task's range, a deviation is negative, there are fewer votes than `raters`, or none
            to draw from.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from rarl.datasets import TableSource
    >>> table = Dataset.from_dict({"text": ["Fine.", "Bad."], "votes": [[8, 6], [1, 2]]})
    >>> source = TableSource(table, "sentiment", votes_column="votes")
    >>> source.values.tolist(), source.load(1)
    ([7.0, 1.5], 'Bad.')
    ```
    """

    kind = "text"

    def __init__(
        self,
        table: str | Path | Dataset,
        task: str | OrdinalTask = "sentiment",
        *,
        text_column: str = "text",
        value_column: str | None = None,
        votes_column: str | None = None,
        std_column: str | None = None,
        table_split: str | None = None,
        raters: int | None = None,
        seed: int = 0,
    ) -> None:
        task = get_task(task)
        self.check_kind(task)
        check_raters(raters)
        if value_column is None and votes_column is None:
            value_column = "value"
        if value_column is not None and votes_column is not None:
            raise ValueError(f"Wanted value_column or votes_column, got {value_column!r} and {votes_column!r}.")
        if raters is None and std_column is not None:
            raise ValueError(f"std_column: only raters draws with it; wanted raters, too, got {std_column!r} alone.")
        if std_column is not None and votes_column is not None:
            raise ValueError(
                f"std_column: votes are drawn among {votes_column!r}; wanted no std_column, got {std_column!r}."
            )
        if raters is not None and votes_column is None and std_column is None:
            raise ValueError("raters: wanted votes_column or std_column to draw votes from, got neither.")
        table = table if isinstance(table, Dataset) else _fetched(str(table))
        names = [text_column, votes_column if value_column is None else value_column]
        names += [] if std_column is None else [std_column]
        self._texts: list[str] = []
        self._rows: list[str] = []
        self.votes: list[list[float]] | None = None if votes_column is None else []
        """The votes of each text; `None` if there are none."""
        values, deviations = [], []
        for row, cells in _cells(table, [str(name) for name in names], table_split):
            self._texts.append(_text(cells[0], row, text_column))
            self._rows.append(row)
            if self.votes is not None:
                self.votes.append(_votes(cells[1], task, row, str(votes_column)))
            else:
                values.append(task.check_value(_number(cells[1], task, row, str(value_column)), row))
            if len(cells) > 2:
                deviations.append(_deviation(cells[2], row, str(std_column)))
        labels = None
        if self.votes is not None:
            values = [float(mean_votes([votes], task)[0]) for votes in self.votes]
        if raters is not None and self.votes is not None:
            labels = self._some(self.votes, task, raters, seed)
        elif raters is not None:
            labels = mean_votes(draw_votes(values, deviations, task, raters=raters, seed=(seed,)), task)
        super().__init__(task, values, labels)

    def _some(self, votes: Sequence[Sequence[float]], task: OrdinalTask, raters: int, seed: int) -> np.ndarray:
        labels = []
        for number, (row, all_votes) in enumerate(zip(self._rows, votes, strict=True)):
            try:
                chosen = choose_votes([all_votes], raters=raters, seed=(seed, number))
            except ValueError as error:
                raise ValueError(f"{row}: {error}") from None
            labels.append(float(mean_votes(chosen, task)[0]))
        return np.array(labels)

    def name(self, i: int) -> str:
        return self._rows[i]

    def load(self, i: int) -> str:
        """Text `i`, as it stands in the table."""
        return self._texts[i]

    def identify(self, i: int) -> bytes:
        """Text `i` without what makes no other text of it: case, blanks, the form of its characters."""
        return text_identity(self._texts[i])


def _fetched(table: str) -> str:
    """A file of what was fetched, where its name begins with one of [`FETCHES`][rarl.fetching.FETCHES].

    Raises:
        ValueError: If no file of it is named, or another one than there is.
    """
    name, _, file = table.partition("/")
    if name not in FETCHES or FETCHES[name].kind != "table" or Path(table).exists():
        return table
    there = sorted(path.name for path in fetched(name).glob("*.csv"))
    if file not in there:
        raise ValueError(
            f"{table}: wanted a file of what was fetched, {' or '.join(f'{name}/{each}' for each in there)}."
        )
    return str(fetched(name) / file)


def _cells(table: Any, names: Sequence[str], split: str | None) -> Iterator[tuple[str, list[Any]]]:
    """Where each row stands, as messages begin, and its cells in the columns of these names."""
    if not isinstance(table, Dataset) and Path(table).suffix.lower() == ".csv":
        if split is not None:
            raise ValueError(f"table_split: {table} is a CSV, which has none; wanted None, got {split!r}.")
        if not Path(table).is_file():
            raise FileNotFoundError(f"{table}: wanted a CSV of texts, but there is no such file.")
        rows = read_rows(Path(table), LONGEST_TEXT)
        header = next(rows)[1]
        _check_columns(str(table), names, header)
        places = [header.index(name) for name in names]
        for line, row in rows:
            yield f"{table} line {line}", [row[place] for place in places]
        return
    if isinstance(table, Dataset) and split is not None:
        raise ValueError(f"table_split: a Dataset has none; wanted None, got {split!r}.")
    data = (table if isinstance(table, Dataset) else _load(str(table), split)).with_format(None)
    where = "the table" if isinstance(table, Dataset) else str(table)
    _check_columns(where, names, data.column_names)
    for number, row in enumerate(data.select_columns(list(names)), start=1):
        yield f"{where} row {number}", [row[name] for name in names]


def _load(table: str, split: str | None) -> Dataset:
    path = Path(table)
    reader = READERS.get(path.suffix.lower())
    if reader is not None and not path.is_file():
        raise FileNotFoundError(f"{table}: wanted a table of texts, but there is no such file.")
    saved = any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
    try:
        if reader is not None:
            found: Any = load_dataset(reader, data_files=glob.escape(table))
        else:
            found = load_from_disk(table) if saved else load_dataset(table)
    except Exception as error:  # of pyarrow, of JSON, of the Hub
        raise ValueError(
            f"{table}: wanted a CSV, Parquet or JSONL file or a data set of datasets, got "
            f"{type(error).__name__}: {error}"
        ) from error
    if isinstance(found, Dataset):
        if split is not None:
            raise ValueError(f"table_split: {table} has no splits; wanted None, got {split!r}.")
        return found
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    if split not in found:
        raise ValueError(f"table_split: {table} has {', '.join(found)}; wanted one of them, got {split!r}.")
    return found[split]


def _check_columns(where: str, names: Sequence[str], columns: Sequence[str]) -> None:
    missing = [name for name in names if name not in columns]
    if missing:
        raise ValueError(f"{where}: wanted the columns {listed(names)}, got {listed(columns)}{hint(missing, columns)}.")


def _text(cell: Any, row: str, column: str) -> str:
    if not isinstance(cell, str) or not _UNSEEN.sub("", cell).strip():
        raise ValueError(f"{row}: {column}: wanted a text, got {cell!r}.")
    return cell


def _number(cell: Any, task: OrdinalTask, where: str, column: str) -> float:
    number = read_number(cell) if isinstance(cell, str) else None
    if isinstance(cell, int | float | Decimal | np.number) and not isinstance(cell, bool):
        with suppress(OverflowError):  # of a whole number of hundreds of digits
            number = float(cell)
    if number is None:
        raise ValueError(
            f"{where}: {column} {reprlib.repr(cell)} is not a finite number; task {task.name!r} wants: "
            f"{task.value_range}."
        )
    return number


def _votes(cell: Any, task: OrdinalTask, row: str, column: str) -> list[float]:
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            raise ValueError(f"{row}: {column}: wanted votes such as [3, 4, 2], got {cell!r:.80}.") from None
    if not isinstance(cell, Sequence) or isinstance(cell, str) or not len(cell):
        raise ValueError(f"{row}: {column}: wanted a list of at least one vote, got {cell!r:.80}.")
    return [
        task.check_value(_number(vote, task, row, f"{column}, vote {place},"), f"{row}, {column}, vote {place}")
        for place, vote in enumerate(cell, start=1)
    ]


def _deviation(cell: Any, row: str, column: str) -> float:
    number = read_number(cell) if isinstance(cell, str) else cell
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < float("inf"):
        raise ValueError(f"{row}: {column} {cell!r}: wanted a standard deviation of 0 or more, a finite number.")
    return float(number)
