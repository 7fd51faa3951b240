"""Labels as people give them: votes scatter about the truth, and a label is the mean of a few votes.

A rater answers within the range of the task, in its units (whole numbers if the task has them). The label of an image
is the mean of its votes, brought back to such a number, half units upwards.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gor_head.metrics import METRICS
from rarl.task import OrdinalTask


def check_raters(raters: int | None, rater_noise: float | None = None) -> None:
    """Refuse numbers of raters and deviations that cannot be meant.

    Raises:
        ValueError: If there is less than one rater, or the deviation is negative or not finite.
    """
    if raters is not None and raters < 1:
        raise ValueError(f"raters: wanted at least one rater an image, got {raters}.")
    if rater_noise is not None and not 0 <= rater_noise < np.inf:
        raise ValueError(f"rater_noise: wanted a standard deviation of 0 or more, got {rater_noise}.")


def label_places(task: OrdinalTask) -> int:
    """Places behind the point of a label with fractions: two, or as many as part the range into a hundred."""
    return max(2, 2 - math.floor(math.log10(task.maximum - task.minimum)))


def to_task(numbers: Any, task: OrdinalTask) -> np.ndarray:
    """Numbers as a rater of the task may answer: within its range, whole if it has whole numbers, half units upwards,
    else with [`label_places`][rarl.datasets.raters.label_places].

    Args:
        numbers: Float array of any shape.
        task: Gives the range.
    """
    numbers = np.asarray(numbers, dtype=np.float64)
    numbers = np.floor(numbers + 0.5) if task.integer else np.round(numbers, label_places(task))
    return np.clip(numbers, task.minimum, task.maximum)


def draw_votes(values: Any, deviations: Any, task: OrdinalTask, *, raters: int, seed: tuple[int, ...]) -> np.ndarray:
    """Votes about each image, `[n, raters]`: normal about its value, then [`to_task`][rarl.datasets.raters.to_task].

    The votes about the first images do not depend on how many follow.

    Args:
        values: True values, `[n]`.
        deviations: Standard deviation of the votes in units of the task, one number or `[n]`.
        task: Gives the range.
        raters: Votes about each image.
        seed: Seed of the draw.
    """
    values = np.asarray(values, dtype=np.float64)
    deviations = np.broadcast_to(np.asarray(deviations, dtype=np.float64), values.shape)
    noise = np.random.default_rng(seed).standard_normal((len(values), raters))
    return to_task(values[:, None] + deviations[:, None] * noise, task)


def choose_votes(votes: Any, *, raters: int, seed: tuple[int, ...]) -> np.ndarray:
    """Some of the votes about each image, `[n, k]` → `[n, raters]`, drawn without replacement.

    Raises:
        ValueError: If there are fewer votes than raters.
    """
    votes = np.asarray(votes, dtype=np.float64)
    if raters > votes.shape[1]:
        raise ValueError(f"raters: wanted at most {votes.shape[1]}, the votes that an image has, got {raters}.")
    return np.random.default_rng(seed).permuted(votes, axis=1)[:, :raters]


def mean_votes(votes: Any, task: OrdinalTask) -> np.ndarray:
    """Label of each image, `[n, k]` → `[n]`: the mean of its votes, [`to_task`][rarl.datasets.raters.to_task]."""
    return to_task(np.asarray(votes, dtype=np.float64).mean(axis=1), task)


@dataclass(frozen=True)
class Agreement:
    """How well people agree with people on the same items.

    Attributes:
        half_srcc: Spearman's ρ between the means of two halves of the votes of each item.
        half_mae: Mean absolute difference of these means, in the units of the votes.
        one_srcc: Spearman's ρ between one vote about each item and the mean of its others.
        one_mae: Mean absolute difference of the two.
    """

    half_srcc: float
    half_mae: float
    one_srcc: float
    one_mae: float


def agreement(votes: Sequence[Sequence[float]], seed: int = 0) -> Agreement:
    """How well raters agree: what a model that is as good as people would reach.

    A mean of all votes is surer than that of a half, so a perfect model may be above `half_srcc`.

    Args:
        votes: The votes about each item, at least two.
        seed: Seed of the draw of halves and of single votes.

    Raises:
        ValueError: If an item has fewer than two votes.
    """
    rng = np.random.default_rng(seed)
    halves, singles = [], []
    for number, each in enumerate(votes):
        if len(each) < 2:
            raise ValueError(f"Item {number}: wanted at least two votes, got {len(each)}.")
        shuffled = rng.permutation(np.asarray(each, dtype=np.float64))
        middle = len(shuffled) // 2
        halves.append((shuffled[:middle].mean(), shuffled[middle:].mean()))
        singles.append((shuffled[0], shuffled[1:].mean()))
    srcc, mae = METRICS["srcc"], METRICS["mae"]
    one, other = (list(part) for part in zip(*halves, strict=True))
    single, rest = (list(part) for part in zip(*singles, strict=True))
    numbers = (srcc(one, other), mae(one, other), srcc(rest, single), mae(rest, single))
    return Agreement(*(float("nan") if number is None else number for number in numbers))
