"""Numbers in one token each, without tags: texts, readers, masks, quantiles, losses, and files."""

import copy
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import LogitsProcessorList

from gor_head import CoDiVocabulary
from gor_head.vlm import (
    CodeMask,
    QuantileLogits,
    ValueTokenLogits,
    ValueTokens,
    attach,
    codes_to_numbers,
    load,
    save_pretrained,
    write_value,
)
from gor_head.vlm.sft import CodeSteps
from rarl.answer import parse_answer
from rarl.prompt import build_completion
from rarl.task import get_task
from tests.gor_head.vlm.models import qwen3_vl, text_model

COUNTS = CoDiVocabulary.for_language_model(range(11))
TOKENS = ValueTokens(COUNTS, None, 40, tuple(range(41, 51)))
OTHERS = [*range(40), *range(51, 60)]


def test_every_number_is_a_token() -> None:
    assert COUNTS.tagless and COUNTS.max_length == 1 and COUNTS.tokens.tolist() == list(range(1, 11))
    assert [write_value(COUNTS, value) for value in (0, 3, 10)] == ["<=0>", "<=3>", "<=10>"]
    scores = CoDiVocabulary.for_language_model([0.25, 0.5], maximum=1, resolution=0.01)
    assert scores.tagless and len(scores.tokens) == 100 and write_value(scores, 0.57) == "<=0.57>"


def test_labels_that_are_few_but_far_apart_are_tokens() -> None:
    prices = CoDiVocabulary.for_language_model([0, 5, 700, 700, 12_000], maximum=20_000)
    assert prices.tagless and prices.tokens.tolist() == [5, 700, 12_000, 20_000]


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=400), st.integers(20, 200))
def test_codes_are_exact_and_tokens_few(hundredths: list[int], size: int) -> None:
    labels = [value / 100 for value in hundredths]
    vocabulary = CoDiVocabulary.for_language_model(labels, resolution=0.01, size=size)
    most = max(hundredths)
    assert len(vocabulary.tokens) <= size
    assert vocabulary.coverage(labels) == {"labels": len(labels), "clipped": 0, "missed": 0, "max_relative_error": 0.0}
    if not vocabulary.tagless and most:  # every number of the grid has a code, seen or not
        numbers = np.arange(0, most + 1, 7)
        assert np.rint(vocabulary.decode(vocabulary.encode(numbers / 100)) * 100).tolist() == numbers.tolist()
    for value in labels[:20]:
        assert Decimal(codes_to_numbers(write_value(vocabulary, value))) == Decimal(repr(value)).normalize()


