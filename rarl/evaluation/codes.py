"""How numbers in value tokens are decoded while a model answers."""

from collections.abc import Callable
from typing import Any, Literal, get_args

from transformers import LogitsProcessorList

from rarl.task import OrdinalTask

Decode = Literal["greedy", "quantile"]
DigitDecode = Literal["mode", "median", "mean", "sampled_median"]
"""How numbers in digits are read, beside greedily; see [`rarl.evaluation.decoding`][rarl.evaluation.decoding]."""


def check_decode(decode: str, task: OrdinalTask) -> None:
    """Refuse a way to read numbers that there is not, or not for the task's numbers.

    Raises:
        ValueError: Says which ones go with digits, and which with value tokens.
    """
    codes, digits = get_args(Decode), ("greedy", *get_args(DigitDecode))
    wanted = f"wanted {', '.join(digits)} (numbers in digits), or {', '.join(codes)} (numbers in value tokens)"
    if decode not in codes + digits:
        raise ValueError(f"decode: {wanted}, got {decode!r}.")
    if decode not in (digits if task.vocabulary is None else codes):
        written = "digits" if task.vocabulary is None else "value tokens"
        raise ValueError(f"decode: {wanted}, but task {task.name!r} writes {written}, got {decode!r}.")


def interval_ends(interval: float) -> tuple[float, float]:
    """Levels of the two ends of a central interval that holds `interval` of the distribution.

    Raises:
        ValueError: If `interval` is not between 0 and 1.
    """
    if not 0 < interval < 1:
        raise ValueError(f"interval: wanted a share between 0 and 1, such as 0.9, got {interval}.")
    return (1 - interval) / 2, (1 + interval) / 2


def code_processors(
    processor: Any, task: OrdinalTask, decode: Decode = "greedy", *, level: float = 0.5, number: int | None = None
) -> Callable[[], LogitsProcessorList]:
    """Makes the logits processors of one `generate` call for a task.

    Args:
        processor: The processor of the model.
        task: Without a vocabulary nothing is processed; with one, codes are legal.
        decode: `"greedy"`, the likeliest legal token; `"quantile"`, a quantile of the model's distribution at each
            number.
        level: Level of the quantile in 0..1; the median by default.
        number: Which number of an answer has this level, from 0, the others being medians; None: all of them.

    Raises:
        ValueError: If medians are wanted of a task that writes digits, `decode` is unknown, or the processor lacks the
            tokens.
    """
    if decode not in ("greedy", "quantile"):
        raise ValueError(f"decode: wanted greedy or quantile, got {decode!r}.")
    if task.vocabulary is None:
        if decode == "quantile":
            raise ValueError(f"decode: a quantile wants numbers in value tokens, but task {task.name!r} writes digits.")
        return LogitsProcessorList
    from gor_head.vlm.logits import QuantileLogits, ValueTokenLogits
    from gor_head.vlm.tokens import ValueTokens

    tokens = ValueTokens.of(processor, task.codi_vocabulary)
    if decode == "quantile":
        return lambda: LogitsProcessorList([QuantileLogits(tokens, level, number)])
    return lambda: LogitsProcessorList([ValueTokenLogits(tokens)])
