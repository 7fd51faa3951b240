"""Medians and intervals of numbers in value tokens."""

import pytest

from rarl import tiny
from rarl.evaluation.codes import code_processors, interval_ends
from rarl.evaluation.predict import Prediction
from rarl.evaluation.protocol import evaluate, interval_report
from rarl.evaluation.reports import IntervalScores
from rarl.evaluation.tables import prediction_table
from rarl.task import get_task


def test_ends_of_an_interval() -> None:
    assert interval_ends(0.9) == pytest.approx((0.05, 0.95))
    assert interval_ends(0.5) == (0.25, 0.75)
    for share in (0, 1, -0.1, 90):
        with pytest.raises(ValueError, match="wanted a share between 0 and 1"):
            interval_ends(share)


def test_interval_report_by_hand() -> None:
    report = interval_report([1, 5, None, 2], [3, 6, 4, 2], [2, 7, 4, 2], interval=0.8)
    assert report == IntervalScores(interval=0.8, coverage=pytest.approx(2 / 3), width=pytest.approx(1), unreadable=1)
    assert interval_report([], [], [], interval=0.8).coverage is None


def test_digits_have_no_quantiles() -> None:
    _, processor = tiny.load()
    with pytest.raises(ValueError, match="task 'count' writes digits"):
        code_processors(processor, get_task("count"), "quantile")
    assert len(code_processors(processor, get_task("count"))()) == 0


def test_intervals_want_one_image_prompts() -> None:
    with pytest.raises(ValueError, match=r"wanted one-image prompts among the data, got \[2, 4\] images"):
        evaluate(None, None, {2: [], 4: []}, task="count", interval=0.9)


def test_intervals_in_the_table() -> None:
    prediction = Prediction("", [6.0, None], [1, None], [(5.0, 8.0), (None, 2.0)])
    table = prediction_table(["a.png", "b.png"], prediction, "count")
    assert [list(column.cells) for column in table.columns][1:] == [["6", "–"], ["1", "–"], ["5 to 8", "– to 2"]]
