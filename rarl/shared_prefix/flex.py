"""FlexAttention for rows of shared prompts: pairs that the mask hides are skipped in blocks, and no dense mask is kept.

Qwen2.5-VL refuses the implementation `flex_attention` by name, so a function of our own is registered with
transformers. Only the language model's attention uses it, and only while it is called with a block mask, which
transformers passes on as it is; without one, as in `generate`, and in the vision tower, the model's own attention runs.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface

NAME = "rarl_flex"
"""Under which [`packed_attention`][rarl.shared_prefix.flex.packed_attention] is registered."""

MaskMod = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def visible(segment: torch.Tensor) -> MaskMod:
    """Whether a query of a packed row sees a key: an earlier one, or itself, of the prompt or of its own answer.

    Args:
        segment: 0 for the prompt, 1… for the answers, -1 for padding, `[g, l]`; see
            [`rarl.shared_prefix.Pack`][rarl.shared_prefix.layout.Pack].
    """

    def mask_mod(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        key_segment = segment[row, key]
        return (query >= key) & ((key_segment == 0) | (key_segment == segment[row, query]))

    return mask_mod


def block_mask(segment: torch.Tensor) -> BlockMask:
    """The mask of packed rows for all heads, `[g, 1, l, l]`, in blocks of 128 x 128."""
    rows, length = segment.shape
    return create_block_mask(visible(segment), rows, None, length, length, device=segment.device)


@functools.cache
def _compiled() -> Any:
    # Rows and lengths differ from call to call; over the limit, 8 as a rule, torch would fall back to the unfused form.
    return torch.compile(flex_attention, recompile_limit=64)  # type: ignore[call-overload]


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: BlockMask,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """FlexAttention as transformers calls it; compiled on CUDA, and elsewhere unfused, without gradients.

    Args:
        module: The attention layer, unused.
        query: Queries of all heads, `[g, heads, l, d]`.
        key, value: Keys and values, `[g, key-value heads, l, d]`; their number is a divisor of `heads`, as
            grouped-query attention has it.
        attention_mask: The mask of packed rows; see [`block_mask`][rarl.shared_prefix.flex.block_mask].
        scaling: Factor of `q·k`; `1/√d` if `None`.
        dropout: Must be 0.

    Returns:
        Attended values, `[g, l, heads, d]`, and no weights.

    Raises:
        ValueError: If there is dropout.
    """
    if dropout > 0:
        raise ValueError(f"FlexAttention has no dropout, attention_dropout must be 0 in training, got {dropout:g}.")
    device = query.device.type
    # Rotary positions leave queries and keys in fp32 under autocast, which knows sdpa but not flex.
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    attend = _compiled() if query.is_cuda else flex_attention
    attended = attend(
        query.to(dtype),
        key.to(dtype),
        value.to(dtype),
        block_mask=attention_mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return attended.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, packed_attention)


def take_block_masks(model: Any) -> None:
    """Let the attention layers of a language model take block masks; a second call changes nothing.

    These are hooks around each layer and not a setting around the whole model, because gradient checkpointing calls
    layers again in the backward pass. Between calls the configuration names the model's own attention.

    Args:
        model: A model of transformers that has `get_decoder`, with or without images, not wrapped.
    """
    for layer in model.get_decoder().layers:
        attention = layer.self_attn
        if _swap_in not in attention._forward_pre_hooks.values():
            attention.register_forward_pre_hook(_swap_in, with_kwargs=True)
            # Checkpointing ends a second call by an exception as soon as it has all that it needs.
            attention.register_forward_hook(_swap_back, always_call=True)


def _swap_in(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
    if isinstance(kwargs.get("attention_mask"), BlockMask):
        module.own_attention = module.config._attn_implementation
        module.config._attn_implementation = NAME


def _swap_back(module: Any, args: Any, output: Any) -> None:
    attention = module.__dict__.pop("own_attention", None)
    if attention is not None:
        module.config._attn_implementation = attention


def unsupported_flex(config: Any, device: torch.device) -> str | None:
    """Why a model cannot be trained with FlexAttention, in a few words; `None` if it can.

    Args:
        config: The configuration of the model.
        device: Where it is trained.
    """
    if device.type != "cuda":
        return f"FlexAttention has gradients on CUDA only, and this run is on {device.type!r}; use 'sdpa'"
    if "sliding_attention" in (getattr(config.get_text_config(), "layer_types", None) or []):
        return "FlexAttention is not written for sliding windows here; use 'sdpa'"
    dropout = getattr(config.get_text_config(), "attention_dropout", 0.0)
    if dropout > 0:
        return f"FlexAttention has no dropout, and attention_dropout is {dropout:g}; use 'sdpa', or set it to 0"
    return None
