"""`gor evaluate`: metrics of an estimator on labelled rows."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gor_head.cli.errors import plain_errors
from gor_head.cli.options import AsJson, Model
from gor_head.numbers import number_option

if TYPE_CHECKING:
    from rich.table import Table

    from gor_head.evaluation import Evaluation


@plain_errors
def evaluate(
    model: Model,
    data: Annotated[Path, typer.Argument(help="CSV file with labels and the columns of training.")],
    decode: Annotated[
        str | None, typer.Option(help="How numbers are read, such as greedy or quantile; by default that of training.")
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
    from gor_head.evaluation import evaluate_predictions
    from gor_head.tables import read_table

    ends = None if edges is None else parse_edges(edges)
    saved = load(model)
    table = read_table(data, saved.target, kinds=saved.kinds)
    report = evaluate_predictions(table.labels, saved.predict(table.features, decode), edges=ends, within=within)
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
    else:
        console = Console()
        console.print(metrics_table(report, f"{data.name}, {len(table.labels)} rows"))
        console.print(ranges_table(report))


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


def metrics_table(report: "Evaluation", title: str) -> "Table":
    """One row of metrics."""
    from rich.table import Table
    from rich.text import Text

    from gor_head.metrics import get_metric
    from gor_head.numbers import show_number

    table = Table(title=Text(title, "table.title"))
    for name in report.metrics:
        table.add_column(get_metric(name).heading, justify="right")
    # As many digits as the ranges below it have.
    table.add_row(*(get_metric(name).show(value, show_number) for name, value in report.metrics.items()))
    return table


def ranges_table(report: "Evaluation") -> "Table":
    """A row per range of labels, and one for all of them."""
    from rich.table import Table

    from gor_head.numbers import show_number, write_number

    table = Table(caption="Ranges are open on the left, except for the first one.")
    table.add_column("labels")
    for name in ("rows", "MAE", "true mean", "predicted", "true variance", "predicted"):
        table.add_column(name, justify="right")
    for row in [*report.ranges, report.whole]:
        whole = row is report.whole
        if whole:
            table.add_section()
        numbers = (row.mae, row.truth_mean, row.prediction_mean, row.truth_variance, row.prediction_variance)
        figures = ["–" if number is None else show_number(number) for number in numbers]
        low, high = ("" if math.isinf(end) else write_number(end) for end in (row.low, row.high))
        table.add_row("all" if whole else f"{low} … {high}".strip(), str(row.count), *figures)
    return table
