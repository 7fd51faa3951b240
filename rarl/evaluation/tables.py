"""Reports as a table in the terminal.

Names are the user's: as `Text` they are shown as they are, while rich reads a plain string as markup.
"""

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from gor_head.metrics import METRICS, Metric
from gor_head.numbers import write_number
from rarl.evaluation.predict import Prediction
from rarl.evaluation.reports import CONSTANT, Constant, Report, Scores

CAPTION = "τN: Kendall's τ of N images; in brackets: unreadable answers score the worst value"


def cell(metric: Metric, number: float | None, strict: float | None) -> str:
    """A value of a metric, its strict variant in brackets where failures made it differ."""
    text = metric.show(number)
    return text if strict is None or strict == number else f"{text} ({metric.show(strict)})"


def report_table(reports: Mapping[str, Report], constant: Constant | None = None, title: str | None = None) -> Table:
    """Table of reports: a row per report, columns for the one-image metrics, τ per number of images and failures.

    In brackets stands the strict metric, in which an unreadable answer scores the worst value. A column appears if any
    report has it. Tokens are those of an answer, mean over the numbers of images.

    Args:
        reports: Name of a row → report.
        constant: A constant prediction, which is the last row.
        title: Title of the table.
    """
    rows = [(name, report.readable, report.strict or Scores({}, {}), report) for name, report in reports.items()]
    baseline = Scores({} if constant is None else {"mae": constant.mae}, {})
    found = [readable for _, readable, _, _ in rows] + [baseline]
    metrics = [
        metric for name, metric in METRICS.items() if any(readable.metrics.get(name) is not None for readable in found)
    ]
    counts = sorted({count for readable in found for count in readable.tau})
    table = Table(title=None if title is None else Text(title, "table.title"), caption=CAPTION)
    table.add_column("model", overflow="fold")
    for metric in metrics:
        table.add_column(metric.heading, justify="right")
    for count in counts:
        table.add_column(f"τ{count} ↑", justify="right")
    table.add_column("unreadable", justify="right")
    if any(report.tokens_per_answer for report in reports.values()):
        table.add_column("tokens", justify="right")
    for name, readable, strict, report in rows:
        cells = _cells(readable, strict, metrics, counts)
        cells.append("–" if report.failure_rate is None else f"{report.failure_rate:.1%}")
        tokens = [number for number in (report.tokens_per_answer or {}).values() if number is not None]
        table.add_row(Text(name), *cells, *([f"{sum(tokens) / len(tokens):.0f}"] if tokens else []))
    if constant is not None:
        table.add_row(Text(CONSTANT), *_cells(baseline, Scores({}, {}), metrics, counts), "–")
    return table


def _cells(readable: Scores, strict: Scores, metrics: Sequence[Metric], counts: Sequence[int]) -> list[str]:
    cells = [cell(metric, readable.metrics.get(metric.name), strict.metrics.get(metric.name)) for metric in metrics]
    return cells + [cell(METRICS["kendall"], readable.tau.get(count), strict.tau.get(count)) for count in counts]


def prediction_table(names: Sequence[str], prediction: Prediction, task: str, kind: str = "image") -> Table:
    """Table of one prompt's items of a kind: name, value and rank, in prompt order; a dash where nothing is said."""
    table = Table()
    table.add_column(kind, overflow="fold")
    table.add_column(Text(task), justify="right")
    table.add_column("rank", justify="right")
    if prediction.intervals is not None:
        table.add_column("interval", justify="right")
    for index, (name, value, rank) in enumerate(zip(names, prediction.values, prediction.ranks, strict=True)):
        row: list[Text | str] = [Text(name), _number(value), _number(rank)]
        if prediction.intervals is not None:
            row.append(" to ".join(map(_number, prediction.intervals[index])))
        table.add_row(*row)
    return table


def _number(number: float | None) -> str:
    return "–" if number is None else write_number(number)
