"""`gor train`: an estimator from a table."""

from pathlib import Path
from typing import Annotated

import typer

from gor_head.cli.errors import plain_errors
from gor_head.cli.options import Category, Drop, Settings, check_columns, parse_settings


@plain_errors
def train(
    data: Annotated[Path, typer.Argument(help="CSV file with a header.", show_default=False)],
    target: Annotated[str, typer.Option(help="Column of the labels.")],
    out: Annotated[Path, typer.Option(help="Folder for the estimator.")],
    drop: Drop = [],  # noqa: B006
    category: Category = [],  # noqa: B006
    settings: Settings = [],  # noqa: B006
    seed: Annotated[int, typer.Option(help="Seed of initial weights, batches and validation split.")] = 0,
) -> None:
    """Train GoR on the rows of a CSV file; a fifth of them is held out for early stopping."""
    from gor_head.cli.saved import FILES, quiet, save
    from gor_head.estimator import GoRRegressor
    from gor_head.numbers import show_number
    from gor_head.output import check_output_folder
    from gor_head.tables import column_names, read_table

    chosen = parse_settings(settings)
    check_output_folder(out, FILES)
    known = GoRRegressor().get_params()
    del known["random_state"]
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(f"--set: no setting {unknown[0]!r}; there are {', '.join(sorted(known))}; the seed is --seed.")
    check_columns(drop, category, column_names(data), where=str(data))
    table = read_table(data, target, drop, categories=category)
    out.mkdir(parents=True, exist_ok=True)
    quiet()
    model = GoRRegressor(**chosen, random_state=seed).fit(table.features, table.labels)
    save(model, table, out)
    looks = [entry["eval_mae"] for entry in model.log_history_ if "eval_mae" in entry]
    validation = f", validation MAE {show_number(min(looks))}" if looks else ""
    typer.echo(
        f"{out}: {len(table.labels)} rows, {len(table.features.columns)} columns, "
        f"{len(model.vocabulary_.tokens)} value tokens, {model.n_steps_} steps{validation}"
    )
