"""Construction of a vocabulary: initial tokens (by quantile, manual, binary, place values, labels), closure, CoDi."""

from gor_head.construction.binary import binary_tokens
from gor_head.construction.closure import close, with_tail
from gor_head.construction.codi import CodiUpdate, Pruned, codi, mean_code_length, prune, smallest_size, token_usage
from gor_head.construction.greedy import Codes, covers, greedy_codes, slack_units
from gor_head.construction.manual import manual_tokens
from gor_head.construction.place import place_tokens, smallest_base
from gor_head.construction.quantile import order_statistic, quantile_tokens
from gor_head.construction.strict import strict_prune, strict_quantile_tokens

__all__ = [
    "CodiUpdate",
    "Codes",
    "Pruned",
    "binary_tokens",
    "close",
    "codi",
    "covers",
    "greedy_codes",
    "manual_tokens",
    "mean_code_length",
    "order_statistic",
    "place_tokens",
    "prune",
    "quantile_tokens",
    "slack_units",
    "smallest_base",
    "smallest_size",
    "strict_prune",
    "strict_quantile_tokens",
    "token_usage",
    "with_tail",
]
