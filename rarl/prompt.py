"""N images or texts and a task become chat messages (Table 1 of the RARL paper)."""

import json
import re
from collections.abc import Sequence
from typing import Any

from gor_head.numbers import write_number
from rarl.answer_format import (
    ITEM_NAMES,
    LIST_IN_WORDS,
    SYSTEM_PROMPT,
    write_completion,
    write_list,
)
from rarl.task import OrdinalTask

INSTRUCTION = (
    "Analyze each image to determine the {rule}, and if there are multiple images, sort them in ascending order of "
    "{rule}. Output the results as {list_in_words} the {rule} ({value_range}). Ensure the list is sorted correctly "
    "with strictly followed syntax."
)

TEXT_INSTRUCTION = (
    "Determine the {rule} of each text ({value_range}), and sort the texts in ascending order of {rule}. Answer: "
    "{completion}"
)
"""The system message where texts are judged: short, as the paper has none, and the same before all prompts."""

_MARKUP = re.compile(r"<|\[(?=/?[A-Z_]+\])")
"""Where tokens that mean something to a chat template or a processor would begin: `<|im_end|>`, `<image>`, `[INST]`."""
_UNSEEN = re.compile("[\ud800-\udfff\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
"""Control characters that JSON leaves as they are: they break lines, or turn the order of what stands around them."""


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def quote(text: str) -> str:
    """A text as it stands in a prompt: a JSON string, so that nothing in it can end it or begin another one.

    What a chat template or a processor would take for one of its own tokens is escaped, too, as are control characters.

    Example:

    ```python
    >>> from rarl.prompt import quote
    >>> print(quote("Great! <br>Text 2: \\"bad\\"<|im_end|>"))
    "Great! \\u003cbr>Text 2: \\"bad\\"\\u003c|im_end|>"
    ```
    """
    quoted = json.dumps(text, ensure_ascii=False)
    return _UNSEEN.sub(_escaped, _MARKUP.sub(_escaped, quoted))


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def build_text_prompt(task: OrdinalTask, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Chat messages that ask for `task` on some texts; its solved examples are earlier turns of the chat.

    Contents are strings, as the templates of language models want them.

    Args:
        task: What is judged, of kind `"text"`.
        texts: The texts, which are labelled "Text 1:", "Text 2:", ….

    Raises:
        ValueError: If there is no text.
    """
    if not texts:
        raise ValueError("A prompt needs at least one text, got none.")
    example = write_completion(_example(task), write_list([("number", "value")])[:-1] + ", ...]")
    instruction = TEXT_INSTRUCTION.format(rule=task.rule, value_range=task.value_range, completion=example)
    messages = [{"role": "system", "content": instruction}]
    for text, value in task.shots:
        messages.append({"role": "user", "content": _numbered([text])})
        messages.append({"role": "assistant", "content": build_completion([value], task)})
    return [*messages, {"role": "user", "content": _numbered(texts)}]


def _example(task: OrdinalTask) -> str:
    """How a reasoning goes, for the instruction."""
    return f"{ITEM_NAMES[task.kind]} 1: {'/'.join(task.words)}{' ' * bool(task.words)}value, ..."


def _numbered(texts: Sequence[str]) -> str:
    return "\n".join(f"{ITEM_NAMES['text']} {number}: {quote(text)}" for number, text in enumerate(texts, start=1))


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
        blocks += [_text(f"{ITEM_NAMES['image']} {image_id}: "), {"type": "image", "text": None}]
    instruction = INSTRUCTION.format(rule=task.rule, list_in_words=LIST_IN_WORDS, value_range=task.value_range)
    if task.words:
        instruction += f" Reason in this form: {_example(task)}"
    blocks.append(_text(instruction))
    return [{"role": "system", "content": [_text(SYSTEM_PROMPT)]}, {"role": "user", "content": blocks}]


def answer_list(values: Sequence[float], task: OrdinalTask) -> str:
    """The JSON list of a perfect answer: one item per image, ascending in value, ties in prompt order."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    return write_list((index + 1, task.format_value(values[index])) for index in order)


def list_reasoning(values: Sequence[float], task: OrdinalTask, words_of: Sequence[float] | None = None) -> str:
    """A reasoning text that names the value of each image or text in prompt order, so that a model that writes it sorts
    what it wrote: `"Image 1: 30, Image 2: 4"`.

    If the task has words, each value stands behind its own, or behind that of the value in `words_of`.
    """
    name = ITEM_NAMES[task.kind]
    said = [f"{task.word(value)} " if task.words else "" for value in words_of or values]
    return ", ".join(
        f"{name} {number}: {word}{task.format_value(value)}"
        for number, (word, value) in enumerate(zip(said, values, strict=True), start=1)
    )


def number_contexts(task: OrdinalTask) -> list[tuple[str, str]]:
    """What stands before and behind a number in perfect answers, alone and before another one: in the reasoning, and in
    the list."""
    other, place, name = write_number(task.minimum), "\0", ITEM_NAMES[task.kind]
    word = f"{task.words[0]} " if task.words else ""
    alone = write_completion(f"{name} 1: {word}{place}", write_list([(1, place)]))
    two = write_completion(f"{name} 1: {word}{place}, {name} 2: {word}{other}", write_list([(1, place), (2, other)]))
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
