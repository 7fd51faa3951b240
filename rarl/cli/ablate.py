"""`rarl ablate`: SFT, RARL, their parts and their rivals on the same data, over several seeds."""

from pathlib import Path
from typing import Annotated

import typer

from rarl.cli.errors import plain_errors
from rarl.cli.recipes import shipped


def names(text: str) -> list[str]:
    """`"a, b"` → `["a", "b"]`."""
    return [part for each in text.split(",") if (part := each.strip())]


@plain_errors
def ablate(
    output: Annotated[Path, typer.Option(help="Folder for the runs, results.json, table.md and figures.")],
    settings: Annotated[
        str, typer.Option(help="Data, by name, with commas; a name of your own wants arguments of its data behind --.")
    ] = "count_noisy",
    rows: Annotated[str, typer.Option(help="Rows, by name, with commas; all that write digits if not given.")] = "",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas.")] = "0,1,2,3,4",
    model: Annotated[str, typer.Option(help="Which configurations of the recipes, such as qwen2_5_vl_3b.")] = "tiny",
    reference: Annotated[
        str | None, typer.Option(help="Row that the others are tested against; sft_rarl if it is among them.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, which share the cores.")] = 1,
    extra: Annotated[list[str], typer.Argument(help="Further arguments of every recipe, behind --.")] = [],  # noqa: B006
) -> None:
    """Train and evaluate every row with every seed, and write a table, a figure, and the rewards as they were learned.

    What is in results.json already is not made again, so an interrupted call goes on where it was.
    """
    from rich.console import Console
    from rich.markdown import Markdown

    from gor_head.output import check_output_folder
    from rarl.ablation.plan import plan
    from rarl.ablation.plots import plot_learning, plot_results
    from rarl.ablation.rows import DIGIT_ROWS
    from rarl.ablation.run import RESULTS, run_all
    from rarl.ablation.summary import markdown

    numbers = names(seeds)
    if not all(each.isascii() and each.isdecimal() for each in numbers):
        raise ValueError(f"seeds: wanted whole numbers with commas, such as 0,1,2, got {seeds!r}.")
    chosen = names(rows) or list(DIGIT_ROWS)
    if reference is not None and reference not in chosen:
        raise ValueError(f"reference: wanted one of the rows {', '.join(chosen)}, got {reference!r}.")
    runs = plan(
        names(settings),
        chosen,
        [int(each) for each in numbers],
        recipes=shipped("recipes"),
        model=model,
        extra=extra,
    )
    check_output_folder(output, (RESULTS, "table.md", "figure.png", "learning.png"))
    console = Console()

    def show(done: int, total: int, name: str) -> None:
        console.print(f"{done} of {total} runs" + (f": {name}" if name else ""), highlight=False)

    results, failures = run_all(runs, output, jobs=jobs, progress=show)
    if results:
        text = markdown(list(results.values()), reference or "sft_rarl")
        (output / "table.md").write_text(text, encoding="utf-8")
        plot_results(list(results.values()), output / "figure.png")
        if any(result.curve.get("reward") for result in results.values()):
            plot_learning(list(results.values()), output / "learning.png")
        console.print(Markdown(text))
    if failures:
        lines = "\n".join(f"{name}: {reason}" for name, reason in failures.items())
        raise ValueError(f"{len(failures)} of {len(runs)} runs failed:\n{lines}")
