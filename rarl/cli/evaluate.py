"""`rarl evaluate`: score a model on held-out images or texts."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gor_head.numbers import number_option
from rarl.cli.errors import plain_errors
from rarl.cli.options import Adapter, EvaluationDecoding, Interval, MaxNewTokens, MaxPixels, MinPixels, Model


@plain_errors
def evaluate(
    model: Model,
    output: Annotated[Path, typer.Option(help="Report to write (JSON).")],
    adapter: Adapter = None,
    source: Annotated[str, typer.Option(help="Data source, by the name that recipes give it.")] = "builtin",
    task: Annotated[str | None, typer.Option(help="Task; by default what was trained.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder of images.")] = None,
    csv: Annotated[Path | None, typer.Option(help="CSV with the header file,value.")] = None,
    table: Annotated[
        str | None, typer.Option(help="Table of texts: a CSV, Parquet or JSONL file, or a data set.")
    ] = None,
    table_split: Annotated[str | None, typer.Option(help="Split of a data set that has several.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of the texts; 'text' if not given.")] = None,
    value_column: Annotated[str | None, typer.Option(help="Column of the values; 'value' if not given.")] = None,
    votes_column: Annotated[str | None, typer.Option(help="Column of votes, lists, instead of values.")] = None,
    shots: Annotated[int, typer.Option(min=0, help="Solved examples that every prompt shows first; texts only.")] = 0,
    words: Annotated[
        list[str] | None,
        typer.Option(help="Words that the reasoning says before values, lowest first; give it once for each."),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Number of images of a source that makes them; 1000 built-in ones if not given.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    num_images: Annotated[list[int], typer.Option(help="Items in a prompt; give it once for each number.")] = [  # noqa: B006
        1,
        2,
        4,
        8,
    ],
    num_prompts: Annotated[int, typer.Option(min=1, help="Prompts of each number of images.")] = 200,
    min_gap: Annotated[float, number_option("Least difference between two values of a prompt.")] = 0.0,
    split_seed: Annotated[int, typer.Option(help="Seed of images and split; the one used in training.")] = 0,
    min_pixels: MinPixels = None,
    max_pixels: MaxPixels = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts in a batch.")] = 8,
    max_new_tokens: MaxNewTokens = 1024,
    decode: EvaluationDecoding = None,
    interval: Interval = None,
    resolution: Annotated[
        float | None,
        number_option("Distance of two numbers, for mode, median, mean; 1 for whole numbers, else 0.01, if not given."),
    ] = None,
    num_samples: Annotated[int, typer.Option(min=1, help="Answers to a prompt, for sampled_median.")] = 15,
    sample_seed: Annotated[int, typer.Option(help="Seed of these answers.")] = 0,
) -> None:
    """Score a model on held-out images or texts, and write a report.

    The baseline is the median value of the training split, predicted for every item.
    """
    from rich.console import Console

    from gor_head.output import check_output_file
    from rarl.datasets import load_source, with_shots
    from rarl.evaluation.codes import chosen_decode
    from rarl.evaluation.heldout import check_test_context, heldout_prompts
    from rarl.evaluation.protocol import evaluate as evaluate_model
    from rarl.evaluation.reports import write_report
    from rarl.evaluation.tables import report_table
    from rarl.models import check_adapter, check_kind, load_model, resolve_model, trained_task
    from rarl.task import register_task

    check_output_file(output)
    if adapter is not None:
        check_adapter(adapter)
    trained = trained_task(adapter or model)
    if trained is not None:
        register_task(trained)
    judged = task if task is not None else trained
    if source == "utkface" and task is None and trained is not None and trained.name != "age":
        raise ValueError(f"utkface has ages, but {adapter or model} was trained on {trained.name!r}: give --task.")
    items = load_source(
        source,
        judged,
        folder=folder,
        csv=csv,
        size=size,
        seed=split_seed,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        table=table,
        text_column=text_column,
        value_column=value_column,
        votes_column=votes_column,
        table_split=table_split,
    )
    chosen_decode(decode, items.task)
    if words:
        items = items.with_task(replace(items.task, words=tuple(words)))
    items = with_shots(items, shots, split_seed)
    datasets, median = heldout_prompts(
        items, split, num_images, num_prompts=num_prompts, min_gap=min_gap, seed=split_seed
    )
    check_kind(resolve_model(model), items.task)
    loaded, processor = load_model(model, adapter)
    context = loaded.config.get_text_config().max_position_embeddings
    check_test_context(datasets, processor, context, max_new_tokens=max_new_tokens)
    report = evaluate_model(
        loaded,
        processor,
        datasets,
        task=items.task,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        constant=median,
        decode=decode,
        interval=interval,
        resolution=resolution,
        num_samples=num_samples,
        seed=sample_seed,
    )
    write_report(report, output)
    Console().print(report_table({output.stem: report}, title=items.task.name))
