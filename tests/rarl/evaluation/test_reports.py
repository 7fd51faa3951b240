"""Report files, tables and log histories."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from rarl.evaluation.plots import read_history
from rarl.evaluation.predict import Prediction
from rarl.evaluation.reports import gather, read_report, write_report
from rarl.evaluation.tables import cell, prediction_table, report_table


def make_report(mae: float, **changes: Any) -> dict[str, Any]:
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


def rendered(table: Table) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in lines if line[:1] in "│┃"
    ]


def test_table_of_runs_and_constant() -> None:
    rows = rendered(report_table(gather({"sft": make_report(1.0), "stage2": make_report(0.5, accuracy=None)})))
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
    assert [cell(0.5, None), cell(0.5, 0.5), cell(0.5, 0.25), cell(None, None)] == [
        "0.500",
        "0.500",
        "0.500 (0.250)",
        "–",
    ]


def test_small_and_large_numbers_in_tables() -> None:
    assert [cell(3.21987e-8, 1.5e-3), cell(0.0, None), cell(1234567.25, None)] == [
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
    assert list(gathered) == ["cold_start", "stage1", "constant"]
    assert gathered["constant"] == {"value": 5.0, "mae": 2.5}
    assert "constant" not in gathered["stage1"] and gathered["stage1"]["mae"] == 1.0
    assert "constant" not in gather({"a": make_report(1.0, constant=None)})


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
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(make_report(float("nan")), path)


def test_read_report_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "report.json")):
        read_report(tmp_path)
    path = tmp_path / "report.json"
    for text, message in [("{", "not JSON"), ("[]", "no task"), ('{"task": "age"}', "no task and tau")]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_report(path)


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
