"""Trees of tokens behind places of answers, against the plain model on each continuation written out."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from gor_head import CoDiVocabulary
from gor_head.vlm import attach
from rarl import tiny
from rarl.datasets import load_source, make_dataset
from rarl.expectation import ExpectedNumbers
from rarl.inputs import batch_inputs
from rarl.prompt import build_completion, number_contexts
from rarl.shared_prefix import Group, innermost, split_images
from rarl.shared_prefix.branches import TokenTree, answer_and_branch_logits, branch_logits, pack_branches
from rarl.shared_prefix.scoring import prompt_groups
from rarl.task import get_task

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def test_tree_of_prefixes() -> None:
    tree, nodes = TokenTree.of([(), (5,), (5, 7, 8), (6,)])
    assert tree == TokenTree((5, 6, 7, 8), (0, 0, 1, 3))
    assert nodes == [0, 1, 4, 2]
    assert tree.depths().tolist() == [1, 1, 2, 3]
    assert tree.sees().int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]
    assert TokenTree.of([()]) == (TokenTree((), ()), [0])


def test_pack_written_out() -> None:
    """Prompt 11 12 13; answers 21 22 and 31; a tree 5 → 6, and 7, in the place of 22 and of 31."""
    group = Group((0, 1), torch.tensor([11, 12, 13]), torch.arange(3)[None])
    answers, mask = torch.tensor([[21, 22], [31, 0]]), torch.tensor([[1, 1], [1, 0]])
    tree = TokenTree((5, 6, 7), (0, 1, 0))
    pack = pack_branches([group], answers, mask, places=torch.tensor([[0, 1], [1, 0]]), tree=tree)
    assert pack.input_ids.tolist() == [[11, 12, 13, 21, 13, 5, 6, 7, 5, 6, 7]]
    assert pack.position_ids.tolist() == [[[0, 1, 2, 3, 2, 4, 5, 4, 3, 4, 3]]]
    assert pack.columns.tolist() == [[3, 5, 6, 7], [4, 8, 9, 10]]
    seen = [[pack.input_ids[0, key].item() for key in range(11) if pack.allowed[0, query, key]] for query in range(11)]
    assert seen[5:] == [
        [11, 12, 13, 21, 5],
        [11, 12, 13, 21, 5, 6],
        [11, 12, 13, 21, 7],
        [11, 12, 13, 5],
        [11, 12, 13, 5, 6],
        [11, 12, 13, 7],
    ]


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    model: Any = tiny.build_model(tiny.build_processor(), width=64, layers=2, vision_layers=1).eval()
    return add_fused_lm_head(copy.deepcopy(model)) or model


CODES = {"count": range(11), "area": range(0, 2001, 7)}


@pytest.mark.parametrize("task, coded", [("count", False), ("brightness", False), ("count", True), ("area", True)])
def test_logits_are_those_of_each_continuation_written_out(model: Any, processor: Any, task: str, coded: bool) -> None:
    judged = get_task(task)
    if coded:
        model, processor = copy.deepcopy(model), copy.deepcopy(processor)
        codes = CoDiVocabulary.for_language_model(CODES[task])
        judged = judged.with_vocabulary(codes)
        attach(model, processor, codes, number_contexts(judged))
    source = load_source("builtin", task, size=8).with_task(judged)
    rows = make_dataset(source, np.arange(8), 2, mix={1: 1.0, 2: 1.0}, seed=1)
    tokenizer = processor.tokenizer
    expected = ExpectedNumbers.of(processor, judged)
    answers = [build_completion(row["values"], judged) for row in rows for _ in range(2)]
    batch = [row for row in rows for _ in range(2)]
    inputs = batch_inputs(processor, batch)
    ids = [torch.tensor([*tokenizer.encode(text), tokenizer.eos_token_id]) for text in answers]
    completions = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(each) for each in ids], batch_first=True)
    whole = torch.cat([inputs["input_ids"], completions], dim=1)
    attention = torch.cat([inputs["attention_mask"], mask], dim=1)
    types = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, completions.shape[1]))
    images = split_images(inputs, [len(row["images"]) for row in batch])
    groups = prompt_groups(
        innermost(model),
        whole,
        attention_mask=attention,
        completion_length=completions.shape[1],
        images=images,
        mm_token_type_ids=types,
    )
    places = torch.tensor(
        [[row, each.start] for row in range(len(batch)) for each in expected.trie.find(ids[row].tolist())]
    )
    assert len(places) == sum(2 * len(row["values"]) for row in batch)
    settings: dict[str, Any] = {"completion_mask": mask, "images": images, "places": places, "tree": expected.tree}
    settings |= {"config": model.config, "dtype": torch.float32}
    with torch.no_grad():
        logits = branch_logits(model, groups, completions, **settings)
        own, tokens, again = answer_and_branch_logits(model, groups, completions, **settings)
        torch.testing.assert_close(again, logits)
        order = [row for group in groups for row in group.rows]
        assert tokens.tolist() == [token for row in order for token in ids[row].tolist()]
        plain_logits = model(
            input_ids=whole,
            attention_mask=attention,
            mm_token_type_ids=types,
            pixel_values=inputs["pixel_values"],
            image_grid_thw=inputs["image_grid_thw"],
        ).logits[:, -completions.shape[1] - 1 : -1]
        torch.testing.assert_close(own, torch.cat([plain_logits[row, : len(ids[row])] for row in order]), **CLOSE)
        for place, (row, column) in enumerate(places.tolist()[::3]):
            for prefix, node in list(zip(expected.trie.prefixes, expected.nodes, strict=True))[::4]:
                text = torch.cat([ids[row][:column], torch.tensor(prefix, dtype=torch.long)])
                plain = batch_inputs(processor, [batch[row]])
                plain["input_ids"] = torch.cat([plain["input_ids"], text[None]], dim=1)
                plain["attention_mask"] = torch.ones_like(plain["input_ids"])
                plain["mm_token_type_ids"] = torch.nn.functional.pad(plain["mm_token_type_ids"], (0, len(text)))
                oracle = model(**plain).logits[0, -1]
                torch.testing.assert_close(logits[3 * place, node], oracle, **CLOSE)
