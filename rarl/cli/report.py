"""`rarl report`: several evaluated runs side by side."""

from pathlib import Path
from typing import Annotated

import typer

from rarl.cli.errors import plain_errors


def named_paths(pairs: list[str], option: str) -> dict[str, Path]:
    """`["a=x", "b=y"]` → `{"a": Path("x"), "b": Path("y")}`.

    Raises:
        ValueError: If a pair has no `=`, no name or no path, or a name comes twice.
    """
    paths: dict[str, Path] = {}
    for pair in pairs:
        name, _, path = pair.partition("=")
        if not name or not path:
            raise ValueError(f"{option} wants NAME=PATH, got {pair!r}.")
        if name in paths:
            raise ValueError(f"{option} has the name {name!r} twice.")
        paths[name] = Path(path)
    return paths


@plain_errors
def report(
    run: Annotated[list[str], typer.Option(help="NAME=PATH of a report, or of a folder with a report.json.")],
    output: Annotated[Path, typer.Option(help="Folder for report.json and curves.png.")],
    curves: Annotated[
        list[str], typer.Option(help="NAME=PATH of a trainer_state.json, or of a training output folder.")
    ] = [],  # noqa: B006
) -> None:
    """Gather evaluated runs in one report, print them as a table, and draw reward curves."""
    from rich.console import Console

    from gor_head.output import check_output_folder
    from rarl.evaluation.plots import plot_curves, read_history
    from rarl.evaluation.reports import gather, read_report, write_report
    from rarl.evaluation.tables import report_table

    check_output_folder(output, ("report.json", "curves.png") if curves else ("report.json",))
    runs = gather({name: read_report(path) for name, path in named_paths(run, "--run").items()})
    histories = {name: read_history(path) for name, path in named_paths(curves, "--curves").items()}
    write_report(runs, output / "report.json")
    if histories:
        plot_curves(histories, output / "curves.png")
    Console().print(report_table(runs.reports, runs.constant))
