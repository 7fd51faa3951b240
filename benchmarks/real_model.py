"""SmolLM2 on film reviews beside the runs of `rarl ablate`: what it knows without being asked for a number, how well
people agree with people, and another domain.

Wants `rarl fetch smollm2` and `rarl fetch film-reviews`, and runs of `rarl ablate --model film_reviews`:

    python -m benchmarks.real_model --runs outputs/demo_real --seeds 0,1 --json outputs/demo_real/beside.json

Completions: log P(" positive") - log P(" negative") behind a review; isotonic regression on training reviews gives them
the unit of the values. Products: the same models on sentences of product reviews, which none was trained on.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from gor_head.metrics import METRICS
from rarl.ablation.plots import plot_results
from rarl.ablation.run import RESULTS, read_results
from rarl.datasets import load_source, split_by_content, verify, without_copies
from rarl.datasets.raters import agreement
from rarl.evaluation.completion import completion_scores, fitted_values
from rarl.evaluation.heldout import heldout_prompts
from rarl.evaluation.protocol import evaluate
from rarl.models import load_model, resolve_model, trained_task

FITTED = 400
"""Training reviews that the map from completions to values is fitted on."""

TRANSFERRED = ("sft", "sft_all", "stage1", "sft_rarl")
"""Rows whose models judge product sentences, too."""


def splits_of(table: str, seed: int) -> tuple[Any, dict[str, np.ndarray]]:
    """A table with votes and its splits without copies, as recipes have them."""
    source: Any = load_source("table", table=table, votes_column="votes")
    verify(source, progress=False)
    return source, {name: without_copies(source, part) for name, part in split_by_content(source, seed=seed).items()}


def scores(truth: Any, found: Any) -> dict[str, float | None]:
    """Spearman's ρ and the mean absolute error."""
    return {name: METRICS[name](list(truth), list(found)) for name in ("srcc", "mae")}


def completions(seed: int, limit: int) -> dict[str, Any]:
    """The model's completions on test reviews, and people on all of these."""
    source, splits = splits_of("film-reviews/reviews.csv", seed)
    # In random order: the table begins with the reviews that people liked.
    rng = np.random.default_rng(seed)
    known, held_out = rng.permutation(splits["train"])[:FITTED], rng.permutation(splits["test"])[:limit]
    model, tokenizer = load_model("smollm2", dtype="float32")
    seen = completion_scores(model, tokenizer, [source.load(i) for i in (*known.tolist(), *held_out.tolist())])
    values = fitted_values(seen[: len(known)], source.values[known], seen[len(known) :])
    truth = source.values[held_out]
    found = {"srcc": METRICS["srcc"](list(truth), list(seen[len(known) :])), "mae": scores(truth, values)["mae"]}
    constant = np.full(len(truth), np.median(source.values[splits["train"]]))
    people = asdict(agreement([source.votes[i] for i in splits["test"]], seed))
    return {"completion": found, "constant": scores(truth, constant), "people": people, "texts": len(held_out)}


def products(runs: Path, row: str, seed: int, num_prompts: int) -> dict[str, Any] | None:
    """A row's model on product sentences; `None` if it is not there."""
    adapter = runs / "film_reviews" / f"seed{seed}" / row
    if not (adapter / "adapter_config.json").is_file():
        return None
    source = load_source("table", trained_task(str(adapter)), table="film-reviews/products.csv")
    rows, median = heldout_prompts(source, "test", [1], num_prompts=num_prompts, seed=seed)
    model, processor = load_model(resolve_model("smollm2"), str(adapter), dtype="bfloat16")
    report = evaluate(
        model, processor, rows, task=source.task, batch_size=40, max_new_tokens=64, constant=median
    ).to_json()
    return {"srcc": report["strict"]["srcc"], "mae": report["strict"]["mae"], "unreadable": report["failure_rate"]}


def lines(beside: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What needs no run, over the seeds: name → column of `rarl ablate` → mean; a column without values is left out."""
    cells = {
        "one person": [{name: each["people"][f"one_{name}"] for name in ("srcc", "mae")} for each in beside.values()],
        "completions": [each["completion"] for each in beside.values()],
        "constant": [each["constant"] for each in beside.values()],
    }
    return {
        label: {
            name: float(np.mean([each[name] for each in found]))
            for name in ("srcc", "mae")
            if all(each[name] is not None for each in found)
        }
        for label, found in cells.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="Folder of rarl ablate.")
    parser.add_argument("--seeds", default="0", help="Seeds, with commas.")
    parser.add_argument("--texts", type=int, default=1000, help="Test reviews that completions are read of, at most.")
    parser.add_argument("--num-prompts", type=int, default=120, help="Product sentences a model judges.")
    parser.add_argument("--json", type=Path, required=True, help="File to write, and to go on from.")
    parser.add_argument("--figure", type=Path, help="Figure to draw.")
    arguments = parser.parse_args()
    console = Console()
    known: dict[str, Any] = json.loads(arguments.json.read_text()) if arguments.json.is_file() else {}
    for seed in map(int, arguments.seeds.split(",")):
        of_seed = known.setdefault(str(seed), {})
        if "completion" not in of_seed:
            of_seed |= completions(seed, arguments.texts)
        for row in TRANSFERRED:
            name = f"products, {row}"
            if name not in of_seed and (found := products(arguments.runs, row, seed, arguments.num_prompts)):
                of_seed[name] = found
                console.print(f"seed {seed}: {name}", highlight=False)
            arguments.json.write_text(json.dumps(known, indent=1) + "\n")
    table = Table(title="Beside the runs: Spearman's ρ, MAE")
    names = list(dict.fromkeys(name for each in known.values() for name in each if name not in ("people", "texts")))
    for heading in ("", *(f"seed {seed}" for seed in known)):
        table.add_column(heading)
    for name in names:
        cells = [each.get(name, {}) for each in known.values()]
        table.add_row(
            name, *(", ".join(f"{cell[key]:.3f}" for key in ("srcc", "mae") if cell.get(key)) for cell in cells)
        )
    for key in ("half", "one"):
        cells = [each["people"] for each in known.values()]
        table.add_row(f"people, {key}", *(f"{cell[f'{key}_srcc']:.3f}, {cell[f'{key}_mae']:.3f}" for cell in cells))
    console.print(table)
    if arguments.figure is not None:
        results = read_results(arguments.runs / RESULTS)
        plot_results(list(results.values()), arguments.figure, lines=lines(known))


if __name__ == "__main__":
    main()
