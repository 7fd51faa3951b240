"""Reports as a table in the terminal.

Names are the user's: as `Text` they are shown as they are, while rich reads a plain string as markup.
"""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from gor_head.numbers import show_metric, write_number
from rarl.evaluation import Report
from rarl.evaluation.predict import Prediction

TITLES = {"mae": "MAE ↓", "accuracy": "accuracy ↑", "srcc": "SRCC ↑"}
CAPTION = "τN: Kendall's τ of N images; in brackets: unreadable answers score the worst value"


def cell(number: float | None, strict: float | None) -> str:
    """A metric with three decimals, its strict variant in brackets where failures made it differ."""
    shown = "–" if number is None else show_metric(number)
    return shown if strict is None or strict == number else f"{shown} ({show_metric(strict)})"


def report_table(reports: dict[str, Report], title: str | None = None) -> Table:
    """Table of reports: a row per report, columns for the one-image metrics, τ per number of images and failures.

    In brackets stands the strict metric, in which an unreadable answer scores the worst value. A column appears if any
    report has it, so a report of `{"mae": …}` alone (a constant baseline) is a row like the others. Tokens are those of
    an answer, mean over the numbers of images.
    """
    metrics = [name for name in TITLES if any(report.get(name) is not None for report in reports.values())]
    counts = sorted({count for report in reports.values() for count in report.get("tau", {})}, key=int)
    table = Table(title=None if title is None else Text(title, "table.title"), caption=CAPTION)
    table.add_column("model", overflow="fold")
    for name in metrics:
        table.add_column(TITLES[name], justify="right")
    for count in counts:
        table.add_column(f"τ{count} ↑", justify="right")
    table.add_column("unreadable", justify="right")
    if any(report.get("tokens_per_answer") for report in reports.values()):
        table.add_column("tokens", justify="right")
    for name, report in reports.items():
        strict = report.get("strict", {})
        cells = [cell(report.get(metric), strict.get(metric)) for metric in metrics]
        cells += [cell(report.get("tau", {}).get(count), strict.get("tau", {}).get(count)) for count in counts]
        rate = report.get("failure_rate")
        cells.append("–" if rate is None else f"{rate:.1%}")
        tokens = [number for number in report.get("tokens_per_answer", {}).values() if number is not None]
        table.add_row(Text(name), *cells, *([f"{sum(tokens) / len(tokens):.0f}"] if tokens else []))
    return table


def prediction_table(names: Sequence[str], prediction: Prediction, task: str) -> Table:
    """Table of one prompt's images: name, value and rank, in prompt order; a dash where the answer says nothing."""
    table = Table()
    table.add_column("image", overflow="fold")
    table.add_column(Text(task), justify="right")
    table.add_column("rank", justify="right")
    if prediction.intervals is not None:
        table.add_column("interval", justify="right")
    for place, (name, value, rank) in enumerate(zip(names, prediction.values, prediction.ranks, strict=True)):
        row: list[Text | str] = [Text(name), _number(value), _number(rank)]
        if prediction.intervals is not None:
            row.append(" to ".join(map(_number, prediction.intervals[place])))
        table.add_row(*row)
    return table


def _number(number: float | None) -> str:
    return "–" if number is None else write_number(number)
