"""`gor evaluate`: metrics of an estimator on labelled rows."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gor_head.cli.errors import plain_errors
from gor_head.cli.options import AsJson, Model
from gor_head.numbers import number_option

if TYPE_CHECKING:
    from rich.table import Table

METRICS = {
    "mae": "MAE ↓",
    "rmse": "RMSE ↓",
    "lcc": "LCC ↑",
    "srcc": "SRCC ↑",
    "kendall": "Kendall τ ↑",
    "xauc": "XAUC ↑",
}
PARTS = ("ranges", "whole")
"""Of a report: what is no metric."""

RANGES = 5
"""Into how many ranges the labels are parted by default, as equal in rows as they allow."""


@plain_errors
def evaluate(
    model: Model,
    data: Annotated[Path, typer.Argument(help="CSV file with labels and the columns of training.")],
    decode: Annotated[
        str | None, typer.Option(help="greedy, beam, quantile, mean, sample or window; by default that of training.")
    ] = None,
    edges: Annotated[
        str | None,
        typer.Option(help="Ends of the label ranges, as 0,2,4,6,8,10,inf; by default fifths of the labels."),
    ] = None,
    within: Annotated[float, number_option("L of CS@L: share of errors up to L.")] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Compare predictions with the labels of a CSV file: metrics, errors by label range, mean and variance."""
    from rich.console import Console

    from gor_head.cli.saved import load
    from gor_head.tables import read_table

    ends = None if edges is None else parse_edges(edges)
    saved = load(model)
    table = read_table(data, saved.target, kinds=saved.kinds)
    report = evaluation(table.labels, saved.predict(table.features, decode), ends, within)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        console = Console()
        console.print(metrics_table(report, f"{data.name}, {len(table.labels)} rows"))
        console.print(ranges_table(report))


def evaluation(truth: Any, predictions: Any, edges: list[float] | None, within: float) -> dict[str, Any]:
    """Report on predictions, as plain JSON: metrics, `ranges`, and `whole`, the range of all labels."""
    import numpy as np

    from gor_head import metrics
    from gor_head.numbers import write_number

    if edges is None:
        edges = np.unique(np.quantile(truth, np.linspace(0, 1, RANGES + 1), method="higher")).tolist()
        if len(edges) < 2:
            edges = [-math.inf, math.inf]
    report: dict[str, Any] = {name: getattr(metrics, name)(truth, predictions) for name in METRICS}
    report[f"cs@{write_number(within)}"] = metrics.cumulative_score(truth, predictions, within)
    whole = metrics.mae_by_range(truth, predictions, [-math.inf, math.inf])[0]
    return report | {
        "ranges": [_plain(asdict(row)) for row in metrics.mae_by_range(truth, predictions, edges)],
        "whole": _plain(asdict(whole)),
    }


def parse_edges(text: str) -> list[float]:
    """`"0,2,inf"` → `[0.0, 2.0, inf]`.

    Raises:
        ValueError: If a part is no number, `inf` or `-inf`.
    """
    from gor_head.numbers import read_number

    infinite = {"inf": math.inf, "-inf": -math.inf}
    edges = [infinite.get(part.strip(), read_number(part)) for part in text.split(",")]
    if None in edges:
        raise ValueError(f"--edges: wanted numbers with commas between them, got {text!r}.")
    return [edge for edge in edges if edge is not None]


def metrics_table(report: dict[str, Any], title: str) -> "Table":
    """One row of metrics."""
    from rich.table import Table
    from rich.text import Text

    from gor_head.numbers import show_number

    table = Table(title=Text(title, "table.title"))
    names = [(METRICS.get(name) or f"{name.upper()} ↑", value) for name, value in report.items() if name not in PARTS]
    for name, _ in names:
        table.add_column(name, justify="right")
    table.add_row(*(show_number(value) for _, value in names))
    return table


def ranges_table(report: dict[str, Any]) -> "Table":
    """A row per range of labels, and one for all of them."""
    from rich.table import Table

    from gor_head.numbers import show_number, write_number

    table = Table(caption="Ranges are open on the left, except for the first one.")
    table.add_column("labels")
    for name in ("rows", "MAE", "true mean", "predicted", "true variance", "predicted"):
        table.add_column(name, justify="right")
    for row in [*report["ranges"], report["whole"]]:
        whole = row is report["whole"]
        if whole:
            table.add_section()
        names = ("mae", "truth_mean", "prediction_mean", "truth_variance", "prediction_variance")
        figures = ["–" if row[name] is None else show_number(row[name]) for name in names]
        low, high = ("" if row[end] is None else write_number(row[end]) for end in ("low", "high"))
        table.add_row("all" if whole else f"{low} … {high}".strip(), str(row["count"]), *figures)
    return table


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """An infinite end of a range becomes None: JSON has no infinity."""
    return {name: None if isinstance(value, float) and math.isinf(value) else value for name, value in row.items()}