def test_places_by_hand() -> None:
    areas = CoDiVocabulary.for_language_model(range(4, 2001))
    # 44 ** 2 = 1936 is too little, 45 ** 2 = 2025 is enough: 44 ones, and as many 45s as 2 000 holds.
    assert areas.tokens.tolist() == [*range(1, 45), *range(45, 1981, 45)]
    assert areas.max_length == 2 and not areas.tagless and len(areas.tokens) == 88
    assert write_value(areas, 2000) == "<gor><+1980><+20></gor>"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 2}, "tagless: wanted codes of one token and no offset, got max_length=2, offset=0"),
        ({"max_length": 1, "offset": 3}, "tagless: .* offset=3"),
    ],
)
def test_codes_of_several_tokens_want_tags(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CoDiVocabulary([1, 2], tagless=True, **settings)


def test_numbers_may_be_very_large() -> None:
    views = CoDiVocabulary.for_language_model([*range(1, 300), 10**9])
    assert len(views.tokens) <= 128 and views.decode(views.encode(10.0**9 - 1)) == 10**9 - 1
    with pytest.raises(
        ValueError, match="size: wanted at least 8 tokens for numbers up to 199 steps of the grid, got 4"
    ):
        CoDiVocabulary.for_language_model(range(200), size=4)


@pytest.mark.parametrize("size", [1, 2.5, "many", True])
def test_size_is_a_whole_number_from_2(size: Any) -> None:
    with pytest.raises(ValueError, match="size: wanted a whole number from 2"):
        CoDiVocabulary.for_language_model([1, 2], size=size)


def test_a_saved_vocabulary_says_its_form(tmp_path: Path) -> None:
    path = COUNTS.save_pretrained(tmp_path)
    assert CoDiVocabulary.from_pretrained(tmp_path) == COUNTS and CoDiVocabulary.from_pretrained(tmp_path).tagless
    assert json.loads(path.read_text())["format"] == 2
    tagged = CoDiVocabulary([1, 2, 5], max_length=1)
    assert json.loads(tagged.save_pretrained(tmp_path).read_text())["format"] == 1
    assert not CoDiVocabulary.from_pretrained(tmp_path).tagless
    content = COUNTS.to_dict() | {"format": 3}
    with pytest.raises(ValueError, match="format 3, but 1 or 2 is wanted"):
        CoDiVocabulary.from_dict(content)


def test_answers_are_read() -> None:
    task = get_task("count").with_vocabulary(COUNTS)
    text = build_completion([10, 0, 3], task)
    assert '"value": <=0>' in text
    answer = parse_answer(text, 3)
    assert answer.well_formed and answer.values() == [10.0, 0.0, 3.0]
    assert not parse_answer(text.replace("<=0>", "<=0"), 3).well_formed


@pytest.mark.parametrize("text", ["<=>", "<=5", "<= 5>", "<=5.>", "<=-5>", "x <= 5", "<=+5>", "<=1e3>"])
def test_unfinished_and_foreign_numbers_stay(text: str) -> None:
    assert codes_to_numbers(text) == text


@pytest.mark.parametrize("make", [text_model, lambda: text_model(tied=False), qwen3_vl])
def test_a_number_costs_one_token_with_its_blank(make: Any) -> None:
    model, processor = make()
    tokens = attach(model, processor, COUNTS)
    tokenizer = getattr(processor, "tokenizer", processor)
    assert tokens.open_id is None and tokens.all_ids == sorted(tokens.columns)
    plain = tokenizer('"value": 7}', add_special_tokens=False)["input_ids"]
    ids = tokenizer('"value": <=7>}', add_special_tokens=False)["input_ids"]
    assert len(ids) <= len(plain) and ids.count(tokens.ids[6]) == 1
    assert codes_to_numbers(tokenizer.decode(ids)) == '"value":7}'
    assert ValueTokens.of(processor, COUNTS) == tokens


def test_rows_begin_as_their_numbers() -> None:
    model, tokenizer = text_model(tied=False)
    known = tokenizer.get_vocab()
    for matrix in (model.get_input_embeddings, model.get_output_embeddings):
        rows = copy.deepcopy(matrix().weight)
        tokens = attach(model, tokenizer, COUNTS)
        assert torch.allclose(matrix().weight[tokens.end_id], rows[known["Ġ0"]], atol=1e-6)
        distance = torch.cdist(matrix().weight[list(tokens.ids[:9])], rows[[known[f"Ġ{n}"] for n in range(1, 10)]])
        assert distance.argmin(dim=1).tolist() == list(range(9))


def test_nothing_is_barred() -> None:
    ids = torch.tensor([[7, 40], [45, 46], [3, 3]])
    scores = torch.randn(3, 60)
    assert torch.equal(ValueTokenLogits(TOKENS)(ids, scores.clone()), scores)
    mask = CodeMask(TOKENS, 60)
    inside, allowed = mask(ids)
    assert not inside.any() and allowed.all() and allowed.shape == (3, 11)
    assert torch.equal(mask.log_softmax(ids, scores), scores.log_softmax(dim=1))


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_quantile_is_that_of_the_numbers(seed: int, level: float) -> None:
    scores = torch.randn(4, 60, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    scores[:2, 45] = 20  # two rows are about to write a number, one a word, and one whatever comes
    scores[2, 5] = 20
    ids = torch.zeros(4, 3, dtype=torch.int64)
    found = QuantileLogits(TOKENS, level)(ids, scores.clone())
    for row, after in zip(scores, found, strict=True):
        if row[TOKENS.columns].logsumexp(0) <= row[OTHERS].max():
            assert torch.equal(after, row)
            continue
        cumulative = row[TOKENS.columns].softmax(0).numpy().cumsum()
        wanted = int(np.searchsorted(cumulative, level * cumulative[-1] - 1e-12))
        assert after.isfinite().nonzero().flatten().tolist() == [TOKENS.columns[min(wanted, 10)]]


def test_one_number_of_a_text_is_at_the_level() -> None:
    scores = torch.zeros(1, 60)
    scores[0, TOKENS.columns] = 1.0
    word = torch.zeros(1, 60)
    word[0, 3] = 9.0
    ids = torch.zeros(1, 1, dtype=torch.int64)
    for number, wanted in ((0, [10, 5]), (1, [5, 10]), (None, [10, 10])):
        processor = QuantileLogits(TOKENS, 1.0, number)
        first = int(processor(ids, scores.clone()).argmax())
        processor(ids, word.clone())
        second = int(processor(ids, scores.clone()).argmax())
        assert [TOKENS.columns.index(first), TOKENS.columns.index(second)] == wanted


def test_a_wide_distribution_is_a_number_too() -> None:
    """No single number is as likely as the word, but numbers together are."""
    scores = torch.full((1, 60), -torch.inf)
    scores[0, TOKENS.columns] = torch.tensor(0.08).log()
    scores[0, 3] = torch.tensor(0.12).log()
    ids = torch.zeros(1, 1, dtype=torch.int64)
    assert int(QuantileLogits(TOKENS)(ids, scores.clone()).argmax()) == TOKENS.columns[5]
    assert int(ValueTokenLogits(TOKENS)(ids, scores.clone()).argmax()) == 3


def test_medians_are_generated() -> None:
    model, tokenizer = text_model(tied=False)
    tokens = attach(model, tokenizer, COUNTS)
    with torch.no_grad():
        model.get_output_embeddings().weight *= 10  # distributions that are not flat
    prompts = torch.randint(3, 200, (20, 3), generator=torch.Generator().manual_seed(0))
    found = model.generate(
        input_ids=prompts,
        attention_mask=torch.ones_like(prompts),
        logits_processor=LogitsProcessorList([QuantileLogits(tokens)]),
        max_new_tokens=5,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    numbers = 0
    for place in range(3, found.shape[1]):
        with torch.no_grad():
            logits = model(input_ids=found[:, :place]).logits[:, -1]
        for row, token in zip(logits, found[:, place].tolist(), strict=True):
            others = row.index_fill(0, torch.tensor(tokens.columns), -torch.inf)
            wanted = int(others.argmax())
            if row[tokens.columns].logsumexp(0) > others.max():
                numbers += 1
                cumulative = row[tokens.columns].double().softmax(0).cumsum(0)
                wanted = tokens.columns[int((cumulative < 0.5 - 1e-12).sum())]
            assert token == wanted
    assert 10 < numbers < 100


def test_each_number_has_an_expectation() -> None:
    labels = torch.tensor([[45, 7, 40, -100], [-100, 50, 3, 41]])
    logits = torch.randn(2, 4, 60, dtype=torch.float64)
    steps = CodeSteps.of(logits, labels, TOKENS)
    assert steps.true().tolist() == [5, 0, 10, 1]
    shares, counts = logits[..., TOKENS.columns].softmax(-1), torch.arange(11, dtype=torch.float64)
    places = ([0, 0, 1, 1], [0, 2, 1, 3])
    assert steps.expected().tolist() == pytest.approx((shares @ counts)[places].tolist())
    errors = [float(shares[row, place] @ (counts - truth).abs())
              for row, place, truth in zip(*places, (5, 0, 10, 1), strict=True)]  # fmt: skip
    assert steps.distance().tolist() == pytest.approx(errors)


def test_adapter_comes_back(tmp_path: Path) -> None:
    model, tokenizer = text_model(tied=False)
    model.save_pretrained(tmp_path / "base")
    model.config._name_or_path = model.name_or_path = str(tmp_path / "base")
    tokens = attach(model, tokenizer, COUNTS)
    lora = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, **tokens.lora_settings(model))
    policy = get_peft_model(model, lora).eval()
    save_pretrained(policy, tokenizer, COUNTS, directory=tmp_path / "adapter")
    again, _, its_tokens = load(tmp_path / "adapter")
    ids = torch.tensor([[30, 31, *tokens.all_ids, 32]])
    assert its_tokens == tokens
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, policy(input_ids=ids).logits)
