"""Rows with and without images in the same data: whether they meet in a batch is known before training."""

from collections.abc import Iterable
from itertools import islice
from math import ceil
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset


def rows_with_images(dataset: Dataset) -> np.ndarray:
    """Whether each row has images, bool [rows]; no image is decoded.

    Args:
        dataset: Rows with an `images` column (lists) or an `image` column, or neither.
    """
    has_images = np.zeros(len(dataset), dtype=bool)
    columns = [name for name in ("images", "image") if name in dataset.column_names]
    if not columns:
        return has_images
    start = 0
    for table in dataset.select_columns(columns).with_format("arrow").iter(batch_size=1000):
        for name in columns:
            column = table[name]
            listed = name == "images" and not pa.types.is_null(column.type)  # the type of nothing but `None`
            filled = pc.greater(pc.fill_null(pc.list_value_length(column), 0), 0) if listed else None
            has_images[start : start + len(table)] |= np.asarray(column.is_valid() if filled is None else filled)
        start += len(table)
    return has_images


def first_mixed(order: Iterable[int], has_images: np.ndarray, size: int) -> tuple[int, int] | None:
    """A row with images and one without that meet in a batch; `None` if none do.

    Args:
        order: Rows in the order in which they are read.
        has_images: Whether each row has images.
        size: Rows of a batch of one process. Batches follow each other in `order`.
    """
    rows = iter(order)
    while batch := list(islice(rows, size)):
        kinds = has_images[batch]
        if kinds.any() and not kinds.all():
            return batch[int(kinds.argmax())], batch[int(kinds.argmin())]
    return None


def _check(data: Any, order: Iterable[int], size: int, name: str, settings: str) -> None:
    has_images = rows_with_images(data)
    if has_images.all() or not has_images.any():
        return
    met = first_mixed(order, has_images, size)
    if met is not None:
        raise ValueError(
            f"{name}: row {met[0]} has images and row {met[1]} has none, and one batch of a process ({size} rows, "
            f"{settings}) holds both ({int((~has_images).sum())} of {len(has_images)} rows are without); wanted "
            "batches of one kind: train on the kinds separately, or sort the rows and set shuffle_dataset=False."
        )


def check_mixed(trainer: Any) -> None:
    """Refuse data of which one generation batch of a process would hold rows with images and rows without.

    The order is that of the trainer's own samplers. Rows of a stream are not known beforehand.

    Args:
        trainer: A `GRPOTrainer`.

    Raises:
        ValueError: Names two rows that meet.
    """
    args = trainer.args
    data, sampler = trainer.train_dataset, trainer._get_train_sampler
    size = args.per_device_train_batch_size * args.steps_per_generation
    if isinstance(data, Dataset):
        rows = sampler(data)
        used = args.max_steps * args.gradient_accumulation_steps * size * trainer.accelerator.num_processes
        epochs = ceil(used / max(len(rows), 1)) if args.max_steps > 0 else ceil(args.num_train_epochs)
        order = islice((row for _ in range(epochs) for row in rows), used if args.max_steps > 0 else None)
        _check(data, order, size, "train_dataset", "per_device_train_batch_size x steps_per_generation")
    held_out = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {"": trainer.eval_dataset}
    for name, part in held_out.items():
        if isinstance(part, Dataset):
            order = trainer._get_eval_sampler(part)
            name = f"eval_dataset {name}".strip()
            _check(part, order, args.per_device_eval_batch_size, name, "per_device_eval_batch_size")
