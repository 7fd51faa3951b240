"""Ordinal tasks: checks, wording, and the register."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarl.task import TASKS, OrdinalTask, get_task, register_task


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
    assert OrdinalTask("p", "p", 0.5, 1e6, tolerance=1).value_range == "number from 0.5 to 1e+06"
    assert get_task("age").format_value(17.0) == "17"
    assert get_task("aesthetics").format_value(5.0) == "5"
    assert get_task("aesthetics").format_value(5.25) == "5.25"
    assert get_task("aesthetics").format_value(10 / 3) == "3.333333"


@given(st.floats(1, 10))
def test_format_keeps_six_decimals(value: float) -> None:
    assert abs(float(get_task("aesthetics").format_value(value)) - value) <= 5.1e-7


def test_check_value() -> None:
    age = get_task("age")
    assert age.check_value(17) == 17.0 and type(age.check_value(17)) is float
    assert age.check_value(0) == 0 and age.check_value(116) == 116
    assert get_task("aesthetics").check_value(1.5) == 1.5
    for value, message in [(math.nan, "not finite"), (math.inf, "not finite"), (-1, "-1 is outside"), (17.5, "17.5")]:
        with pytest.raises(ValueError, match=f"^face.jpg: .*{message}"):
            age.check_value(value, "face.jpg")


def test_register_and_get() -> None:
    rust = OrdinalTask("rust", "rusted area", 0, 100, tolerance=8)
    assert get_task(rust) is rust and "rust" not in TASKS
    try:
        assert register_task(rust) is rust
        assert get_task("rust") is rust
    finally:
        TASKS.pop("rust", None)
    with pytest.raises(ValueError, match=r"Unknown task 'rust'; registered tasks: aesthetics, age, .*count"):
        get_task("rust")
