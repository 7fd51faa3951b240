"""Time and memory of sampling the answers to a prompt: TRL's own way, and with the prompt encoded once.

Both ways are timed in turn on one trainer, so with the same model, prompts and seeds. What is timed is all from the
messages of a batch to token ids: images and text are preprocessed, encoded, and answers are sampled.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from trl import GRPOConfig, GRPOTrainer
from trl.data_utils import prepare_multimodal_messages

from benchmarks.measure import peak_bytes
from benchmarks.midsize import add_model, build_model, make_rows
from gor_head.output import replace_unprintable
from rarl.inputs import tokenizer_of
from rarl.shared_prefix.image_memo import images_processed_once
from rarl.trainer import SharedPrefixTrainer

NUM_IMAGES = (1, 4, 8)
NUM_GENERATIONS = 8
SHORTEST, LONGEST = 64, 128
END_TOKENS = 18  # of 576: past the shortest length, an answer of random tokens ends at each with a chance of 1 in 32

Answers = list[list[int]]


def with_images(row: dict[str, Any]) -> Any:
    """The prompt of a row as TRL tokenises it."""
    return prepare_multimodal_messages(row["prompt"], images=row["images"]) if "images" in row else row["prompt"]


class Rollout:
    """A trainer on the mid-size model, and a batch of one prompt with `NUM_GENERATIONS` answers.

    Args:
        num_images: Images of the prompt.
        folder: Where the trainer may write.
        name: Name of a model; `None` for that of random weights.
    """

    def __init__(self, num_images: int, folder: str, name: str | None = None) -> None:
        model, processor = build_model(name)
        first = len(tokenizer_of(processor)) // 2
        model.generation_config.eos_token_id = list(range(first, first + END_TOKENS))
        args = GRPOConfig(
            folder,
            per_device_train_batch_size=NUM_GENERATIONS,
            num_generations=NUM_GENERATIONS,
            max_completion_length=LONGEST,
            use_cpu=not torch.cuda.is_available(),
            bf16=False,
            report_to="none",
        )
        rows = make_rows(num_images, 1, processor)
        self.trainer = SharedPrefixTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=args,
            train_dataset=rows,
            processing_class=processor,
        )
        self.trainer.model.train()
        row = rows[0]
        self._prompts = [with_images(row)] * NUM_GENERATIONS
        self.prompt_tokens = len(self.trainer._tokenize_prompts(self._prompts)[0][0])
        self.trainer.generation_config.min_length = self.prompt_tokens + SHORTEST

    def sample(self, shared: bool, seed: int = 0) -> Answers:
        """Token ids of the answers: by our trainer, or by TRL's."""
        torch.manual_seed(seed)
        trainer: Any = self.trainer
        with images_processed_once(trainer.processing_class) if shared else contextlib.nullcontext():
            prompt_ids, images, fields = trainer._tokenize_prompts(self._prompts)
            cls = SharedPrefixTrainer if shared else GRPOTrainer
            return cls._generate_single_turn(trainer, prompt_ids, images, fields, NUM_GENERATIONS)[0]

    def seconds(self, shared: bool, seed: int = 0) -> tuple[float, Answers]:
        """Wall time of [`sample`][benchmarks.rollout.Rollout.sample], and its answers."""
        start = time.perf_counter()
        answers = self.sample(shared, seed)  # lists of numbers: the device is done
        return time.perf_counter() - start, answers


@dataclass
class Timing:
    """Median seconds of both ways, and their answers at each repetition."""

    stock: float
    shared: float
    stock_answers: list[Answers]
    shared_answers: list[Answers]


def time_in_turn(rollout: Rollout, repeats: int) -> Timing:
    """Times TRL's way and ours, one after the other, with a seed for each repetition."""
    turns = [(rollout.seconds(False, seed), rollout.seconds(True, seed)) for seed in range(repeats)]
    (stock, stock_answers), (shared, shared_answers) = (zip(*way, strict=True) for way in zip(*turns, strict=True))
    return Timing(statistics.median(stock), statistics.median(shared), list(stock_answers), list(shared_answers))


