"""Data: sources of images with values, splits by content, groups of images, and rows that trainers read."""

from pathlib import Path

from rarl.datasets.builtin import BuiltinSource
from rarl.datasets.folder import FolderSource
from rarl.datasets.images import ImageError
from rarl.datasets.prompts import make_dataset, stream_dataset
from rarl.datasets.sampling import sample_groups, split_by_content, without_copies
from rarl.datasets.source import ImageSource, verify
from rarl.datasets.utkface import UTKFaceSource
from rarl.datasets.validation import check_context, check_groups
from rarl.task import OrdinalTask

__all__ = [
    "SOURCES",
    "BuiltinSource",
    "FolderSource",
    "ImageError",
    "ImageSource",
    "UTKFaceSource",
    "check_context",
    "check_groups",
    "load_source",
    "make_dataset",
    "sample_groups",
    "split_by_content",
    "stream_dataset",
    "verify",
    "without_copies",
]

SOURCES = ("builtin", "utkface", "folder")


def load_source(
    name: str,
    task: str | OrdinalTask | None = None,
    folder: str | Path | None = None,
    csv: str | Path | None = None,
    size: int | None = None,
    seed: int = 0,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> ImageSource:
    """A data source by name, as recipes and commands give it.

    Args:
        name: `"builtin"`, `"utkface"` or `"folder"`.
        task: Task of the values; defaults to count for `builtin` and age for `utkface`, required for `folder`.
        folder: Folder of images, required for all but `builtin`.
        csv: CSV with the header `file,value`, required for `folder`.
        size: Number of images of `builtin`, 1000 if not given.
        seed: Seed of `builtin`'s images.
        min_pixels: Least height times width of a loaded image.
        max_pixels: Largest height times width of a loaded image.

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
    given = {"task": task, "folder": folder, "csv": csv, "size": size}
    wanted = {"builtin": set(), "utkface": {"folder"}, "folder": {"folder", "csv", "task"}}[name]
    for argument in sorted(wanted):
        if given[argument] is None:
            raise ValueError(f"Data source {name!r} needs {argument}, got None.")
    for argument in sorted({"folder", "csv", "size"} - wanted - ({"size"} if name == "builtin" else set())):
        if given[argument] is not None:
            raise ValueError(f"Data source {name!r} does not use {argument}, got {str(given[argument])!r}.")
    if name == "builtin":
        return BuiltinSource(task or "count", 1000 if size is None else size, seed, min_pixels, max_pixels)
    if name == "utkface":
        assert folder is not None
        return UTKFaceSource(folder, task or "age", min_pixels, max_pixels)
    assert folder is not None and csv is not None and task is not None
    return FolderSource(folder, csv, task, min_pixels, max_pixels)
