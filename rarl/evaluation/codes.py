"""How numbers in value tokens are decoded while a model answers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

from transformers import LogitsProcessorList

from rarl.answer import parse_answer
from rarl.credit import find_statements
from rarl.prompt import build_completion
from rarl.task import OrdinalTask

CodeDecode = Literal["greedy", "median"]
"""How numbers in value tokens are read while a model answers."""

Decode = Literal["greedy", "mode", "median", "mean", "sampled_median"]
"""How numbers are read; see [`rarl.evaluation.decoding`][rarl.evaluation.decoding]."""


def chosen_decode(decode: Decode | None, task: OrdinalTask) -> Decode:
    """How a task's numbers are read, where nothing is said: value tokens, which give a distribution, as medians, and
    digits greedily.

    Raises:
        ValueError: As [`check_decode`][rarl.evaluation.codes.check_decode].
    """
    if decode is None:
        return "greedy" if task.vocabulary is None else "median"
    check_decode(decode)
    return decode


def check_decode(decode: str) -> None:
    """Refuse a way to read numbers that there is not.

    Raises:
        ValueError: Says which ones there are.
    """
    if decode not in get_args(Decode):
        raise ValueError(f"decode: wanted {', '.join(get_args(Decode))}, got {decode!r}.")


def interval_ends(interval: float) -> tuple[float, float]:
    """Levels of the two ends of a central interval that holds `interval` of the distribution.

    Raises:
        ValueError: If `interval` is not between 0 and 1.
    """
    if not 0 < interval < 1:
        raise ValueError(f"interval: wanted a share between 0 and 1, such as 0.9, got {interval}.")
    return (1 - interval) / 2, (1 + interval) / 2


def code_processors(
    processor: Any, task: OrdinalTask, decode: CodeDecode = "greedy", *, level: float = 0.5, number: int | None = None
) -> Callable[[], LogitsProcessorList]:
    """Makes the logits processors of one `generate` call for a task.

    Args:
        processor: The processor of the model.
        task: Without a vocabulary nothing is processed; with one, codes are legal.
        decode: `"greedy"`, the likeliest legal token; `"median"`, the median of the distribution at each number.
        level: Another quantile instead of the median, in 0..1.
        number: Which number of an answer has this level, from 0, the others being medians; None: all of them.

    Raises:
        ValueError: If medians are wanted of a task that writes digits, `decode` is unknown, or the processor lacks the
            tokens.
    """
    if decode not in get_args(CodeDecode):
        raise ValueError(f"decode: wanted greedy or median, got {decode!r}.")
    if task.vocabulary is None:
        if decode == "median":
            raise ValueError(
                f"decode: medians, as the model goes on, want value tokens, but task {task.name!r} writes digits."
            )
        return LogitsProcessorList
    from gor_head.vlm.logits import QuantileLogits, ValueTokenLogits
    from gor_head.vlm.tokens import ValueTokens

    tokens = ValueTokens.of(processor, task.codi_vocabulary)
    if decode == "median":
        return lambda: LogitsProcessorList([QuantileLogits(tokens, level, number)])
    return lambda: LogitsProcessorList([ValueTokenLogits(tokens)])


def sorted_by_reasoning(text: str, num_images: int, task: OrdinalTask) -> str:
    """A readable answer with the list that follows from the numbers of its reasoning, ascending, in digits; the answer
    as it is if it is unreadable, or its reasoning leaves an image out.

    Digits are read in the same way, see [`choose_answers`][rarl.evaluation.decoding.choose_answers]: what is compared
    are the numbers, not how well a model copies them into a list.

    Args:
        text: An answer in value tokens.
        num_images: Number of images in its prompt.
        task: The task.
    """
    if not parse_answer(text, num_images).readable:
        return text
    stated = {each.image: each.value for each in find_statements(text, num_images, task.words) if not each.listed}
    if not all(image in stated for image in range(1, num_images + 1)):
        return text
    # In digits, as they were said: not every number that may be written has a code.
    digits = replace(task, vocabulary=None, integer=False)
    return build_completion([stated[image] for image in range(1, num_images + 1)], digits)