def mean_length(batches: list[Answers]) -> float:
    """Tokens of an answer, on average."""
    return round(statistics.mean(len(answer) for batch in batches for answer in batch), 1)


def measure(num_images: int, repeats: int, model: str | None = None) -> dict[str, Any]:
    """All figures for prompts of one size.

    Returns:
        `speedup` is TRL's median time over ours for answers that end by chance after `SHORTEST` to `LONGEST` tokens,
        `equal_length_speedup` for `SHORTEST` tokens each, where none ends early. `peak_memory_ratio` is our peak
        over TRL's. `greedy_identical` and `samples_identical` say whether greedy answers, and those of equal length
        drawn with the same seed, are the same both ways.
    """
    with tempfile.TemporaryDirectory() as folder:
        rollout = Rollout(num_images, folder, model)
        settings: Any = rollout.trainer.generation_config
        settings.do_sample = False
        greedy = [rollout.sample(shared) for shared in (False, True)]  # warms up, too
        settings.do_sample = True
        stock_bytes, shared_bytes = (peak_bytes(partial(rollout.sample, shared))[1] for shared in (False, True))
        ended = time_in_turn(rollout, repeats)
        settings.max_new_tokens = SHORTEST
        equal = time_in_turn(rollout, repeats)
    return {
        "images": num_images,
        "num_generations": NUM_GENERATIONS,
        "prompt_tokens": rollout.prompt_tokens,
        "speedup": round(ended.stock / ended.shared, 2),
        "stock_seconds": round(ended.stock, 3),
        "shared_seconds": round(ended.shared, 3),
        "stock_mean_length": mean_length(ended.stock_answers),
        "shared_mean_length": mean_length(ended.shared_answers),
        "equal_length_speedup": round(equal.stock / equal.shared, 2),
        "peak_memory_ratio": round(shared_bytes / stock_bytes, 3),
        "stock_peak_mb": round(stock_bytes / 1e6, 1),
        "shared_peak_mb": round(shared_bytes / 1e6, 1),
        "greedy_identical": greedy[0] == greedy[1],
        "samples_identical": equal.stock_answers == equal.shared_answers,
    }


def results_table(results: list[dict[str, Any]]) -> Table:
    """The figures of [`measure`][benchmarks.rollout.measure] for each number of images."""
    table = Table(title=f"{NUM_GENERATIONS} answers of {SHORTEST} to {LONGEST} tokens to a prompt")
    for heading in ("images", "prompt tokens", "TRL, s", "shared, s", "faster", "equal lengths", "memory", "same"):
        table.add_column(heading, justify="right")
    for row in results:
        table.add_row(
            str(row["images"]),
            str(row["prompt_tokens"]),
            f"{row['stock_seconds']:.2f}",
            f"{row['shared_seconds']:.2f}",
            f"{row['speedup']:.2f} ×",
            f"{row['equal_length_speedup']:.2f} ×",
            f"{row['peak_memory_ratio']:.2f} ×",
            "yes" if row["greedy_identical"] and row["samples_identical"] else "NO",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--images", type=int, nargs="+", default=list(NUM_IMAGES), help="images of a prompt")
    parser.add_argument("--repeats", type=int, default=3, help="timed repetitions of each way; the median is reported")
    add_model(parser)
    arguments = parser.parse_args()
    if min(arguments.repeats, *arguments.images) < 1:
        parser.error("--repeats and --images must be at least 1")
    with contextlib.redirect_stdout(sys.stderr):  # libraries log to standard output, which is for the figures
        results = [measure(num_images, arguments.repeats, arguments.model) for num_images in arguments.images]
    if arguments.json:
        print(json.dumps({"results": results}))
        return
    Console().print(results_table(results))


if __name__ == "__main__":
    replace_unprintable()
    main()
