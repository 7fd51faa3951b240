"""Work and memory of a pass over a Qwen2.5-VL, by formula, in TRL's layout and with shared prompts.

Work is floating-point operations (FLOPs) of matrix products, a multiplication and an addition as two, the way
`torch.utils.flop_counter` counts. Attention counts all pairs of a row, also masked ones. Compared with real passes by
`python -m benchmarks.estimate --check`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from rarl.shared_prefix import Group, attention_cost, cut_groups

Trained = Literal["full", "lora"]
Grid = tuple[int, int]
"""Height and width of an image, in patches."""

RANK = 16
HEAD_TOKENS, HEAD_VOCAB = 4096, 32768
"""TRL's fused head holds the logits of at most so many tokens and words at once."""


@dataclass(frozen=True)
class Layout:
    """What one pass of the model sees.

    Attributes:
        rows, length: Number of rows of tokens, and their length, which is the same for all.
        grids: Grids of all images of every row.
        scored: Positions that go through the LM head.
        shared: Ours: attention gets a mask, `[rows, length, length]`, and a frozen vision tower has no gradients.
    """

    rows: int
    length: int
    grids: tuple[Grid, ...]
    scored: int
    shared: bool

    @property
    def patches(self) -> int:
        return sum(height * width for height, width in self.grids)


def window_pairs(grid: Grid, side: int) -> int:
    """Pairs of patches that share a window of `side` x `side` patches, cut at the border of the image."""

    def squares(length: int) -> int:
        return length // side * side**2 + (length % side) ** 2

    return squares(grid[0]) * squares(grid[1])


def text_sizes(config: Any) -> tuple[int, int, int, int, int]:
    """Layers, width, width of all queries, of all keys, and of the feed-forward network."""
    text = config.get_text_config()
    head = text.hidden_size // text.num_attention_heads
    query, key = head * text.num_attention_heads, head * text.num_key_value_heads
    return text.num_hidden_layers, text.hidden_size, query, key, text.intermediate_size


def adapter_parameters(config: Any) -> int:
    """Of LoRA on all seven products of a text layer, as
    [`rarl.lora.language_lora_targets`][rarl.lora.language_lora_targets] has it."""
    layers, width, query, key, inner = text_sizes(config)
    return layers * RANK * (7 * width + 2 * query + 2 * key + 3 * inner)


def pixel_size(config: Any) -> int:
    """Numbers of one patch."""
    vision = config.vision_config
    return vision.in_channels * vision.temporal_patch_size * vision.patch_size**2


def forward_flops(config: Any, layout: Layout) -> dict[str, int]:
    """FLOPs of a forward pass by part: products with weights, and `…_pairs` of attention, `q·k` and `p·v`.

    `first` are queries, keys and values of the first layer, `text` all else of the layers; `adapters` are LoRA's.
    """
    layers, width, query, key, inner = text_sizes(config)
    vision = config.vision_config
    full = len(vision.fullatt_block_indexes)
    side = vision.window_size // vision.patch_size
    pairs = sum(full * (h * w) ** 2 + (vision.depth - full) * window_pairs((h, w), side) for h, w in layout.grids)
    block = vision.hidden_size * (4 * vision.hidden_size + 3 * vision.intermediate_size)
    area = vision.spatial_merge_size**2
    merged = area * vision.hidden_size
    layer = width * (2 * query + 2 * key + 3 * inner)
    first = width * (query + 2 * key)
    tokens, patches = 2 * layout.rows * layout.length, 2 * layout.patches
    return {
        "first": tokens * first,
        "text": tokens * (layers * layer - first),
        "adapters": tokens * adapter_parameters(config),
        "text_pairs": 4 * query * layers * layout.rows * layout.length**2,
        "head": 2 * layout.scored * width * config.get_text_config().vocab_size,
        "patches": patches * pixel_size(config) * vision.hidden_size,
        "vision": patches * vision.depth * block,
        "vision_pairs": 4 * vision.hidden_size * pairs,
        "merger": patches // area * merged * (merged + vision.out_hidden_size),
    }


PARTS = ("first", "text", "adapters", "text_pairs", "head", "patches", "vision", "vision_pairs", "merger")
PASSES: dict[tuple[str, bool], tuple[float, ...]] = {
    ("full", False): (3, 3, 0, 3.5, 4, 2, 3, 3.5, 3),
    ("full", True): (4, 4, 0, 4.5, 4, 2, 4, 4.5, 3),
    ("lora", False): (1, 2, 3, 3.5, 3, 1, 1, 1, 1),
    ("lora", True): (3, 3, 4, 4.5, 3, 1, 3, 4.5, 2),
}
"""Work of forward and backward pass over that of the forward pass, for each of `PARTS`, by what is trained and whether
layers are checkpointed.

A backward pass is one forward pass for gradients of activations and one for those of weights; frozen weights have none,
nor do pixels. Attention's is 2.5 (it computes scores again), the fused head's 3 (logits again), or 2 if frozen.
Checkpointing runs all layers forward again; with LoRA it also makes the inputs of the frozen vision tower require
gradients (`enable_input_require_grads`), so that gradients of its activations are computed, for nothing. Shared prompts
leave that out: see [`tower_has_gradients`][benchmarks.formulas.tower_has_gradients]."""
VISION_PARTS = ("patches", "vision", "vision_pairs", "merger")


