"""Which models can share prompts."""

from typing import Any

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
