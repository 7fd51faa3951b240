"""Values and ranks of images or texts that nobody has labelled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from rarl.answer import parse_answer
from rarl.datasets.images import UNREADABLE, ImageError, bound, decode, pixel_bounds, read_bytes, said
from rarl.evaluation.codes import CodeDecode, chosen_decode, code_processors, interval_ends, sorted_by_reasoning
from rarl.evaluation.generate import generate_answers
from rarl.inputs import text_lengths
from rarl.prompt import build_prompt, build_text_prompt
from rarl.task import OrdinalTask, get_task


@dataclass(frozen=True)
class Prediction:
    """What a model says of the images or texts of one prompt.

    Attributes:
        text: The whole completion.
        values: Predicted value per item, in prompt order; `None` for one that the answer leaves out.
        ranks: Place of each item in the answer's list, 1 for the least; `None` for one that is left out.
        intervals: Lower and upper end of each value; `None` if no interval was asked for.
    """

    text: str
    values: list[float | None]
    ranks: list[int | None]
    intervals: list[tuple[float | None, float | None]] | None = None


def open_image(location: str, min_pixels: int | None = None, max_pixels: int | None = None) -> Image.Image:
    """Image behind a path or URL, upright, in RGB, and within the bounds, as training data are.

    Raises:
        ImageError: If it cannot be read; the message names it.
        ValueError: If the bounds contradict each other.
    """
    bounds = pixel_bounds(min_pixels, max_pixels)
    try:
        return bound(decode(read_bytes(location)), *bounds)
    except UNREADABLE as error:
        raise ImageError(f"{location}: wanted a readable image, got {type(error).__name__}: {said(error)}") from error


def predict(
    model: Any,
    processor: Any,
    items: Sequence[Image.Image] | Sequence[str],
    *,
    task: str | OrdinalTask,
    max_new_tokens: int = 1024,
    decode: CodeDecode | None = None,
    interval: float | None = None,
) -> Prediction:
    """Ask a model for `task` on some images or texts in one prompt, greedily; numbers in value tokens are medians
    unless `decode` is "greedy".

    With `interval`, such as 0.9, the model answers twice more for each item: with the number that it writes first of
    this item at the lower and at the upper quantile of its distribution, all others at the median. What it then says
    of the item are the ends of the central interval. Value tokens only; numbers are taken to come in prompt order.

    Raises:
        ValueError: If no value can be read from the answer; the message holds the answer. Or if quantiles are wanted of
            a task that writes digits.
    """
    task = get_task(task)
    texts = [item for item in items if isinstance(item, str)]
    if len(texts) != (len(items) if task.kind == "text" else 0):
        raise ValueError(f"Task {task.name!r} judges {task.kind}s, got {len(texts)} texts among {len(items)} items.")
    row: dict[str, Any]
    if task.kind == "text":
        prompt = build_text_prompt(task, texts)
        text_lengths(task, [prompt], processor)
        row = {"prompt": prompt, "values": [task.minimum] * len(texts)}  # what counts is their number
    else:
        row = {"prompt": build_prompt(task, len(items)), "images": list(items)}
    ends = [] if interval is None else interval_ends(interval)
    read: CodeDecode = "median" if chosen_decode(decode, task) == "median" else "greedy"
    processors = [code_processors(processor, task, read)]
    processors += [
        code_processors(processor, task, "median", level=level, number=number)
        for number in range(len(items))
        for level in ends
    ]
    text, *end_texts = (
        generate_answers(
            model,
            processor,
            [row],
            batch_size=1,
            max_new_tokens=max_new_tokens,
            progress=False,
            logits_processors=logits_processors,
        )[0]
        for logits_processors in processors
    )
    said = [text, *end_texts]
    if read == "median":
        said = [sorted_by_reasoning(each, len(items), task) for each in said]
    answer, *ends_said = (parse_answer(each, len(items)) for each in said)
    if not answer.readable:
        excerpt = text if len(text) <= 400 else f"{text[:200]} ... {text[-200:]}"
        raise ValueError(
            f"The model gave no readable answer within {max_new_tokens} tokens, {answer.problem}: {excerpt!r}."
        )
    rank_of = {image_id: rank for rank, (image_id, _) in enumerate(answer.items, start=1)}
    ranks = [rank_of.get(number) for number in range(1, len(items) + 1)]
    found = [end.values()[index // 2] for index, end in enumerate(ends_said)]
    intervals = list(zip(found[::2], found[1::2], strict=True)) or None
    return Prediction(text, answer.values(), ranks, intervals)
