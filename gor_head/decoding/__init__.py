"""From a model's distribution over codes to numbers: one way a file.

MAE and CS want the median (`quantile`), RMSE the mean, ranking either. `greedy` and `beam` follow the likeliest tokens,
as the paper does; the likeliest code is neither median nor mean. Every function takes a model and the memory of B rows,
and gives token ids, which `vocabulary.decode` turns into numbers.
"""

from gor_head.decoding.beam import beam
from gor_head.decoding.greedy import greedy
from gor_head.decoding.mean import mean
from gor_head.decoding.posterior import Posterior, posterior
from gor_head.decoding.quantile import quantile
from gor_head.decoding.sample import sample
from gor_head.decoding.window import window
from gor_head.enumeration import MOST_CODES, enumerate_codes

__all__ = [
    "MOST_CODES",
    "Posterior",
    "beam",
    "enumerate_codes",
    "greedy",
    "mean",
    "posterior",
    "quantile",
    "sample",
    "window",
]
