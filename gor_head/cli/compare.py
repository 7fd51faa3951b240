"""`gor compare`: methods on tables over seeds."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gor_head.cli.errors import plain_errors
from gor_head.cli.options import AsJson, Category, Drop, Settings, check_columns, check_image, parse_settings

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from gor_head.compare import Comparison, Entry

NAME_WIDTH = 26
FIGURE_WIDTH = 8
BORDER = 3


@plain_errors
def compare(
    tables: Annotated[list[Path], typer.Argument(help="CSV files with a header.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder that keeps every training's predictions: a later call goes on.")],
    target: Annotated[
        list[str], typer.Option(help="Column of the labels; give it again where tables name it otherwise.")
    ],
    methods: Annotated[list[str], typer.Option(help="Method to compare; give it once for each. By default all.")] = [],  # noqa: B006
    drop: Drop = [],  # noqa: B006
    category: Category = [],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Splits into 80 % training and 20 % test rows.")] = 5,
    settings: Settings = [],  # noqa: B006
    jobs: Annotated[int, typer.Option(min=1, help="Processes, of one thread each.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="Image of MAE relative to the best of each table.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare GoR with direct heads on the same encoder and trainer.

    On each table the lowest MAE is marked *, and those tied with it ≈:
    within 1 %, or not separated at 0.05 by a paired bootstrap over the test
    rows of all seeds, corrected after Holm.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from gor_head.compare import Cell, run, summarize
    from gor_head.compare.methods import METHODS
    from gor_head.compare.plot import plot_comparison
    from gor_head.tables import column_names, read_table

    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise ValueError(f"--methods: wanted some of {', '.join(METHODS)}, got {unknown[0]!r}.")
    chosen = [METHODS[name] for name in methods or METHODS]
    keywords = parse_settings(settings)
    if "random_state" in keywords:
        raise ValueError("--set: random_state is the seed of each split; --seeds says how many there are.")
    check_image(plot)
    check_columns(drop, category, [name for path in tables for name in column_names(path)], where="any of the tables")
    data = [read_table(path, target, drop, categories=category) for path in tables]

    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=errors) as progress:
        task = progress.add_task("trainings")

        def show(done: int, total: int, cell: Cell | None) -> None:
            progress.update(task, completed=done, total=total, description="trainings" if cell is None else str(cell))

        with clean_stdout():
            outcome = run(data, chosen, range(seeds), folder=out, settings=keywords, jobs=jobs, progress=show)
    comparison = summarize(outcome.results, [table.name for table in data], chosen, seeds=range(seeds))
    if plot is not None and any(comparison.rows.values()):
        plot.parent.mkdir(parents=True, exist_ok=True)
        plot_comparison(comparison, plot)
    if as_json:
        failures = {str(cell): reason for cell, reason in outcome.failures.items()}
        report = {"seeds": seeds, "settings": keywords} | comparison.to_json() | {"failures": failures}
        typer.echo(json.dumps(report, indent=2))
    else:
        console = Console()
        for table in comparison_tables(comparison, console.width):
            console.print(table)
        console.print(overall_table(comparison))
    if outcome.failures:
        for cell, reason in sorted(outcome.failures.items()):
            typer.echo(f"Failed: {cell}: {reason}", err=True)
        typer.echo(f"Trainings failed: {len(outcome.failures)}; tracebacks: {out / 'cells'}/*.error.txt", err=True)
        raise typer.Exit(1)


@contextmanager
def clean_stdout() -> Iterator[None]:
    """Whatever libraries print, in this process or in those it starts, goes to stderr: stdout is for the result."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def comparison_tables(comparison: "Comparison", width: int) -> list["Table"]:
    """MAE and, below it, SRCC of every row on every table; as many tables side by side as the width asks for."""
    from rich.table import Table
    from rich.text import Text

    from gor_head.metrics import METRICS

    # A name may break between words only.
    widths = {row: max(FIGURE_WIDTH, *map(len, row.split())) for row in comparison.rows}
    parts: list[list[str]] = [[]]
    for row in widths:
        taken = NAME_WIDTH + sum(widths[other] + BORDER for other in parts[-1])
        if parts[-1] and taken + widths[row] + BORDER > width:
            parts.append([])
        parts[-1].append(row)
    tables = []
    for part in parts:
        table = Table(
            title=f"{METRICS['mae'].heading} (* best, ≈ tied)\n{METRICS['srcc'].heading} below", show_lines=True
        )
        table.add_column("table", max_width=NAME_WIDTH - 4, overflow="fold")
        for row in part:
            table.add_column(Text(row), justify="right", max_width=widths[row])
        for name, entries in comparison.entries.items():
            table.add_row(Text(name), *(_cell(entries[row]) for row in part))
        tables.append(table)
    return tables


def overall_table(comparison: "Comparison") -> "Table":
    """What each row is over all tables, the lowest mean MAE first."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Over {len(comparison.entries)} tables")
    table.add_column("row", no_wrap=True)
    for name in ("best or tied ↑", "mean rank ↓", "MAE / best ↓", "missing"):
        table.add_column(name, justify="right")
    whole = [(row, overall) for row, overall in comparison.rows.items() if overall is not None]
    for row, overall in sorted(whole, key=lambda pair: pair[1].relative):
        missing = len(comparison.entries) - overall.tables
        table.add_row(
            Text(row),
            f"{overall.tied}/{overall.tables} {overall.share:>4.0%}",
            f"{overall.rank:.2f}",
            f"{overall.relative:.3f}",
            str(missing or ""),
        )
    for row in comparison.rows:
        if comparison.rows[row] is None:
            table.add_row(Text(row), "–", "–", "–", str(len(comparison.entries)))
    return table


def _cell(entry: "Entry | None") -> "Text":
    from rich.text import Text

    from gor_head.numbers import show_number

    if entry is None:
        return Text("missing", style="red")
    standing = entry.standing
    mark = "*" if standing.best else "≈" if standing.tied else " "
    mae = f"{show_number(standing.mae)}{mark}"
    return Text.assemble((mae, "bold" if standing.tied else ""), f"\n{entry.srcc:.3f} ")
