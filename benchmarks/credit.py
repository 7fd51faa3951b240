"""How much the gradient varies with what a token is credited with, and what that costs.

The tiny model with the adapter of stage 1 answers the same prompts of 1, 2, 4 and 8 images many times; each time every
`credit` makes a gradient of the same answers. Its noise is the total variance of the gradient over the squared length
of its mean, which does not depend on the scale; a smaller one says that fewer answers would do. No KL, no mutation.
"""

import argparse
import json
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoModelForImageTextToText, AutoProcessor

from gor_head.output import replace_unprintable
from gor_head.vlm.checkpoint import add_adapter
from rarl import tiny
from rarl.datasets import load_source, make_dataset
from rarl.rewards import REWARDS, weights
from rarl.trainer import RARLConfig, RARLTrainer

CREDITS = ("completion", "item", "exact")
PROMPTS, GROUP = 8, 8


def make_trainer(credit: str, folder: str, settings: dict[str, Any]) -> Any:
    """A trainer at the start of stage 2, on labels of careless raters."""
    processor = AutoProcessor.from_pretrained(tiny.path())
    model = add_adapter(
        AutoModelForImageTextToText.from_pretrained(tiny.path()), processor, tiny.adapter_path(), is_trainable=True
    )
    source = load_source("builtin", size=400, rater_noise=2.0).rated()
    rows = make_dataset(source, np.arange(400), 64, mix=dict.fromkeys((1, 2, 4, 8), 1.0))
    args = RARLConfig(
        folder,
        per_device_train_batch_size=PROMPTS * GROUP,
        num_generations=GROUP,
        max_completion_length=96,
        beta=0.0,
        rmo=False,
        bf16=False,
        activation_checkpointing=False,
        report_to="none",
        reward_weights=weights(),
        credit=credit,
        **settings,
    )
    trainer = RARLTrainer(model, list(REWARDS.values()), args, rows, processing_class=processor)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def gradient(trainer: Any, rows: Any, seed: int) -> tuple[torch.Tensor, float, float]:
    """The gradient of one batch of answers, all of it in one vector, and seconds of sampling and of learning."""
    torch.manual_seed(seed)
    trainer.model.zero_grad()
    started = time.perf_counter()
    batch = trainer._generate_and_score_completions(rows)
    sampled = time.perf_counter()
    trainer._compute_loss(trainer.model, batch).backward()
    ended = time.perf_counter()
    parts = [each.grad.flatten() for each in trainer.model.parameters() if each.grad is not None]
    return torch.cat(parts).double(), sampled - started, ended - sampled


def noise(gradients: torch.Tensor) -> tuple[float, float]:
    """Total variance of gradients `[r, p]`, and the squared length of their mean, free of the variance in it."""
    variance = float(gradients.var(dim=0).sum())
    return variance, float(gradients.mean(dim=0).square().sum()) - variance / len(gradients)


def measure(repeats: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """A row of figures for each credit."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        trainers = {credit: make_trainer(credit, folder, settings) for credit in CREDITS}
        rows = next(iter(trainers["completion"].get_train_dataloader()))
        found: dict[str, list[tuple[torch.Tensor, float, float]]] = {credit: [] for credit in CREDITS}
        console = Console(stderr=True)
        for seed in track(range(repeats), "Answers", console=console, disable=not console.is_terminal):
            for credit, trainer in trainers.items():
                found[credit].append(gradient(trainer, rows, seed))
    for credit, each in found.items():
        gradients = torch.stack([vector for vector, _, _ in each])
        variance, signal = noise(gradients)
        results.append(
            {
                "credit": credit,
                "variance": variance,
                "signal": signal,
                "noise": variance / signal if signal > 0 else None,
                "sampling_ms": 1e3 * float(np.mean([sampling for _, sampling, _ in each])),
                "learning_ms": 1e3 * float(np.mean([learning for _, _, learning in each])),
            }
        )
    return results


def main() -> None:
    """Print the figures as a table, or as one JSON object with `--json`."""
    replace_unprintable()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--repeats", type=int, default=32, help="batches of answers, at least 2")
    given = parser.parse_args()
    if given.repeats < 2:
        sys.exit(f"Error: --repeats: wanted at least 2, got {given.repeats}.")
    results = measure(given.repeats, {"use_cpu": not torch.cuda.is_available()})
    if given.json:
        print(json.dumps({"repeats": given.repeats, "results": results}))
        return
    table = Table("credit", "variance", "signal", "noise", "sampling, ms", "learning, ms")
    for row in results:
        shown = "–" if row["noise"] is None else f"{row['noise']:.1f}"
        figures = (f"{row['variance']:.3g}", f"{row['signal']:.3g}", shown)
        table.add_row(row["credit"], *figures, f"{row['sampling_ms']:.0f}", f"{row['learning_ms']:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
