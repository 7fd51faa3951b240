import math
import subprocess
import sys
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, mean_absolute_error, roc_auc_score, root_mean_squared_error

from gor_head.metrics import (
    METRICS,
    Metric,
    accuracy,
    cumulative_metric,
    cumulative_score,
    get_metric,
    kendall,
    lcc,
    mae,
    mae_by_range,
    rmse,
    srcc,
    xauc,
)

FUNCTIONS = [mae, rmse, accuracy, cumulative_score, lcc, srcc, kendall, xauc]
ENTRIES = [*METRICS.values(), cumulative_metric(2.5)]

few_values = st.integers(0, 4).map(float)  # many ties
any_values = st.integers(-10_000, 10_000).map(lambda number: number / 100)
rows = st.lists(st.tuples(few_values, few_values) | st.tuples(any_values, any_values), min_size=1, max_size=40)
spread_rows = rows.filter(lambda pairs: all(len(set(side)) > 1 for side in zip(*pairs, strict=True)))


def sides(pairs: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    truth, prediction = np.array(pairs).T
    return truth, prediction


def slow_xauc(truth: Any, prediction: Any, ties: str = "half") -> float:
    """By the definition, pair by pair."""
    judged, score = 0, 0.0
    for (t1, p1), (t2, p2) in combinations(zip(truth, prediction, strict=True), 2):
        if ties == "legacy":
            judged += 1
            score += (t1 > t2 and p1 >= p2) or (t1 < t2 and p1 < p2)  # the first row comes earlier
        elif t1 != t2:
            judged += 1
            score += 0.5 if p1 == p2 else (t1 > t2) == (p1 > p2)
    return score / judged if judged else {"half": 0.5, "legacy": 0.0}[ties]


ORACLES = {
    "mae": mean_absolute_error,
    "rmse": root_mean_squared_error,
    "accuracy": lambda truth, prediction: accuracy_score(truth.astype(str), prediction.astype(str)),
    "lcc": lambda truth, prediction: stats.pearsonr(truth, prediction).statistic,
    "srcc": lambda truth, prediction: stats.spearmanr(truth, prediction).statistic,
    "kendall": lambda truth, prediction: stats.kendalltau(truth, prediction).statistic,
    "xauc": slow_xauc,
    "cs@2.5": lambda truth, prediction: np.mean([abs(t - p) <= 2.5 for t, p in zip(truth, prediction, strict=True)]),
}


def test_the_table_is_complete() -> None:
    assert set(ORACLES) == {metric.name for metric in ENTRIES}
    assert {metric.function for metric in METRICS.values()} == set(FUNCTIONS) - {cumulative_score}
    assert all(name == metric.name for name, metric in METRICS.items())
    assert [metric.name for metric in METRICS.values() if metric.of_tasks] == ["mae", "accuracy", "srcc"]


@pytest.mark.parametrize("metric", ENTRIES, ids=lambda metric: metric.name)
@given(spread_rows)
def test_every_metric_of_the_table_agrees_with_its_oracle(metric: Metric, pairs: list[tuple[float, float]]) -> None:
    truth, prediction = sides(pairs)
    assert metric(truth, prediction) == pytest.approx(ORACLES[metric.name](truth, prediction), abs=1e-9)


@pytest.mark.parametrize("metric", ENTRIES, ids=lambda metric: metric.name)
@given(spread_rows)
def test_a_perfect_prediction_is_best(metric: Metric, pairs: list[tuple[float, float]]) -> None:
    truth, prediction = sides(pairs)
    perfect, other = metric(truth, truth), metric(truth, prediction)
    assert perfect is not None and other is not None
    assert perfect <= other + 1e-9 if metric.better == "smaller" else perfect >= other - 1e-9


@pytest.mark.parametrize("metric", ENTRIES, ids=lambda metric: metric.name)
def test_the_direction_is_not_met_by_any_prediction(metric: Metric) -> None:
    perfect, wrong = metric([1, 2, 3], [1, 2, 3]), metric([1, 2, 3], [9, 6, 0])
    assert perfect is not None and wrong is not None
    assert (perfect < wrong) if metric.better == "smaller" else (perfect > wrong)
    assert metric.heading == f"{metric.title} {'↓' if metric.better == 'smaller' else '↑'}"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", ENTRIES, ids=lambda metric: metric.name)
def test_the_rule_for_an_undefined_metric(metric: Metric) -> None:
    """No rows; a correlation where one side is constant; order where no pair of labels differs."""
    order, ranks = metric.name in ("lcc", "srcc", "kendall", "xauc"), metric.name in ("lcc", "srcc", "kendall")
    assert metric([], []) is None
    for truth, prediction, undefined in (
        ([4.0], [4.0], order),
        ([2.0, 2.0], [1.0, 3.0], order),
        ([2.0, 2.0], [3.0, 3.0], order),
        ([1.0, 2.0], [3.0, 3.0], ranks),
        ([1.0, 2.0], [3.0, 4.0], False),
    ):
        assert (metric(truth, prediction) is None) == undefined
        assert metric.show(metric(truth, prediction)).startswith("–") == undefined
    with pytest.raises(ValueError, match="prediction: wanted 2 numbers"):
        metric([1, 2], [1])


def test_a_metric_is_found_by_its_name() -> None:
    assert get_metric("srcc") is METRICS["srcc"]
    named = get_metric("cs@2.5")
    assert (named.name, named.heading) == ("cs@2.5", "CS@2.5 ↑")
    assert named([1, 2], [3.5, 5]) == cumulative_score([1, 2], [3.5, 5], 2.5) == 0.5
    for name in ("r2", "cs@", "cs@inf", "MAE"):
        with pytest.raises(ValueError, match=f"Unknown metric '{name}'; wanted one of mae, .*, or cs@ and a number"):
            get_metric(name)


def test_metrics_as_numbers_for_people() -> None:
    assert [METRICS["mae"].show(number) for number in (12.3456, 0.0021, None)] == ["12.346", "0.0021", "–"]
    assert METRICS["mae"].show(12.3456, "{:.1f}".format) == "12.3"


def test_errors_do_not_overflow_and_do_not_depend_on_the_order_of_rows() -> None:
    assert mae([0.0, 0.0], [1.7e308, -1.7e308]) == 1.7e308
    numbers = np.random.default_rng(0).normal(size=999)
    assert mae(np.zeros(999), numbers) == mae(np.zeros(999), numbers[::-1]) == mae(np.zeros(999), np.sort(numbers))


def test_metrics_need_no_torch() -> None:
    code = "import sys, gor_head.metrics as m; print(m.mae([1], [3]), 'torch' in sys.modules, 'rarl' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["2.0", "False", "False"], done.stderr


def test_errors_by_hand() -> None:
    truth, prediction = [20, 30, 40, 50], [21, 25, 40, 60]
    assert mae(truth, prediction) == 4.0
    assert rmse(truth, prediction) == math.sqrt(126 / 4)
    assert cumulative_score(truth, prediction) == 0.75  # the error of exactly 5 is within
    assert cumulative_score(truth, prediction, tolerance=0) == 0.25
    assert cumulative_score(truth, prediction, tolerance=10) == 1.0


def test_an_error_as_large_as_the_tolerance_is_within_it() -> None:
    truth, prediction = np.arange(1, 2000) / 10, np.arange(4, 2003) / 10
    assert cumulative_score(truth, prediction, tolerance=0.3) == 1
    assert cumulative_score(1e-12 * truth, 1e-12 * prediction, tolerance=0.29e-12) == 0
    assert cumulative_score(truth, prediction + 1e-9, tolerance=0.3) == 0


@pytest.mark.parametrize(
    ("truth", "prediction", "half", "legacy"),
    [
        ([1, 2, 3], [10, 20, 30], 1.0, 1.0),
        ([1, 2, 3], [30, 20, 10], 0.0, 0.0),
        ([1, 2, 2], [1, 2, 3], 1.0, 2 / 3),  # two pairs are judged; legacy calls the third one wrong
        ([1, 2, 3], [5, 5, 9], 2.5 / 3, 2 / 3),
        ([2, 1, 3], [5, 5, 9], 2.5 / 3, 1.0),  # the same rows in another order
        ([1, 2, 3], [7, 7, 7], 0.5, 0.0),
        ([3, 2, 1], [7, 7, 7], 0.5, 1.0),
        ([4, 4, 4], [1, 2, 3], 0.5, 0.0),
        ([4], [1], 0.5, 0.0),
    ],
)
def test_xauc_by_hand(truth: list[float], prediction: list[float], half: float, legacy: float) -> None:
    assert xauc(truth, prediction) == half
    assert xauc(truth, prediction, ties="legacy") == legacy


@given(rows)
def test_xauc_is_what_pair_by_pair_gives(pairs: list[tuple[float, float]]) -> None:
    truth, prediction = sides(pairs)
    for ties in ("half", "legacy"):
        assert xauc(truth, prediction, ties=ties) == pytest.approx(slow_xauc(truth, prediction, ties), abs=1e-12)


@given(rows, st.randoms())
def test_half_ties_ignore_the_order_of_rows_and_mirror(pairs: list[tuple[float, float]], random: Any) -> None:
    truth, prediction = sides(pairs)
    mirrored = xauc(truth, -prediction)
    random.shuffle(pairs)
    assert xauc(*sides(pairs)) == xauc(truth, prediction)
    assert mirrored == pytest.approx(1 - xauc(truth, prediction), abs=1e-12)


@given(st.lists(st.tuples(st.booleans(), few_values), min_size=2, max_size=40))
def test_xauc_of_two_classes_is_auc(pairs: list[tuple[bool, float]]) -> None:
    truth, prediction = sides(pairs)
    if len(set(truth)) == 2:
        assert xauc(truth, prediction) == pytest.approx(roc_auc_score(truth, prediction), abs=1e-12)


def test_xauc_counts_a_million_rows_exactly() -> None:
    n = 1_000_000  # of which a loop over pairs would see no end
    truth = np.arange(n)
    prediction = np.where(truth < n // 2, truth + n, truth)  # every pair across the halves is wrong
    assert xauc(truth, prediction) == 1 - (n // 2) ** 2 / (n * (n - 1) // 2)
    assert xauc(truth, prediction // 1000 * 1000, ties="legacy") < 0.5


@given(spread_rows)
def test_against_scipy_and_sklearn(pairs: list[tuple[float, float]]) -> None:
    truth, prediction = sides(pairs)
    assert mae(truth, prediction) == pytest.approx(mean_absolute_error(truth, prediction))
    assert rmse(truth, prediction) == pytest.approx(root_mean_squared_error(truth, prediction))
    assert lcc(truth, prediction) == pytest.approx(np.corrcoef(truth, prediction)[0, 1], abs=1e-9)
    ranks = stats.rankdata(truth), stats.rankdata(prediction)
    assert srcc(truth, prediction) == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-9)
    signs = [np.sign(np.subtract.outer(side, side)) for side in (truth, prediction)]
    tau = (signs[0] * signs[1]).sum() / math.sqrt(abs(signs[0]).sum() * abs(signs[1]).sum())
    assert kendall(truth, prediction) == pytest.approx(tau, abs=1e-9)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", [lcc, srcc, kendall])
@pytest.mark.parametrize(
    ("truth", "prediction"), [([1, 2, 3], [5, 5, 5]), ([0.1] * 3, [1, 2, 3]), ([2, 2], [2, 2]), ([4], [4])]
)
def test_correlation_with_a_constant_is_zero(metric: Any, truth: list[float], prediction: list[float]) -> None:
    assert metric(truth, prediction) == 0.0


@pytest.mark.parametrize("metric", FUNCTIONS)
def test_same_for_lists_arrays_and_tensors(metric: Any) -> None:
    truth, prediction = [1.0, 4.0, 2.0, 2.0], [2.0, 3.0, 2.5, 9.0]
    result = metric(truth, prediction)
    assert type(result) is float
    assert metric(np.array(truth), np.array(prediction, dtype=np.float32)) == result
    assert metric(torch.tensor(truth), torch.tensor(prediction, requires_grad=True)) == result


@pytest.mark.parametrize("metric", [*FUNCTIONS, lambda truth, prediction: mae_by_range(truth, prediction, [0, 9])])
@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        ([], [], "truth: wanted at least 1 number, got none"),
        ([1, 2], [1, 2, 3], "prediction: wanted 2 numbers, one per true label, got 3"),
        ([[1, 2]], [1, 2], r"truth: .*got shape \(1, 2\)"),
        ([1, 2], [[1], [2]], r"prediction: .*got shape \(2, 1\)"),
        ([1, math.nan], [1, 2], "truth: wanted finite numbers, got 1 NaN or infinite of 2"),
        ([1, 2], [math.inf, math.nan], "prediction: wanted finite numbers, got 2 NaN or infinite of 2"),
        ([1, 2], ["1", "2"], "prediction: wanted numbers"),
    ],
)
def test_bad_rows_are_refused(metric: Any, truth: Any, prediction: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(truth, prediction)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="ties: wanted 'half' or 'legacy', got 'none'"):
        xauc([1, 2], [1, 2], ties="none")  # type: ignore[arg-type]
    for tolerance in (-1, math.nan):
        with pytest.raises(ValueError, match="tolerance: wanted a number from 0 on, got"):
            cumulative_score([1], [1], tolerance=tolerance)


def test_ranges_by_hand() -> None:
    truth, prediction = [0, 1, 2, 3, 4, 30], [1, 1, 5, 4, 4, 10]
    first, second, none, last = mae_by_range(truth, prediction, [0, 2, 4, 10, math.inf])
    assert (first.low, first.high, first.count) == (0, 2, 3)  # 0 and 2, the ends, are in
    assert first.mae == pytest.approx(4 / 3)
    assert (first.truth_mean, first.truth_variance) == pytest.approx((1, 2 / 3))
    assert (first.prediction_mean, first.prediction_variance) == pytest.approx((7 / 3, 32 / 9))
    assert (second.count, second.mae) == (2, 0.5)
    assert (none.count, none.mae, none.truth_mean, none.prediction_variance) == (0, None, None, None)
    assert (last.low, last.high, last.count, last.mae, last.truth_variance) == (10, math.inf, 1, 20, 0)


@given(rows, st.sets(st.integers(-99, 99), max_size=6))
def test_ranges_add_up_to_all_rows(pairs: list[tuple[float, float]], inner: set[int]) -> None:
    truth, prediction = sides(pairs)
    table = mae_by_range(truth, prediction, [-math.inf, *sorted(inner), math.inf])
    (whole,) = mae_by_range(truth, prediction, [-math.inf, math.inf])
    assert len(table) == len(inner) + 1
    assert sum(row.count for row in table) == whole.count == len(pairs)
    assert sum(row.count * (row.mae or 0) for row in table) / len(pairs) == pytest.approx(mae(truth, prediction))
    assert whole.prediction_mean == pytest.approx(prediction.mean())
    assert whole.prediction_variance == pytest.approx(prediction.var())
    for row in table:
        assert row.count == ((truth > row.low) & (truth <= row.high)).sum()


def test_bad_edges_are_refused() -> None:
    for edges in ([], [1], [1, 1], [2, 1], [0, math.nan]):
        with pytest.raises(ValueError, match="edges: wanted at least 2 numbers, ascending"):
            mae_by_range([1], [1], edges)
    with pytest.raises(ValueError, match=r"truth: wanted labels from 0 to 10, .*got 2 outside \(from -1 to 11\)"):
        mae_by_range([-1, 5, 11], [1, 1, 1], [0, 10])
