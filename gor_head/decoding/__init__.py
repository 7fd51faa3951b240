"""From a model's distribution over codes to numbers: one way a file.

MAE and CS want the median (`quantile`), RMSE the mean, ranking either. `greedy` and `beam` follow the likeliest tokens,
as the paper does; the likeliest code is neither median nor mean. Every function takes a model and the memory of B rows;
most give token ids, which `vocabulary.decode` turns into numbers. To add one, copy a file and enter it in `DECODES`.
"""

from collections.abc import Callable

from torch import Tensor

from gor_head.decoding.beam import beam
from gor_head.decoding.greedy import greedy
from gor_head.decoding.mean import mean
from gor_head.decoding.posterior import Posterior, posterior
from gor_head.decoding.quantile import MEDIAN, quantile
from gor_head.decoding.sample import sample
from gor_head.decoding.window import window
from gor_head.enumeration import MOST_CODES, enumerate_codes
from gor_head.interface import CodeModel

__all__ = [
    "DECODES",
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


def numbers_of(decode: Callable[[CodeModel, Tensor], Tensor]) -> Callable[[CodeModel, Tensor], Tensor]:
    """A decoder of token ids `[B, T]` as one of numbers `[B]`."""
    return lambda model, memory: model.vocabulary.decode(decode(model, memory))


DECODES: dict[str, Callable[[CodeModel, Tensor], Tensor]] = {
    "greedy": numbers_of(greedy),
    "beam": numbers_of(lambda model, memory: beam(model, memory)[0][:, 0]),
    "quantile": numbers_of(lambda model, memory: quantile(model, memory, MEDIAN)[:, 0]),
    "mean": lambda model, memory: mean(model, memory)[0],
    "sample": numbers_of(sample),
    "window": window,
}
"""By name: a model and memory `[B, L, D]` → one number a row, float64 `[B]`. The one place in which a new decoder is
entered."""
