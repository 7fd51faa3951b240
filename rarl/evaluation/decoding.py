"""Numbers read off a model's distribution instead of its likeliest token.

`median` and `mean` are regression-aware inference (arXiv:2403.04182): a model answers greedily until a number begins.
There its exact distribution over the task's legal numbers is computed (see [`rarl.number_trie`][rarl.number_trie]), a
number of it is chosen and written, and the model goes on from that. `mode` chooses the likeliest number, which makes it
the one to compare with: its answers are written as those of the others. `sampled_median` is what can be had without
the distribution: the median of several sampled answers, of the values in their lists.

An answer states numbers in its reasoning, or, where this has none, in its list; these are the ones that are chosen,
the first of each image. Where a task has words before the numbers of a reasoning, a number's probability is that behind
any of them, summed, and the chosen one is written behind its own. Once every image has a number, the rest of the answer
follows from them and is not generated: the answer is the [`build_completion`][rarl.prompt.build_completion] of the
chosen values, in digits. Where one is missing at the end, the answer stays as it was generated.

Value tokens go through the same, as codes are numbers in a trie. Their medians come faster as the model writes, see
[`QuantileLogits`][gor_head.vlm.logits.QuantileLogits].
"""

import copy
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from gor_head.numbers import show_number
from rarl.answer import parse_answer
from rarl.answer_format import before_number, write_completion, write_list
from rarl.evaluation.generate import checked_inputs, greedy_config, in_batches, reset_rope_deltas
from rarl.inputs import num_items
from rarl.number_trie import NumberTrie
from rarl.prompt import build_completion
from rarl.shared_prefix.rollout import sample_answers
from rarl.shared_prefix.support import innermost
from rarl.task import OrdinalTask, get_task

PAIRS = 64
"""Prefixes of numbers that are scored at a time: each holds a copy of its prompt's cache."""

ROUNDING = 1e-6
"""By how much a cumulative probability may miss one half and count as reaching it: sums of float32."""

_BEGINS = re.compile(before_number() + r"( ?)\Z")
_TAIL = 48  # tokens; more than a beginning has characters

Choose = Callable[[Tensor, Tensor], tuple[int, float]]
"""Log-probabilities `[K]` and numbers `[K]`, ascending → index of the number to write, and the value to report."""


def median(log_probs: Tensor, numbers: Tensor) -> tuple[int, float]:
    """The least number whose cumulative probability reaches one half, and its value.

    Args:
        log_probs: Log-probabilities of the numbers, `[K]`.
        numbers: The numbers, ascending, `[K]`.
    """
    reached = log_probs.double().exp().cumsum(dim=0) >= 0.5 - ROUNDING
    # A total a little off 1 cannot miss one half.
    index = int(reached.to(torch.uint8).argmax())
    return index, float(numbers[index])


def mean(log_probs: Tensor, numbers: Tensor) -> tuple[int, float]:
    """The number nearest to the mean, the lower of two, and the mean itself with four significant digits.

    Args:
        log_probs: Log-probabilities of the numbers, `[K]`.
        numbers: The numbers, ascending, `[K]`.
    """
    exact = float(log_probs.double().exp() @ numbers.to(log_probs.device))
    return int((numbers - exact).abs().argmin()), float(show_number(exact))


def mode(log_probs: Tensor, numbers: Tensor) -> tuple[int, float]:
    """The likeliest number, the lower of two, and its value.

    Args:
        log_probs: Log-probabilities of the numbers, `[K]`.
        numbers: The numbers, ascending, `[K]`.
    """
    index = int(log_probs.argmax())
    return index, float(numbers[index])


CHOICES: dict[str, Choose] = {"mode": mode, "median": median, "mean": mean}


