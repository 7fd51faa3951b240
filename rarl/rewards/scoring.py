"""What the rewards share: the columns that TRL hands over, and the count behind Kendall's τ."""

import math
from collections.abc import Sequence
from typing import Any

from rarl.answer import Answer, completion_text, parse_answer
from rarl.task import OrdinalTask, get_task

Rewards = list[float | None]
Values = Sequence[Sequence[float]]
TaskColumn = str | OrdinalTask | Sequence[str | OrdinalTask]


def check_rows(completions: Sequence[Any], values: Values) -> None:
    """Check that there is one row of values per completion, and a value in each.

    Raises:
        ValueError: If the numbers differ, or a row is empty or not of finite numbers.
    """
    if len(completions) != len(values):
        raise ValueError(f"Got {len(completions)} completions, but {len(values)} rows of values.")
    for row, truth in enumerate(values):
        try:
            valid = all(map(math.isfinite, truth))
        except TypeError:
            valid = False
        if not valid:
            raise ValueError(f"Row {row}: wanted a list of finite numbers, one for each image, got {truth!r}.")
        if len(truth) < 1:
            raise ValueError(f"Row {row}: wanted the true value of each image, got none.")


def read_answers(completions: Sequence[Any], values: Values) -> list[Answer]:
    """The answer in each completion, about as many images as its row has values.

    Raises:
        ValueError: See [`check_rows`][rarl.rewards.scoring.check_rows].
    """
    check_rows(completions, values)
    return [
        parse_answer(completion_text(completion), len(truth))
        for completion, truth in zip(completions, values, strict=True)
    ]


def read_tasks(task: TaskColumn, rows: int) -> list[OrdinalTask]:
    """The task of each row; one task or name stands for all rows.

    Raises:
        ValueError: If a name is unknown, or the number of tasks is not the number of rows.
    """
    if isinstance(task, str | OrdinalTask):
        return [get_task(task)] * rows
    if len(task) != rows:
        raise ValueError(f"Got {rows} completions, but {len(task)} tasks.")
    return [get_task(name) for name in task]


def concordance(numbers: Sequence[float]) -> tuple[int, int]:
    """How far a sequence ascends: (ascending minus descending pairs, pairs that are not tied), over all i < j."""
    score = untied = 0
    for j, right in enumerate(numbers):
        for left in numbers[:j]:
            if left < right:
                score += 1
                untied += 1
            elif left > right:
                score -= 1
                untied += 1
    return score, untied
