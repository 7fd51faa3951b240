"""How well predictions fit true labels: size of the errors, linear agreement, order (GoR, appendix F.1.1).

Every metric takes true labels and predictions, `[n]` each, in the same units, as sequences, arrays or tensors, and
returns a float. They raise ValueError, naming the argument, unless both are n ≥ 1 finite numbers in one dimension.

A correlation with a constant is undefined; here it is 0.0, as is any correlation of a single row: constant predictions
order nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gor_head.grid import as_labels
from gor_head.numbers import write_number

Ties = Literal["half", "legacy"]
Numbers = NDArray[np.float64]


def mae(truth: Any, prediction: Any) -> float:
    """Mean absolute error, in units of the label."""
    truth, prediction = _pair(truth, prediction)
    return float(np.abs(prediction - truth).mean())


def rmse(truth: Any, prediction: Any) -> float:
    """Root of the mean squared error, in units of the label."""
    truth, prediction = _pair(truth, prediction)
    return math.sqrt(np.square(prediction - truth).mean())


def cumulative_score(truth: Any, prediction: Any, tolerance: float = 5) -> float:
    """CS@L: share of rows whose absolute error is at most L, 0..1. (Papers print it in percent.)

    Args:
        truth: True labels, `[n]`.
        prediction: Predictions, `[n]`.
        tolerance: L, ≥ 0, in units of the label.
    """
    truth, prediction = _pair(truth, prediction)
    if not tolerance >= 0:
        raise ValueError(f"tolerance: wanted a number from 0 on, got {tolerance!r}.")
    # 0.4 − 0.1 is a little above 0.3 in floats, and an error of 0.3 nevertheless.
    rounding = 4 * np.finfo(np.float64).eps * np.maximum(np.abs(truth), np.abs(prediction))
    return float((np.abs(prediction - truth) <= tolerance + rounding).mean())


def lcc(truth: Any, prediction: Any) -> float:
    """Linear correlation coefficient (Pearson), −1..1; 0.0 if either side is constant."""
    truth, prediction = _pair(truth, prediction)
    return 0.0 if _constant(truth, prediction) else float(stats.pearsonr(truth, prediction).statistic)


def srcc(truth: Any, prediction: Any) -> float:
    """Spearman's rank correlation, tied rows sharing their mean rank, −1..1; 0.0 if either side is constant."""
    truth, prediction = _pair(truth, prediction)
    return 0.0 if _constant(truth, prediction) else float(stats.spearmanr(truth, prediction).statistic)


def kendall(truth: Any, prediction: Any) -> float:
    """Kendall's τ-b, −1..1, in O(n log n); 0.0 if either side is constant."""
    return _tau(*_pair(truth, prediction))


def xauc(truth: Any, prediction: Any, ties: Ties = "half") -> float:
    """Share of pairs of rows that the predictions put in the right order, 0..1, over all pairs, in O(n log n).

    The paper samples pairs and is silent about ties. Two rules:

    - `"half"`: over pairs with different truth, (concordant + ½ tied predictions) / pairs. Constant predictions score
      0.5, whatever the order of the rows. 0.5 also if all true labels are equal: then no pair can be judged.
    - `"legacy"`: over all pairs. Equal truth counts as wrong, and of two equal predictions the earlier row counts as
      the higher one, so the score depends on the order of the rows: sort them by truth, and constant predictions score
      0 or 1. The code that watch-time papers share computes this; use it only to compare with their tables. 0.0 if no
      pair differs in truth.

    Args:
        truth: True labels, `[n]`.
        prediction: Predictions, `[n]`.
        ties: `"half"` or `"legacy"`.
    """
    truth, prediction = _pair(truth, prediction)
    if ties not in ("half", "legacy"):
        raise ValueError(f"ties: wanted 'half' or 'legacy', got {ties!r}.")
    judged = _untied_pairs(truth)
    if not judged:
        return 0.5 if ties == "half" else 0.0
    if ties == "legacy":
        ranks = np.empty(len(truth))
        ranks[np.argsort(-prediction, kind="stable")] = np.arange(len(truth), 0, -1)
        prediction = ranks
    # τ-b is (concordant − discordant) / √(pairs untied in truth · pairs untied in prediction), so it gives the counts.
    surplus = round(_tau(truth, prediction) * math.sqrt(judged) * math.sqrt(_untied_pairs(prediction)))
    pairs = judged if ties == "half" else len(truth) * (len(truth) - 1) // 2
    return (judged + surplus) / 2 / pairs


