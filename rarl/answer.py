"""From a completion's text to the answer in it: the only parser. Rewards, evaluation and prediction all read with it.

The list stands in the last complete `<answer>...</answer>`, as JSON or as a Python literal (the template printed in the
RARL paper has single quotes). Nothing is evaluated, nothing is repaired, no text raises, and the time is linear in the
length of the text.
"""

import ast
import json
import math
import re
import reprlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from gor_head.numbers import read_number
from gor_head.text import codes_to_numbers, has_codes
from rarl.answer_format import (
    ANSWER_CLOSE,
    ANSWER_OPEN,
    END_OF_TURN,
    IMAGE_KEY,
    THINK_CLOSE,
    THINK_OPEN,
    VALUE_KEY,
)

# `float` for integers too: it reads any number of digits in linear time, while `int` refuses more than 4300.
_JSON = json.JSONDecoder(parse_int=float)
_CODE_NUMBER = re.compile(r"[0-9]_[0-9]|\b0[xXoObB]")  # numbers in source code only, such as 1_000 and 0x1F
_MAX_LITERAL = 100_000  # characters; a syntax tree takes hundreds of bytes for each
_MAX_CACHED = 2048  # characters of an answer block; an item takes about 30


REASONS = {
    "no_answer": "There is no answer block.",
    "cut_off": "The answer block has no end, as a rule because the completion was cut off.",
    "no_list": "What stands in the answer block is not a list in JSON or Python.",
    "empty_list": "The list is empty.",
    "invalid_item": "An item is not a dictionary with a number of an image and a finite value.",
    "repeated_image": "An image comes twice.",
}
"""Why an answer is not well-formed: what [`Answer.reason`][rarl.answer.Answer.reason] can be, what reports and training
logs count."""


class Item(NamedTuple):
    """One valid item of an answer: the number of the image in the prompt, from 1, and its predicted value, finite."""

    image_id: int
    value: float


@dataclass(frozen=True)
class Answer:
    """What a completion says about the images of its prompt.

    Attributes:
        well_formed: Whether there is a non-empty list in which every item is valid and no image is repeated. Its length
            does not matter.
        problem: Why the answer is not well-formed, in words, `None` if it is.
        reason: Why the answer is not well-formed, as a key of [`REASONS`][rarl.answer.REASONS].
        items: The valid items in the order in which they are listed; of a repeated image the first one.
        num_images: Number of images in the prompt.
    """

    well_formed: bool
    problem: str | None
    items: tuple[Item, ...]
    num_images: int
    reason: str | None = None

    @property
    def readable(self) -> bool:
        """Whether there is at least one valid item."""
        return bool(self.items)

    @property
    def order(self) -> tuple[int, ...] | None:
        """Image ids as listed, a permutation of 1..N; `None` if an image is missing."""
        return tuple(item.image_id for item in self.items) if len(self.items) == self.num_images else None

    def values(self) -> list[float | None]:
        """Predicted value per image, in prompt order; `None` for a missing image."""
        values: list[float | None] = [None] * self.num_images
        for image_id, value in self.items:
            values[image_id - 1] = value
        return values


def completion_text(completion: Any) -> str:
    """The text of a completion as TRL hands it to reward functions.

    Args:
        completion: A string, or a list of messages whose content is a string or a list of blocks.

    Raises:
        TypeError: If it is anything else.

    Example:

    ```python
    >>> from rarl.answer import completion_text
    >>> completion_text([{"role": "assistant", "content": [{"type": "text", "text": "hello"}]}])
    'hello'
    ```
    """
    if isinstance(completion, str):
        return completion
    if not isinstance(completion, Sequence) or not all(isinstance(message, Mapping) for message in completion):
        raise TypeError(f"A completion must be a string or a list of messages, got {reprlib.repr(completion)}.")
    return "".join(_content_text(message.get("content")) for message in completion)


def _content_text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or not all(isinstance(block, Mapping) for block in content):
        raise TypeError(f"A message's content must be a string or a list of blocks, got {reprlib.repr(content)}.")
    return "".join(block.get("text") or "" for block in content)


def answer_span(text: str) -> tuple[int, int] | None:
    """Start and end, in characters, of the last complete `<answer>...</answer>` with its tags; `None` without one."""
    last_close = text.rfind(ANSWER_CLOSE)
    start = text.rfind(ANSWER_OPEN, 0, max(last_close, 0))
    if start < 0:
        return None
    return start, text.find(ANSWER_CLOSE, start) + len(ANSWER_CLOSE)


