"""`gor vocabulary`: the tokens that CoDi chooses for some labels."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gor_head.cli.errors import plain_errors
from gor_head.cli.options import AsJson, check_image
from gor_head.numbers import number_option

if TYPE_CHECKING:
    from rich.table import Table


class Initializer(StrEnum):
    QUANTILE = "quantile"
    MANUAL = "manual"
    BINARY = "binary"
    PLACE = "place"
    LABELS = "labels"


class Offset(StrEnum):
    MIN = "min"


@plain_errors
def vocabulary(
    labels: Annotated[Path, typer.Argument(help="CSV file with a header.", show_default=False)],
    column: Annotated[str | None, typer.Option(help="Column of the labels; by default the only one.")] = None,
    initializer: Annotated[Initializer, typer.Option(help="How initial tokens are chosen.")] = Initializer.QUANTILE,
    q: Annotated[float, number_option("Quantile of that initialiser, above 0 and up to 1.")] = 0.9,
    tolerance: Annotated[float, number_option("ε: relative error that a code may leave.")] = 0.005,
    beta: Annotated[float, number_option("β: share of the initial tokens that pruning keeps at least.")] = 0.7,
    max_length: Annotated[int, typer.Option(help="Most value tokens of a code.")] = 16,
    mean_length: Annotated[
        float | None, number_option("Most value tokens of a code in the mean, which pruning keeps to.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Codes hit every label exactly.")] = False,
    resolution: Annotated[float | None, number_option("Grid step; by default found from the labels.")] = None,
    offset: Annotated[
        Offset | None, typer.Option(help="min: code the distance from the smallest label, which may be negative.")
    ] = None,
    language_model: Annotated[
        bool,
        typer.Option("--language-model", help="Short codes of few tokens, without CoDi; takes --resolution only."),
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Image of token frequencies before and after CoDi.")] = None,
    plot_pruning: Annotated[
        Path | None, typer.Option(help="Image of the size and the mean code length as tokens are pruned.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for vocabulary.json.")] = None,
    as_json: AsJson = False,
) -> None:
    """Choose a vocabulary for the labels of a CSV file, and sum it up."""
    from rich.console import Console

    from gor_head.output import check_output_folder
    from gor_head.plots import pruning, token_frequencies
    from gor_head.tables import read_labels
    from gor_head.vocabulary import VOCABULARY_FILE, CoDiVocabulary

    check_image(plot)
    check_image(plot_pruning, "--plot-pruning")
    settings: dict[str, Any] = {"initializer": initializer.value, "q": q, "tolerance": tolerance, "beta": beta}
    settings |= {"max_length": max_length, "mean_length": mean_length, "exact": exact}
    settings |= {"offset": "min" if offset else None}
    if language_model:
        unused = {"initializer": "quantile", "q": 0.9, "tolerance": 0.005, "beta": 0.7, "max_length": 16}
        for name, value in settings.items():
            if value != unused.get(name) and value not in (None, False):
                raise ValueError(f"{name}: has no effect with --language-model; wanted no such option, got {value}.")
        if plot_pruning is not None:
            raise ValueError("plot_pruning: nothing is pruned with --language-model; wanted no such option.")
    if out is not None:
        check_output_folder(out, [VOCABULARY_FILE])
    numbers = read_labels(labels, column)
    if language_model:
        fitted = CoDiVocabulary.for_language_model(numbers, resolution=resolution)
    else:
        fitted = CoDiVocabulary.fit(numbers, resolution=resolution, **settings)
    summary = fitted.summary()
    if out is not None:
        fitted.save_pretrained(out)
    if plot is not None:
        plot.parent.mkdir(parents=True, exist_ok=True)
        token_frequencies(fitted, plot)
    if plot_pruning is not None:
        plot_pruning.parent.mkdir(parents=True, exist_ok=True)
        pruning(fitted, plot_pruning)
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
    else:
        console = Console()
        console.print(summary_table(summary, title=labels.name))
        console.print(summary_text(summary), highlight=False)


def summary_text(summary: dict[str, Any]) -> str:
    """Labels, settings and tokens of a vocabulary's summary, in words."""
    from gor_head.numbers import write_number

    tokens = ", ".join(write_number(value) for value in summary["after"]["values"]) or "none"
    return (
        f"{summary['labels']} labels, {summary['distinct_labels']} of them distinct; resolution "
        f"{write_number(summary['resolution'])}, offset {write_number(summary['offset'])}, tolerance "
        f"{write_number(summary['tolerance'])}; codes up to {summary['max_length']} tokens, which reach "
        f"{write_number(summary['largest'])}.\nTokens: {tokens}"
    )


def summary_table(summary: dict[str, Any], title: str) -> "Table":
    """Table of a vocabulary's summary, before and after CoDi."""
    from rich.table import Table
    from rich.text import Text

    before, after = summary["before"], summary["after"]
    table = Table(title=Text(title, "table.title"))
    table.add_column("vocabulary")
    table.add_column("before CoDi", justify="right")
    table.add_column("after", justify="right")
    table.add_row("value tokens", str(before["size"]), str(after["size"]))
    table.add_row("tokens of a label, mean", f"{before['mean_length']:.2f}", f"{after['mean_length']:.2f}")
    table.add_row("tokens of a label, most", str(before["longest"]), str(after["longest"]))
    table.add_row("largest relative error", f"{before['max_relative_error']:.2%}", f"{after['max_relative_error']:.2%}")
    return table
