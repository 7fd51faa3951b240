"""Candidates of a real model: beams, likeliest first, by the probability of the whole answer; and samples."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rarl import tiny
from rarl.datasets import make_dataset
from rarl.datasets.builtin import BuiltinSource
from rarl.inputs import batch_inputs
from rarl.number_trie import NumberTrie
from rarl.prompt import build_prompt
from rarl.recipe.preferences import build_preferences, candidate_answers
from rarl.task import get_task


def test_candidates_come_by_their_probability_whatever_their_length() -> None:
    model, processor = tiny.load()
    task = get_task("count")
    with torch.no_grad():
        model.eval().model.language_model.norm.weight *= 0.25  # unsure of everything, so that lengths differ
    source = BuiltinSource("count", 4, 0)
    rows = [{"prompt": build_prompt(task, 1), "images": [source.load(index)]} for index in range(4)]
    lengths = set()
    found = candidate_answers(model, processor, rows, task=task, candidates="beams", number=8, max_new_tokens=60)
    for row, texts in zip(rows, found, strict=True):
        inputs = batch_inputs(processor, [row])
        start = inputs["input_ids"].shape[1]
        scores = []
        for text in texts:
            ids = torch.tensor([processor.tokenizer(text + "<|im_end|>")["input_ids"]])
            lengths.add(ids.shape[1])
            whole = dict(inputs) | {
                "input_ids": torch.cat([inputs["input_ids"], ids], dim=1),
                "attention_mask": torch.ones(1, start + ids.shape[1], dtype=torch.int64),
                "mm_token_type_ids": torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(ids)], dim=1),
            }
            with torch.no_grad():
                log_probs = model(**whole).logits[0, start - 1 : -1].log_softmax(-1)
            scores.append(float(log_probs.gather(1, ids[0][:, None]).sum()))
        assert scores == pytest.approx(sorted(scores, reverse=True), abs=1e-3)
    assert len(lengths) > 1


def test_samples_come_as_the_model_has_them() -> None:
    """Of one image: shares of the numbers that are stated first are those of the exact distribution."""
    model, processor = tiny.load()
    task = get_task("count")
    with torch.no_grad():
        model.eval().model.language_model.norm.weight *= 0.5  # unsure of the number
    source = BuiltinSource("count", 1, 0)
    rows = [{"prompt": build_prompt(task, 1), "images": [source.load(0)]}]
    trie = NumberTrie.of(processor, task)
    nodes = []
    for prefix in trie.prefixes:
        inputs = batch_inputs(processor, rows)
        tail = torch.tensor([[*processor.tokenizer("<think>Image 1:", add_special_tokens=False)["input_ids"], *prefix]])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], tail], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, tail.shape[1]))
        with torch.no_grad():
            nodes.append(model(**inputs).logits[0, -1])
    chances = trie.log_probs(torch.stack(nodes)).exp().tolist()
    torch.manual_seed(0)
    [texts] = candidate_answers(model, processor, rows, task=task, candidates="samples", number=600, max_new_tokens=16)
    stated = [re.match(r"<think>Image 1: ([0-9]+)<", text) for text in texts]
    counts = Counter(float(match[1]) for match in stated if match)
    number = sum(counts.values())
    assert number > 300 and sum(chance > 0.05 for chance in chances) > 2
    for value, chance in zip(trie.numbers.tolist(), chances, strict=True):
        assert abs(counts[value] - number * chance) < 4 * (number * chance * (1 - chance)) ** 0.5 + 2


@pytest.mark.parametrize("candidates", ["beams", "samples"])
def test_pairs_of_a_run_that_was_stopped_are_those_of_a_whole_one(candidates: Any, tmp_path: Path) -> None:
    """Whatever other random numbers are drawn in between, and wherever in a batch it stopped."""
    model, processor = tiny.load()
    with torch.no_grad():
        model.eval().model.language_model.norm.weight *= 0.5
    source = BuiltinSource("count", 30, 0)
    rows = make_dataset(source, np.arange(30), 7, mix={1: 1.0})

    def build(folder: Path, seed: int = 0) -> list[str]:
        settings: dict[str, Any] = {"adapter": "one"}
        build_preferences(
            model,
            processor,
            rows,
            source=source,
            folder=folder,
            settings=settings,
            candidates=candidates,
            num_candidates=2,
            seed=seed,
            pairs="answers",
            batch_size=3,
            max_new_tokens=60,
        )
        return (folder / "pairs.jsonl").read_text().splitlines()

    whole = build(tmp_path / "whole")
    assert len(whole) == 8
    (tmp_path / "part").mkdir()
    (tmp_path / "part/pairs.jsonl").write_text("\n".join(whole[:6]) + "\n")
    state = torch.get_rng_state()
    assert build(tmp_path / "part") == whole
    assert torch.equal(torch.get_rng_state(), state)
    if candidates == "samples":
        assert build(tmp_path / "other", seed=1)[1:] != whole[1:]
        with pytest.raises(ValueError, match=r"pairs.jsonl: made with .*'seed': 0.* wanted .*'seed': 2"):
            build(tmp_path / "part", seed=2)
