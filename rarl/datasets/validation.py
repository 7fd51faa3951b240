"""Checks before training: every prompt fits the context whole, and all rows have images or none has."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from rarl.datasets.prompts import RowTransform
from rarl.datasets.source import ImageSource
from rarl.prompt import build_prompt


def _text_tokens(source: ImageSource, num_images: int, processor: Any) -> int:
    """Tokens of a prompt for `num_images` images, without those that stand for image patches."""
    text = processor.apply_chat_template(
        build_prompt(source.task, num_images), add_generation_prompt=True, tokenize=False
    )
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    placeholders = ids.count(processor.image_token_id)
    if placeholders != num_images:
        raise ValueError(
            f"The chat template writes {placeholders} image placeholders for a prompt of {num_images} images."
        )
    return len(ids) - num_images


def prompt_lengths(source: ImageSource, groups: Iterable[Sequence[int]], processor: Any) -> np.ndarray:
    """Tokens of each prompt as the processor makes them, int [g], without decoding an image twice.

    An image of `source.size` h x w is resized by the processor's own bounds to a grid of patches, of which
    `merge_size ** 2` become one token.

    Args:
        source: The images.
        groups: Image indices of each prompt.
        processor: A Qwen2-VL or Qwen2.5-VL processor.
    """
    image_processor = processor.image_processor
    by_size: dict[tuple[int, int], int] = {}
    by_number: dict[int, int] = {}
    lengths: list[int] = []
    for group in groups:
        if len(group) not in by_number:
            by_number[len(group)] = _text_tokens(source, len(group), processor)
        length = by_number[len(group)]
        for i in group:
            size = source.size(i)
            if size not in by_size:
                patches = image_processor.get_number_of_image_patches(*size)
                by_size[size] = patches // image_processor.merge_size**2
            length += by_size[size]
        lengths.append(length)
    return np.array(lengths, dtype=np.int64)


def check_groups(
    source: ImageSource,
    groups: Iterable[Sequence[int]],
    processor: Any,
    max_position_embeddings: int,
    max_completion_length: int,
) -> None:
    """Refuse prompts that leave less than `max_completion_length` tokens of the model's context.

    Args:
        source: The images.
        groups: Image indices of each prompt, such as the first of a stream.
        processor: A Qwen2-VL or Qwen2.5-VL processor.
        max_position_embeddings: The model's context in tokens, `model.config.text_config.max_position_embeddings`.
        max_completion_length: Most tokens that will be generated or are given as completion.

    Raises:
        ValueError: Names the first such row, its files, its tokens and the limit, and counts the rest.
    """
    groups = list(groups)
    lengths = prompt_lengths(source, groups, processor)
    limit = max_position_embeddings - max_completion_length
    failing = np.flatnonzero(lengths > limit)
    if len(failing):
        row = int(failing[0])
        files = ", ".join(source.name(i) for i in groups[row])
        raise ValueError(
            f"Row {row} ({files}): the prompt has {lengths[row]} tokens, but at most {limit} fit beside "
            f"{max_completion_length} tokens of completion in a context of {max_position_embeddings}. "
            f"{len(failing)} of {len(lengths)} rows are too long; lower max_pixels or the number of images."
        )


def check_context(dataset: Dataset, processor: Any, max_position_embeddings: int, max_completion_length: int) -> None:
    """[`check_groups`] for the rows of a dataset made by [`make_dataset`](rarl.datasets.prompts.make_dataset).

    Raises:
        TypeError: If the dataset was made otherwise.
        ValueError: As [`check_groups`].
    """
    transform = dataset.format["format_kwargs"].get("transform")
    if not isinstance(transform, RowTransform):
        raise TypeError(f"check_context wants a dataset made by make_dataset, got one with transform {transform!r}.")
    groups = dataset.with_format(None)["images"]
    check_groups(transform.source, groups, processor, max_position_embeddings, max_completion_length)


def rows_with_images(dataset: Dataset) -> np.ndarray:
    """Whether each row has images, bool [rows]; no image is decoded.

    Args:
        dataset: Rows with an `images` column (lists) or an `image` column, or neither.
    """
    shown = np.zeros(len(dataset), dtype=bool)
    columns = [name for name in ("images", "image") if name in dataset.column_names]
    if not columns:
        return shown
    start = 0
    for table in dataset.select_columns(columns).with_format("arrow").iter(batch_size=1000):
        for name in columns:
            column = table[name]
            filled = pc.greater(pc.fill_null(pc.list_value_length(column), 0), 0) if name == "images" else None
            shown[start : start + len(table)] |= np.asarray(column.is_valid() if filled is None else filled)
        start += len(table)
    return shown
