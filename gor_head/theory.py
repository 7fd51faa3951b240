"""The paper's two statements as code: what independent binary decisions lose, and a bound of the squared error."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from gor_head.grid import as_labels
from gor_head.vocabulary import FIRST_VALUE, CoDiVocabulary


def independence_gap(samples: Any, boundaries: Any, groups: Any = None) -> NDArray[np.float64]:
    """What rank-based methods lose by treating their binary decisions as independent (GoR, proposition 1).

    The decisions are B^m = 1(y > c_m). The KL divergence of their product from their joint distribution given x is the
    sum over m of the conditional mutual informations I(B^m; B^{<m} | x) (equation 14). Boundaries ascend, so a decision
    that is 0 settles all later ones, and one that is 1 settles all earlier ones; with s_m = P(y > c_m | x), s_0 = 1 and
    h the entropy of a coin,

        I(B^m; B^{<m} | x) = h(s_m) − s_{m−1} · h(s_m / s_{m−1})

    Estimated with the shares among the samples in place of the probabilities. That needs several labels of one x: a
    single one looks certain, and adds 0 whatever the truth.

    Args:
        samples: Labels y, `[n]`.
        boundaries: c_1 < … < c_M, `[M]`.
        groups: Which x each sample belongs to, any one kind of value that sorts, `[n]`. By default all belong to one.
            Groups are averaged, weighted by size.

    Returns:
        I(B^m; B^{<m} | x) of each decision in nats, ≥ 0, `[M]`; their sum is the divergence. The first one is 0.

    Raises:
        ValueError: If samples or boundaries are not finite numbers in one dimension, boundaries do not ascend, or
            groups are not one per sample.
    """
    labels, bounds = as_labels(samples, "samples"), as_labels(boundaries, "boundaries")
    if not (np.diff(bounds) > 0).all():
        raise ValueError(f"boundaries: wanted ascending numbers, got {bounds.tolist()}.")
    if groups is None:
        group, number = np.zeros(len(labels), dtype=np.int64), 1
    else:
        names = np.asarray(groups)
        if names.shape != labels.shape:
            raise ValueError(f"groups: wanted one per sample, shape {labels.shape}, got shape {names.shape}.")
        distinct, group = np.unique(names, return_inverse=True)
        number = len(distinct)
    intervals = len(bounds) + 1
    passed = np.searchsorted(bounds, labels)  # how many of the ascending boundaries lie below y
    counts = np.bincount(group * intervals + passed, minlength=number * intervals).reshape(number, intervals)
    above = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    size = above[:, :1]
    earlier, now = above[:, :-1] / size, above[:, 1:] / size
    later = np.divide(now, earlier, out=np.zeros_like(now), where=earlier > 0)
    information = _coin_entropy(now) - earlier * _coin_entropy(later)
    # Never below 0 but for rounding.
    return np.maximum((information * size).sum(axis=0) / len(labels), 0.0)


def _coin_entropy(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    return entr(probability) + entr(1 - probability)


@dataclass(frozen=True)
class ErrorBound:
    """Bound of the mean squared error of a code of T tokens (GoR, theorem 1), in units of the label, squared.

    Args:
        length: T, the number of steps.
        bias: T²·B².
        variance: T²·(ω_max − ω_min)²/4, as the paper has it (equation 28).
        corrected_variance: T²·ω_max²/2; see [`error_bound`][gor_head.theory.error_bound].
    """

    length: int
    bias: float
    variance: float
    corrected_variance: float

    @property
    def paper(self) -> float:
        """The paper's bound, which errors can exceed."""
        return self.bias + self.variance

    @property
    def corrected(self) -> float:
        """The bound with both repairs."""
        return self.bias + self.corrected_variance


def error_bound(vocabulary: CoDiVocabulary, max_bias: float, length: int | None = None) -> ErrorBound:
    """Theorem 1 for a vocabulary: E[(ŷ − y)²] ≤ T²·B² + T²·V, with V the largest variance of a step's error Ĉ − C.

    The paper puts V ≤ (ω_max − ω_min)²/4, Popoviciu's bound. Two repairs make it hold:

    - That is the bound of one bounded variable. A step's error is the difference of two, the predicted and the true
      value, whose variances add up where they are independent, as the paper assumes: range²/2, a factor of 2.
    - After EOS a step adds 0, so where the two codes differ in length a step's values range from 0, not from ω_min.

    Together V ≤ ω_max²/2; it is attained. Errors of different steps may be correlated in any way.

    Args:
        vocabulary: Gives the token values.
        max_bias: B, largest |E[Ĉ] − C| of a step, ≥ 0, in units of the label. The largest token bounds it.
        length: T, ≥ 1. By default the longest code of the labels of the fit, or `max_length` where nothing was fitted.

    Raises:
        ValueError: If a number is out of range, or the vocabulary has no value token.
    """
    if not (np.isfinite(max_bias) and max_bias >= 0):
        raise ValueError(f"max_bias: wanted a number from 0 on, got {max_bias!r}.")
    values = vocabulary.values[FIRST_VALUE:]
    if not len(values):
        raise ValueError("vocabulary: wanted at least 1 value token, got none.")
    if length is None:
        length = int(vocabulary.summary().get("after", {}).get("longest", vocabulary.max_length))
    if length < 1 or length != int(length):
        raise ValueError(f"length: wanted a whole number from 1, got {length!r}.")
    smallest, largest = float(values[0]), float(values[-1])
    return ErrorBound(
        length=int(length),
        bias=length**2 * max_bias**2,
        variance=length**2 * (largest - smallest) ** 2 / 4,
        corrected_variance=length**2 * largest**2 / 2,
    )
