"""Ordinal tasks: checks, wording, and the register."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gor_head import CoDiVocabulary
from rarl.answer import parse_answer
from rarl.prompt import build_completion
from rarl.task import TASKS, OrdinalTask, get_task, read_task, register_task, save_task


@pytest.mark.parametrize(
    ("name", "minimum", "maximum", "tolerance", "metric"),
    [("age", 0, 116, 10, "mae"), ("count", 0, 10, 3, "accuracy"), ("aesthetics", 1, 10, 1.5, "srcc")],
)
def test_shipped_tasks(name: str, minimum: float, maximum: float, tolerance: float, metric: str) -> None:
    task = get_task(name)
    assert (task.name, task.minimum, task.maximum, task.tolerance) == (name, minimum, maximum, tolerance)
    assert task.metric == metric and task.integer == (name != "aesthetics")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "name=''"),
        ({"rule": ""}, "rule=''"),
        ({"minimum": 5}, "minimum=5, maximum=5"),
        ({"minimum": 6}, "minimum=6, maximum=5"),
        ({"maximum": math.inf}, "maximum=inf"),
        ({"minimum": math.nan}, "minimum=nan"),
        ({"maximum": 2**53, "integer": True}, f"exact below 2\\*\\*53, got minimum=0, maximum={2**53}"),
        ({"minimum": -(2**53), "integer": True}, "exact below"),
        ({"tolerance": 0}, "got 0"),
        ({"tolerance": -1}, "got -1"),
        ({"tolerance": math.nan}, "got nan"),
        ({"metric": "rmse"}, "got 'rmse'"),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"name": "rust", "rule": "rust", "minimum": 0, "maximum": 5, "tolerance": 1} | change
    with pytest.raises(ValueError, match=message):
        OrdinalTask(**arguments)


def test_wording() -> None:
    assert get_task("age").value_range == "integer from 0 to 116"
    assert OrdinalTask("p", "p", 0.5, 1e6, tolerance=1).value_range == "number from 0.5 to 1000000"
    assert get_task("age").format_value(17.0) == "17"
    assert get_task("aesthetics").format_value(5.0) == "5"
    assert get_task("aesthetics").format_value(5.25) == "5.25"
    assert get_task("aesthetics").format_value(10 / 3) == "3.3333333333333335"
    assert OrdinalTask("p", "p", 0, 1234567, tolerance=1, integer=True).value_range == "integer from 0 to 1234567"
    assert OrdinalTask("p", "p", -1e-7, 9e-7, tolerance=1).value_range == "number from -1e-07 to 9e-07"


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=4))
def test_answers_hold_exact_values(values: list[float]) -> None:
    task = OrdinalTask("conc", "concentration in mol per litre", -1e300, 1e300, tolerance=1)
    assert parse_answer(build_completion(values, task), len(values)).values() == values


@given(st.lists(st.integers(1 - 2**53, 2**53 - 1), min_size=1, max_size=4))
def test_answers_hold_exact_whole_numbers(values: list[int]) -> None:
    task = OrdinalTask("price", "price", 1 - 2**53, 2**53 - 1, tolerance=1, integer=True)
    text = build_completion(values, task)
    assert parse_answer(text, len(values)).values() == values and "e+" not in text and "." not in text.split("[")[1]


def test_check_value() -> None:
    age = get_task("age")
    assert age.check_value(17) == 17.0 and type(age.check_value(17)) is float
    assert age.check_value(0) == 0 and age.check_value(116) == 116
    assert get_task("aesthetics").check_value(1.5) == 1.5
    for value, message in [(math.nan, "not finite"), (math.inf, "not finite"), (-1, "-1 is outside"), (17.5, "17.5")]:
        with pytest.raises(ValueError, match=f"^face.jpg: .*{message}"):
            age.check_value(value, "face.jpg")


def test_errors_show_every_digit() -> None:
    price = OrdinalTask("price", "price in dollars", 0, 1234567, tolerance=10000, integer=True)
    with pytest.raises(ValueError, match="^x: value 1234568 is outside .* 'price', which is 0 to 1234567.$"):
        price.check_value(1234568, "x")
    with pytest.raises(ValueError, match="value 1234566.5 is not an integer"):
        price.check_value(1234566.5)
    conc = OrdinalTask("conc", "concentration", 0, 1e-6, tolerance=1e-7)
    with pytest.raises(ValueError, match="value 1.0000001e-06 is outside .* 0 to 1e-06"):
        conc.check_value(1.0000001e-6)


def test_register_and_get() -> None:
    rust = OrdinalTask("rust", "rusted area", 0, 100, tolerance=8)
    assert get_task(rust) is rust and "rust" not in TASKS
    assert register_task(rust) is rust
    assert get_task("rust") is rust
    TASKS.pop("rust")
    with pytest.raises(ValueError, match=r"Unknown task 'rust'; registered tasks: aesthetics, age, .*count"):
        get_task("rust")


def test_numbers_in_value_tokens_are_written_saved_and_read(tmp_path: Path) -> None:
    ages = get_task("age").with_vocabulary(CoDiVocabulary([1, 3, 5, 50], tolerance=0))
    assert ages.format_value(58) == "<gor><+50><+5><+3></gor>"
    save_task(ages, tmp_path)
    loaded = read_task(tmp_path)
    assert loaded == ages and loaded.format_value(58) == ages.format_value(58)
    assert get_task("age").format_value(58) == "58"
    for values in ([30.0, 4.0], [0.0, 116.0, 1.0]):
        assert parse_answer(build_completion(values, ages), len(values)).values() == values


@pytest.mark.parametrize(
    ("name", "vocabulary", "message"),
    [
        ("brightness", CoDiVocabulary([1]), "values are fractions, but the vocabulary has a resolution of 1"),
        ("age", CoDiVocabulary([1], resolution=0.5), "values are whole numbers, but .* a resolution of 0.5"),
        ("age", CoDiVocabulary([1, 2], max_length=3), "has codes up to 6, wanted 116"),
        (
            "age",
            CoDiVocabulary.fit([2, 120], offset="min"),
            "wanted a minimum of 0 or more and no offset, got .*offset=2",
        ),
    ],
)
def test_vocabulary_that_does_not_fit_the_task(name: str, vocabulary: CoDiVocabulary, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_task(name).with_vocabulary(vocabulary)


def test_vocabulary_that_was_changed_is_refused() -> None:
    content = CoDiVocabulary([1, 3, 5, 50], tolerance=0).to_dict() | {"tokens": [1, 3, 5, 51]}
    with pytest.raises(ValueError, match="Task 'age': vocabulary: hash .* it was changed"):
        replace(get_task("age"), vocabulary=content)
    with pytest.raises(ValueError, match="writes numbers in digits"):
        _ = get_task("age").codi_vocabulary
