"""Construction of a vocabulary: initial tokens (quantile, manual, binary), closure, pruning by CoDi."""

from gor_head.construction.binary import binary_tokens
from gor_head.construction.closure import close, with_tail
from gor_head.construction.codi import CodiUpdate, codi, prune, smallest_size, token_usage
from gor_head.construction.greedy import Codes, covers, greedy_codes, slack_units
from gor_head.construction.manual import manual_tokens
from gor_head.construction.quantile import order_statistic, quantile_tokens
from gor_head.construction.strict import strict_prune, strict_quantile_tokens

__all__ = [
    "CodiUpdate",
    "Codes",
    "binary_tokens",
    "close",
    "codi",
    "covers",
    "greedy_codes",
    "manual_tokens",
    "order_statistic",
    "prune",
    "quantile_tokens",
    "slack_units",
    "smallest_size",
    "strict_prune",
    "strict_quantile_tokens",
    "token_usage",
    "with_tail",
]
