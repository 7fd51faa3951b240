"""Medians and intervals of numbers in value tokens."""

import re
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList

from gor_head.text import CODE_PATTERN
from gor_head.vlm import QuantileLogits, ValueTokenLogits, attach, codes_to_numbers
from gor_head.vocabulary import CoDiVocabulary
from rarl import tiny
from rarl.answer import parse_answer
from rarl.answer_format import write_completion
from rarl.datasets import load_source, make_dataset
from rarl.evaluation.codes import code_processors, interval_ends, sorted_by_reasoning
from rarl.evaluation.decoding import choose_answers, median
from rarl.evaluation.generate import generate_answers, reset_rope_deltas
from rarl.evaluation.predict import Prediction
from rarl.evaluation.protocol import evaluate, interval_report, score
from rarl.evaluation.reports import IntervalScores
from rarl.evaluation.tables import prediction_table
from rarl.inputs import batch_inputs
from rarl.number_trie import NumberTrie
from rarl.prompt import answer_list, build_completion, list_reasoning, number_contexts
from rarl.task import OrdinalTask, get_task


def test_ends_of_an_interval() -> None:
    assert interval_ends(0.9) == pytest.approx((0.05, 0.95))
    assert interval_ends(0.5) == (0.25, 0.75)
    for share in (0, 1, -0.1, 90):
        with pytest.raises(ValueError, match="wanted a share between 0 and 1"):
            interval_ends(share)


def test_interval_report_by_hand() -> None:
    report = interval_report([1, 5, None, 2], [3, 6, 4, 2], [2, 7, 4, 2], interval=0.8)
    assert report == IntervalScores(interval=0.8, coverage=pytest.approx(2 / 3), width=pytest.approx(1), unreadable=1)
    assert interval_report([], [], [], interval=0.8).coverage is None


def test_digits_have_no_quantiles() -> None:
    _, processor = tiny.load()
    with pytest.raises(ValueError, match="task 'count' writes digits"):
        code_processors(processor, get_task("count"), "median")
    assert len(code_processors(processor, get_task("count"))()) == 0


COUNTS = [CoDiVocabulary.for_language_model(range(11)), CoDiVocabulary([1, 4, 6], tolerance=0)]


@pytest.mark.parametrize("vocabulary", COUNTS)
def test_the_list_follows_from_the_reasoning(vocabulary: CoDiVocabulary) -> None:
    task = get_task("count").with_vocabulary(vocabulary)
    truth = build_completion([7, 0, 3], get_task("count"))
    copied_badly = write_completion(list_reasoning([7, 0, 3], task), answer_list([3, 3, 0], task))
    for text in (build_completion([7, 0, 3], task), copied_badly, copied_badly.replace(": <", ":<")):
        assert sorted_by_reasoning(text, 3, task) == truth
    for text in (copied_badly.replace("Image 2", "Image 4"), build_completion([7, 0], task), "nothing", ""):
        assert sorted_by_reasoning(text, 3, task) == text
    assert sorted_by_reasoning(copied_badly[:-40], 3, task) == copied_badly[:-40], "what is cut off stays unreadable"
    listed = answer_list([3, 3, 0], task)
    twice = write_completion(list_reasoning([7, 0, 3], task) + ", Image 1: 9", listed)
    assert sorted_by_reasoning(twice, 3, task) == truth  # what is said first of an image
    for number in ("-3", "150", "5.5"):  # without a code: taken as they are, and scored so
        text = write_completion(f"Image 1: {number}, Image 2: 0, Image 3: 9", listed)
        assert parse_answer(sorted_by_reasoning(text, 3, task), 3).values() == [float(number), 0, 9]


@pytest.mark.parametrize("vocabulary", COUNTS)
def test_value_tokens_are_read_as_medians(vocabulary: CoDiVocabulary) -> None:
    """Unless greedy is asked for; in either case codes are legal."""
    model, processor = tiny.load()
    task = get_task("count").with_vocabulary(vocabulary)
    tokens = attach(model, processor, vocabulary, number_contexts(task))
    with torch.no_grad():  # the model has not learnt to write codes; so they are likelier than digits
        begin = tokens.columns if tokens.open_id is None else [tokens.open_id]
        model.get_input_embeddings().weight[begin] *= 1.5
        if tokens.open_id is not None:
            model.get_input_embeddings().weight[tokens.end_id] *= 0.3  # or every number is nothing
    source = load_source("builtin", "count", size=40).with_task(task)
    rows = make_dataset(source, np.arange(40), 6, mix={2: 1.0}, seed=0)
    settings: dict[str, Any] = {"max_new_tokens": 64, "progress": False}
    seen = {}
    for decode in (None, "median", "greedy"):
        report = evaluate(model, processor, {2: rows}, task=task, decode=decode, **settings)
        seen[decode] = report.to_json()
    assert seen[None] == seen["median"]
    made = {
        decode: generate_answers(
            model, processor, rows, logits_processors=partial(LogitsProcessorList, [kind(tokens)]), **settings
        )
        for decode, kind in (("median", QuantileLogits), ("greedy", ValueTokenLogits))
    }
    assert all(any(codes_to_numbers(text) != text for text in texts) for texts in made.values()), "codes are written"
    assert made["median"] != made["greedy"]
    made["median"] = [sorted_by_reasoning(text, 2, task) for text in made["median"]]
    for decode, texts in made.items():
        wanted = score({2: texts}, {2: list(rows["values"])}, task).to_json()
        assert {name: seen[decode][name] for name in ("tau", "failures")} == {
            name: wanted[name] for name in ("tau", "failures")
        }


