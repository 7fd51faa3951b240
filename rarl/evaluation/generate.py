"""Answers of a model to data rows: greedy, batched, vision tokens suppressed."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import track
from transformers import GenerationConfig, LogitsProcessorList

from rarl.inputs import batch_inputs, check_length, num_items, tokenizer_of
from rarl.vision_tokens import vision_token_ids

Answered = TypeVar("Answered")


def greedy_config(model: Any, processor: Any, max_new_tokens: int) -> GenerationConfig:
    """Plain arg-max decoding without the vision tokens.

    `generate` fills what is left unset from the model's own configuration, so everything there that would move the
    arg-max (Qwen2.5-VL ships a repetition penalty) or warn about sampling is set to its neutral value.
    """
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        max_new_tokens=max_new_tokens,
        suppress_tokens=vision_token_ids(processor, model.config) or None,
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=tokenizer_of(processor).pad_token_id,
        use_cache=True,
    )


def prompt_size(row: dict[str, Any]) -> tuple[int, int]:
    """What a row costs: its number of items, then their pixels, or the characters of its prompt."""
    if "images" in row:
        return len(row["images"]), sum(image.width * image.height for image in row["images"])
    return len(row["values"]), sum(len(message["content"]) for message in row["prompt"])


def reset_rope_deltas(model: Any) -> None:
    """Forget position offsets of an earlier call: they belong to another batch."""
    for module in model.modules():
        if hasattr(module, "rope_deltas"):
            module.rope_deltas = None


def checked_inputs(model: Any, processor: Any, rows: Sequence[dict[str, Any]], max_new_tokens: int) -> Any:
    """Inputs of `generate` for a batch of rows, where the model is.

    Raises:
        ValueError: If a prompt and `max_new_tokens` together are longer than the model's context.
    """
    inputs = batch_inputs(processor, rows).to(model.device)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None:
        lengths = inputs["attention_mask"].sum(dim=1).cpu().numpy()
        check_length(lengths, lambda row: f"{num_items(rows[row])} items", context, max_new_tokens=max_new_tokens)
    return inputs


def in_batches(
    model: Any,
    rows: Any,
    answer: Callable[[list[dict[str, Any]]], Sequence[Answered]],
    *,
    batch_size: int,
    progress: bool,
) -> list[Answered]:
    """What `answer` gives of each row, in the order of `rows`; it is called with batches of prompts of like size, the
    largest first (so memory runs out at once or never), while the model is in evaluation mode and no gradients are
    kept.

    Raises:
        ValueError: If `batch_size` is less than 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    sizes = [prompt_size(rows[index]) for index in range(len(rows))]
    order = sorted(range(len(rows)), key=lambda index: sizes[index], reverse=True)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    console = Console(stderr=True)
    answers: dict[int, Answered] = {}
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            bar = track(batches, "Generating", console=console, disable=not (progress and console.is_terminal))
            for batch in bar:
                answers |= zip(batch, answer([rows[index] for index in batch]), strict=True)
    finally:
        model.train(was_training)
        reset_rope_deltas(model)
    return [answers[index] for index in range(len(rows))]


def generate_answers(
    model: Any,
    processor: Any,
    rows: Any,
    *,
    batch_size: int = 8,
    max_new_tokens: int = 1024,
    progress: bool = True,
    logits_processors: Callable[[], LogitsProcessorList] = LogitsProcessorList,
) -> list[str]:
    """The greedy completion of each row, in the order of `rows`.

    Prompts of like size share a batch, the largest first (so memory runs out at once or never); the result does not
    depend on the batching beyond the rounding of floating-point sums.

    Args:
        model: Vision-language model or `PeftModel`; run in evaluation mode, and its mode is restored.
        processor: The processor of the model.
        rows: Sequence of rows (a list or a `datasets.Dataset`) with the columns `prompt` and `images`. Rows are read
            twice, so that no more than a batch of images is held at a time.
        batch_size: Prompts per batch, at least 1.
        max_new_tokens: Longest completion in tokens, at least 1.
        progress: Show a progress bar; only on a terminal.
        logits_processors: Makes those of one batch; see [`code_processors`][rarl.evaluation.codes.code_processors].

    Raises:
        ValueError: If `batch_size` is less than 1, or if a prompt and `max_new_tokens` together are longer than the
            model's context; prompts of the largest come first.
    """
    config = greedy_config(model, processor, max_new_tokens)

    def answer(batch: list[dict[str, Any]]) -> list[str]:
        inputs = checked_inputs(model, processor, batch, max_new_tokens)
        reset_rope_deltas(model)
        tokens = model.generate(**inputs, generation_config=config, logits_processor=logits_processors())
        return processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    return in_batches(model, rows, answer, batch_size=batch_size, progress=progress)
