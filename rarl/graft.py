"""A language model of Llama's shape inside Qwen2.5-VL's own architecture: what it says of text stays the same, bit for
bit, and it has a vision tower that is yet to be trained.

Llama is Qwen2 with no biases at the queries, keys and values, and multimodal rotary positions are plain ones on text.
"""

from typing import Any

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from rarl import tiny

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")

_LOOP = "{% for message in messages %}"
_DEFAULT = (
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nDEFAULT_SYSTEM<|im_end|>\n{% endif %}"
)
CHAT_TEMPLATE = tiny.CHAT_TEMPLATE.replace(_LOOP, _LOOP + _DEFAULT)
"""ChatML as SmolLM2's template writes it, and images."""


def graft_processor(tokenizer: Any, system: str, max_pixels: int = 448 * 448) -> Qwen2_5_VLProcessor:
    """A processor of images and text around a tokenizer with ChatML's tokens, which gets the vision tokens it lacks.

    Args:
        tokenizer: The language model's tokenizer; it is changed.
        system: What the system message says where a prompt has none.
        max_pixels: Largest height times width of an image.
    """
    # Named, not added to the list of special tokens: that would take the place of those it has.
    tokenizer.add_special_tokens({"extra_special_tokens": list(VISION_TOKENS)})
    pixels: dict[str, Any] = {"min_pixels": 56 * 56, "max_pixels": max_pixels}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**pixels),
        chat_template=CHAT_TEMPLATE.replace("DEFAULT_SYSTEM", system),
    )


def graft(
    language_model: Any,
    processor: Qwen2_5_VLProcessor,
    *,
    vision_width: int = 256,
    vision_layers: int = 6,
    seed: int = 0,
) -> Qwen2_5_VLForConditionalGeneration:
    """The weights of a Llama in a `Qwen2_5_VLForConditionalGeneration`, with a vision tower of random weights.

    Rows of tokens that the language model does not know, those of vision, begin at the mean of all others.

    Args:
        language_model: A `LlamaForCausalLM`, or a model of its shape.
        processor: That of [`graft_processor`][rarl.graft.graft_processor].
        vision_width: Width of the vision tower, a multiple of 64.
        vision_layers: Its depth; every third layer, and the last, sees the whole image.
        seed: Seed of its weights.

    Raises:
        ValueError: If the language model has biases or scaled rotary positions, which would be lost.
    """
    config = language_model.config
    if config.attention_bias or config.mlp_bias or config.rope_parameters.get("rope_type") != "default":
        raise ValueError(
            f"{type(language_model).__name__}: wanted no biases and plain rotary positions, got attention_bias="
            f"{config.attention_bias}, mlp_bias={config.mlp_bias}, {config.rope_parameters}."
        )
    tokenizer: Any = processor.tokenizer  # type: ignore[attr-defined]
    rows = max(len(tokenizer), config.vocab_size)
    token_id = tokenizer.convert_tokens_to_ids
    half_head = config.head_dim // 2  # rotary frequencies, shared by time, height and width
    sections = [half_head - 2 * (3 * half_head // 8), 3 * half_head // 8, 3 * half_head // 8]
    same: tuple[str, ...] = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    )
    same += ("max_position_embeddings", "rms_norm_eps", "hidden_act", "tie_word_embeddings")
    whole_image = {*range(2, vision_layers, 3), vision_layers - 1}
    grafted_config = Qwen2_5_VLConfig(
        text_config={
            **{name: getattr(config, name) for name in same},
            "vocab_size": rows,
            "rope_parameters": {**config.rope_parameters, "mrope_section": sections},
            "bos_token_id": config.bos_token_id,
            "eos_token_id": config.eos_token_id,
            "pad_token_id": config.pad_token_id,
        },
        vision_config={
            "depth": vision_layers,
            "hidden_size": vision_width,
            "intermediate_size": 4 * vision_width,
            "num_heads": vision_width // 64,
            "out_hidden_size": config.hidden_size,
            "fullatt_block_indexes": sorted(whole_image),
        },
        tie_word_embeddings=config.tie_word_embeddings,
        **{
            f"{name}_token_id": token_id(token)
            for name, token in zip(("vision_start", "vision_end", "image", "video"), VISION_TOKENS, strict=True)
        },
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(grafted_config)
    model.to(language_model.dtype)  # type: ignore[arg-type]
    model.eval()
    decoder: Any = model.model.language_model
    found = decoder.load_state_dict(language_model.model.state_dict() | _rows(language_model, rows), strict=False)
    unexpected = [*found.unexpected_keys, *(name for name in found.missing_keys if not name.endswith("proj.bias"))]
    assert not unexpected, f"weights without a place: {unexpected}"
    if not config.tie_word_embeddings:  # biases are 0 from the start
        with torch.no_grad():
            model.lm_head.weight.copy_(_wider(language_model.lm_head.weight, rows))
    model.generation_config.eos_token_id = config.eos_token_id
    model.generation_config.pad_token_id = config.pad_token_id
    return model


def _rows(language_model: Any, rows: int) -> dict[str, torch.Tensor]:
    return {"embed_tokens.weight": _wider(language_model.get_input_embeddings().weight, rows)}  # type: ignore[arg-type]


def _wider(matrix: torch.Tensor, rows: int) -> torch.Tensor:
    """A matrix with further rows, the mean of those it has."""
    matrix = matrix.detach()
    return torch.cat([matrix, matrix.mean(dim=0, keepdim=True).expand(rows - len(matrix), -1)])
