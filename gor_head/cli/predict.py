"""`gor predict`: predictions for the rows of a table."""

from pathlib import Path
from typing import Annotated

import typer

from gor_head.cli.errors import plain_errors
from gor_head.cli.options import Model
from gor_head.numbers import number_option


@plain_errors
def predict(
    model: Model,
    data: Annotated[Path, typer.Argument(help="CSV file with the columns of training; others are ignored.")],
    out: Annotated[Path, typer.Option(help="CSV file to write: a prediction per row, in order.")],
    decode: Annotated[
        str | None, typer.Option(help="How numbers are read, such as greedy or quantile; by default that of training.")
    ] = None,
    interval: Annotated[
        float | None,
        number_option("Add the columns low and high of the central interval of this probability, as 0.9."),
    ] = None,
) -> None:
    """Predict the label of every row of a CSV file."""
    import pandas as pd

    from gor_head.cli.saved import load
    from gor_head.output import check_output_file
    from gor_head.tables import read_features

    if interval is not None and not 0 < interval < 1:
        raise ValueError(f"--interval: wanted a probability between 0 and 1, got {interval}.")
    check_output_file(out)
    saved = load(model)
    features = read_features(data, kinds=saved.kinds)
    columns = {"prediction": saved.predict(features, decode)}
    if interval is not None:
        ends = saved.estimator.predict_interval(features, (1 - interval) / 2, (1 + interval) / 2)
        columns |= {"low": ends[:, 0], "high": ends[:, 1]}
    out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_csv(out, index=False)
