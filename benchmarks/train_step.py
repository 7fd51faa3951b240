"""A whole optimiser step of RARLTrainer, beside TRL's GRPOTrainer with the same rewards.

One prompt of 1, 4 or 8 images and 8 answers of 64 tokens a step, on a random Qwen2.5-VL of 6 layers and width 384
([`benchmarks.midsize`][benchmarks.midsize]), in fp32, all parameters trained with SGD: sampling, rewards, reference and
current log-probabilities, backward pass, update. Both trainers sample the same answers with the same seed, and their
parameters are compared at the end. `--figure` draws where the time of a step goes.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.measure import peak_bytes
from benchmarks.midsize import add_model, build_model, make_rows
from gor_head.output import replace_unprintable
from rarl.inputs import tokenizer_of
from rarl.rewards import REWARDS
from rarl.trainer import RARLConfig, RARLTrainer

IMAGES = (1, 4, 8)
NUM_GENERATIONS = 8
ANSWER_TOKENS = 64
WARM_UP = 1
PARTS = ("vision tower", "prefill", "decoding", "learner", "rewards and RMO", "other")


class PartClock(TrainerCallback):
    """Wall time of each step, divided among [`PARTS`][benchmarks.train_step.PARTS]: the innermost part that runs gets
    the time."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._stack = ["other"]
        self._since = 0.0
        self._spent = dict.fromkeys(PARTS, 0.0)

    def _turn(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self._spent[self._stack[-1]] += now - self._since
        self._since = now

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._turn()
        self._stack.append(name)
        try:
            yield
        finally:
            self._turn()
            self._stack.pop()

    def watch(self, owner: Any, method: str, part: str | Callable[[dict[str, Any]], str | None]) -> None:
        """Count all calls of `owner.method` to a part, or to what a function of the keyword arguments says."""
        inner = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            name = part if isinstance(part, str) else part(kwargs)
            with self.part(name) if name is not None else contextlib.nullcontext():
                return inner(*args, **kwargs)

        setattr(owner, method, timed)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._since = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._turn()
        self.steps.append(self._spent)
        self._spent = dict.fromkeys(PARTS, 0.0)


def varied_reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Something to learn from: what a random model says earns nothing with the rewards of the package."""
    return [sum(ids) % 7 / 7 for ids in completion_ids]


def build_trainer(ours: bool, num_images: int, steps: int, folder: str, name: str | None = None) -> Any:
    """A trainer of either kind; ours without what makes it another algorithm (RMO stays on, and has its cost)."""
    model, processor = build_model(name)
    model.save_pretrained(f"{folder}/model")  # TRL loads the reference model from there
    model = type(model).from_pretrained(f"{folder}/model")
    settings: dict[str, Any] = {
        "per_device_train_batch_size": NUM_GENERATIONS,
        "num_generations": NUM_GENERATIONS,
        "max_completion_length": ANSWER_TOKENS,
        # No answer ends early: once answers leave the batch, the same seed draws others.
        "generation_kwargs": {"suppress_tokens": tokenizer_of(processor).all_special_ids},
        "max_steps": WARM_UP + steps,
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "beta": 0.04,
        "bf16": False,
        "activation_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    rewards: list[Any] = [*REWARDS.values(), varied_reward]
    rows = make_rows(num_images, WARM_UP + steps, processor)
    trainer: Any
    if ours:
        args = RARLConfig(folder, **settings, suppress_vision_tokens=False, shared_prefix="on")
        trainer = RARLTrainer(model, rewards, args, rows, processing_class=processor)
    else:
        trainer = GRPOTrainer(model, rewards, GRPOConfig(folder, **settings), rows, processing_class=processor)
    trainer.remove_callback(PrinterCallback)
    return trainer


def add_clock(trainer: Any) -> PartClock:
    """Time the steps of a trainer and their parts."""
    clock = PartClock()
    generating = False

    def generation_part(kwargs: dict[str, Any]) -> str | None:
        tokens = kwargs["input_ids"] if kwargs.get("inputs_embeds") is None else kwargs["inputs_embeds"]
        return None if not generating else "prefill" if tokens.shape[1] > 1 else "decoding"

    inner = trainer._generate_single_turn

    def generate(*args: Any, **kwargs: Any) -> Any:
        nonlocal generating
        generating = True
        try:
            with clock.part("decoding"):
                return inner(*args, **kwargs)
        finally:
            generating = False

    trainer._generate_single_turn = generate
    for model in filter(None, (trainer.model, trainer.ref_model)):
        if hasattr(model.model, "visual"):
            clock.watch(model.model.visual, "forward", "vision tower")
        clock.watch(model.get_decoder(), "forward", generation_part)
    clock.watch(trainer, "_get_per_token_logps_and_entropies", "learner")
    clock.watch(trainer, "_compute_loss", "learner")
    clock.watch(trainer.accelerator, "backward", "learner")
    clock.watch(trainer, "_calculate_rewards", "rewards and RMO")
    if isinstance(trainer, RARLTrainer):
        clock.watch(trainer, "_mutate", "rewards and RMO")
    trainer.add_callback(clock)
    return clock


def measure(num_images: int, steps: int, model: str | None = None) -> dict[str, Any]:
    """All figures for one number of images; times in milliseconds, medians over `steps` steps after one to warm up.

    Returns:
        `speedup` is TRL's step over ours; `peak_memory_ratio` our peak over TRL's, of one whole step, weights not
        counted; `max_abs_parameter_diff` the largest difference of a parameter after all steps, and `moved` by how
        much the training moved a parameter at most. `stock_parts` and `shared_parts` divide the steps among
        [`PARTS`][benchmarks.train_step.PARTS].
    """
    clocks, parameters, peaks = {}, {}, {}
    for name, ours in (("stock", False), ("shared", True)):
        with tempfile.TemporaryDirectory() as folder:
            trainer = build_trainer(ours, num_images, steps, folder, model)
            before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
            clocks[name] = add_clock(trainer)
            trainer.train()
            parameters[name] = [parameter.detach() for parameter in trainer.model.parameters()]
            again = build_trainer(ours, num_images, 0, folder, model)
            peaks[name] = peak_bytes(again.train)[1]
    timed = {name: clock.steps[WARM_UP:] for name, clock in clocks.items()}
    medians = {name: statistics.median(sum(step.values()) for step in rows) for name, rows in timed.items()}
    parts = {
        name: {part: round(1e3 * statistics.median(step[part] for step in rows), 1) for part in PARTS}
        for name, rows in timed.items()
    }
    pairs = list(zip(before, *parameters.values(), strict=True))
    return {
        "images": num_images,
        "num_generations": NUM_GENERATIONS,
        "stock_ms": round(1e3 * medians["stock"], 1),
        "shared_ms": round(1e3 * medians["shared"], 1),
        "speedup": round(medians["stock"] / medians["shared"], 2),
        "peak_memory_ratio": round(peaks["shared"] / peaks["stock"], 3),
        "max_abs_parameter_diff": max(float((stock - shared).abs().max()) for _, stock, shared in pairs),
        "moved": max(float((stock - start).abs().max()) for start, stock, _ in pairs),
        "stock_parts": parts["stock"],
        "shared_parts": parts["shared"],
    }


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Stacked bars: parts of a step, TRL's and ours, for each number of images."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    names, lefts = [], torch.zeros(2 * len(results))
    for row in results:
        images = f"{row['images']} image{'s' if row['images'] > 1 else ''}"
        names += [f"{images}, {who}" for who in ("TRL", "shared prompts")]
    for part in PARTS:
        widths = [row[key][part] / 1e3 for row in results for key in ("stock_parts", "shared_parts")]
        axes.barh(names, widths, left=lefts.tolist(), label=part)
        lefts += torch.tensor(widths)
    axes.invert_yaxis()
    axes.set_xlabel("seconds a step")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(PARTS), frameon=False)
    figure.savefig(path, dpi=150)


def show(results: list[dict[str, Any]]) -> None:
    table = Table(title=f"A step: {NUM_GENERATIONS} answers of {ANSWER_TOKENS} tokens to one prompt")
    for column in ("images", "TRL ms", "shared ms", "speed-up", "memory", "parameters differ", "of"):
        table.add_column(column, justify="right")
    for row in results:
        cells = [str(row[name]) for name in ("images", "stock_ms", "shared_ms")]
        cells += [f"{row['speedup']:.2f}x", f"{row['peak_memory_ratio']:.2f}x"]
        table.add_row(*cells, f"{row['max_abs_parameter_diff']:.1e}", f"{row['moved']:.1e}")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--images", type=int, nargs="+", default=list(IMAGES), help="numbers of images in the prompt")
    parser.add_argument("--steps", type=int, default=2, help="timed steps")
    add_model(parser)
    parser.add_argument("--figure", type=Path, help="draw where the time goes, to this file")
    arguments = parser.parse_args()
    if min(arguments.steps, *arguments.images) < 1:
        parser.error("--steps and --images must be at least 1")
    with contextlib.redirect_stdout(sys.stderr):  # the object or the table is all of the output
        results = [measure(num_images, arguments.steps, arguments.model) for num_images in arguments.images]
    if arguments.figure is not None:
        draw(results, arguments.figure)
    if arguments.json:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
        print(json.dumps({"device": device, "results": results}))
    else:
        show(results)


if __name__ == "__main__":
    replace_unprintable()
    main()
