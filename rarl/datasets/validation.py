"""Checks before training: every prompt fits the context whole."""

from collections.abc import Iterable, Sequence
from typing import Any

from datasets import Dataset

from rarl.datasets.prompts import RowTransform
from rarl.datasets.source import ImageSource, ItemSource
from rarl.inputs import check_length, prompt_lengths, text_lengths


def check_groups(
    source: ItemSource,
    groups: Iterable[Sequence[int]],
    processor: Any,
    *,
    max_position_embeddings: int,
    max_completion_length: int,
) -> None:
    """Refuse prompts that leave less than `max_completion_length` tokens of the model's context.

    Args:
        source: The items.
        groups: Indices of the items of each prompt, such as the first of a stream.
        processor: Processor of the model.
        max_position_embeddings: The model's context in tokens, `model.config.text_config.max_position_embeddings`.
        max_completion_length: The largest number of tokens that will be generated or are given as completion.

    Raises:
        ValueError: Names the first such row, its items, its tokens and the limit, and counts the rest; or a text that
            holds tokens of the tokenizer's own.
    """
    groups = list(groups)
    names = lambda row: ", ".join(source.name(i) for i in groups[row])  # noqa: E731
    if isinstance(source, ImageSource):
        lengths = prompt_lengths(source.task, ([source.size(i) for i in group] for group in groups), processor)
    else:
        transform = RowTransform(source)
        lengths = text_lengths(
            source.task, (transform({"prompt": [group]})["prompt"][0] for group in groups), processor, names
        )
    check_length(lengths, names, max_position_embeddings, max_new_tokens=max_completion_length)


def check_context(
    dataset: Dataset, processor: Any, max_position_embeddings: int, *, max_completion_length: int
) -> None:
    """[`check_groups`][rarl.datasets.validation.check_groups] for the rows of a dataset made by
    [`make_dataset`][rarl.datasets.prompts.make_dataset].

    Raises:
        TypeError: If the dataset was made otherwise.
        ValueError: As [`check_groups`][rarl.datasets.validation.check_groups].
    """
    transform = dataset.format["format_kwargs"].get("transform")
    if not isinstance(transform, RowTransform):
        raise TypeError(f"check_context wants a dataset made by make_dataset, got one with transform {transform!r}.")
    groups = dataset.with_format(None)["prompt"]
    check_groups(
        transform.source,
        groups,
        processor,
        max_position_embeddings=max_position_embeddings,
        max_completion_length=max_completion_length,
    )