class NumberLogits(LogitsProcessor):
    """Every number that greedy decoding begins becomes one chosen from the model's exact distribution at its place.

    For one call of `generate`, whose cache it must be given: where a number begins in some rows, the branching prefixes
    of the trie are scored on a copy of these rows' cache. Once all images of a row have a value, the row ends.

    Args:
        model: The model that generates.
        trie: The legal numbers of the task.
        choose: How a number is chosen.
        num_images: Number of images of each row.
        cache: The cache that `generate` is called with, and fills.
        mask: Attention mask of the prompts, `[n, p]`.
        end: Token that ends an answer.

    Attributes:
        values: For each row the values chosen so far, by the number of the image.
        written: The numbers that were written for them.
    """

    def __init__(
        self,
        model: Any,
        trie: NumberTrie,
        choose: Choose,
        *,
        num_images: Sequence[int],
        cache: Any,
        mask: Tensor,
        end: int,
    ) -> None:
        self.model, self.trie, self.choose, self.end = model, trie, choose, end
        self.num_images, self.cache, self.mask = num_images, cache, mask
        self.values: list[dict[int, float]] = [{} for _ in num_images]
        self.written: list[dict[int, float]] = [{} for _ in num_images]
        self._in_list = [False] * len(num_images)
        self._to_write: list[list[int]] = [[] for _ in num_images]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """Ids `[n, t]` and scores `[n, V]` → scores with one token left where a number is written."""
        tails = input_ids[:, self.mask.shape[1] :][:, -_TAIL:].tolist()
        images = [self._begun(row, tail) for row, tail in enumerate(tails)]
        begun = [row for row, image in enumerate(images) if image is not None]
        if begun:
            for row, log_probs in self._log_probs(input_ids, scores, begun):
                number, value = self.choose(log_probs, self.trie.numbers)
                self.values[row][images[row] or 0] = value
                self.written[row][images[row] or 0] = float(self.trie.numbers[number])
                complete = len(self.values[row]) == self.num_images[row]
                word = self.trie.openings[number] if self._worded(row) else ()
                self._to_write[row] = [*word, *self.trie.tokens[number], *[self.end] * complete]
        writing = [row for row, tokens in enumerate(self._to_write) if tokens]
        if not writing:
            return scores
        tokens = torch.tensor([self._to_write[row].pop(0) for row in writing], device=scores.device)
        scores = scores.clone()
        scores[writing] = -torch.inf
        scores[writing, tokens] = 0.0
        return scores

    def _begun(self, row: int, tail: Sequence[int]) -> int | None:
        """The image whose number is to be chosen after the last ids of a row; `None` if there is none."""
        match = None if self._to_write[row] else _BEGINS.search(self.trie.text(tail))
        if match is None:
            return None
        in_list = match[1] is None
        first = self.trie if in_list or self.trie.word_trie is None else self.trie.word_trie
        if bool(match[3]) == first.with_blank:
            return None
        if in_list != self._in_list[row] and self.values[row]:
            return None  # the list repeats what the reasoning has stated
        image = int(match[1] or match[2])
        if not 1 <= image <= self.num_images[row] or image in self.values[row]:
            return None
        self._in_list[row] = in_list
        return image

    def _worded(self, row: int) -> bool:
        """Whether the numbers of a row that are chosen now stand behind words."""
        return self.trie.word_trie is not None and not self._in_list[row]

    def _log_probs(self, ids: Tensor, scores: Tensor, rows: list[int]) -> Iterator[tuple[int, Tensor]]:
        """Some of the rows, and the log-probabilities of the numbers that may begin after their `ids`, `[K]`."""
        plain = [row for row in rows if not self._worded(row)]
        if plain:
            yield from zip(plain, self._distribution(self.trie, ids, scores, plain), strict=True)
        worded = [row for row in rows if self._worded(row)]
        if worded and self.trie.word_trie is not None:
            words = self._distribution(self.trie.word_trie, ids, scores, worded)
            paths = self.trie.word_trie.tokens
            behind = torch.stack([self._distribution(self.trie, ids, scores, worded, path) for path in paths], dim=1)
            yield from zip(worded, (words[..., None] + behind).logsumexp(dim=1), strict=True)

    def _distribution(
        self, trie: NumberTrie, ids: Tensor, scores: Tensor, rows: list[int], word: tuple[int, ...] = ()
    ) -> Tensor:
        """Log-probabilities of what a trie has, after `ids` of rows and a word, `[r, K]`."""
        prefixes = trie.prefixes
        if not prefixes:  # there is one word only
            return scores.new_zeros(len(rows), 1)
        logits = scores.new_empty(len(rows), len(prefixes), scores.shape[1])
        chosen = torch.tensor(rows, device=ids.device)
        column = 0
        for length, group in groupby([(*word, *prefix) for prefix in prefixes], len):
            paths = list(group)
            found = scores[chosen]
            if length:
                following = torch.tensor(paths, device=ids.device)
                found = self._after(ids, chosen.repeat_interleave(len(paths)), following.repeat(len(rows), 1))
            logits[:, column : column + len(paths)] = found.reshape(len(rows), len(paths), -1)
            column += len(paths)
        return trie.log_probs(logits)

    def _after(self, ids: Tensor, rows: Tensor, following: Tensor) -> Tensor:
        """Logits `[m, V]` after the ids of rows `[m]` and what follows each, `[m, l]`."""
        return torch.cat(
            [
                self._score(ids, some, tokens)
                for some, tokens in zip(rows.split(PAIRS), following.split(PAIRS), strict=True)
            ]
        )

    def _score(self, ids: Tensor, rows: Tensor, following: Tensor) -> Tensor:
        base_model = innermost(self.model)
        offsets = getattr(base_model, "rope_deltas", None)
        cache = copy.deepcopy(self.cache)
        cache.batch_select_indices(rows)
        whole = torch.cat([ids[rows], following], dim=1)
        mask = self.mask[rows]
        mask = torch.cat([mask, mask.new_ones(len(rows), whole.shape[1] - mask.shape[1])], dim=1)
        settings = GenerationConfig(
            max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True, use_cache=True
        )
        settings.eos_token_id = settings.pad_token_id = self.end
        try:
            if offsets is not None:
                base_model.rope_deltas = offsets[rows]
            made = self.model.generate(
                input_ids=whole, attention_mask=mask, past_key_values=cache, generation_config=settings
            )
        finally:
            if offsets is not None:
                base_model.rope_deltas = offsets
        return made.logits[0].to(ids.device)


