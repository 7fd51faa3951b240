"""How numbers in value tokens are decoded while a model answers."""

from collections.abc import Callable
from typing import Any, Literal

from transformers import LogitsProcessorList

from rarl.task import OrdinalTask

Decode = Literal["greedy", "quantile"]


def code_processors(processor: Any, task: OrdinalTask, decode: Decode = "greedy") -> Callable[[], LogitsProcessorList]:
    """Makes the logits processors of one `generate` call for a task.

    Args:
        processor: Of the model.
        task: Without a vocabulary nothing is processed; with one, codes are legal.
        decode: `"greedy"`, the likeliest legal token; `"quantile"`, the median of the model's distribution at each
            number.

    Raises:
        ValueError: If medians are wanted of a task that writes digits, `decode` is unknown, or the processor lacks the
            tokens.
    """
    if decode not in ("greedy", "quantile"):
        raise ValueError(f"decode: wanted greedy or quantile, got {decode!r}.")
    if task.vocabulary is None:
        if decode == "quantile":
            raise ValueError(f"decode: quantile wants numbers in value tokens, but task {task.name!r} writes digits.")
        return LogitsProcessorList
    from gor_head.vlm.logits import QuantileLogits, ValueTokenLogits
    from gor_head.vlm.tokens import ValueTokens

    tokens = ValueTokens.of(processor, task.codes)
    kind = QuantileLogits if decode == "quantile" else ValueTokenLogits
    return lambda: LogitsProcessorList([kind(tokens)])
