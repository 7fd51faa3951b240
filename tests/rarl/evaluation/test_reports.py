"""Report files, tables and log histories."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from gor_head.metrics import METRICS
from rarl.evaluation.plots import read_history
from rarl.evaluation.predict import Prediction
from rarl.evaluation.reports import (
    Constant,
    IntervalScores,
    Report,
    Runs,
    Scores,
    gather,
    read_report,
    write_report,
)
from rarl.evaluation.tables import cell, prediction_table, report_table

MAE = METRICS["mae"]


def content_of(mae: float, **changes: Any) -> dict[str, Any]:
    """A report as JSON, without what only later versions have."""
    return {
        "task": "count",
        "mae": mae,
        "accuracy": 0.5,
        "tau": {"2": 0.75, "8": None},
        "failure_rate": 0.25,
        "strict": {"mae": mae + 1, "accuracy": 0.5, "tau": {"2": 0.5, "8": -1.0}},
        "num_prompts": {"1": 4, "2": 4, "8": 4},
        "constant": {"value": 5.0, "mae": 2.5},
        **changes,
    }


def make_report(mae: float, **changes: Any) -> Report:
    return Report.from_json(content_of(mae, **changes))


def rendered(table: Table) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in lines if line[:1] in "│┃"
    ]


def test_table_of_runs_and_constant() -> None:
    runs = gather({"sft": make_report(1.0), "stage2": make_report(0.5, accuracy=None)})
    rows = rendered(report_table(runs.reports, runs.constant))
    assert rows == [
        ["model", "MAE ↓", "accuracy ↑", "τ2 ↑", "τ8 ↑", "unreadable"],
        ["sft", "1.000 (2.000)", "0.500", "0.750 (0.500)", "– (-1.000)", "25.0%"],
        ["stage2", "0.500 (1.500)", "– (0.500)", "0.750 (0.500)", "– (-1.000)", "25.0%"],
        ["constant", "2.500", "–", "–", "–", "–"],
    ]


def test_numbers_of_images_are_sorted_as_numbers() -> None:
    [header, _] = rendered(report_table({"a": make_report(1.0, tau={"16": 1.0, "2": 1.0, "8": 1.0})}))
    assert header[3:6] == ["τ2 ↑", "τ8 ↑", "τ16 ↑"]


def test_cell() -> None:
    assert [cell(MAE, *pair) for pair in ((0.5, None), (0.5, 0.5), (0.5, 0.25), (None, None))] == [
        "0.500",
        "0.500",
        "0.500 (0.250)",
        "–",
    ]


def test_small_and_large_numbers_in_tables() -> None:
    assert [cell(MAE, *pair) for pair in ((3.21987e-8, 1.5e-3), (0.0, None), (1234567.25, None))] == [
        "3.22e-08 (0.0015)",
        "0.000",
        "1234567.250",
    ]
    prediction = Prediction("text", [1234567.0, 3.2e-8, 0.1], [3, 1, 2], [(1234566.0, 1234568.5), (0.0, None), (0, 1)])
    assert rendered(prediction_table(["a", "b", "c"], prediction, "price"))[1:] == [
        ["a", "1234567", "3", "1234566 to 1234568.5"],
        ["b", "3.2e-08", "1", "0 to –"],
        ["c", "0.1", "2", "0 to 1"],
    ]


def test_prediction_table() -> None:
    table = prediction_table(["a.png", "b.png"], Prediction("text", [3.5, None], [1, None]), "age")
    assert rendered(table) == [["image", "age", "rank"], ["a.png", "3.5", "1"], ["b.png", "–", "–"]]


def test_gather_moves_the_common_constant() -> None:
    gathered = gather({"cold_start": make_report(2.0), "stage1": make_report(1.0)})
    assert list(gathered.to_json()) == ["cold_start", "stage1", "constant"]
    assert gathered.constant == Constant(value=5.0, mae=2.5)
    assert gathered.reports["stage1"] == replace(make_report(1.0), constant=None)
    assert Runs.from_json(gathered.to_json()) == gathered
    alone = gather({"a": make_report(1.0, constant=None)})
    assert alone.constant is None and "constant" not in alone.to_json()


@pytest.mark.parametrize(
    "changes", [{"task": "age"}, {"num_prompts": {"1": 5}}, {"constant": {"value": 4.0, "mae": 2.0}}]
)
def test_gather_refuses_runs_evaluated_differently(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'a' and 'b'"):
        gather({"a": make_report(1.0), "b": make_report(1.0, **changes)})


def test_gather_refuses_the_name_of_the_baseline() -> None:
    with pytest.raises(ValueError, match="constant"):
        gather({"constant": make_report(1.0)})


def test_report_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.json"
    write_report(make_report(1.0), path)
    assert read_report(path) == read_report(path.parent) == make_report(1.0)
    assert path.read_text() == json.dumps(content_of(1.0), indent=2) + "\n"
    broken = replace(make_report(1.0), failure_rate=float("nan"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(broken, path)


def test_report_file_has_every_part_in_its_order(tmp_path: Path) -> None:
    text = """{
  "task": "aesthetics",
  "mae": 1.5,
  "srcc": null,
  "tau": {
    "2": 0.25,
    "10": null
  },
  "failure_rate": 0.125,
  "strict": {
    "mae": 2,
    "srcc": 0.1,
    "tau": {
      "2": -1.0,
      "10": -1.0
    }
  },
  "num_prompts": {
    "1": 3,
    "2": 3,
    "10": 2
  },
  "failures": {
    "1": 0,
    "2": 1,
    "10": 0
  },
  "reasons": {
    "1": {},
    "2": {
      "no_answer": 1
    },
    "10": {}
  },
  "tied": {
    "2": 0,
    "10": 2
  },
  "constant": {
    "value": 5,
    "mae": 1.75
  },
  "tokens_per_answer": {
    "1": 12.5,
    "2": 20.0,
    "10": null
  },
  "interval": {
    "interval": 0.9,
    "coverage": 0.75,
    "width": null,
    "unreadable": 1
  }
}
"""
    (tmp_path / "report.json").write_text(text)
    report = read_report(tmp_path)
    assert report.readable == Scores({"mae": 1.5, "srcc": None}, {2: 0.25, 10: None})
    assert report.strict == Scores({"mae": 2, "srcc": 0.1}, {2: -1.0, 10: -1.0})
    assert report.reasons == {1: {}, 2: {"no_answer": 1}, 10: {}} and report.tied == {2: 0, 10: 2}
    assert report.constant == Constant(5, 1.75) and report.interval == IntervalScores(0.9, 0.75, None, 1)
    write_report(report, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == text


numbers = st.floats(allow_nan=False, allow_infinity=False)
maybe = st.none() | numbers
counts = st.integers(0, 10**6)


def by_images(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[int, Any]]:
    return st.dictionaries(st.integers(1, 64), values, max_size=4)


scores = st.builds(Scores, st.dictionaries(st.sampled_from(list(METRICS)), maybe, max_size=3), by_images(maybe))
reports = st.builds(
    Report,
    task=st.text(),
    readable=scores,
    failure_rate=maybe,
    strict=st.none() | scores,
    num_prompts=st.none() | by_images(counts),
    failures=st.none() | by_images(counts),
    reasons=st.none() | by_images(st.dictionaries(st.text(), counts, max_size=2)),
    tied=st.none() | by_images(counts),
    constant=st.none() | st.builds(Constant, numbers, maybe),
    tokens_per_answer=st.none() | by_images(maybe),
    interval=st.none() | st.builds(IntervalScores, numbers, maybe, maybe, counts),
)


@given(reports)
def test_what_is_written_is_read(report: Report) -> None:
    text = json.dumps(report.to_json(), allow_nan=False)
    again = Report.from_json(json.loads(text))
    assert again == report and json.dumps(again.to_json()) == text


def test_read_report_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "report.json")):
        read_report(tmp_path)
    path = tmp_path / "report.json"
    for text, message in [("{", "not JSON"), ("[]", "no task"), ('{"task": "age"}', "no task and tau")]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_report(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": 3}, "task: wanted the name of a task, got 3"),
        ({"mae": "low"}, "mae: wanted a finite number, got 'low'"),
        ({"mae": float("nan")}, "mae: wanted a finite number, got nan"),
        ({"failure_rate": True}, "failure_rate: wanted a finite number, got True"),
        ({"tau": [1.0]}, r"tau: wanted an object, got \[1.0\]"),
        ({"tau": {"two": 1.0}}, "tau: wanted numbers of images, got 'two'"),
        ({"tau": {"2": "high"}}, "tau: 2: wanted a finite number, got 'high'"),
        ({"strict": {"tau": {"2": []}}}, r"strict: tau: 2: wanted a finite number, got \[\]"),
        ({"num_prompts": {"1": 1.5}}, "num_prompts: 1: wanted a whole number from 0 on, got 1.5"),
        ({"reasons": {"1": {"no_answer": -1}}}, "reasons: 1: no_answer: wanted a whole number from 0 on, got -1"),
        ({"constant": {"value": 5.0}}, r"constant: wanted value, mae, got \{'value': 5.0\}"),
        ({"interval": {"interval": 0.9}}, "interval: wanted interval, coverage, width, unreadable, got"),
        ({"speed": 3.0}, "'speed' is neither a part of a report nor a metric; a report written by `rarl evaluate`"),
    ],
)
def test_report_of_another_shape_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(content_of(1.0) | changes))
    with pytest.raises(ValueError, match=f"report.json: {message}"):
        read_report(path)
    with pytest.raises(ValueError, match=f"^report: stage1: {message}"):
        Runs.from_json({"stage1": content_of(1.0) | changes})


def test_history_of_a_file_a_folder_and_the_latest_checkpoint(tmp_path: Path) -> None:
    for name, step in [("checkpoint-9", 9), ("checkpoint-10", 10)]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text(json.dumps({"log_history": [{"step": step}]}))
    (tmp_path / "checkpoint-11").mkdir()
    assert read_history(tmp_path) == [{"step": 10}]
    assert read_history(tmp_path / "checkpoint-9" / "trainer_state.json") == [{"step": 9}]
    (tmp_path / "trainer_state.json").write_text('{"log_history": []}')
    assert read_history(tmp_path) == []
    (tmp_path / "trainer_state.json").write_text("{}")
    with pytest.raises(ValueError, match="log_history"):
        read_history(tmp_path)
    with pytest.raises(FileNotFoundError, match="trainer_state.json"):
        read_history(tmp_path / "checkpoint-11")
