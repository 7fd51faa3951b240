"""The `gor` command: one file a subcommand, which parses its arguments and calls the library."""

import typer

from gor_head.cli.compare import compare
from gor_head.cli.evaluate import evaluate
from gor_head.cli.predict import predict
from gor_head.cli.train import train
from gor_head.cli.vocabulary import vocabulary
from gor_head.output import Commands

app = typer.Typer(
    cls=Commands,
    help="Generative ordinal regression: labels as short sequences of value tokens.",
    no_args_is_help=True,
    add_completion=False,
)
for command in (vocabulary, train, predict, evaluate, compare):
    app.command()(command)
