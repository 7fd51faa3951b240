"""GoR's value tokens inside a vision-language model (or any causal model of transformers)."""

from gor_head.vlm.logits import CodeMask, QuantileLogits, ValueTokenLogits, vllm_logits_processor
from gor_head.vlm.text import CLOSE, OPEN, codes_to_numbers, token_names, write_value
from gor_head.vlm.tokens import ValueTokens, attach, save_vocabulary

__all__ = [
    "CLOSE",
    "OPEN",
    "CodeMask",
    "QuantileLogits",
    "ValueTokenLogits",
    "ValueTokens",
    "attach",
    "codes_to_numbers",
    "save_vocabulary",
    "token_names",
    "vllm_logits_processor",
    "write_value",
]
