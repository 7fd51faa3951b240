"""What `gor evaluate` reports, as JSON and back."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gor_head.evaluation import Evaluation, evaluate_predictions
from gor_head.metrics import METRICS, cumulative_score

values = st.integers(-999, 999).map(lambda number: number / 10)


@given(st.lists(st.tuples(values, values), min_size=1, max_size=30), st.floats(0, 100))
def test_what_is_written_is_read(pairs: list[tuple[float, float]], within: float) -> None:
    truth, prediction = np.array(pairs).T
    report = evaluate_predictions(truth, prediction, within=within)
    text = json.dumps(report.to_json(), allow_nan=False)
    again = Evaluation.from_json(json.loads(text))
    assert again == report and json.dumps(again.to_json()) == text
    for name, metric in METRICS.items():
        assert report.metrics.get(name) == (metric(truth, prediction) if metric.of_labels else None)
    assert list(report.metrics.values())[-1] == cumulative_score(truth, prediction, within)


def test_keys_and_their_order() -> None:
    report = evaluate_predictions([1, 2, 3], [1, 2, 5], edges=[-math.inf, 2, 9, math.inf])
    content = report.to_json()
    assert list(content) == ["mae", "rmse", "lcc", "srcc", "kendall", "xauc", "cs@5", "ranges", "whole"]
    assert [(row["low"], row["high"], row["count"]) for row in content["ranges"]] == [
        (None, 2, 2),
        (2, 9, 1),
        (9, None, 0),
    ]
    assert content["ranges"][2]["mae"] is None and content["whole"]["truth_mean"] == 2.0
    assert report.whole.low == -math.inf


def test_metrics_that_are_undefined_are_null() -> None:
    content = evaluate_predictions([1, 2], [3, 3]).to_json()
    assert (content["mae"], content["xauc"]) == (1.5, 0.5)
    assert (content["lcc"], content["srcc"], content["kendall"]) == (None, None, None)
    assert evaluate_predictions([2, 2], [1, 3]).metrics["xauc"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranges": None}, "no ranges and whole; what `gor evaluate --json` prints is wanted"),
        ({"r2": 0.5}, "Unknown metric 'r2'; wanted one of mae"),
        ({"mae": "low"}, "mae: wanted a finite number or null, got 'low'"),
        ({"ranges": [{"low": 0}]}, r"ranges\[0\]: wanted a range with low, high, count, .*, got \{'low': 0\}"),
        ({"whole": 3}, "whole: wanted a range with low, .*, got 3"),
    ],
)
def test_other_content_is_refused(changes: dict[str, Any], message: str) -> None:
    content = evaluate_predictions([1, 2], [1, 3]).to_json() | changes
    with pytest.raises(ValueError, match=f"scores.json:? .*{message}"):
        Evaluation.from_json(content, "scores.json")
    wrong = evaluate_predictions([1, 2], [1, 3]).to_json()
    wrong["whole"]["count"] = None
    with pytest.raises(ValueError, match="evaluation: whole: count: wanted a number, got None"):
        Evaluation.from_json(wrong)
