"""N images and a task become chat messages (Table 1 of the RARL paper)."""

import re
from collections.abc import Sequence
from typing import Any

from gor_head.numbers import write_number
from rarl.answer_format import LIST_IN_WORDS, SYSTEM_PROMPT, write_completion, write_list
from rarl.task import OrdinalTask

INSTRUCTION = (
    "Analyze each image to determine the {rule}, and if there are multiple images, sort them in ascending order of "
    "{rule}. Output the results as {list_in_words} the {rule} ({value_range}). Ensure the list is sorted correctly "
    "with strictly followed syntax."
)


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def build_prompt(task: OrdinalTask, num_images: int) -> list[dict[str, Any]]:
    """Chat messages that ask for `task` on `num_images` images.

    Every content is a list of blocks, the system message included: Arrow refuses a string beside lists. Image blocks
    are unfilled placeholders, in the order of the `images` column; each is labelled in place ("Image 1:", ...), since
    `image_id` is the position in the prompt, counted from 1.

    Raises:
        ValueError: If `num_images` is less than 1.
    """
    if num_images < 1:
        raise ValueError(f"A prompt needs at least one image, got {num_images}.")
    blocks: list[dict[str, Any]] = []
    for image_id in range(1, num_images + 1):
        blocks += [_text(f"Image {image_id}: "), {"type": "image", "text": None}]
    instruction = INSTRUCTION.format(rule=task.rule, list_in_words=LIST_IN_WORDS, value_range=task.value_range)
    blocks.append(_text(instruction))
    return [{"role": "system", "content": [_text(SYSTEM_PROMPT)]}, {"role": "user", "content": blocks}]


def answer_list(values: Sequence[float], task: OrdinalTask) -> str:
    """The JSON list of a perfect answer: one item per image, ascending in value, ties in prompt order."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    return write_list((index + 1, task.format_value(values[index])) for index in order)


def list_reasoning(values: Sequence[float], task: OrdinalTask) -> str:
    """A reasoning text that names each image's value in prompt order, so that a model that writes it sorts what it
    wrote: `"Image 1: 30, Image 2: 4"`."""
    return ", ".join(f"Image {index + 1}: {task.format_value(value)}" for index, value in enumerate(values))


def number_contexts(task: OrdinalTask) -> list[tuple[str, str]]:
    """What stands before and behind a number in perfect answers, alone and before another one: in the reasoning, and in
    the list."""
    other, place = write_number(task.minimum), "\0"
    alone = write_completion(f"Image 1: {place}", write_list([(1, place)]))
    two = write_completion(f"Image 1: {place}, Image 2: {other}", write_list([(1, place), (2, other)]))
    found = [(text[: at.start()], text[at.end() :]) for text in (alone, two) for at in re.finditer(place, text)]
    return [(before.replace(place, other), behind.replace(place, other)) for before, behind in found]


def build_completion(values: Sequence[float], task: OrdinalTask, reasoning: str | None = None) -> str:
    """The perfect completion for true `values` (prompt order): one think block, then one answer block.

    `reasoning` defaults to [`list_reasoning`][rarl.prompt.list_reasoning].

    Example:

    ```python
    >>> from rarl.prompt import build_completion
    >>> from rarl.task import get_task
    >>> build_completion([30, 4], get_task("age"), reasoning="one is a child")
    '<think>one is a child</think><answer>[{"image_id": 2, "value": 4}, {"image_id": 1, "value": 30}]</answer>'
    ```
    """
    reasoning = list_reasoning(values, task) if reasoning is None else reasoning
    return write_completion(reasoning, answer_list(values, task))
