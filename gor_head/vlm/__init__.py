"""GoR's value tokens inside a vision-language model (or any causal model of transformers)."""

from gor_head.text import CLOSE, OPEN, codes_to_numbers, token_names, write_value
from gor_head.vlm.checkpoint import load, merge, push_to_hub, save_pretrained
from gor_head.vlm.logits import CodeMask, QuantileLogits, ValueTokenLogits, vllm_logits_processor
from gor_head.vlm.tokens import ValueTokens, add_tokens, attach

__all__ = [
    "CLOSE",
    "OPEN",
    "CodeMask",
    "QuantileLogits",
    "ValueTokenLogits",
    "ValueTokens",
    "add_tokens",
    "attach",
    "codes_to_numbers",
    "load",
    "merge",
    "push_to_hub",
    "save_pretrained",
    "token_names",
    "vllm_logits_processor",
    "write_value",
]