@dataclass(frozen=True)
class RangeRow:
    """Errors and predictions of the rows whose true label lies in one range; figures are `None` where it has no row.

    Args:
        low: Lower end, not included, except in the first range.
        high: Upper end, included.
        count: Rows in the range.
        mae: Mean absolute error.
        truth_mean: Mean of the true labels.
        truth_variance: Their variance (over n, not n − 1).
        prediction_mean: Mean of the predictions.
        prediction_variance: Their variance.
    """

    low: float
    high: float
    count: int
    mae: float | None = None
    truth_mean: float | None = None
    truth_variance: float | None = None
    prediction_mean: float | None = None
    prediction_variance: float | None = None


def mae_by_range(truth: Any, prediction: Any, edges: Sequence[float]) -> list[RangeRow]:
    """Errors per range of true labels (GoR, table 5), with means and variances (table 6).

    Table 5 has `edges=[0, 2, 4, 6, 8, 10, math.inf]`, table 6 a single range, `[-math.inf, math.inf]`.

    Args:
        truth: True labels, `[n]`.
        prediction: Predictions, `[n]`.
        edges: Ends of the k ranges, ascending, infinite ones allowed, `[k + 1]`. A label on an edge belongs to the
            range below it, the first edge to the first range.

    Returns:
        k rows.

    Raises:
        ValueError: Also if edges do not ascend, or labels lie outside them.
    """
    truth, prediction = _pair(truth, prediction)
    bounds = np.asarray(edges, dtype=np.float64)
    if bounds.ndim != 1 or len(bounds) < 2 or not (np.diff(bounds) > 0).all():
        raise ValueError(f"edges: wanted at least 2 numbers, ascending, got {list(edges)}.")
    outside = int(((truth < bounds[0]) | (truth > bounds[-1])).sum())
    if outside:
        raise ValueError(
            f"truth: wanted labels from {write_number(bounds[0])} to {write_number(bounds[-1])}, the outer edges, got "
            f"{outside} outside (from {write_number(truth.min())} to {write_number(truth.max())})."
        )
    number = np.maximum(np.digitize(truth, bounds, right=True) - 1, 0)
    rows = []
    for index, (low, high) in enumerate(zip(bounds.tolist(), bounds[1:].tolist(), strict=False)):
        inside = number == index
        true, predicted = truth[inside], prediction[inside]
        if not len(true):
            rows.append(RangeRow(low, high, 0))
            continue
        figures = mae(true, predicted), true.mean(), true.var(), predicted.mean(), predicted.var()
        rows.append(RangeRow(low, high, len(true), *map(float, figures)))
    return rows


def _pair(truth: Any, prediction: Any) -> tuple[Numbers, Numbers]:
    true = as_labels(truth, "truth").astype(np.float64)
    predicted = as_labels(prediction, "prediction").astype(np.float64)
    if len(true) != len(predicted):
        raise ValueError(f"prediction: wanted {len(true)} numbers, one per true label, got {len(predicted)}.")
    return true, predicted


def _constant(*sides: Numbers) -> bool:
    return any((side == side[0]).all() for side in sides)


def _tau(truth: Numbers, prediction: Numbers) -> float:
    if _constant(truth, prediction):
        return 0.0
    return float(stats.kendalltau(truth, prediction).statistic)


def _untied_pairs(values: Numbers) -> int:
    """Pairs of rows with different values."""
    counts = np.unique(values, return_counts=True)[1]
    return (len(values) ** 2 - int((counts**2).sum())) // 2
