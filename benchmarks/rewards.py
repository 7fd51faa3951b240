"""Time of parsing and scoring eight-image answers with all five rewards, beside the obvious way to do it.

The obvious way is a regular expression for the tags, `json.loads`, and `scipy.stats.kendalltau` twice. It reads clean
answers only, so both score clean answers: wrong values in a wrong order, true values without ties.

In the same run, the share of a training step that rewards and the Response Mutation Operation take; see
[`benchmarks.reward_share`][benchmarks.reward_share].
"""

import argparse
import contextlib
import json
import random
import re
import statistics
import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

from benchmarks.reward_share import measure_step
from gor_head.output import replace_unprintable
from rarl import answer
from rarl.prompt import list_reasoning
from rarl.rewards import REWARDS
from rarl.task import get_task

NUM_ANSWERS = 1000
NUM_IMAGES = 8
TASK = get_task("age")
FORMAT = re.compile(r"\s*<think>.*?</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)

Scores = list[list[float | None]]


def make_answers(seed: int = 0) -> tuple[list[str], list[list[float]]]:
    """Completions, all different, and true values, `[NUM_ANSWERS][NUM_IMAGES]`."""
    rng = random.Random(seed)
    texts, values = [], []
    for _ in range(NUM_ANSWERS):
        truth = [float(value) for value in rng.sample(range(int(TASK.maximum) + 1), NUM_IMAGES)]
        guesses = [min(max(round(value + rng.gauss(0, 8)), 0), int(TASK.maximum)) for value in truth]
        order = sorted(range(NUM_IMAGES), key=lambda index: guesses[index] + rng.gauss(0, 8))
        block = json.dumps([{"image_id": index + 1, "value": guesses[index]} for index in order])
        texts.append(f"<think>{list_reasoning(guesses, TASK)}</think><answer>{block}</answer>")
        values.append(truth)
    return texts, values


def score(texts: list[str], values: list[list[float]]) -> Scores:
    """All five rewards, nothing parsed before."""
    answer._parse_block_cached.cache_clear()
    return [reward(texts, values=values, task=TASK) for reward in REWARDS.values()]


def score_stock(texts: list[str], values: list[list[float]]) -> Scores:
    """The same numbers by the obvious way, each answer parsed once."""
    rows: list[list[float | None]] = []
    for text, truth in zip(texts, values, strict=True):
        match = FORMAT.fullmatch(text)
        assert match is not None
        items = json.loads(match.group(1))
        predicted = [item["value"] for item in items]
        listed = [truth[item["image_id"] - 1] for item in items]
        distances = [abs(value - true) / TASK.tolerance for value, true in zip(predicted, listed, strict=True)]
        rows.append(
            [
                sum(1 - distance**2 for distance in distances if distance <= 1) / len(truth),
                float(len({item["image_id"] for item in items}) == len(truth)),
                float(kendalltau(range(len(items)), predicted).statistic),
                float(kendalltau(range(len(items)), listed).statistic),
                1.0,
            ]
        )
    return [list(column) for column in zip(*rows, strict=True)]


def median_ms(function: Callable[[], object], repeats: int) -> float:
    """Median wall time of a call, in milliseconds, after one call to warm up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def measure(repeats: int = 20) -> dict[str, float | int]:
    """All figures; times in milliseconds for all answers, in microseconds for one."""
    texts, values = make_answers()
    pairs = [
        (ours, theirs)
        for columns in zip(score(texts, values), score_stock(texts, values), strict=True)
        for ours, theirs in zip(*columns, strict=True)
    ]
    assert all(ours is not None and theirs is not None for ours, theirs in pairs)
    ours_ms = median_ms(lambda: score(texts, values), repeats)
    stock_ms = median_ms(lambda: score_stock(texts, values), max(repeats // 5, 1))
    return {
        "answers": NUM_ANSWERS,
        "images": NUM_IMAGES,
        "repeats": repeats,
        "five_rewards_ms": round(ours_ms, 3),
        "per_answer_us": round(ours_ms / NUM_ANSWERS * 1e3, 3),
        "stock_ms": round(stock_ms, 3),
        "ratio": round(stock_ms / ours_ms, 2),
        "max_abs_difference": max(abs((ours or 0.0) - (theirs or 0.0)) for ours, theirs in pairs),
    }


def scoring_table(figures: dict[str, float | int]) -> Table:
    """The figures of [`measure`][benchmarks.rewards.measure]."""
    table = Table(title=f"{NUM_ANSWERS} answers about {NUM_IMAGES} images, parsed and scored with five rewards")
    table.add_column("")
    table.add_column("all, ms", justify="right")
    table.add_column("one, µs", justify="right")
    table.add_row("rarl.rewards", f"{figures['five_rewards_ms']:.1f}", f"{figures['per_answer_us']:.1f}")
    table.add_row("json + scipy", f"{figures['stock_ms']:.1f}", f"{figures['stock_ms'] / NUM_ANSWERS * 1e3:.1f}")
    table.caption = f"{figures['ratio']:.1f} times faster; largest difference {figures['max_abs_difference']:.1e}"
    return table


def step_table(figures: dict[str, float | int]) -> Table:
    """The figures of [`measure_step`][benchmarks.reward_share.measure_step]."""
    step_ms = figures["step_ms"]
    table = Table(title=f"A step of stage 2 on the tiny model, mean of {figures['steps']}")
    table.add_column("")
    table.add_column("ms", justify="right")
    table.add_column("share of our step", justify="right")
    for label, key in (
        ("rewards", "rewards_ms_per_step"),
        (f"RMO, {figures['mutated_per_step']:g} responses rewritten", "rmo_ms_per_step"),
        ("RMO, one response rewritten in every group", "rmo_every_group_ms_per_step"),
        ("whole step, RARLTrainer", "step_ms"),
        ("whole step, GRPOTrainer", "stock_step_ms"),
    ):
        table.add_row(label, f"{figures[key]:.1f}", f"{figures[key] / step_ms:.2%}")
    difference = figures["max_abs_difference_options_off"]
    table.caption = f"With all options off, RARLTrainer and GRPOTrainer differ by at most {difference:.1e}"
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Time of the rewards, alone and, with RMO, as a share of a training step.",
        epilog="Other flags go to the training step: those of recipes/rarl_stage2.py.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls; the median is reported")
    parser.add_argument("--steps", type=int, default=3, help="timed training steps; the mean is reported")
    arguments, flags = parser.parse_known_args()
    for name in ("repeats", "steps"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    with contextlib.redirect_stdout(sys.stderr):  # libraries log to standard output, which is for the figures
        step = measure_step(arguments.steps, *flags)
        scoring = measure(arguments.repeats)
    if arguments.json:
        print(json.dumps(scoring | step))
        return
    Console().print(scoring_table(scoring), step_table(step))


if __name__ == "__main__":
    replace_unprintable()
    main()