@dataclass(frozen=True)
class Decoded:
    """Answers that were read off distributions or samples.

    Attributes:
        texts: An answer for each row.
        written: What the model wrote or would have gone on to write, where `texts` are other answers that follow from
            it.
        unreadable_samples: How many sampled answers could not be read; 0 if none were sampled.
    """

    texts: list[str]
    unreadable_samples: int = 0
    written: list[str] | None = None


def write_values(values: Sequence[float | None], task: OrdinalTask) -> str:
    """The answer that states values, in prompt order; images without one are left out, and then the reasoning is
    empty."""
    known = [(number, value) for number, value in enumerate(values, start=1) if value is not None]
    if len(known) == len(values):
        return build_completion([value for _, value in known], task)
    known.sort(key=lambda item: item[1])
    return write_completion("", write_list((number, task.format_value(value)) for number, value in known))


def median_of_samples(texts: Sequence[str], num_images: int, task: OrdinalTask) -> tuple[str, int]:
    """One answer of several sampled ones, and how many of these are unreadable.

    The value of an image is the median (the lower of two) of the values that samples give it. If no sample can be read,
    the first one is the answer.

    Args:
        texts: Sampled answers to one prompt, at least one.
        num_images: Number of images in the prompt.
        task: Says how values are written; what value tokens stand for comes in digits.
    """
    task = replace(task, vocabulary=None)
    answers = [parse_answer(text, num_images) for text in texts]
    given = zip(*(answer.values() for answer in answers), strict=True)
    stated = [[value for value in values if value is not None] for values in given]
    unreadable = sum(not answer.readable for answer in answers)
    if unreadable == len(answers):
        return texts[0], unreadable
    return write_values([statistics.median_low(values) if values else None for values in stated], task), unreadable


