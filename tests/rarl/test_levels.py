"""Rating in words, read as an expectation."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from rarl import tiny
from rarl.datasets import load_source, make_dataset
from rarl.inputs import batch_inputs
from rarl.levels import LevelRows, Levels, evaluate_levels, expected_values
from rarl.task import get_task

COUNT = Levels(get_task("count"))


def test_words_by_hand() -> None:
    assert COUNT.centres == [1, 3, 5, 7, 9]
    assert [COUNT.task.word(value) for value in (0, 1.9, 2, 5, 8, 10)] == [
        "bad",
        "bad",
        "poor",
        "fair",
        "excellent",
        "excellent",
    ]
    assert Levels(replace(get_task("aesthetics"), words=("low", "high"))).centres == [3.25, 7.75]
    assert COUNT.sentence("good") == "The number of objects is good."


def test_rows_are_sentences() -> None:
    source = load_source("builtin", "count", size=10)
    rows = make_dataset(source, range(10), 4, mix={1: 1.0}, with_completion=True)
    rows.set_transform(LevelRows(source, COUNT))
    for place, stored in enumerate(rows.with_format(None)["values"]):
        row = rows[place]
        assert row["completion"][0]["content"][0]["text"] == COUNT.sentence(COUNT.task.word(stored[0]))
        assert len(row["images"]) == 1 and "good, excellent" in row["prompt"][0]["content"][1]["text"]


def log_probability(model: Any, processor: Any, image: Any, sentence: str) -> float:
    """Of the whole text, by one unpadded row."""
    inputs = batch_inputs(processor, [{"prompt": COUNT.prompt(), "images": [image]}], [sentence])
    with torch.no_grad():
        scores = model(**inputs).logits[0, :-1].double().log_softmax(-1)
    return float(scores.gather(1, inputs["input_ids"][0, 1:, None]).sum())


def test_expectation_is_that_of_the_sentences() -> None:
    model, processor = tiny.load()
    source = load_source("builtin", "count", size=3)
    images = [source.load(place) for place in range(3)]
    found = expected_values(model.eval(), processor, images, levels=COUNT)
    for image, value in zip(images, found, strict=True):
        scores = [log_probability(model, processor, image, COUNT.sentence(word)) for word in COUNT.words]
        shares = torch.tensor(scores, dtype=torch.float64).softmax(0)
        assert value == pytest.approx(float(shares @ torch.tensor(COUNT.centres, dtype=torch.float64)), abs=1e-3)
        assert 1 <= value <= 9


def test_images_are_rated_one_by_one() -> None:
    model, processor = tiny.load()
    source = load_source("builtin", "count", size=20)
    rows = make_dataset(source, range(20), 3, mix={2: 1.0})
    report = evaluate_levels(model, processor, {2: rows}, levels=COUNT, batch_size=4)
    right = []
    for place in range(3):
        values = expected_values(model, processor, rows[place]["images"], levels=COUNT)
        truth = rows[place]["values"]
        if truth[0] != truth[1]:
            right.append(1.0 if (values[0] < values[1]) == (truth[0] < truth[1]) else -1.0)
    assert report.readable.tau[2] == pytest.approx(sum(right) / len(right))
    assert report.failure_rate == 0
