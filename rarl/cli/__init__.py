"""The `rarl` command: one file a subcommand, which parses its arguments and calls the library."""

import typer

from gor_head.output import Commands
from rarl.cli.ablate import ablate
from rarl.cli.evaluate import evaluate
from rarl.cli.fetch import fetch
from rarl.cli.predict import predict
from rarl.cli.recipes import recipes
from rarl.cli.report import report

app = typer.Typer(
    cls=Commands,
    help="Ranking-aware reinforcement learning for vision-language models that judge how much.",
    no_args_is_help=True,
    add_completion=False,
)
for command in (evaluate, predict, report, ablate, fetch):
    app.command()(command)
app.add_typer(recipes, name="recipes")
