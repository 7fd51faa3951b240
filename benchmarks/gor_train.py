"""Rows per second of a training step under each strategy, beside teacher forcing on the same batch."""

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.gor_decode import ENCODER, median_seconds, moved, problem, train
from gor_head import CoDiVocabulary
from gor_head.model import GoRConfig, GoRModel
from gor_head.output import replace_unprintable
from gor_head.training import STRATEGIES
from gor_head.training.data import Rows
from gor_head.training.dpo import DPO, preference_rows
from gor_head.training.grpo import GRPO

PROGRESS = 0.5
"""Where schedules stand: in the middle of the training."""


def measure(decoder: str, batch: int, repeats: int) -> dict[str, Any]:
    """Rows per second of forward, backward and Adam for each strategy; largest difference of the losses when nothing
    but teacher forcing is on."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    features, labels = problem(max(batch, 8192))
    vocabulary = CoDiVocabulary.fit(labels, resolution=0.1)
    config = GoRConfig(vocabulary.to_dict(), ENCODER, decoder=decoder, strategy="teacher_forcing")
    model = moved(GoRModel(config), device)
    train(model, features, labels)
    rows = {
        "numeric": features[:batch],
        "codes": torch.from_numpy(vocabulary.encode(labels[:batch])).long(),
        "labels": torch.from_numpy(labels[:batch]),
    }
    pairs, _ = preference_rows(model, Rows(rows))
    strategies: dict[str, Callable[..., Tensor]] = {name: make() for name, make in STRATEGIES.items()}
    strategies |= {"dpo": DPO(), "grpo": GRPO()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    model.train()
    speed: dict[str, float] = {}
    for name, strategy in strategies.items():
        model.strategy = strategy
        columns = pairs.columns if name == "dpo" else rows
        inputs = {key: column.to(device) for key, column in columns.items()}

        def step(inputs: dict[str, Tensor] = inputs) -> None:
            model(progress=PROGRESS, **inputs).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        speed[name] = len(inputs["labels"]) / median_seconds(step, repeats)
    return {
        "decoder": decoder,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "batch": batch,
        "tokens": len(vocabulary.tokens),
        "longest_code": int(rows["codes"].shape[1]),
        "max_loss_difference_off": options_off(model, {key: column.to(device) for key, column in rows.items()}),
        "results": [
            {
                "strategy": name,
                "rows_per_second": round(value, 1),
                "time_over_teacher_forcing": speed["teacher_forcing"] / value,
            }
            for name, value in speed.items()
        ],
    }


@torch.no_grad()
def options_off(model: GoRModel, rows: dict[str, Tensor]) -> float:
    """Largest difference between teacher forcing's loss and that of curriculum at its start and of 1-grams."""
    from gor_head.training import Curriculum, NGram, TeacherForcing

    model.eval()
    losses = []
    for strategy in (TeacherForcing(), Curriculum(), NGram(1)):
        model.strategy = strategy
        losses.append(float(model(progress=0.0, **rows).loss))
    return max(losses) - min(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description="Rows per second of GoR's training strategies.", allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--decoder", default="transformer", choices=["rnn", "gru", "lstm", "transformer"])
    parser.add_argument("--batch", type=int, default=1024, help="rows per step")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps; the median counts")
    arguments = parser.parse_args()
    if min(arguments.batch, arguments.repeats) < 1:
        parser.error("--batch and --repeats must be at least 1")
    with Console(stderr=True).status("training"):
        figures = measure(arguments.decoder, arguments.batch, arguments.repeats)
    if arguments.json:
        print(json.dumps(figures))
        return
    table = Table(title=f"Training steps of {figures['batch']} rows, {figures['decoder']} decoder, {figures['device']}")
    for name in ("strategy", "rows per second", "time / teacher forcing"):
        table.add_column(name, justify="left" if name == "strategy" else "right")
    for result in figures["results"]:
        ratio = f"{result['time_over_teacher_forcing']:.2f}"
        table.add_row(result["strategy"], f"{result['rows_per_second']:,.0f}", ratio)
    table.caption = f"options off: losses differ by {figures['max_loss_difference_off']:.1e}"
    Console().print(table)


if __name__ == "__main__":
    replace_unprintable()
    main()