def choose_answers(
    model: Any,
    processor: Any,
    rows: Any,
    *,
    task: str | OrdinalTask,
    decode: Literal["mode", "median", "mean"],
    resolution: float | None = None,
    batch_size: int = 8,
    max_new_tokens: int = 1024,
    progress: bool = True,
) -> Decoded:
    """Answers whose numbers are modes, medians or means of the model's exact distribution, in the order of `rows`.

    After a chosen number the model goes on from its text: a mode, a median, or the legal number nearest to a mean.
    Reported are modes and medians as they are, and means with four significant digits, also of integer tasks; in
    digits, what value tokens stand for.

    Args:
        model: Vision-language model or `PeftModel`.
        processor: The processor of the model.
        rows: Sequence of rows with the columns `prompt` and `images`.
        task: The task, or its name.
        decode: Which number is chosen.
        resolution: Distance of two legal numbers, see [`legal_numbers`][rarl.number_trie.legal_numbers].
        batch_size: Prompts per batch, at least 1; at each number up to 64 copies of their caches are held beside them.
        max_new_tokens: Longest completion in tokens, at least 1.
        progress: Show a progress bar; only on a terminal.

    Raises:
        ValueError: If there is no trie of the task's numbers, see [`NumberTrie.of`][rarl.number_trie.NumberTrie.of]; or
            as [`generate_answers`][rarl.evaluation.generate.generate_answers] does.
    """
    task = get_task(task)
    trie = NumberTrie.of(processor, task, resolution)
    read = replace(task, vocabulary=None, integer=task.integer and decode != "mean")
    settings = greedy_config(model, processor, max_new_tokens)
    once = greedy_config(model, processor, 1)
    once.return_dict_in_generate = True

    def answer(batch: list[dict[str, Any]]) -> list[tuple[str, str]]:
        inputs = checked_inputs(model, processor, batch, max_new_tokens)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        reset_rope_deltas(model)
        # The last token stays out of the cache: `generate` goes on from it.
        shared = {name: field[:, :-1] if field.shape == ids.shape else field for name, field in inputs.items()}
        cache = model.generate(**shared, generation_config=once).past_key_values
        numbers = NumberLogits(
            model,
            trie,
            CHOICES[decode],
            num_images=[num_items(row) for row in batch],
            cache=cache,
            mask=mask,
            end=end_tokens(settings)[0],
        )
        tokens = model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            generation_config=settings,
            logits_processor=LogitsProcessorList([numbers]),
        )
        texts = processor.batch_decode(tokens[:, ids.shape[1] :], skip_special_tokens=True)
        return [
            (
                build_completion([values[image] for image in sorted(values)], read),
                build_completion([written[image] for image in sorted(written)], task),
            )
            if len(values) == num_items(row)
            else (text, text)
            for row, values, written, text in zip(batch, numbers.values, numbers.written, texts, strict=True)
        ]

    answers = in_batches(model, rows, answer, batch_size=batch_size, progress=progress)
    return Decoded([text for text, _ in answers], written=[written for _, written in answers])


def sampled_medians(
    model: Any,
    processor: Any,
    rows: Any,
    *,
    task: str | OrdinalTask,
    num_samples: int = 15,
    seed: int = 0,
    batch_size: int = 8,
    max_new_tokens: int = 1024,
    progress: bool = True,
) -> Decoded:
    """Answers whose values are medians of sampled answers, see
    [`median_of_samples`][rarl.evaluation.decoding.median_of_samples], in the order of `rows`.

    A prompt is encoded once for all its samples, which are drawn at temperature 1. The random numbers of the caller
    stay as they are. Which samples are drawn depends on the seed, and on the batches that the prompts come in.

    Args:
        model: Vision-language model or `PeftModel`.
        processor: The processor of the model.
        rows: Sequence of rows with the columns `prompt` and `images`.
        task: The task, or its name.
        num_samples: Answers that are sampled for each prompt, at least 1.
        seed: Seed of the samples.
        batch_size: Prompts per batch, at least 1; all their samples are drawn at once.
        max_new_tokens: Longest completion in tokens, at least 1.
        progress: Show a progress bar; only on a terminal.

    Raises:
        ValueError: If `num_samples` is less than 1; or as
            [`generate_answers`][rarl.evaluation.generate.generate_answers] does.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
    task = get_task(task)
    settings = greedy_config(model, processor, max_new_tokens)
    settings.update(do_sample=True, top_k=0)

    def answer(batch: list[dict[str, Any]]) -> list[tuple[str, int, str]]:
        inputs = checked_inputs(model, processor, batch, max_new_tokens)
        reset_rope_deltas(model)
        sampled = sample_answers(
            model,
            dict(inputs),
            torch.arange(len(batch)).repeat_interleave(num_samples),
            settings=settings,
            eos_token_ids=end_tokens(settings),
        )
        texts = processor.batch_decode(sampled, skip_special_tokens=True)
        return [
            (*median_of_samples(texts[start : start + num_samples], num_items(row), task), texts[start])
            for start, row in zip(range(0, len(texts), num_samples), batch, strict=True)
        ]

    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        answers = in_batches(model, rows, answer, batch_size=batch_size, progress=progress)
    texts = [text for text, *_ in answers]
    return Decoded(texts, sum(unreadable for _, unreadable, _ in answers), [first for *_, first in answers])


def end_tokens(settings: GenerationConfig) -> list[int]:
    """Tokens that end an answer."""
    ends = settings.eos_token_id
    return ends if isinstance(ends, list) else [ends]
