"""Data: sources of images or texts with values, splits by content, groups of items, and rows that trainers read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rarl.answer_format import Kind
from rarl.datasets.builtin import BuiltinSource
from rarl.datasets.folder import FolderSource
from rarl.datasets.images import ImageError
from rarl.datasets.prompts import make_dataset, stream_dataset, written_out
from rarl.datasets.sampling import sample_groups, split_by_content, with_shots, without_copies, without_shots
from rarl.datasets.source import ImageSource, ItemSource, verify
from rarl.datasets.table import TableSource
from rarl.datasets.utkface import UTKFaceSource
from rarl.datasets.validation import check_context, check_groups
from rarl.task import OrdinalTask

__all__ = [
    "SOURCES",
    "BuiltinSource",
    "FolderSource",
    "ImageError",
    "ImageSource",
    "ItemSource",
    "SourceEntry",
    "TableSource",
    "UTKFaceSource",
    "check_context",
    "check_groups",
    "load_source",
    "make_dataset",
    "sample_groups",
    "split_by_content",
    "stream_dataset",
    "takes",
    "verify",
    "with_shots",
    "without_copies",
    "without_shots",
    "written_out",
]


@dataclass(frozen=True)
class SourceEntry:
    """An entry of [`SOURCES`][rarl.datasets.SOURCES].

    Args:
        source: The class, called with `task` and the arguments below, by name.
        needs: Which arguments of [`load_source`][rarl.datasets.load_source] must be given.
        takes: Which of these may be given; `min_pixels` and `max_pixels` may for all images.
        task: Name of its task where none is given.
    """

    source: Callable[..., ItemSource]
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    task: str | None = None

    @property
    def kind(self) -> Kind:
        """What it holds: images or texts."""
        return self.source.kind  # type: ignore[attr-defined, no-any-return]

    @property
    def arguments(self) -> tuple[str, ...]:
        """All that it needs or takes; bounds of pixels where it holds images."""
        return (*self.needs, *self.takes, *(("min_pixels", "max_pixels") if self.kind == "image" else ()))


SOURCES: dict[str, SourceEntry] = {
    "builtin": SourceEntry(BuiltinSource, takes=("size", "seed", "raters", "rater_noise"), task="count"),
    "utkface": SourceEntry(UTKFaceSource, needs=("folder",), task="age"),
    "folder": SourceEntry(FolderSource, needs=("folder", "csv", "task"), takes=("raters", "seed")),
    "table": SourceEntry(
        TableSource,
        needs=("table",),
        takes=("raters", "seed", "table_split", "text_column", "value_column", "votes_column", "std_column"),
        task="sentiment",
    ),
}
"""All data sources by name: the one place in which a new one is entered."""


def takes(name: str, argument: str) -> bool:
    """Whether a data source needs or takes an argument of [`load_source`][rarl.datasets.load_source]; of an unknown
    source, which that function refuses, nothing is said against it."""
    entry = SOURCES.get(name)
    return entry is None or argument in entry.arguments


def load_source(
    name: str,
    task: str | OrdinalTask | None = None,
    *,
    folder: str | Path | None = None,
    csv: str | Path | None = None,
    size: int | None = None,
    seed: int = 0,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    rater_noise: float | None = None,
    raters: int | None = None,
    table: str | Path | None = None,
    text_column: str | None = None,
    value_column: str | None = None,
    votes_column: str | None = None,
    std_column: str | None = None,
    table_split: str | None = None,
) -> ItemSource:
    """A data source by name, as recipes and commands give it.

    Args:
        name: One of [`SOURCES`][rarl.datasets.SOURCES].
        task: Task of the values; by default that of the source's entry.
        folder: Folder of images, of sources that read one.
        csv: CSV with the header `file,value`, of sources that read one; see
            [`FolderSource`][rarl.datasets.folder.FolderSource] for one with votes.
        size: Number of images of a source that makes them; 1000 of `builtin` if not given.
        seed: Seed of the images of a source that makes them, and of votes that are drawn.
        min_pixels: Least height times width of a loaded image.
        max_pixels: Largest height times width of a loaded image.
        rater_noise: Standard deviation of a vote about the true value, in units of the task, of a source that knows the
            truth. Only the labels of [`rated`][rarl.datasets.source.ItemSource.rated] have it.
        raters: Votes that a label is the mean of, of sources with votes or noise.
        table: Table of texts, of sources that read one; see [`TableSource`][rarl.datasets.table.TableSource], also for
            what follows.
        text_column: Column of the texts.
        value_column: Column of the values.
        votes_column: Column of the votes.
        std_column: Column of the deviation of a vote.
        table_split: Split of a data set that has several.

    Raises:
        ValueError: If the name is unknown, or an argument is missing or has no use for this source.

    Example:

    ```python
    >>> from rarl.datasets import load_source
    >>> source = load_source("builtin", task="brightness", size=4)
    >>> len(source), source.load(0).size
    (4, (56, 56))
    ```
    """
    if name not in SOURCES:
        raise ValueError(f"Unknown data source {name!r}; known sources: {', '.join(SOURCES)}.")
    entry = SOURCES[name]
    given: dict[str, Any] = {"task": task, "folder": folder, "csv": csv, "size": size, "seed": seed}
    given |= {"raters": raters, "rater_noise": rater_noise, "min_pixels": min_pixels, "max_pixels": max_pixels}
    given |= {"table": table, "table_split": table_split, "text_column": text_column, "value_column": value_column}
    given |= {"votes_column": votes_column, "std_column": std_column}
    for argument in sorted(entry.needs):
        if given[argument] is None:
            raise ValueError(f"Data source {name!r} needs {argument}, got None.")
    for argument in given:
        unused = argument not in ("task", "seed") and argument not in entry.arguments
        if given[argument] is not None and unused:
            raise ValueError(f"Data source {name!r} does not use {argument}, got {str(given[argument])!r}.")
    used = {argument: given[argument] for argument in entry.arguments if given[argument] is not None}
    return entry.source(**{"task": task or entry.task, **used})
