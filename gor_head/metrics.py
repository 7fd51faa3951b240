"""How well predictions fit true labels: size of the errors, linear agreement, order (GoR, appendix F.1.1).

Every metric takes true labels and predictions, `[n]` each, in the same units, as sequences, arrays or tensors, and
returns a float. They raise ValueError, naming the argument, unless both are n ≥ 1 finite numbers in one dimension.

A correlation with a constant is undefined; the functions give 0.0, as of any correlation of a single row: constant
predictions order nothing. [`METRICS`][gor_head.metrics.METRICS], the table of all metrics, says what reports make of an
undefined metric.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gor_head.grid import as_labels
from gor_head.numbers import read_number, show_metric, write_number

Direction = Literal["smaller", "larger"]
Ties = Literal["half", "legacy"]
Numbers = NDArray[np.float64]


def mae(truth: Any, prediction: Any) -> float:
    """Mean absolute error, in units of the label; the sum does not overflow, however wild a prediction."""
    truth, prediction = _pair(truth, prediction)
    return _mean(np.abs(prediction - truth))


def rmse(truth: Any, prediction: Any) -> float:
    """Root of the mean squared error, in units of the label."""
    truth, prediction = _pair(truth, prediction)
    return math.sqrt(np.square(prediction - truth).mean())


def accuracy(truth: Any, prediction: Any) -> float:
    """Share of exactly right predictions, 0..1."""
    truth, prediction = _pair(truth, prediction)
    return _mean(prediction == truth)


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
    return 0.0 if _constant(truth, prediction) else float(stats.spearmanr(prediction, truth).statistic)


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
class Metric:
    """A metric as reports and tables have it.

    Args:
        name: Key in reports, and what a task or an option calls it.
        title: Short name, for the heading of a column.
        label: Name in words.
        function: (true labels, predictions) → number, for the rows on which the metric is defined.
        better: Whether smaller or larger numbers are better.
        wants: What has to differ between at least two rows for the metric to be defined: nothing, the true labels, or
            both the true labels and the predictions.
        format: A number of it for people.
        of_tasks: Whether a task of images may name it as its metric.
        of_labels: Whether `gor evaluate` reports it.
    """

    name: str
    title: str
    label: str
    function: Callable[[Any, Any], float]
    better: Direction
    wants: Literal["nothing", "truth", "both"] = "nothing"
    format: Callable[[Any], str] = show_metric
    of_tasks: bool = False
    of_labels: bool = True

    def __call__(self, truth: Any, prediction: Any) -> float | None:
        """The metric of true labels and predictions, `[n]` each; `None` where it is undefined, see
        [`METRICS`][gor_head.metrics.METRICS].

        Raises:
            ValueError: If these are not as many predictions as labels, or not finite numbers in one dimension.
        """
        if len(truth) == len(prediction) == 0:
            return None
        truth, prediction = _pair(truth, prediction)
        sides = {"nothing": (), "truth": (truth,), "both": (truth, prediction)}[self.wants]
        return None if _constant(*sides) else self.function(truth, prediction)

    @property
    def heading(self) -> str:
        """The title, with an arrow in the direction that is better."""
        return f"{self.title} {'↓' if self.better == 'smaller' else '↑'}"

    def show(self, value: float | None, format: Callable[[Any], str] | None = None) -> str:
        """A value for people, a dash where it is undefined; `format` for a table whose figures all have another."""
        return "–" if value is None else (format or self.format)(value)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("mae", "MAE", "Mean absolute error", mae, "smaller", of_tasks=True),
        Metric("rmse", "RMSE", "Root mean squared error", rmse, "smaller"),
        Metric("accuracy", "accuracy", "Accuracy", accuracy, "larger", of_tasks=True, of_labels=False),
        Metric("lcc", "LCC", "Linear correlation", lcc, "larger", "both"),
        Metric("srcc", "SRCC", "Spearman rank correlation", srcc, "larger", "both", of_tasks=True),
        Metric("kendall", "Kendall τ", "Kendall rank correlation", kendall, "larger", "both"),
        Metric("xauc", "XAUC", "Share of pairs in the right order", xauc, "larger", "truth"),
    )
}
"""The table of all metrics, in the order in which reports and tables list them: by its name, all that tasks, reports,
tables, model cards and commands know of a metric. A new metric is one function above and one entry here.

There is one rule for an undefined metric. Every metric of no rows is undefined, a correlation where the true labels or
the predictions are all equal, XAUC where the true labels are. Calling the entry then gives `None`, which is `null` in
JSON and a dash in tables; model cards leave it out. The functions themselves refuse no rows, and otherwise give the
number of predictions that order nothing (0.0, XAUC 0.5): it is what a mean over several evaluations counts.
"""


def cumulative_metric(tolerance: float) -> Metric:
    """The entry of [`cumulative_score`][gor_head.metrics.cumulative_score] for one tolerance, named `cs@5` for 5."""
    digits = write_number(tolerance)
    name = f"cs@{digits}"
    return Metric(
        name,
        name.upper(),
        f"Share of errors up to {digits}",
        lambda truth, prediction: cumulative_score(truth, prediction, tolerance),
        "larger",
    )


def get_metric(name: str) -> Metric:
    """The metric of a name: that of [`METRICS`][gor_head.metrics.METRICS], or
    [`cumulative_metric`][gor_head.metrics.cumulative_metric] of a name such as `cs@5`.

    Raises:
        ValueError: If there is none of that name.
    """
    if name in METRICS:
        return METRICS[name]
    tolerance = read_number(name.removeprefix("cs@")) if name.startswith("cs@") else None
    if tolerance is None:
        raise ValueError(f"Unknown metric {name!r}; wanted one of {', '.join(METRICS)}, or cs@ and a number.")
    return cumulative_metric(tolerance)


@dataclass(frozen=True)
class RangeRow:
    """Errors and predictions of the rows whose true label lies in one range; figures are `None` where it has no row.

    Args:
        low: Lower end, not included, except in the first range.
        high: Upper end, included.
        count: Rows in the range.
        mae: Mean absolute error.
        truth_mean: Mean of the true labels.
        truth_variance: Variance of the true labels (over n, not n − 1).
        prediction_mean: Mean of the predictions.
        prediction_variance: Variance of the predictions.
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


def _mean(numbers: NDArray[Any]) -> float:
    """Arithmetic mean, which overflows no sooner than its parts do and does not depend on their order."""
    return math.fsum(number / len(numbers) for number in numbers.tolist())


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
