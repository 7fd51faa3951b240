"""`rarl predict`: values and order of some images or texts."""

import json
from typing import Annotated, Any

import typer

from rarl.cli.errors import plain_errors
from rarl.cli.options import Adapter, Decoding, Interval, MaxNewTokens, MaxPixels, MinPixels, Model


@plain_errors
def predict(
    items: Annotated[
        list[str], typer.Argument(help="Image files or URLs, or texts as they are, asked about in one prompt.")
    ],
    model: Model,
    adapter: Adapter = None,
    task: Annotated[str | None, typer.Option(help="What to judge; by default what the model was trained on.")] = None,
    min_pixels: MinPixels = None,
    max_pixels: MaxPixels = None,
    max_new_tokens: MaxNewTokens = 1024,
    decode: Decoding = None,
    interval: Interval = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Judge images or texts: the value of each, and its rank (1 is the least)."""
    from rich.console import Console

    from rarl.datasets.images import REMARK
    from rarl.evaluation.predict import open_image
    from rarl.evaluation.predict import predict as predict_images
    from rarl.evaluation.tables import prediction_table
    from rarl.models import check_adapter, check_kind, load_model, resolve_model, trained_task
    from rarl.task import get_task, register_task

    if adapter is not None:
        check_adapter(adapter)
    trained = trained_task(adapter or model)
    if trained is not None:
        register_task(trained)
    judged = get_task(task) if task is not None else trained
    if judged is None:
        raise ValueError(f"{adapter or model} does not say what it judges: give --task.")
    opened: Any = items
    if judged.kind == "image":
        opened = [open_image(location, min_pixels, max_pixels) for location in items]
        for location, image in zip(items, opened, strict=True):
            if image.info[REMARK]:
                typer.echo(f"Warning: {location}: {image.info[REMARK]}", err=True)
    elif empty := [number for number, text in enumerate(items, start=1) if not text.strip()]:
        raise ValueError(f"Text {empty[0]} is empty; wanted texts to judge.")
    elif (min_pixels, max_pixels) != (None, None):
        raise ValueError(f"Task {judged.name!r} judges texts: wanted no --min-pixels or --max-pixels.")
    check_kind(resolve_model(model), judged)
    loaded, processor = load_model(model, adapter)
    prediction = predict_images(
        loaded,
        processor,
        opened,
        task=judged,
        max_new_tokens=max_new_tokens,
        decode=decode,
        interval=interval,
    )
    if as_json:
        columns = {judged.kind: items, "value": prediction.values, "rank": prediction.ranks}
        if prediction.intervals is not None:
            columns["interval"] = prediction.intervals
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        typer.echo(json.dumps(rows, indent=2))
    else:
        Console().print(prediction_table(items, prediction, judged.name, judged.kind))
