"""Prompts over items that training never saw."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rarl.datasets import (
    ItemSource,
    check_context,
    make_dataset,
    split_by_content,
    verify,
    without_copies,
    without_shots,
)


def heldout_prompts(
    source: ItemSource,
    split: str = "test",
    num_images: list[int] | tuple[int, ...] = (1, 2, 4, 8),
    *,
    num_prompts: int | Mapping[int, int] = 200,
    min_gap: float = 0.0,
    seed: int = 0,
) -> tuple[dict[int, Any], float]:
    """Prompts over one split of a source with their true values, and the median label of its training split.

    Args:
        source: The items; verified here.
        split: `"train"`, `"validation"` or `"test"`, of the default fractions of
            [`split_by_content`][rarl.datasets.sampling.split_by_content].
        num_images: Numbers of images in a prompt.
        num_prompts: Prompts of each number: one for all, or by number.
        min_gap: Least difference between any two values of a prompt.
        seed: Seed of the split and of the groups; the split of a training run is reproduced by its seed.

    Returns:
        Number of images → rows, as [`evaluate`][rarl.evaluation.protocol.evaluate] takes them, and the median.

    Raises:
        ValueError: If the split is unknown, the groups are impossible, or the source is a
            [`rated`][rarl.datasets.source.ItemSource.rated] one, whose values are votes.
    """
    if source.is_rated:
        raise ValueError("Held-out prompts want the true values, got a source whose values are labels of raters.")
    verify(source)
    splits = split_by_content(source, seed=seed)
    if split not in splits:
        raise ValueError(f"Unknown split {split!r}; wanted one of {', '.join(splits)}.")
    indices = without_shots(source, without_copies(source, splits[split]))
    datasets = {}
    for number in sorted(set(num_images)):
        prompts = num_prompts if isinstance(num_prompts, int) else num_prompts[number]
        try:
            datasets[number] = make_dataset(source, indices, prompts, mix={number: 1.0}, min_gap=min_gap, seed=seed)
        except ValueError as error:
            raise ValueError(
                f"Held-out prompts of {number} {source.kind}s from the {split} split, {len(indices)} of {len(source)} "
                f"{source.kind}s: {error} Give more, or leave {number} out (eval_num_images of a recipe, "
                "--num-images of rarl evaluate)."
            ) from None
    return datasets, float(np.median(source.labels[splits["train"]]))


def check_test_context(
    datasets: dict[int, Any], processor: Any, max_position_embeddings: int, *, max_new_tokens: int
) -> None:
    """[`check_context`][rarl.datasets.validation.check_context] for prompts of
    [`heldout_prompts`][rarl.evaluation.heldout.heldout_prompts].

    Raises:
        ValueError: Names the number of images, the first row that is too long, its files, its tokens and the limit.
    """
    for number, rows in datasets.items():
        try:
            check_context(rows, processor, max_position_embeddings, max_completion_length=max_new_tokens)
        except ValueError as error:
            raise ValueError(f"Held-out prompts of {number} items: {error}") from None
