"""Rows as a model takes them, for the processor of any family, and how long they are."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jinja2 import TemplateError
from PIL import Image
from transformers import ProcessorMixin
from transformers.utils import logging
from trl.data_utils import prepare_multimodal_messages

from rarl.prompt import build_prompt, build_text_prompt
from rarl.task import OrdinalTask

logger = logging.get_logger(__name__)


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer of a processor; the one of a language model is its own."""
    return getattr(processor, "tokenizer", processor)


def num_items(row: dict[str, Any]) -> int:
    """Number of images or texts that a row asks about."""
    return len(row["images"]) if "images" in row else len(row["values"])


def render(processor: Any, prompt: list[dict[str, Any]]) -> str:
    """A prompt as the chat template writes it, with the beginning of the answer.

    Args:
        processor: Processor of a vision-language model, or tokenizer of a language model.
        prompt: Chat messages, their contents strings or blocks.

    Raises:
        ValueError: If there is no chat template, or it does not take the prompt, as one that knows no system message.
    """
    if isinstance(processor, ProcessorMixin) and isinstance(prompt[0]["content"], str):
        prompt = prepare_multimodal_messages(prompt)  # templates of processors want blocks
    if processor.chat_template is None:
        raise ValueError(f"{type(processor).__name__}: wanted a chat template, which this model has not.")
    try:
        return processor.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in prompt)
        raise ValueError(f"The model's chat template does not take messages of {roles}: {error}") from None


def batch_inputs(processor: Any, rows: Sequence[dict[str, Any]], answers: Sequence[str] | None = None) -> Any:
    """Model inputs of rows with any numbers of images, or of texts: tokens [b, s] padded on the left, and images as the
    model wants them.

    `answers` are texts to score, one a row; none, to generate.
    """
    texts = [render(processor, row["prompt"]) for row in rows]
    begins = tokenizer_of(processor).bos_token
    images = [list(row["images"]) for row in rows if "images" in row]
    return processor(
        text=texts if answers is None else list(map(str.__add__, texts, answers)),
        **({"images": images} if images else {}),
        padding=True,
        padding_side="left",
        return_tensors="pt",
        # A template that writes the token of the beginning leaves none to the tokenizer.
        add_special_tokens=not (begins and texts[0].startswith(begins)),
    )


def image_counter(task: OrdinalTask, processor: Any) -> Callable[[tuple[int, int]], int]:
    """A function: height and width of an image → its tokens in a prompt, up to a number that is the same for all."""
    known: dict[tuple[int, int], int] = {}

    def count(size: tuple[int, int]) -> int:
        if size not in known:
            if hasattr(processor, "_get_num_multimodal_tokens"):
                known[size] = processor._get_num_multimodal_tokens(image_sizes=[size])["num_image_tokens"][0]
            else:
                known[size] = measure([size], task, processor)
        return known[size]

    return count


def measure(sizes: Sequence[tuple[int, int]], task: OrdinalTask, processor: Any) -> int:
    """Tokens of a prompt with images of these heights and widths, as the processor makes it of blank ones.

    Raises:
        ValueError: If the chat template has not a place for each image.
    """
    prompt = build_prompt(task, len(sizes))
    text = processor.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    if (places := text.count(processor.image_token)) != len(sizes):
        raise ValueError(f"The chat template writes {places} image placeholders for a prompt of {len(sizes)} images.")
    before = text.split(processor.image_token)[:-1]
    if not all(f"Image {number}:" in part for number, part in enumerate(before, start=1)):
        logger.warning_once("The chat template moves images away from their labels ('Image 1: ' and so on).")
    images = [Image.new("RGB", (width, height)) for height, width in sizes]
    return batch_inputs(processor, [{"prompt": prompt, "images": images}])["input_ids"].shape[1]


def prompt_lengths(
    task: OrdinalTask, groups: Iterable[Sequence[tuple[int, int]]], processor: Any, *, trusted: int = 2
) -> np.ndarray:
    """Tokens of each prompt as the processor makes them, int [g].

    The first `trusted` prompts of each number of images are made whole, of blank images. Where their lengths are those
    of their images and a remainder that they share, all others are summed up, else all are made.

    Args:
        task: What is asked for.
        groups: Heights and widths of the images of each prompt.
        processor: Processor of a vision-language model.
        trusted: Number of prompts of each number of images that are made whole; see above.
    """
    count = image_counter(task, processor)
    made: dict[int, dict[tuple[tuple[int, int], ...], int]] = {}
    lengths: list[int] = []
    for group in groups:
        sizes = tuple(group)
        known = made.setdefault(len(sizes), {})
        rest = {length - sum(map(count, each)) for each, length in known.items()}
        if sizes in known:
            lengths.append(known[sizes])
        elif len(known) >= trusted and len(rest) == 1:
            lengths.append(rest.pop() + sum(map(count, sizes)))
        else:
            known[sizes] = measure(sizes, task, processor)
            lengths.append(known[sizes])
    return np.array(lengths, dtype=np.int64)


def text_lengths(
    task: OrdinalTask,
    prompts: Iterable[list[dict[str, Any]]],
    processor: Any,
    name: Callable[[int], str] = lambda row: f"prompt {row}",
) -> np.ndarray:
    """Tokens of each prompt of texts, int [g].

    Args:
        task: What is asked for.
        prompts: Chat messages of each prompt.
        processor: Processor or tokenizer of the model.
        name: Number of a prompt → its texts.

    Raises:
        ValueError: If a text holds tokens that are special to the tokenizer, which would end or begin something.
    """
    tokenizer = tokenizer_of(processor)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    plain = build_text_prompt(replace(task, shots=tuple(("x", value) for _, value in task.shots)), ["x"])
    wanted = _count(tokenizer(render(processor, plain), add_special_tokens=False)["input_ids"], special)
    lengths: list[int] = []
    for row, prompt in enumerate(prompts):
        ids = tokenizer(render(processor, prompt), add_special_tokens=False)["input_ids"]
        if (seen := _count(ids, special)) != wanted:
            raise ValueError(
                f"Row {row} ({name(row)}): its texts hold special tokens of the tokenizer (wanted {wanted} in the "
                f"prompt, got {seen}): {prompt[-1]['content']!r:.200}"
            )
        lengths.append(len(ids))
    return np.array(lengths, dtype=np.int64)


def _count(ids: Sequence[int], special: set[int]) -> int:
    return sum(token in special for token in ids)


def check_length(
    lengths: np.ndarray, name: Callable[[int], str], max_position_embeddings: int, *, max_new_tokens: int
) -> None:
    """Refuse prompts that leave less than `max_new_tokens` tokens of the model's context.

    Args:
        lengths: Tokens of each prompt, int [g].
        name: Number of a prompt → its files.
        max_position_embeddings: The model's context in tokens.
        max_new_tokens: The largest number of tokens in an answer.

    Raises:
        ValueError: Names the first such prompt, its files, its tokens and the limit, and counts the rest.
    """
    limit = max_position_embeddings - max_new_tokens
    failing = np.flatnonzero(lengths > limit)
    if len(failing):
        row = int(failing[0])
        raise ValueError(
            f"Row {row} ({name(row)}): the prompt has {lengths[row]} tokens, but at most {limit} fit beside "
            f"{max_new_tokens} tokens of completion in a context of {max_position_embeddings}. "
            f"{len(failing)} of {len(lengths)} rows are too long; lower max_pixels or the "
            "number of images, or shorten texts."
        )
