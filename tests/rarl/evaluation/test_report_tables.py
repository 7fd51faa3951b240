"""Tables show names as their users wrote them."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from rarl.evaluation.predict import Prediction
from rarl.evaluation.reports import Report, Scores
from rarl.evaluation.tables import prediction_table, report_table
from tests.markup import NAMES


def shown(table: Table) -> str:
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
def test_runs_and_titles_are_verbatim(name: str) -> None:
    text = shown(report_table({name: Report("count", Scores({"mae": 1.5}, {}), None)}, title=name))
    assert text.count(name) == 2 and "1.500" in text


@pytest.mark.parametrize("name", NAMES)
def test_files_and_tasks_are_verbatim(name: str) -> None:
    text = shown(prediction_table([name], Prediction("", [1.0], [1], [(0.5, None)]), name))
    assert text.count(name) == 2 and "0.5 to –" in text
