"""The shared layout: a prompt and all answers to it in one row, and who sees whom in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Group:
    """Rows of a batch that answer one prompt.

    Attributes:
        rows: Indices of the rows in the batch, ascending.
        prompt: Token ids of the prompt, without padding, `[p]`.
        positions: Position ids of the prompt, `[d, p]`; d is 3 for multimodal RoPE, else 1.
        blocks: Number of the image that a token is of where tokens of an image see each other, -1 for text, `[p]`;
            `None` where they do not.
    """

    rows: tuple[int, ...]
    prompt: torch.Tensor
    positions: torch.Tensor
    blocks: torch.Tensor | None = None


@dataclass(frozen=True)
class Pack:
    """Model inputs of packed groups: one row a group, padded on the right.

    Attributes:
        input_ids: Token ids of the packed rows, `[g, l]`.
        position_ids: Position ids of the packed rows, `[d, g, l]`.
        shift_labels: Next token of every answer position, -100 elsewhere, `[g, l]`.
        segment: 0 for the prompt, 1… for the answers, -1 for padding, `[g, l]`.
        blocks: Number of the image, -1 where there is none, `[g, l]`; see [`Group`][rarl.shared_prefix.layout.Group].
        source_row, source_column: Where in the batch `[b, r]` of answers each labelled position belongs, in row-major
            order of `shift_labels != -100`.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    shift_labels: torch.Tensor
    segment: torch.Tensor
    blocks: torch.Tensor
    source_row: torch.Tensor
    source_column: torch.Tensor

    @property
    def allowed(self) -> torch.Tensor:
        """Which keys a query may attend to, `[g, l, l]`, bool.

        See [`additive_mask`][rarl.shared_prefix.layout.additive_mask], and in blocks
        [`block_mask`][rarl.shared_prefix.flex.block_mask].
        """
        query, key = self.segment[:, :, None], self.segment[:, None, :]
        length = self.segment.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool, device=self.segment.device).tril()
        image = self.blocks[:, :, None]
        return (earlier & ((key == 0) | (key == query))) | ((image == self.blocks[:, None, :]) & (image >= 0))

    def within(self, window: int) -> torch.Tensor:
        """[`allowed`][rarl.shared_prefix.layout.Pack.allowed] in a layer with a sliding window: keys less than `window`
        positions before the query."""
        positions = self.position_ids[0]
        return self.allowed & (positions[:, None, :] > positions[:, :, None] - window)

    def scatter(self, per_token: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Bring a field of `[g, l]` back into the layout of the answers, `[b, r]`; 0 where there is no token."""
        return self.place(per_token[self.shift_labels != -100], shape)

    def place(self, values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Values of the labelled positions, in row-major order, in the layout of the answers, `[b, r]`; 0 elsewhere."""
        return values.new_zeros(tuple(shape)).index_put((self.source_row, self.source_column), values)


def pack_groups(
    groups: Sequence[Group], completion_ids: torch.Tensor, completion_mask: torch.Tensor, *, pad_token_id: int = 0
) -> Pack:
    """Lay out groups in rows.

    Args:
        groups: Groups, whose rows index the two tensors below; sizes and prompt lengths may differ.
        completion_ids: Answers, padded on the right, `[b, r]`.
        completion_mask: 1 for the tokens of an answer, which lie first, `[b, r]`. One without any has no segment.
        pad_token_id: Fills the rest of a row.
    """
    device = completion_ids.device
    lengths = completion_mask.sum(dim=1).tolist()
    # A row has a token at least, be it padding: prompts of one token whose answers are all masked leave nothing else.
    total = max(1, *(len(group.prompt) - 1 + sum(lengths[row] for row in group.rows) for group in groups))
    dimensions = groups[0].positions.shape[0]
    input_ids = completion_ids.new_full((len(groups), total), pad_token_id)
    position_ids = completion_ids.new_zeros((dimensions, len(groups), total))
    shift_labels = completion_ids.new_full((len(groups), total), -100)
    segment = completion_ids.new_full((len(groups), total), -1)
    blocks = segment.clone()
    source: list[torch.Tensor] = []
    for index, group in enumerate(groups):
        shared = len(group.prompt) - 1
        input_ids[index, :shared] = group.prompt[:-1]
        position_ids[:, index, :shared] = group.positions[:, :-1]
        segment[index, :shared] = 0
        if group.blocks is not None:
            blocks[index, :shared] = group.blocks[:-1]
        start = shared
        for number, row in enumerate(group.rows, start=1):
            end = start + lengths[row]
            if start == end:
                continue
            columns = torch.arange(end - start, device=device)
            answer = completion_ids[row, : end - start]
            input_ids[index, start] = group.prompt[-1]
            input_ids[index, start + 1 : end] = answer[:-1]
            position_ids[:, index, start:end] = group.positions[:, -1:] + columns
            shift_labels[index, start:end] = answer
            segment[index, start:end] = number
            source.append(torch.stack([torch.full_like(columns, row), columns]))
            start = end
    rows, columns = torch.cat(source, dim=1) if source else completion_ids.new_zeros((2, 0))
    return Pack(input_ids, position_ids, shift_labels, segment, blocks, rows, columns)


def additive_mask(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`[g, l, l]` bool → `[g, 1, l, l]` float, 0 where allowed and the least finite number elsewhere.

    A bool mask is added as a number by eager attention, silently.
    """
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def attention_dtype(model: Any, device: str) -> torch.dtype:
    """Type that attention computes in on a kind of device, and so that of its mask: autocast's where that is on, else
    the model's."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.dtype


def masks(pack: Pack, config: Any, dtype: torch.dtype) -> torch.Tensor | dict[str, torch.Tensor]:
    """The mask of a pack as a model takes it: one, or one for each kind of layer if some have sliding windows."""
    whole, text = additive_mask(pack.allowed, dtype), config.get_text_config()
    if "sliding_attention" not in (getattr(text, "layer_types", None) or []):
        return whole
    return {"full_attention": whole, "sliding_attention": additive_mask(pack.within(text.sliding_window), dtype)}


def image_blocks(token_type_ids: torch.Tensor) -> torch.Tensor:
    """Number of the run of image tokens that a token is of, -1 for text, `[p]`."""
    image = token_type_ids == 1
    begins = image & ~torch.cat([image.new_zeros(1), image[:-1]])
    return torch.where(image, begins.cumsum(0) - 1, -1)


NO_TEXT_LAST = "The last token of a prompt must be text for its answers to share it, an image token is seen."


def prompt_positions(
    base_model: Any, prompt: torch.Tensor, mm_token_type_ids: torch.Tensor | None, *, grid: torch.Tensor | None
) -> torch.Tensor:
    """Position ids of one unpadded prompt, `[d, p]`.

    Args:
        base_model: The model that has `get_rope_index` (multimodal RoPE), or any other, for plain positions.
        prompt: Token ids, `[p]`.
        mm_token_type_ids: 0 for text, 1 for images, `[p]`.
        grid: Image grids of the prompt, `[n, 3]`.

    Raises:
        ValueError: If an answer could not go on from the prompt's last token because it is not text.
    """
    if grid is None or mm_token_type_ids is None:
        dimensions = 3 if hasattr(base_model, "get_rope_index") else 1
        return torch.arange(len(prompt), device=prompt.device).expand(dimensions, -1)
    if int(mm_token_type_ids[-1]) != 0:
        raise ValueError(NO_TEXT_LAST)
    positions, _ = base_model.get_rope_index(prompt[None], mm_token_type_ids[None], image_grid_thw=grid)
    return positions[:, 0]