def tower_has_gradients(layout: Layout, trained: Trained, checkpointing: bool) -> bool:
    """Whether a backward pass goes through the vision tower."""
    return trained == "full" or (checkpointing and not layout.shared)


def step_flops(config: Any, layout: Layout, trained: Trained, checkpointing: bool) -> float:
    """FLOPs of a forward and backward pass."""
    forward, passes = forward_flops(config, layout), PASSES[trained, checkpointing]
    left_out = () if tower_has_gradients(layout, trained, checkpointing) else VISION_PARTS
    return sum(forward[part] * (1 if part in left_out else count) for part, count in zip(PARTS, passes, strict=True))


def layer_bytes(config: Any, layout: Layout, trained: Trained, size: int) -> tuple[int, int]:
    """Bytes that autograd keeps of a token in a text layer, and of a patch in a vision block.

    Two norms: their input in fp32, their output, and what comes before the weight if that is trained. Attention: query,
    key, value (a mask needs one for each query head; the tower's value holds its whole projection) and output. The
    feed-forward network: gate, its activation, up, and their product. `size`: bytes of a number.
    """
    _, width, query, key, inner = text_sizes(config)
    vision = config.vision_config
    norms = 8 + 2 * size * (2 if trained == "full" else 1)
    attention = 2 * query + 2 * (query if layout.shared else key)
    adapters = 7 * RANK if trained == "lora" else 0
    token = norms * width + size * (attention + 4 * inner + adapters)
    # SDPA keeps its output by windows, the projection after it whole.
    patch = norms * vision.hidden_size + size * ((2 + 3 + 2) * vision.hidden_size + 4 * vision.intermediate_size)
    return token, patch


def activation_bytes(config: Any, layout: Layout, trained: Trained, checkpointing: bool, size: int) -> int:
    """Peak of what a pass holds above weights, optimizer and batch.

    Without checkpointing what autograd keeps of all layers; with it their inputs, and of one layer all of it, twice,
    for its gradients. Plus the head's logits and gradients, and the mask, in bool and as numbers.
    """
    layers, width, *_ = text_sizes(config)
    vision = config.vision_config
    tokens, patches = layout.rows * layout.length, layout.patches
    token, patch = layer_bytes(config, layout, trained, size)
    head = min(layout.scored, HEAD_TOKENS) * HEAD_VOCAB * size + layout.scored * width * (4 + size)
    mask = (1 + size) * layout.rows * layout.length**2 if layout.shared else 0
    if checkpointing:
        if not tower_has_gradients(layout, trained, checkpointing):
            patches = 0
        inputs = size * (tokens * layers * width + patches * vision.depth * vision.hidden_size)
        return inputs + mask + max(2 * tokens * token, 2 * patches * patch, head)
    tower = patches * vision.depth * patch if trained == "full" else 0
    return tokens * layers * token + tower + mask + head


def layouts(
    config: Any, prompt: int, grids: Sequence[Grid], number: int, answer: int, score_all: bool = False
) -> dict[str, Layout]:
    """`plain`, TRL's: `number` answers of `answer` tokens, each with the prompt and its images; and `shared`, ours.

    Args:
        config: The configuration of the model, which decides whether groups are cut; see
            [`rarl.shared_prefix.cut_groups`][rarl.shared_prefix.calls.cut_groups].
        prompt: Tokens.
        grids: Grids of the prompt's images.
        number: G.
        answer: Tokens of each answer.
        score_all: The head projects every position, as it does without Triton, not only those with a label.
    """
    group = Group(tuple(range(number)), torch.zeros(prompt), torch.zeros(1, prompt))
    parts = cut_groups([group], [answer] * number, attention_cost(config))
    rows, length = len(parts), prompt - 1 + answer * max(len(part.rows) for part in parts)
    labels, images = number * answer, tuple(grids)
    plain_scored, scored = (number * (prompt + answer - 1), rows * length) if score_all else (labels, labels)
    return {
        "plain": Layout(number, prompt + answer, images * number, plain_scored, False),
        "shared": Layout(rows, length, images * rows, scored, True),
    }