def parse_answer(text: str, num_images: int) -> Answer:
    """Read the answer about `num_images` images in a completion's text.

    An item is valid if its `image_id` is a whole number in 1..N and its `value` a finite number. Both may be numbers or
    strings that spell a decimal number in ASCII digits (`"17"`, `" 2.5e1 "`, not `"1_000"`, `"17 years"` or full-width
    digits). Booleans, NaN and infinities are no numbers. Other keys of an item are ignored. A value outside the range
    of a task is valid: its distance from the truth is what punishes it. A number may be written in value tokens,
    `<gor><+50><+8></gor>` or `<=58>`, with or without quotes (see `gor_head.vlm`). Blanks and a code fence around the
    list are ignored; words around it are not.

    Raises:
        ValueError: If `num_images` is less than 1. Never because of the text.

    Example:

    ```python
    >>> from rarl.answer import parse_answer
    >>> text = '<think>so</think><answer>[{"image_id": 2, "value": 4}, {"image_id": 1, "value": "30"}]</answer>'
    >>> answer = parse_answer(text, num_images=2)
    >>> answer.well_formed, answer.order, answer.values()
    (True, (2, 1), [30.0, 4.0])
    >>> parse_answer("<answer>about thirty</answer>", num_images=1).problem
    'the answer is neither JSON nor a Python literal'
    ```
    """
    if num_images < 1:
        raise ValueError(f"An answer is about at least one image, got num_images={num_images}.")
    span = answer_span(text)
    if span is None:
        reason = "cut_off" if ANSWER_OPEN in text else "no_answer"
        return Answer(False, f"no complete {ANSWER_OPEN}...{ANSWER_CLOSE}", (), num_images, reason)
    block = text[span[0] + len(ANSWER_OPEN) : span[1] - len(ANSWER_CLOSE)]
    return (_parse_block_cached if len(block) <= _MAX_CACHED else _parse_block)(block, num_images)


def is_formatted(text: str, num_images: int) -> bool:
    """Whether the whole completion is one think block, then one answer block that holds a well-formed list.

    Blanks around the blocks and one end-of-turn token after them do not matter.
    """
    text = text.strip()
    for token in END_OF_TURN:
        if text.endswith(token):
            text = text.removesuffix(token).rstrip()
            break
    if not (text.startswith(THINK_OPEN) and text.endswith(ANSWER_CLOSE)):
        return False
    if any(text.count(tag) != 1 for tag in (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)):
        return False
    after_think = text.partition(THINK_CLOSE)[2].lstrip()
    return after_think.startswith(ANSWER_OPEN) and parse_answer(text, num_images).well_formed


def _parse_block(block: str, num_images: int) -> Answer:
    """Read the text between the answer tags."""
    if has_codes(block):
        block = codes_to_numbers(block)
    listed, problem, reason = _read_list(_without_fence(block.strip()))
    items: dict[int, Item] = {}
    for number, raw in enumerate(listed, start=1):
        item = _read_item(raw, num_images)
        if isinstance(item, _Invalid):
            problem = problem or f"item {number}: wanted {item.wanted}, got {reprlib.repr(item.seen)}"
            reason = reason or "invalid_item"
        elif item.image_id in items:
            problem = problem or f"item {number}: {IMAGE_KEY} {item.image_id} is repeated"
            reason = reason or "repeated_image"
        else:
            items[item.image_id] = item
    return Answer(problem is None, problem, tuple(items.values()), num_images, reason)


# Five rewards, the logs and the mutation read the same block: they parse it once.
_parse_block_cached = lru_cache(maxsize=2048)(_parse_block)


def _without_fence(text: str) -> str:
    """The inside of a Markdown code fence, its language tag dropped; any other text as it is."""
    if len(text) < 6 or not (text.startswith("```") and text.endswith("```")):
        return text
    return re.sub(r"\A[A-Za-z]*", "", text[3:-3]).strip()


def _read_list(text: str) -> tuple[list[Any], str | None, str | None]:
    """The raw list and, if there is none or nothing in it, what is there instead, in words and as a reason."""
    try:
        read = _JSON.decode(text)
    except (ValueError, RecursionError):
        if len(text) > _MAX_LITERAL or _CODE_NUMBER.search(text):
            return [], "the answer is not JSON", "no_list"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", category=Warning)  # of odd escapes in the text
                read = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return [], "the answer is neither JSON nor a Python literal", "no_list"
    if not isinstance(read, list):
        return [], f"the answer is not a list but {type(read).__name__}", "no_list"
    return (read, None, None) if read else (read, "the list is empty", "empty_list")


class _Invalid(NamedTuple):
    """What is wrong with an item; only the first one of an answer is put into words."""

    wanted: str
    seen: Any


def _read_item(raw: Any, num_images: int) -> Item | _Invalid:
    if not isinstance(raw, dict) or IMAGE_KEY not in raw or VALUE_KEY not in raw:
        return _Invalid(f"a dictionary with {IMAGE_KEY} and {VALUE_KEY}", raw)
    image_id, value = _read_number(raw[IMAGE_KEY]), _read_number(raw[VALUE_KEY])
    if image_id is None or not image_id.is_integer() or not 1 <= image_id <= num_images:
        return _Invalid(f"an {IMAGE_KEY} in 1..{num_images}", raw[IMAGE_KEY])
    if value is None:
        return _Invalid(f"a finite number as {VALUE_KEY}", raw[VALUE_KEY])
    return Item(int(image_id), value)


def _read_number(raw: Any) -> float | None:
    """A finite number from a number or its decimal spelling, else `None`."""
    if isinstance(raw, str):
        return read_number(raw)
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        return None
    try:
        number = float(raw)
    except OverflowError:  # an integer of more than 308 digits
        return None
    return number if math.isfinite(number) else None
