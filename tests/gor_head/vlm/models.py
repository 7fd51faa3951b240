"""Tiny random models of the kinds that value tokens are for."""

from typing import Any

import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from rarl import tiny

WIDTHS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def text_model(spare: int = 0, tied: bool = True) -> tuple[Any, PreTrainedTokenizerFast]:
    """A text-only Qwen2 with `spare` rows beyond its tokenizer."""
    torch.manual_seed(0)
    tokenizer = tiny.build_processor().tokenizer
    config = Qwen2Config(vocab_size=len(tokenizer) + spare, tie_word_embeddings=tied, **WIDTHS)
    return Qwen2ForCausalLM(config).eval(), tokenizer


def qwen3_vl(spare: int = 0) -> tuple[Any, Any]:
    """A Qwen3-VL with untied matrices."""
    torch.manual_seed(0)
    processor = tiny.build_processor()
    config = Qwen3VLConfig(
        text_config={"vocab_size": len(processor.tokenizer) + spare, "head_dim": 8, **WIDTHS},
        vision_config={"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 32},
        tie_word_embeddings=False,
    )
    return Qwen3VLForConditionalGeneration(config).eval(), processor
