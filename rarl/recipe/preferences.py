"""Preference pairs for DPO from a model's own answers, on the prompts that training has."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from rich.console import Console
from rich.progress import track
from transformers import GenerationConfig, LogitsProcessorList

from gor_head.vlm.logits import ValueTokenLogits
from gor_head.vlm.preference import Candidate, PreferenceFile, choose_number, choose_pair
from gor_head.vlm.tokens import ValueTokens
from rarl.answer import parse_answer
from rarl.datasets.prompts import preference_dataset
from rarl.datasets.source import ItemSource
from rarl.evaluation.generate import greedy_config, reset_rope_deltas
from rarl.inputs import batch_inputs
from rarl.prompt import build_completion, list_reasoning
from rarl.task import OrdinalTask

PAIRS = {
    "numbers": "Pairs of answers: the true one, and the same with one number as a model proposed it.",
    "answers": "Pairs of answers that a model proposed; the one nearer to the labels is preferred.",
}
"""What pairs are, by how they are made."""


def candidate(text: str, values: Sequence[float]) -> Candidate:
    """An answer with its mean absolute error over the images; infinite if a value is missing or nothing can be read."""
    answer = parse_answer(text, len(values))
    read = answer.values()
    if not answer.well_formed or None in read:
        return Candidate(text, float("inf"), text)
    error = sum(abs(predicted - true) for predicted, true in zip(read, values, strict=True) if predicted is not None)
    return Candidate(text, error / len(values), (tuple(read), answer.order))


Candidates = Literal["beams", "samples"]
"""How candidates are found: the likeliest, or as the model would answer at temperature 1."""


def candidate_answers(
    model: Any,
    processor: Any,
    rows: Sequence[dict[str, Any]],
    *,
    task: OrdinalTask,
    candidates: Candidates,
    number: int,
    max_new_tokens: int,
    seed: int = 0,
) -> list[list[str]]:
    """Some answers of each row: the likeliest, likeliest first, or sampled ones; codes are legal where the task has
    value tokens. The random numbers of the caller stay as they are."""
    settings = greedy_config(model, processor, max_new_tokens).to_dict() | {"num_return_sequences": number}
    if candidates == "beams":
        # Without a penalty beams are ranked by their probability; the default prefers long ones, and so long codes.
        settings |= {"num_beams": number, "length_penalty": 0.0}
    else:
        settings |= {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
    config = GenerationConfig.from_dict(settings)
    processors = LogitsProcessorList()
    if task.vocabulary is not None:
        processors.append(ValueTokenLogits(ValueTokens.of(processor, task.codi_vocabulary)))
    inputs = batch_inputs(processor, rows).to(model.device)
    reset_rope_deltas(model)
    with torch.no_grad(), torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        tokens = model.generate(**inputs, generation_config=config, logits_processor=processors)
    reset_rope_deltas(model)
    texts = processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [texts[start : start + number] for start in range(0, len(texts), number)]


def build_preferences(
    model: Any,
    processor: Any,
    rows: Dataset,
    *,
    source: ItemSource,
    folder: str | Path,
    settings: dict[str, Any],
    candidates: Candidates = "beams",
    num_candidates: int = 4,
    seed: int = 0,
    gap: float = 0.0,
    pairs: Literal["numbers", "answers"] = "numbers",
    own_answer: bool = False,
    batch_size: int = 8,
    max_new_tokens: int = 256,
) -> tuple[Dataset, PreferenceFile]:
    """Pairs of answers for `rows`, kept in `folder` as they are made: a run that was stopped goes on.

    Args:
        model: The policy; run in evaluation mode.
        processor: The processor of the model.
        rows: Training rows of [`make_dataset`][rarl.datasets.prompts.make_dataset].
        source: The images of the rows.
        folder: Where the pairs and their card are kept.
        settings: What else the pairs depend on, such as the adapter; said in the card.
        candidates: How candidates are found. The likeliest wrong number is the mode where the model errs, and pairs
            against the mode move a skewed distribution away from it; sampled wrong numbers are as it has them.
        num_candidates: Candidates per prompt.
        seed: Seed of sampled ones, of a batch together with its place: a run that goes on draws what it would have.
        gap: Difference of the errors that a pair has to exceed, in label units.
        pairs: `"numbers"`: the perfect answer, and the same whose reasoning has one wrong number of a candidate.
            `"answers"`: two candidates.
        own_answer: Whether the perfect answer is the chosen one of a pair of answers.
        batch_size: Prompts per batch.
        max_new_tokens: Longest answer.

    Returns:
        Rows `prompt`, `images`, `chosen`, `rejected` for `DPOTrainer`, and the file with its statistics.

    Raises:
        ValueError: If the folder holds pairs made otherwise, or no prompt gave a pair.
    """
    task = source.task
    stored = rows.with_format(None)
    settings = settings | {"prompts": len(rows), candidates: num_candidates, "gap": gap, "pairs": pairs}
    settings |= {"own_answer": own_answer} if pairs == "answers" else {}
    settings |= {"seed": seed, "batch_size": batch_size} if candidates == "samples" else {}
    file = PreferenceFile(folder, settings)
    # What is there of a batch is kept, and what is whole is not made again.
    starts = range(len(file) // batch_size * batch_size if len(file) < len(rows) else len(rows), len(rows), batch_size)
    console = Console(stderr=True)
    model.eval()
    for start in track(starts, "Preferences", console=console, disable=not console.is_terminal):
        batch = [rows[index] for index in range(start, min(start + batch_size, len(rows)))]
        found = candidate_answers(
            model,
            processor,
            batch,
            task=task,
            candidates=candidates,
            number=num_candidates,
            max_new_tokens=max_new_tokens,
            seed=int(np.random.SeedSequence((seed, start)).generate_state(1)[0]),
        )
        for index, texts in list(enumerate(found, start))[len(file) - start :]:
            values = stored[index]["values"]
            if pairs == "numbers":
                file.add(index, number_pair(texts, values, task, gap))
                continue
            proposed = [candidate(text, values) for text in texts]
            perfect = candidate(build_completion(values, task), values) if own_answer else None
            chosen = choose_pair(proposed, gap, perfect)
            everything = proposed if perfect is None else [*proposed, perfect]
            file.add(index, None if chosen is None else (everything[chosen[0]], everything[chosen[1]]))
    file.write_card(f"Preferences, task {task.name}", PAIRS[pairs])
    kept = file.pairs()
    if not kept:
        reason = "no candidate has a wrong number" if pairs == "numbers" else "all candidates err alike"
        raise ValueError(f"{file.path}: none of {len(rows)} prompts gave a pair; {reason}.")
    return preference_dataset(source, stored, kept), file


def number_pair(
    texts: Sequence[str], values: Sequence[float], task: OrdinalTask, gap: float
) -> tuple[Candidate, Candidate] | None:
    """The perfect answer, and the same whose reasoning states one number as a candidate's list had it; None if no
    candidate has a wrong one. Numbers without a code of their own are none.

    Args:
        texts: Candidates, likeliest first or as they were sampled.
        values: True values of the images.
        task: Says how values are written.
        gap: Numbers that are off by no more than this count as right.
    """
    stated = [[_with_code(number, task) for number in parse_answer(text, len(values)).values()] for text in texts]
    found = choose_number(stated, values, gap)
    if found is None:
        return None
    image, number = found
    told = [*values[:image], number, *values[image + 1 :]]
    # The list and the words stay those of the truth: the pair differs in one code.
    rejected = build_completion(values, task, reasoning=list_reasoning(told, task, words_of=values))
    return Candidate(build_completion(values, task), 0.0, None), Candidate(rejected, abs(number - values[image]), None)


def _with_code(number: float | None, task: OrdinalTask) -> float | None:
    """The number, if it is one of the task that its vocabulary writes as it is."""
    if number is None or not task.minimum <= number <= task.maximum:
        return None
    codes = task.codi_vocabulary
    return number if codes.decode(codes.encode(number)) == number else None
