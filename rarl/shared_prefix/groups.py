"""Which rows of a batch answer one prompt, and the images of each prompt once."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

Images = dict[str, torch.Tensor]
"""Images of one prompt: the model's inputs for them by name, such as `pixel_values` and `image_grid_thw`."""

IMAGE_FIELDS = ("pixel_values", "image_grid_thw", "pixel_attention_mask", "image_sizes")
"""Names of the inputs for images of the families that can share prompts."""


def find_groups(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    completion_length: int,
    *,
    images: Sequence[Images | None] | None = None,
) -> list[list[int]]:
    """Rows that have the same prompt: the same unpadded ids and images. In order of first appearance.

    Args:
        input_ids: Prompts (padded on the left) and answers (padded on the right), `[b, p + r]`.
        attention_mask: 1 for tokens, 0 for padding, `[b, p + r]`.
        completion_length: Width r of the answers.
        images: For each row its images, or `None`.
    """
    ids = input_ids[:, :-completion_length].cpu()
    mask = attention_mask[:, :-completion_length].cpu().bool()
    return same_prompts([row[is_token].tolist() for row, is_token in zip(ids, mask, strict=True)], images)


def same_prompts(prompts: Sequence[Sequence[int]], images: Sequence[Images | None] | None = None) -> list[list[int]]:
    """Rows that have the same token ids and images. In order of first appearance.

    Args:
        prompts: Token ids of each row, without padding.
        images: For each row its images, or `None`.
    """
    groups: list[list[int]] = []
    by_key: dict[Any, list[list[int]]] = {}
    for row, ids in enumerate(prompts):
        row_images = images[row] if images is not None else None
        candidates = by_key.setdefault((tuple(ids), row_images is None), [])
        for group in candidates:
            first = images[group[0]] if images is not None else None
            if row_images is None or (first is not None and _same_images(row_images, first)):
                group.append(row)
                break
        else:
            candidates.append([row])
            groups.append(candidates[-1])
    return groups


def _same_images(one: Images, other: Images) -> bool:
    return all(value is other[name] or torch.equal(value, other[name]) for name, value in one.items())


def split_images(fields: Mapping[str, Any], num_images: Sequence[int] | None) -> list[Images | None] | None:
    """For each row the inputs for its images, `None` for a row without; `None` if there are none at all.

    Args:
        fields: Inputs of the model, those of [`IMAGE_FIELDS`][rarl.shared_prefix.groups.IMAGE_FIELDS] and `num_tiles`
            among them. Each is a tensor of all rows (patches as `image_grid_thw` counts them, tiles as `num_tiles`
            does, images, or rows), or one tensor a row.
        num_images: Number of images of each row.
    """
    if num_images is None or fields.get("pixel_values") is None:
        return None
    rows = _image_rows(fields, num_images)
    return [row if number else None for row, number in zip(rows, num_images, strict=True)]


def num_tiles(
    processor: Any, prompt_ids: Sequence[Any], fields: Mapping[str, Any], num_images: Sequence[int] | None
) -> list[int] | None:
    """Tiles of each row where pixels come in tiles, several an image (InternVL), which its image tokens tell; `None`
    where they do not.

    Args:
        processor: The processor of the model.
        prompt_ids: Token ids of each row.
        fields: Inputs of the model for images.
        num_images: Number of images of each row.
    """
    pixels = fields.get("pixel_values")
    if num_images is None or pixels is None or pixels.ndim != 4 or len(pixels) == sum(num_images):
        return None
    token, length = processor.image_token_id, processor.image_seq_length
    return [list(ids).count(token) // length for ids in prompt_ids]


def _image_rows(fields: Mapping[str, Any], num_images: Sequence[int]) -> list[Images]:
    grids, tiles = fields.get("image_grid_thw"), fields.get("num_tiles")
    if isinstance(grids, torch.Tensor):
        grids = torch.split(grids, list(num_images))
    rows: list[Images] = [{} for _ in num_images]
    for name in IMAGE_FIELDS:
        parts = grids if name == "image_grid_thw" else fields.get(name)
        if isinstance(parts, torch.Tensor):
            if name == "pixel_values" and grids is not None:
                lengths = [int(grid.prod(dim=-1).sum()) for grid in grids]
            elif name == "pixel_values" and tiles is not None:
                lengths = list(tiles)
            else:
                lengths = list(num_images) if len(parts) == sum(num_images) else [1] * len(num_images)
            parts = torch.split(parts, lengths)
        for row, part in zip(rows, parts or (), strict=parts is not None):
            row[name] = part
    return rows


def join_images(images: Sequence[Images | None]) -> Images:
    """Inputs of the model for the images of some rows, in their order; empty without images."""
    present = [row_images for row_images in images if row_images is not None]
    return {name: torch.cat([row_images[name] for row_images in present]) for name in (present[0] if present else ())}


def share_images(batch: dict[str, Any], groups: Sequence[Sequence[int]]) -> dict[str, Any]:
    """A batch whose inputs for images are lists of one tensor a row; rows of a group hold the same ones.

    The tensors are copies, so the whole, with its pixels for every answer, can be freed.

    Args:
        batch: A batch with `pixel_values` and `num_images`, or without images; see
            [`split_images`][rarl.shared_prefix.groups.split_images].
        groups: Rows with the same images; see [`same_prompts`][rarl.shared_prefix.groups.same_prompts].
    """
    if batch.get("pixel_values") is None or batch.get("num_images") is None:
        return batch
    rows = _image_rows(batch, batch["num_images"])
    for first, *others in groups:
        rows[first] = {name: value.clone() for name, value in rows[first].items()}
        for row in others:
            rows[row] = rows[first]
    return {**batch, **{name: [row[name] for row in rows] for name in rows[0]}}


def shuffled_groups(num_rows: int, num_generations: int, offset: int = 0) -> torch.Tensor:
    """A permutation of the rows of a generation batch, `[num_rows]`, that keeps the answers of a group together.

    Args:
        num_rows: Rows of this process.
        num_generations: G; rows come in runs of G.
        offset: Rows of earlier processes, where a group may have begun.
    """
    group = (torch.arange(num_rows) + offset) // num_generations
    # One draw of TRL's kind, so that a run with the same seed samples the same answers either way.
    draw = torch.randperm(num_rows)
    keys = draw.new_full((int(group[-1]) + 1,), num_rows).scatter_reduce(0, group, draw, "amin")
    return torch.argsort(keys[group], stable=True)


def take_rows(batch: dict[str, Any], order: torch.Tensor) -> dict[str, Any]:
    """Rows of a batch in a given order; scalars and `None` stay as they are."""

    def take(value: Any) -> Any:
        if value is None or (isinstance(value, torch.Tensor) and value.ndim == 0):
            return value
        return value[order.to(value.device)] if isinstance(value, torch.Tensor) else [value[i] for i in order.tolist()]

    return {name: take(value) for name, value in batch.items()}