@pytest.mark.parametrize("vocabulary", COUNTS)
def test_a_code_is_chosen_by_the_descent_as_by_the_trie(vocabulary: CoDiVocabulary) -> None:
    """Two ways to an exact median: token by token as the model writes, and over all numbers of the task."""
    model, processor = tiny.load()
    task = OrdinalTask("count", "number of objects", 0, vocabulary.largest, tolerance=3, integer=True)
    task = task.with_vocabulary(vocabulary)  # every legal code is in the range
    tokens = attach(model, processor, vocabulary, number_contexts(task))
    matrix, generator = model.get_input_embeddings().weight, torch.Generator().manual_seed(0)
    likely = 1.3 * matrix[tokens.all_ids].mean(dim=0).detach()
    trie = NumberTrie.of(processor, task)
    prompts = make_dataset(load_source("builtin", "count", size=20), np.arange(20), 6, mix={1: 1.0}, seed=0)
    begin = processor.tokenizer("<think>Image 1:", add_special_tokens=False)["input_ids"]
    seen = set()
    for prompt in prompts:
        with torch.no_grad():  # codes that are likelier than other tokens, each about as likely as the next
            noise = torch.randn(len(tokens.all_ids), len(likely), generator=generator)
            matrix[tokens.all_ids] = likely + 0.3 * noise
        inputs = batch_inputs(processor, [prompt])

        def after(tail: list[int], inputs: Any = inputs) -> dict[str, Any]:
            ids = torch.cat([inputs["input_ids"], torch.tensor([tail])], dim=1)
            types = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(tail)))
            return dict(inputs) | {"input_ids": ids, "attention_mask": ids**0, "mm_token_type_ids": types}

        opened = [*begin, *([] if tokens.open_id is None else [tokens.open_id])]
        reset_rope_deltas(model)
        made = model.generate(
            **after(opened),
            max_new_tokens=vocabulary.max_length + (tokens.open_id is not None),
            do_sample=False,
            logits_processor=LogitsProcessorList([QuantileLogits(tokens)]),
        )
        [said, *_] = re.findall(CODE_PATTERN, processor.tokenizer.decode(made[0, inputs["input_ids"].shape[1] :]))
        with torch.no_grad():
            nodes = []
            for prefix in trie.prefixes:
                reset_rope_deltas(model)
                nodes.append(model(**after([*begin, *prefix])).logits[0, -1])
        index, value = median(trie.log_probs(torch.stack(nodes)), trie.numbers)
        assert codes_to_numbers(said) == str(int(value))
        seen.add(index)
    assert len(seen) > 1


def test_value_tokens_are_read_in_every_way() -> None:
    """Modes and means, too; an answer counts as many tokens as its codes."""
    model, processor = tiny.load()
    task = get_task("count").with_vocabulary(COUNTS[1])
    tokens = attach(model, processor, COUNTS[1], number_contexts(task))
    with torch.no_grad():
        model.get_input_embeddings().weight[tokens.end_id] *= 0.3
    rows = make_dataset(load_source("builtin", "count", size=40), np.arange(40), 6, mix={1: 1.0}, seed=0)
    settings: dict[str, Any] = {"max_new_tokens": 64, "progress": False}
    found: dict[Any, list[float]] = {}
    for decode in ("mode", "mean"):
        report = evaluate(model, processor, {1: rows}, task=task, decode=decode, **settings)
        assert report.tokens_per_answer is not None
        chosen = choose_answers(model, processor, rows, task=task, decode=decode, **settings)
        values = [parse_answer(text, 1).values()[0] for text in chosen.texts]
        found[decode] = [value for value in values if value is not None]
        assert len(found[decode]) == len(rows) and report.failure_rate == 0
        written = [build_completion([min(range(11), key=lambda n: abs(n - v))], task) for v in found[decode]]
        assert chosen.written == written
        lengths = [1 + len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in written]
        assert report.tokens_per_answer[1] == pytest.approx(np.mean(lengths)) and "<gor>" in written[0]
        wanted = np.mean([abs(value - truth) for value, [truth] in zip(found[decode], rows["values"], strict=True)])
        assert report.readable.metrics["mae"] == pytest.approx(wanted)
    assert found["mode"] != found["mean"]
    sampled = evaluate(model, processor, {1: rows}, task=task, decode="sampled_median", num_samples=3, **settings)
    assert sampled.unreadable_samples is not None and sampled.num_prompts == {1: 6}


def test_intervals_want_one_image_prompts() -> None:
    with pytest.raises(ValueError, match=r"wanted one-image prompts among the data, got \[2, 4\] images"):
        evaluate(None, None, {2: [], 4: []}, task="count", interval=0.9)


def test_intervals_in_the_table() -> None:
    prediction = Prediction("", [6.0, None], [1, None], [(5.0, 8.0), (None, 2.0)])
    table = prediction_table(["a.png", "b.png"], prediction, "count")
    assert [list(column.cells) for column in table.columns][1:] == [["6", "–"], ["1", "–"], ["5 to 8", "– to 2"]]
