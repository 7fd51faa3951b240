"""What each part of GoR is worth on a table of one's own: one part changed at a time, over seeds.

    python -m benchmarks.gor_ablations data.csv --target y --out outputs/ablations --jobs 2

Cells are kept in the output folder, so that a later call goes on where this one ended.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from gor_head import GoRRegressor
from gor_head.cli.compare import clean_stdout
from gor_head.compare import Cell, Comparison, run, summarize
from gor_head.compare.methods import Method
from gor_head.output import replace_unprintable
from gor_head.tables import Table, read_table

READS: dict[str, dict[str, Any]] = {"quantile": {"decode": "quantile"}, "greedy": {"decode": "greedy"}}
DEFAULT = "default"


def _vocabulary(**settings: Any) -> dict[str, Any]:
    return {"vocabulary": settings}


ABLATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "strategy": {
        DEFAULT: {},
        "free running": {"strategy": "free_running"},
        "curriculum": {"strategy": "curriculum"},
        "n-gram": {"strategy": "ngram"},
        "curriculum + n-gram": {"strategy": "paper"},
        "DPO after": {"finetune": "dpo"},
        "GRPO after": {"finetune": "grpo"},
    },
    "loss": {
        "no Huber": {"huber_weight": 0.0},
        DEFAULT: {},
        "λ 10": {"huber_weight": 10.0},
        "λ 10, label units": {"huber_weight": 10.0, "huber_scale": 1.0},
    },
    "vocabulary": {
        "manual": _vocabulary(initializer="manual", beta=1.0),
        "manual + CoDi": _vocabulary(initializer="manual"),
        "binary": _vocabulary(initializer="binary", beta=1.0),
        "binary + CoDi": _vocabulary(initializer="binary"),
        "quantile": _vocabulary(beta=1.0),
        DEFAULT: {},
    },
    "beta": {
        "β 0.3": _vocabulary(beta=0.3),
        "β 0.5": _vocabulary(beta=0.5),
        DEFAULT: {},
        "β 0.9": _vocabulary(beta=0.9),
        "quantile": _vocabulary(beta=1.0),
    },
    "decoder": {
        "RNN": {"decoder": "rnn"},
        "GRU": {"decoder": "gru"},
        "LSTM": {"decoder": "lstm"},
        DEFAULT: {},
    },
    "max_length": {
        "4 tokens": _vocabulary(max_length=4),
        "8 tokens": _vocabulary(max_length=8),
        DEFAULT: {},
        "32 tokens": _vocabulary(max_length=32),
    },
    "tolerance": {
        "ε 0.001": _vocabulary(tolerance=0.001),
        DEFAULT: {},
        "ε 0.02": _vocabulary(tolerance=0.02),
        "ε 0.05": _vocabulary(tolerance=0.05),
    },
}
"""Ablation → variant → settings of [`GoRRegressor`][gor_head.estimator.gor.GoRRegressor] that differ from its
defaults."""


def variants(names: list[str]) -> dict[str, Method]:
    """Methods of some ablations, each variant once."""
    chosen = {variant: settings for name in names for variant, settings in ABLATIONS[name].items()}
    return {
        variant: Method(
            variant, partial(GoRRegressor, **settings), {f"{variant}, {read}": READS[read] for read in READS}
        )
        for variant, settings in chosen.items()
    }


def measure(
    table: Table,
    names: list[str],
    seeds: int,
    folder: Path,
    settings: dict[str, Any],
    jobs: int,
    progress: Callable[[int, int, Cell | None], None] | None = None,
) -> dict[str, Any]:
    """MAE and SRCC of every variant, by ablation, and what failed.

    Returns:
        `{"results": {ablation: {variant: {read: {"mae", "srcc", "tied", "fit_seconds"}}}}, "failures": {cell: error}}`.
        A variant is `tied` where it is not separated from the best of its ablation, as in `gor compare`.
    """
    methods = variants(names)
    outcome = run(
        [table], list(methods.values()), range(seeds), folder=folder, settings=settings, jobs=jobs, progress=progress
    )
    results = {}
    for name in names:
        of_ablation = [methods[variant] for variant in ABLATIONS[name]]
        comparison = summarize(outcome.results, [table.name], of_ablation, seeds=list(range(seeds)))
        results[name] = {variant: _figures(comparison, table.name, methods[variant]) for variant in ABLATIONS[name]}
    return {"results": results, "failures": {str(cell): error for cell, error in outcome.failures.items()}}


def _figures(comparison: Comparison, table: str, method: Method) -> dict[str, Any]:
    figures = {}
    for row, arguments in method.reads.items():
        entry = comparison.entries[table][row]
        figures[arguments["decode"]] = entry and {
            "mae": entry.standing.mae,
            "srcc": entry.srcc,
            "tied": entry.standing.tied,
            "fit_seconds": entry.fit_seconds,
        }
    return figures


def results_table(name: str, results: dict[str, Any]) -> RichTable:
    """One ablation."""
    table = RichTable(title=f"{name} (≈ tied with the best)")
    table.add_column("variant")
    for title in ("MAE, median ↓", "SRCC ↑", "MAE, greedy ↓", "SRCC ↑", "seconds"):
        table.add_column(title, justify="right")
    for variant, figures in results.items():
        cells: list[str] = []
        for read in READS:
            entry = figures[read]
            cells += ["missing", ""] if entry is None else [_mae(entry), f"{entry['srcc']:.3f}"]
        seconds = "" if figures["quantile"] is None else f"{figures['quantile']['fit_seconds']:.0f}"
        table.add_row(variant, *cells, seconds)
    return table


def _mae(entry: dict[str, Any]) -> str:
    return f"{entry['mae']:.4g}{'≈' if entry['tied'] else ' '}"


def main() -> None:
    parser = argparse.ArgumentParser(description="GoR with one part changed at a time.", allow_abbrev=False)
    parser.add_argument("table", type=Path, help="CSV file")
    parser.add_argument("--target", required=True, help="column of the labels")
    parser.add_argument("--drop", nargs="*", default=[], help="columns that are no features")
    parser.add_argument("--ablations", nargs="+", choices=list(ABLATIONS), default=list(ABLATIONS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True, help="folder that keeps every training's predictions")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--settings", type=json.loads, default={}, help="of the estimator: '{\"max_steps\": 500}'")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if min(arguments.seeds, arguments.jobs) < 1:
        parser.error("--seeds and --jobs must be at least 1")
    table = read_table(arguments.table, arguments.target, arguments.drop)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("trainings")

        def show(done: int, total: int, cell: Cell | None) -> None:
            bar.update(task, completed=done, total=total, description="trainings" if cell is None else str(cell))

        with clean_stdout():
            figures = measure(
                table,
                arguments.ablations,
                arguments.seeds,
                arguments.out,
                arguments.settings,
                arguments.jobs,
                show,
            )
    if arguments.json:
        print(json.dumps(figures))
    else:
        for name, results in figures["results"].items():
            Console().print(results_table(name, results))
    if figures["failures"]:
        for cell, error in figures["failures"].items():
            print(f"{cell}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    replace_unprintable()
    main()
