"""The format of an answer, which prompts ask for, completions are written in and the parser reads: known here only.

A completion is `<think>…</think><answer>[{"image_id": 2, "value": 4}, …]</answer>`, its list in ascending order of
value.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

Kind = Literal["image", "text"]
"""What a task judges."""

ITEM_NAMES: dict[Kind, str] = {"image": "Image", "text": "Text"}
"""What stands before the number of an item in prompts and reasonings, as in "Image 1: "."""

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
END_OF_TURN = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<end_of_turn>", "</s>")

IMAGE_KEY, VALUE_KEY = "image_id", "value"
"""Keys of an item: the number of the image or text in the prompt, counted from 1, and what is judged of it."""

SYSTEM_PROMPT = (
    "The user asks a question, and the Assistant solves it. The assistant first thinks about the reasoning process in "
    "the mind and then provides the user with the answer. The reasoning process and answer are enclosed within "
    f"{THINK_OPEN} {THINK_CLOSE} and {ANSWER_OPEN} {ANSWER_CLOSE} tags, respectively, i.e., "
    f"{THINK_OPEN} reasoning process here {THINK_CLOSE}{ANSWER_OPEN} answer here {ANSWER_CLOSE}."
)
"""What the system message says of the two blocks (Table 1 of the RARL paper)."""

LIST_IN_WORDS = (
    f'a JSON list of dictionaries in this format: [{{"{IMAGE_KEY}": number, "{VALUE_KEY}": value}}, ...], where '
    f"{IMAGE_KEY} is the number of the image and {VALUE_KEY} is"
)
"""What the instruction says of the list, up to the rule of the task (Table 1 of the RARL paper)."""


def before_number(words: Sequence[str] = ()) -> str:
    """A regular expression of what stands before a number and the blank in front of it: `Image 1:` in the reasoning,
    with one of the words behind it if there are any, or `"image_id": 1, "value":` in the list. It has two groups, the
    number of the image in the reasoning and in the list."""
    longest_first = sorted(map(re.escape, words), key=len, reverse=True)  # "no" must not stand for "notable"
    word = f" (?:{'|'.join(longest_first)})" if words else ""
    items = "|".join(ITEM_NAMES.values())
    return rf'(?:(?:{items}) ([0-9]{{1,9}}):{word}|"{IMAGE_KEY}": ([0-9]{{1,9}}), "{VALUE_KEY}":)'


def write_list(items: Iterable[tuple[int | str, str]]) -> str:
    """A list of items, each the number of an image and its value as text, in the order given."""
    written = (f'{{"{IMAGE_KEY}": {number}, "{VALUE_KEY}": {value}}}' for number, value in items)
    return f"[{', '.join(written)}]"


def write_completion(reasoning: str, listed: str) -> str:
    """A completion of a reasoning and a list."""
    return f"{THINK_OPEN}{reasoning}{THINK_CLOSE}{ANSWER_OPEN}{listed}{ANSWER_CLOSE}"
