"""Beam candidates of a real model: likeliest first, by the probability of the whole answer."""

import pytest
import torch

from rarl import tiny
from rarl.datasets.builtin import BuiltinSource
from rarl.inputs import batch_inputs
from rarl.prompt import build_prompt
from rarl.recipe.preferences import beam_answers
from rarl.task import get_task


def test_candidates_come_by_their_probability_whatever_their_length() -> None:
    model, processor = tiny.load()
    task = get_task("count")
    with torch.no_grad():
        model.eval().model.language_model.norm.weight *= 0.25  # unsure of everything, so that lengths differ
    source = BuiltinSource("count", 4, 0)
    rows = [{"prompt": build_prompt(task, 1), "images": [source.load(index)]} for index in range(4)]
    lengths = set()
    for row, texts in zip(
        rows, beam_answers(model, processor, rows, task=task, beams=8, max_new_tokens=60), strict=True
    ):
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
