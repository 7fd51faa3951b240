"""Encode each prompt once: one row for a prompt and all answers to it.

A group of G answers shares its prompt. Where plain GRPO lays out G rows of prompt and answer, here one row holds
`prompt[:-1]` and then, for each answer, `[prompt[-1], *answer[:-1]]`. The mask is causal, and a token of an answer sees
the prompt and its own answer only; the position ids of every answer go on from the prompt. Log-probabilities and
gradients are those of the plain layout, up to rounding; the work is `P + G·R` tokens instead of `G·(P + R)`, and the
vision tower runs once a prompt.

Everything is a pure function of tensors, so any trainer that samples groups can use it; see `docs/shared_prefix.md`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from gor_head.vlm.logits import CodeMask
from rarl.flex import block_mask, take_block_masks

Images = dict[str, torch.Tensor]
"""Images of one prompt: the model's inputs for them by name, such as `pixel_values` and `image_grid_thw`."""

IMAGE_FIELDS = ("pixel_values", "image_grid_thw", "pixel_attention_mask", "image_sizes")
"""Names of the inputs for images of the families that can share prompts."""


@dataclass(frozen=True)
class Group:
    """Rows of a batch that answer one prompt.

    Attributes:
        rows: Their indices in the batch, ascending.
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
        input_ids: `[g, l]`.
        position_ids: `[d, g, l]`.
        shift_labels: Next token of every answer position, -100 elsewhere, `[g, l]`.
        segment: 0 for the prompt, 1… for the answers, -1 for padding, `[g, l]`.
        blocks: Number of the image, -1 where there is none, `[g, l]`; see [`Group`].
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
        """Which keys a query may attend to, `[g, l, l]`, bool; see [`additive_mask`], and [`rarl.flex`] in blocks."""
        query, key = self.segment[:, :, None], self.segment[:, None, :]
        length = self.segment.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool, device=self.segment.device).tril()
        image = self.blocks[:, :, None]
        return (earlier & ((key == 0) | (key == query))) | ((image == self.blocks[:, None, :]) & (image >= 0))

    def within(self, window: int) -> torch.Tensor:
        """[`allowed`] in a layer with a sliding window: keys less than `window` positions before the query."""
        positions = self.position_ids[0]
        return self.allowed & (positions[:, None, :] > positions[:, :, None] - window)

    def scatter(self, per_token: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Bring a field of `[g, l]` back into the layout of the answers, `[b, r]`; 0 where there is no token."""
        return self.place(per_token[self.shift_labels != -100], shape)

    def place(self, values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Values of the labelled positions, in row-major order, in the layout of the answers, `[b, r]`; 0 elsewhere."""
        return values.new_zeros(tuple(shape)).index_put((self.source_row, self.source_column), values)


def find_groups(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    completion_length: int,
    images: Sequence[Images | None] | None = None,
) -> list[list[int]]:
    """Rows that have the same prompt: the same unpadded ids and images. In order of first appearance.

    Args:
        input_ids: Prompts (padded on the left) and answers (padded on the right), `[b, p + r]`.
        attention_mask: 1 for tokens, 0 for padding, `[b, p + r]`.
        completion_length: r.
        images: For each row its images, or `None`.
    """
    ids = input_ids[:, :-completion_length].cpu()
    mask = attention_mask[:, :-completion_length].cpu().bool()
    return same_prompts([row[kept].tolist() for row, kept in zip(ids, mask, strict=True)], images)


def same_prompts(prompts: Sequence[Sequence[int]], images: Sequence[Images | None] | None = None) -> list[list[int]]:
    """Rows that have the same token ids and images. In order of first appearance.

    Args:
        prompts: Token ids of each row, without padding.
        images: For each row its images, or `None`.
    """
    groups: list[list[int]] = []
    by_key: dict[Any, list[list[int]]] = {}
    for row, ids in enumerate(prompts):
        own = images[row] if images is not None else None
        candidates = by_key.setdefault((tuple(ids), own is None), [])
        for group in candidates:
            first = images[group[0]] if images is not None else None
            if own is None or (first is not None and _same_images(own, first)):
                group.append(row)
                break
        else:
            candidates.append([row])
            groups.append(candidates[-1])
    return groups


def _same_images(one: Images, other: Images) -> bool:
    return all(value is other[name] or torch.equal(value, other[name]) for name, value in one.items())


def pack_groups(
    groups: Sequence[Group], completion_ids: torch.Tensor, completion_mask: torch.Tensor, pad_token_id: int = 0
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
    base_model: Any, prompt: torch.Tensor, mm_token_type_ids: torch.Tensor | None, grid: torch.Tensor | None
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


def split_images(fields: Mapping[str, Any], num_images: Sequence[int] | None) -> list[Images | None] | None:
    """For each row the inputs for its images, `None` for a row without; `None` if there are none at all.

    Args:
        fields: Inputs of the model, those of [`IMAGE_FIELDS`] and `num_tiles` among them. Each is a tensor of all rows
            (patches as `image_grid_thw` counts them, tiles as `num_tiles` does, images, or rows), or one tensor a row.
        num_images: Of each row.
    """
    if num_images is None or fields.get("pixel_values") is None:
        return None
    rows = _image_rows(fields, num_images)
    return [row if number else None for row, number in zip(rows, num_images, strict=True)]


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
    shown = [own for own in images if own is not None]
    return {name: torch.cat([own[name] for own in shown]) for name in (shown[0] if shown else ())}


def share_images(batch: dict[str, Any], groups: Sequence[Sequence[int]]) -> dict[str, Any]:
    """A batch whose inputs for images are lists of one tensor a row; rows of a group hold the same ones.

    The tensors are copies, so the whole, with its pixels for every answer, can be freed.

    Args:
        batch: With `pixel_values` and `num_images`, or without images; see [`split_images`].
        groups: Rows with the same images; see [`same_prompts`].
    """
    if batch.get("pixel_values") is None or batch.get("num_images") is None:
        return batch
    rows = _image_rows(batch, batch["num_images"])
    for first, *others in groups:
        rows[first] = {name: value.clone() for name, value in rows[first].items()}
        for row in others:
            rows[row] = rows[first]
    return {**batch, **{name: [row[name] for row in rows] for name in rows[0]}}


def attention_cost(config: Any) -> float:
    """Work of a query with one key, `q·k` and `p·v`, over the work of a token in the projections of a layer."""
    text = config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    query, key = (head_dim * heads for heads in (text.num_attention_heads, text.num_key_value_heads))
    projections = text.hidden_size * (2 * query + 2 * key + 3 * text.intermediate_size)
    return 2 * query / projections


def cut_groups(groups: Sequence[Group], lengths: Sequence[int], cost: float) -> list[Group]:
    """Groups in as many part-groups of like size as make least work.

    A row of `n` tokens is `n + cost·n²` of work, as attention computes all pairs, also those that the mask hides: many
    long answers to a short prompt are cheaper in rows of a few, each with the prompt again.

    Args:
        groups: Of one micro-batch.
        lengths: Tokens of each answer of the micro-batch, indexed by `Group.rows`.
        cost: Of a pair beside a token; see [`attention_cost`]. 0 leaves groups whole.
    """
    parts = []
    for group in groups:
        number, prompt = len(group.rows), len(group.prompt) - 1
        answer = sum(lengths[row] for row in group.rows) / number

        def work(rows: int, number: int = number, prompt: int = prompt, answer: float = answer) -> float:
            tokens = prompt + answer * number / rows
            return rows * (tokens + cost * tokens**2)

        rows = min(range(1, number + 1), key=work)
        parts += [replace(group, rows=tuple(part.tolist())) for part in torch.tensor(group.rows).tensor_split(rows)]
    return parts


def plan_calls(groups: Sequence[Group], lengths: Sequence[int], budget: int | None) -> list[list[Group]]:
    """Which groups go through the model together: padded tokens of a call stay within `budget`.

    Groups of like length come together, so that little is padded. A group whose row alone is over the budget is cut
    into part-groups, each with the prompt again; a single answer over it goes alone.

    Args:
        groups: Of one micro-batch.
        lengths: Tokens of each answer of the micro-batch, indexed by `Group.rows`.
        budget: Most tokens of a call, padding included; `None` puts all groups into one.
    """
    if budget is None:
        return [list(groups)]
    parts: list[tuple[int, Group]] = []
    for group in groups:
        shared = len(group.prompt) - 1
        rows: list[int] = []
        tokens = shared
        for row in group.rows:
            if rows and tokens + lengths[row] > budget:
                parts.append((tokens, replace(group, rows=tuple(rows))))
                rows, tokens = [], shared
            rows.append(row)
            tokens += lengths[row]
        parts.append((tokens, replace(group, rows=tuple(rows))))
    calls: list[list[Group]] = []
    longest = 0
    for tokens, part in sorted(parts, key=lambda pair: -pair[0]):
        if not calls or (len(calls[-1]) + 1) * longest > budget:
            calls.append([])
            longest = tokens  # the first of a call is its longest
        calls[-1].append(part)
    return calls


def split_calls(calls: Sequence[Sequence[Group]], number: int) -> list[list[Group]]:
    """The same work in exactly `number` calls: processes that shard a model must call it equally often.

    Raises:
        ValueError: If there are fewer answers than calls wanted, or more calls than wanted already.
    """
    result = [list(call) for call in calls]
    while len(result) < number:
        largest = max(range(len(result)), key=lambda index: sum(len(group.rows) for group in result[index]))
        call = result.pop(largest)
        if len(call) == 1:
            rows = call[0].rows
            call = [replace(call[0], rows=half) for half in (rows[::2], rows[1::2])]
            if not rows[1:]:
                raise ValueError(f"{number} calls are wanted, but there are only {len(result) + 1} answers.")
        result += [call[::2], call[1::2]]
    if len(result) != number:
        raise ValueError(f"{len(result)} calls are planned, more than the {number} wanted.")
    return result


def answer_log_probs(
    model: Any,
    base_model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    completion_length: int,
    dtype: torch.dtype,
    images: Sequence[Images | None] | None = None,
    mm_token_type_ids: torch.Tensor | None = None,
    token_type_ids: torch.Tensor | None = None,
    budget: int | None = None,
    cost: float = 0.0,
    agree: Callable[[int], int] = lambda number: number,
    flex: bool = False,
    mask: CodeMask | None = None,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities and entropies of answers, `[b, r]` each, every distinct prompt encoded once a call.

    Args:
        model: As TRL calls it: wrapped or not, with the fused head of `trl.trainer.utils.add_fused_lm_head`.
        base_model: Its innermost model with `get_rope_index`; for a text model, any.
        input_ids: Prompts (padded on the left) and answers (padded on the right), `[b, p + r]`.
        attention_mask: 1 for tokens, `[b, p + r]`.
        completion_length: r.
        dtype: Type that attention computes in; of the additive mask.
        images: Of each row its images; see [`split_images`].
        mm_token_type_ids: 0 for text, 1 for images, `[b, p + r]`.
        token_type_ids: The same for a model in which the tokens of an image see each other (Gemma 3).
        budget: Most tokens of a call, padding included; see [`plan_calls`].
        cost: Of attention, to cut groups where that is less work; see [`cut_groups`].
        agree: Number of calls of this process → of all processes, the largest.
        flex: FlexAttention instead of the model's own under a dense mask; see [`rarl.flex`].
        mask: Value tokens are legal, as they were sampled; the logits of all answer positions are in memory then.
        temperature: Of the masked logits. (Those of the fused head have theirs.)

    Raises:
        ValueError: If a prompt ends in an image, or an answer holds one.
    """
    if mm_token_type_ids is not None and mm_token_type_ids[:, -completion_length:].any():
        raise ValueError("Answers must be text to share a prompt, image tokens are seen in one.")
    prompt_mask = attention_mask[:, :-completion_length].bool()
    completion_ids = input_ids[:, -completion_length:]
    completion_mask = attention_mask[:, -completion_length:]
    groups = []
    for rows in find_groups(input_ids, attention_mask, completion_length, images):
        first = rows[0]
        kept = prompt_mask[first]
        prompt = input_ids[first, :-completion_length][kept]
        types = None if mm_token_type_ids is None else mm_token_type_ids[first, :-completion_length][kept]
        own = (images[first] if images is not None else None) or {}
        if own and int(prompt[-1]) == getattr(base_model.config, "image_token_id", -1):
            raise ValueError(NO_TEXT_LAST)
        positions = prompt_positions(base_model, prompt, types, own.get("image_grid_thw"))
        seen = None if token_type_ids is None else token_type_ids[first, :-completion_length][kept]
        groups.append(Group(tuple(rows), prompt, positions, None if seen is None else image_blocks(seen)))
    lengths = completion_mask.sum(dim=1).tolist()
    calls = plan_calls(cut_groups(groups, lengths, cost), lengths, budget)
    calls = split_calls(calls, agree(len(calls))) if budget is not None else calls
    if flex:
        take_block_masks(base_model)
    contexts = None if mask is None else mask.contexts(input_ids, completion_length)
    log_probs, entropies = [], []
    for call in calls:
        pack = pack_groups(call, completion_ids, completion_mask)
        inputs: dict[str, Any] = {} if images is None else join_images([images[group.rows[0]] for group in call])
        inputs |= {
            "input_ids": pack.input_ids,
            "attention_mask": block_mask(pack.segment) if flex else masks(pack, base_model.config, dtype),
            "position_ids": pack.position_ids if len(pack.position_ids) > 1 else pack.position_ids[0],
        }
        if mask is None or contexts is None:
            outputs = model(shift_labels=pack.shift_labels, fused_lm_head=True, **inputs)
            log_probs.append(pack.scatter(outputs.log_probs, completion_ids.shape))
            if outputs.entropy is not None:
                entropies.append(pack.scatter(outputs.entropy, completion_ids.shape))
        else:
            columns = (pack.shift_labels != -100).any(dim=0).nonzero()[:, 0]
            labels = pack.shift_labels[:, columns]
            logits = model(logits_to_keep=columns, use_cache=False, **inputs).logits[labels != -100]
            before = contexts[pack.source_row, pack.source_column]
            each, entropy = masked_scores(logits / temperature, labels[labels != -100], before, mask)
            log_probs.append(pack.place(each, completion_ids.shape))
            entropies.append(pack.place(entropy, completion_ids.shape))
    # Every answer is in one call, and 0 in all others.
    return sum_of(log_probs), sum_of(entropies) if entropies else None


def masked_scores(
    logits: torch.Tensor, labels: torch.Tensor, contexts: torch.Tensor, mask: CodeMask
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each label, and the entropy, among the tokens that may follow.

    Args:
        logits: Of the next token, divided by the temperature, `[m, V]`.
        labels: The next token, `[m]`.
        contexts: Ids before it, as many as the mask looks at, `[m, w]`.
        mask: Of the value tokens.

    Raises:
        ValueError: If a label may not follow: the answer was not sampled under the mask.
    """
    scores = mask.log_softmax(contexts, logits.float())
    each = scores.gather(1, labels[:, None])[:, 0]
    if torch.isinf(each).any():
        place = int(torch.isinf(each).nonzero()[0])
        raise ValueError(
            f"Token {int(labels[place])} after {contexts[place].tolist()} is no legal value token; with value_tokens, "
            "answers and references want legal codes."
        )
    entropy = -(scores.exp() * scores.masked_fill(torch.isinf(scores), 0.0)).sum(dim=1)
    return each, entropy.detach()


def sum_of(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sum of tensors of one shape; the tensor itself if there is one."""
    return tensors[0] if len(tensors) == 1 else torch.stack(list(tensors)).sum(dim=0)


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


MODEL_TYPES = (
    *("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "idefics3", "smolvlm", "gemma3", "llava_next", "internvl"),
    *("qwen2", "qwen3", "llama"),
)
"""Models whose shared layout is tested to give the same log-probabilities and gradients."""


def unsupported_model(config: Any) -> str | None:
    """Why prompts of a model cannot be shared at all, in a few words; `None` if they can."""
    if config.model_type not in MODEL_TYPES:
        return f"model type {config.model_type!r} is not one of {', '.join(MODEL_TYPES)}"
    windows = "sliding_attention" in (getattr(config.get_text_config(), "layer_types", None) or [])
    if windows and config.model_type != "gemma3":
        return "its layers have sliding windows"
    return None


def unsupported(config: Any) -> str | None:
    """Why a model cannot be trained with shared prompts, in a few words; `None` if it can."""
    attention = config.get_text_config()._attn_implementation
    if attention not in ("sdpa", "eager"):
        return f"attention {attention!r} takes no mask of its own; use 'sdpa' or 'eager'"
    return unsupported_model(config)


def innermost(model: Any) -> Any:
    """The model that knows multimodal RoPE (`get_rope_index`), or the language model itself, inside PEFT or not."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    return model.model if hasattr(getattr(model, "model", None), "get_rope_index") else model


def take_rows(batch: dict[str, Any], order: torch.Tensor) -> dict[str, Any]:
    """Rows of a batch in a given order; scalars and `None` stay as they are."""

    def take(value: Any) -> Any:
        if value is None or (isinstance(value, torch.Tensor) and value.ndim == 0):
            return value
        return value[order.to(value.device)] if isinstance(value, torch.Tensor) else [value[i] for i in order.tolist()]

    return {name: take(value) for name, value in batch.items()}
