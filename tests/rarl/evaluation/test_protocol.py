"""Metrics by hand and against scipy; failures, strict variants, invariances."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from gor_head.evaluation import evaluate_predictions
from gor_head.metrics import METRICS, Metric
from rarl import tiny
from rarl.datasets import load_source
from rarl.evaluation.heldout import heldout_prompts
from rarl.evaluation.protocol import evaluate, farthest_end, mean, one_image_metrics, score
from rarl.evaluation.reports import Constant, Report, Scores, read_report, write_report
from rarl.evaluation.tables import report_table
from rarl.hub import model_card
from rarl.prompt import build_completion
from rarl.task import OrdinalTask, get_task

AGE, COUNT, AESTHETICS = get_task("age"), get_task("count"), get_task("aesthetics")
GARBAGE = "I cannot say."


def answer(*items: tuple[int, float]) -> str:
    """A completion that lists (image_id, value) items as they are given."""
    listed = [{"image_id": image_id, "value": value} for image_id, value in items]
    return f"<think>t</think><answer>{json.dumps(listed)}</answer>"


def test_age_by_hand() -> None:
    completions = [answer((1, 30)), answer((1, 50)), GARBAGE]
    report = score({1: completions}, {1: [[33], [40], [20]]}, "age", constant=35)
    assert report.task == "age"
    assert report.readable.metrics["mae"] == pytest.approx(6.5)
    assert report.strict.metrics["mae"] == pytest.approx((3 + 10 + 96) / 3)  # 116 is the far end from 20
    assert report.failure_rate == pytest.approx(1 / 3)
    assert report.num_prompts == {1: 3} and report.failures == {1: 1}
    assert report.constant == Constant(35, pytest.approx((2 + 5 + 15) / 3))
    assert set(report.readable.metrics) == set(report.strict.metrics) == {"mae"}


def test_count_by_hand() -> None:
    completions = [answer((1, 3)), answer((1, 3)), GARBAGE, answer((1, 7.5))]
    report = score({1: completions}, {1: [[3], [4], [9], [7]]}, "count")
    assert report.readable.metrics["accuracy"] == pytest.approx(1 / 3)
    assert report.strict.metrics["accuracy"] == pytest.approx(1 / 4)
    assert report.readable.metrics["mae"] == pytest.approx(0.5)
    assert report.strict.metrics["mae"] == pytest.approx((0 + 1 + 9 + 0.5) / 4)
    assert report.constant is None


def test_srcc_against_scipy_with_failures_at_the_far_end() -> None:
    values = [2.0, 9.0, 5.0, 7.0, 3.0, 3.0]
    predictions = [2.5, None, 5.5, 5.5, 1.0, 4.0]
    completions = [GARBAGE if p is None else answer((1, p)) for p in predictions]
    report = score({1: completions}, {1: [[value] for value in values]}, "aesthetics")
    read = [index for index, predicted in enumerate(predictions) if predicted is not None]
    expected = spearmanr([predictions[index] for index in read], [values[index] for index in read]).statistic
    assert report.readable.metrics["srcc"] == pytest.approx(expected)
    worst = [1.0 if predicted is None else predicted for predicted in predictions]
    assert report.strict.metrics["srcc"] == pytest.approx(spearmanr(worst, values).statistic)
    assert report.strict.metrics["srcc"] < report.readable.metrics["srcc"]


def test_undefined_metrics_are_json_null() -> None:
    report = score({1: [GARBAGE, GARBAGE], 2: [GARBAGE]}, {1: [[2.0], [8.0]], 2: [[1.0, 2.0]]}, "aesthetics")
    assert report.readable == Scores({"mae": None, "srcc": None}, {2: None})
    assert report.strict.metrics["mae"] == pytest.approx((8 + 7) / 2)
    assert report.strict.metrics["srcc"] == pytest.approx(-1)
    assert report.strict.tau == {2: -1.0}
    assert report.failure_rate == 1.0
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["mae"] is None and content["tau"] == {"2": None} and Report.from_json(content) == report


def test_tau_by_hand() -> None:
    truths = [[1, 2, 3, 4]] * 4
    completions = [
        answer((1, 1), (2, 2), (3, 3), (4, 4)),  # τ = 1
        answer((2, 1), (1, 2), (3, 3), (4, 4)),  # one of six pairs swapped: τ = 2/3
        answer((1, 1), (2, 2)),  # of six pairs one is listed: τ = 1/6
        GARBAGE,
    ]
    report = score({4: completions}, {4: truths}, "count")
    assert report.readable.tau[4] == pytest.approx((1 + 2 / 3 + 1 / 6) / 3)
    assert report.strict.tau[4] == pytest.approx((1 + 2 / 3 + 1 / 6 - 1) / 4)
    assert report.failures == {4: 1} and report.failure_rate == 0.25
    assert report.readable.metrics["mae"] is None and report.readable.metrics["accuracy"] is None


def test_prompts_tied_in_truth_are_left_out_and_counted() -> None:
    completions = [answer((1, 1), (2, 2)), answer((2, 1), (1, 2)), GARBAGE]
    report = score({2: completions}, {2: [[5, 5], [1, 2], [5, 5]]}, "count")
    assert report.readable.tau == {2: -1.0} and report.strict.tau == {2: -1.0}
    assert report.tied == {2: 2}
    assert report.failures == {2: 1} and report.num_prompts == {2: 3}
    alone = score({2: completions[:1]}, {2: [[5, 5]]}, "count")
    assert alone.readable.tau == {2: None} and alone.strict.tau == {2: None}


@given(st.lists(st.permutations(range(8)), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_tau_equals_scipy_without_ties(orders: list[list[int]], random: Any) -> None:
    truths = [[float(value) for value in random.sample(range(117), 8)] for _ in orders]
    completions = [answer(*((index + 1, place) for place, index in enumerate(order))) for order in orders]
    expected = [
        kendalltau(range(8), [truth[index] for index in order]).statistic
        for order, truth in zip(orders, truths, strict=True)
    ]
    report = score({8: completions}, {8: truths}, "age")
    assert report.readable.tau[8] == pytest.approx(float(np.mean(expected)))


@given(st.lists(st.tuples(st.none() | st.integers(1, 10), st.integers(1, 10)), min_size=1, max_size=12))
def test_metrics_do_not_depend_on_the_order_of_prompts(pairs: list[tuple[int | None, int]]) -> None:
    for task in (COUNT, AESTHETICS):
        results = []
        for arranged in (pairs, pairs[::-1], sorted(pairs, key=str)):
            readable, strict = one_image_metrics([p for p, _ in arranged], [v for _, v in arranged], task)
            results.append({**readable, **{f"strict {name}": value for name, value in strict.items()}})
        for other in results[1:]:
            assert other == pytest.approx(results[0])


@given(st.lists(st.tuples(st.none() | st.floats(0, 116), st.floats(0, 116)), min_size=1, max_size=12))
def test_strict_is_never_better(pairs: list[tuple[float | None, float]]) -> None:
    readable, strict = one_image_metrics([p for p, _ in pairs], [v for _, v in pairs], AGE)
    exact = [116 / 1 if p is None else abs(p - v) for p, v in pairs]
    assert strict["mae"] is not None and strict["mae"] <= np.mean(exact) + 1e-9
    if readable["mae"] is not None and any(p is None for p, _ in pairs):
        failed = [max(v, 116 - v) for p, v in pairs if p is None]
        kept = [abs(p - v) for p, v in pairs if p is not None]
        assert strict["mae"] == pytest.approx((sum(failed) + sum(kept)) / len(pairs))


@pytest.mark.parametrize(("value", "end"), [(1, 10), (5.5, 10), (5.6, 1), (10, 1), (0.0, 10)])
def test_farthest_end(value: float, end: float) -> None:
    assert farthest_end(value, AESTHETICS) == end


def test_wild_predictions_stay_finite() -> None:
    completions = [answer((1, 1.7e308)), answer((1, 1.7e308)), answer((1, -1.7e308))]
    report = score({1: completions}, {1: [[1], [2], [3]]}, "age")
    error = report.readable.metrics["mae"]
    assert error is not None and math.isfinite(error) and error > 1e308
    assert mean([]) is None


def test_perfect_answers_score_perfectly_on_every_task() -> None:
    rng = np.random.default_rng(0)
    for task in (AGE, COUNT, AESTHETICS, get_task("brightness")):
        values = {
            number: [
                sorted(rng.permutation(np.linspace(task.minimum, task.maximum, 11))[:number].round(1).tolist())[::-1]
                for _ in range(5)
            ]
            for number in (1, 2, 4, 8)
        }
        if task.integer:
            values = {n: [[float(round(v)) for v in row] for row in rows] for n, rows in values.items()}
        completions = {n: [build_completion(row, task) for row in rows] for n, rows in values.items()}
        report = score(completions, values, task)
        assert report.readable.metrics["mae"] == 0 and report.readable.tau == {2: 1.0, 4: 1.0, 8: 1.0}
        best = 0 if METRICS[task.metric].better == "smaller" else 1
        assert report.readable.metrics[task.metric] == pytest.approx(best)
        assert report.strict.tau == report.readable.tau and report.failure_rate == 0


def test_a_new_metric_is_one_entry_of_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def median_error(truth: Any, prediction: Any) -> float:
        return float(np.median(np.abs(np.asarray(prediction) - np.asarray(truth))))

    entry = Metric("median_error", "median", "Median absolute error", median_error, "smaller", of_tasks=True)
    with pytest.raises(ValueError, match="metric must be 'mae', 'accuracy' or 'srcc', got 'median_error'"):
        OrdinalTask("shade", "shade", 0, 10, 1, metric="median_error")
    monkeypatch.setitem(METRICS, entry.name, entry)
    task = OrdinalTask("shade", "shade", 0, 10, 1, metric="median_error")
    report = score({1: [answer((1, 1)), answer((1, 4)), GARBAGE]}, {1: [[1], [2], [3]]}, task)
    assert report.readable.metrics == {"mae": 1.0, "median_error": 1.0}
    assert report.strict is not None and report.strict.metrics["median_error"] == 2.0
    write_report(report, tmp_path / "report.json")
    assert read_report(tmp_path) == report
    headings = [str(column.header) for column in report_table({"a": report}).columns]
    assert headings == ["model", "MAE ↓", "median ↓", "unreadable"]
    assert "| Median absolute error | 1.000 |" in model_card("org/model", task, "sft", report=report).text
    assert evaluate_predictions([1, 2, 3], [1, 4, 3]).metrics["median_error"] == 0.0


def test_reasons_are_counted() -> None:
    good = '<answer>[{"image_id": 1, "value": 1}]</answer>'
    half = '<answer>[{"image_id": 1, "value": 1}, {"image_id": 7, "value": 1}]</answer>'
    texts = {1: [good, "no", "none", "<answer>[", "<answer>?</answer>"], 2: [half, half, "no"]}
    report = score(texts, {1: [[1.0]] * 5, 2: [[1.0, 2.0]] * 3}, "count")
    assert report.reasons == {
        1: {"no_answer": 2, "cut_off": 1, "no_list": 1},
        2: {"invalid_item": 2, "no_answer": 1},
    }
    assert report.failures == {1: 4, 2: 1}


def test_score_refuses_rows_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="1 completions for 2 rows"):
        score({2: [GARBAGE]}, {2: [[1, 2], [2, 3]]}, "count")
    with pytest.raises(ValueError, match="row 1 has 3 values"):
        score({2: [GARBAGE] * 2}, {2: [[1, 2], [2, 3, 4]]}, "count")
    with pytest.raises(ValueError, match="Unknown task 'weight'"):
        score({}, {}, "weight")


def test_no_prompts() -> None:
    report = score({}, {}, OrdinalTask("shade", "shade", 0, 1, 0.1))
    assert report.failure_rate is None and report.readable.tau == {} and report.readable.metrics["mae"] is None


def test_evaluate_a_model_on_heldout_prompts() -> None:
    processor = tiny.build_processor()
    torch.manual_seed(0)
    model = tiny.build_model(processor, layers=1, vision_layers=1)
    source = load_source("builtin", task="count", size=60)
    datasets, median = heldout_prompts(source, "test", [1, 2], num_prompts=3)
    assert list(datasets) == [1, 2] and 0 <= median <= 10
    settings = {"batch_size": 2, "max_new_tokens": 3, "progress": False, "constant": median}
    report = evaluate(model, processor, datasets, task=source.task, **settings)
    assert report.num_prompts == {1: 3, 2: 3}
    assert report.failure_rate == 1.0, "three tokens hold no answer"
    assert report.strict.tau[2] == -1.0
    labels = [row[0] for row in datasets[1]["values"]]
    assert report.constant.mae == pytest.approx(float(np.mean(np.abs(np.array(labels) - median))))


def test_heldout_prompts_use_the_split_and_the_training_median() -> None:
    source = load_source("builtin", task="count", size=80)
    from rarl.datasets import split_by_content

    splits = split_by_content(source, seed=3)
    datasets, median = heldout_prompts(source, "validation", [2], num_prompts=20, seed=3)
    assert median == float(np.median(source.values[splits["train"]]))
    used = {i for row in datasets[2].with_format(None)["images"] for i in row}
    assert used <= set(splits["validation"].tolist()) and len(used) > 1
    few = len(splits["test"])
    with pytest.raises(ValueError, match=rf"of {few + 1} images from the test split, {few} of 80 images"):
        heldout_prompts(source, "test", [1, few + 1], num_prompts=2, seed=3)
    with pytest.raises(ValueError, match="'dev'.*train, validation, test"):
        heldout_prompts(source, "dev")
