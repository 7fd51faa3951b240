import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList

from gor_head import CoDiVocabulary
from gor_head.intervals import legal_ids
from gor_head.vlm import CodeMask, QuantileLogits, ValueTokenLogits, ValueTokens, attach, vllm_logits_processor
from gor_head.vocabulary import EOS, FIRST_VALUE
from rarl import tiny
from tests.gor_head.vlm.models import text_model

AGES = CoDiVocabulary([1, 2, 5, 10, 50], tolerance=0, max_length=6)
TEXT = 40  # ids below are text
TOKENS = ValueTokens(AGES, TEXT, TEXT + 1, tuple(range(TEXT + 2, TEXT + 7)))
SIZE = TEXT + 7


def allowed_by_hand(ids: list[int], tokens: ValueTokens, size: int) -> set[int]:
    """What may follow, from the words of the module's docstring and `gor_head.intervals.legal_ids`."""
    value = {token: place + FIRST_VALUE for place, token in enumerate(tokens.ids)}
    code: list[int] | None = None
    for token in ids:
        if token == tokens.open_id:
            code = []
        elif code is not None and token in value:
            code.append(value[token])
        else:
            code = None
    if code is None:
        return set(range(size)) - {tokens.end_id, *tokens.ids}
    back = {place: token for token, place in value.items()} | {EOS: tokens.end_id}
    return {back[token] for token in legal_ids(tokens.vocabulary, code)}


def code_of(value: int, tokens: ValueTokens) -> list[int]:
    return [tokens.ids[token - FIRST_VALUE] for token in tokens.vocabulary.encode(float(value)) if token != EOS]


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_mask_is_what_the_vocabulary_says(data: Any) -> None:
    labels = data.draw(st.lists(st.integers(1, 200), min_size=1, max_size=20))
    vocabulary = CoDiVocabulary.fit(labels, tolerance=data.draw(st.sampled_from([0.0, 0.005, 0.1])), max_length=8)
    tokens = ValueTokens(vocabulary, TEXT, TEXT + 1, tuple(range(TEXT + 2, TEXT + 2 + len(vocabulary.tokens))))
    size = TEXT + 2 + len(vocabulary.tokens)
    value = data.draw(st.sampled_from(labels))
    code = code_of(value, tokens)[: data.draw(st.integers(0, 8))]
    before = data.draw(st.lists(st.integers(0, TEXT - 1), max_size=12))
    earlier = [TEXT, *code_of(data.draw(st.sampled_from(labels)), tokens), TEXT + 1] if data.draw(st.booleans()) else []
    for ids in ([*before, *earlier, TEXT, *code], [*before, *earlier], [*before, TEXT, *code, TEXT + 1], [5, *earlier]):
        scores = torch.randn(1, size)
        masked = ValueTokenLogits(tokens)(torch.tensor([ids or [0]]), scores.clone())
        allowed = allowed_by_hand(ids or [0], tokens, size)
        assert {token for token in range(size) if masked[0, token] > -torch.inf} == allowed
        kept = sorted(allowed)
        assert torch.equal(masked[0, kept], scores[0, kept])


def test_rows_of_a_batch_do_not_mix() -> None:
    rows = [[0, 1, 2, TEXT, TEXT + 6], [3, TEXT, TEXT + 2, TEXT + 1, 4], [TEXT, TEXT + 6, TEXT + 6, TEXT + 5, TEXT + 2]]
    together = ValueTokenLogits(TOKENS)(torch.tensor(rows), torch.zeros(3, SIZE))
    for row, masked in zip(rows, together, strict=True):
        assert torch.equal(masked, ValueTokenLogits(TOKENS)(torch.tensor([row]), torch.zeros(1, SIZE))[0])


def test_code_that_is_too_long_may_only_close() -> None:
    ids = torch.tensor([[1, TEXT, *[TEXT + 6] * 6]])
    masked = ValueTokenLogits(TOKENS)(ids, torch.zeros(1, SIZE))
    assert masked[0].isfinite().nonzero().flatten().tolist() == [TEXT + 1]


@pytest.mark.parametrize("beams", [1, 3])
def test_thousand_codes_of_an_untrained_model_are_legal(beams: int) -> None:
    model, tokenizer = text_model()
    tokens = attach(model, tokenizer, AGES)
    rows = 1000 if beams == 1 else 100
    prompt = torch.tensor([[5, 6, tokens.open_id]]).repeat(rows, 1)
    torch.manual_seed(0)
    output = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=beams == 1,
        temperature=1.5,
        num_beams=beams,
        max_new_tokens=AGES.max_length + 1,
        eos_token_id=tokens.end_id,
        pad_token_id=tokens.end_id,
        logits_processor=LogitsProcessorList([ValueTokenLogits(tokens)]),
    )[:, 3:]
    back = {token: place for place, token in enumerate(tokens.ids, FIRST_VALUE)} | {tokens.end_id: EOS}
    for row in output.tolist():
        assert tokens.end_id in row  # closed within max_length
        code = [back[token] for token in row[: row.index(tokens.end_id)]]
        for place in range(len(code)):
            assert code[place] in legal_ids(AGES, code[:place])
    assert len({tuple(row) for row in output.tolist()}) > (20 if beams == 1 else 0)


@pytest.mark.parametrize("level", [0.05, 0.5, 0.9])
def test_quantile_inside_a_language_model_equals_enumeration(level: float) -> None:
    model, tokenizer = text_model()
    vocabulary = CoDiVocabulary([1, 2, 5], tolerance=0, max_length=3)
    tokens = attach(model, tokenizer, vocabulary)
    model.double()
    with torch.no_grad():
        model.get_input_embeddings().weight[list(tokens.ids)] *= 3  # distributions that are not flat
    prompts = torch.tensor([[5, 6, tokens.open_id], [9, 30, tokens.open_id], [7, 7, tokens.open_id]])
    output = model.generate(
        input_ids=prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=False,
        max_new_tokens=vocabulary.max_length + 1,
        eos_token_id=tokens.end_id,
        pad_token_id=tokens.end_id,
        logits_processor=LogitsProcessorList([QuantileLogits(tokens, level)]),
    )[:, 3:]
    for prompt, row in zip(prompts.tolist(), output.tolist(), strict=True):
        found = enumerate_by_hand(model, prompt, tokens)
        values = sorted(found)
        cumulative = np.cumsum([found[value] for value in values])
        assert cumulative[-1] == pytest.approx(1)
        wanted = values[int(np.searchsorted(cumulative, level))]
        written = row[: row.index(tokens.end_id)]
        assert sum(float(vocabulary.values[tokens.ids.index(token) + FIRST_VALUE]) for token in written) == wanted


def enumerate_by_hand(model: Any, prompt: list[int], tokens: ValueTokens) -> dict[float, float]:
    """Number → probability, code by code, from the model's logits among the legal tokens."""
    found: dict[float, float] = {}

    def follow(code: list[int], probability: float) -> None:
        ids = [*prompt, *(tokens.ids[token - FIRST_VALUE] for token in code)]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        legal = legal_ids(tokens.vocabulary, code)
        columns = [tokens.end_id if token == EOS else tokens.ids[token - FIRST_VALUE] for token in legal]
        for token, share in zip(legal, logits[columns].softmax(0).tolist(), strict=True):
            if token == EOS:
                found[tokens.vocabulary.decode([*code, EOS])] = probability * share
            else:
                follow([*code, token], probability * share)

    follow([], 1.0)
    return found


def test_vllm_shape_is_the_same_mask() -> None:
    process = vllm_logits_processor(TOKENS)
    for generated in ([], [3], [TEXT], [TEXT, TEXT + 6, TEXT + 3], [TEXT, TEXT + 3, TEXT + 1]):
        logits = torch.randn(SIZE)
        masked = process(generated, logits.clone()).tolist()
        allowed = {token for token, score in enumerate(masked) if score > -torch.inf}
        assert allowed == allowed_by_hand(generated, TOKENS, SIZE)


def test_model_without_the_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="40 logits, but value tokens have ids up to 46"):
        CodeMask(TOKENS, 40)


def test_masked_log_probabilities_are_brute_force() -> None:
    """Over all codes of a tiny vocabulary they are a distribution, each step the model's over what is legal."""
    vocabulary = CoDiVocabulary([1, 3, 4], max_length=3, tolerance=0)
    tokens = ValueTokens(vocabulary, 10, 11, (12, 13, 14))
    mask = CodeMask(tokens, 16)
    logits = torch.randn(5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    codes = [
        code
        for length in range(vocabulary.max_length + 1)
        for code in itertools.product((4, 3, 1), repeat=length)
        if list(code) == sorted(code, reverse=True) and is_greedy(code, (1, 3, 4))
    ]
    total = 0.0
    for code in codes:
        ids = [7, 10, *(tokens.ids[(1, 3, 4).index(value)] for value in code), 11]
        log_prob = 0.0
        for place in range(2, len(ids)):
            prefix = code[: place - 2]
            legal = {other[len(prefix)] if len(other) > len(prefix) else 0
                     for other in codes if other[: len(prefix)] == prefix}  # fmt: skip
            columns = [11 if value == 0 else tokens.ids[(1, 3, 4).index(value)] for value in sorted(legal)]
            step = logits[place - 2]
            wanted = step[ids[place]] - step[columns].logsumexp(0)
            found = mask.log_softmax(torch.tensor([ids[:place]]), step[None])[0]
            assert float(found[ids[place]]) == pytest.approx(float(wanted), abs=1e-12)
            assert torch.isfinite(found).sum() == len(columns)
            log_prob += float(wanted)
        total += math.exp(log_prob)
    assert total == pytest.approx(1, abs=1e-12)
    assert torch.equal(logits, before)


def is_greedy(code: tuple[int, ...], values: tuple[int, ...]) -> bool:
    """Whether each token is the largest that fits what is left."""
    left = [sum(code[place:]) for place in range(len(code))]
    return all(token == max(value for value in values if value <= rest) for token, rest in zip(code, left, strict=True))


def test_one_number_of_a_text_is_at_the_level() -> None:
    scores = torch.zeros(1, SIZE)
    first = torch.tensor([[7, TOKENS.open_id]])
    second = torch.tensor([[7, TOKENS.open_id, TOKENS.end_id, 8, TOKENS.open_id]])

    def alone(level: float, ids: torch.Tensor) -> torch.Tensor:
        return QuantileLogits(TOKENS, level)(ids, scores.clone())

    for number, levels in ((0, (0.99, 0.5)), (1, (0.5, 0.99)), (None, (0.99, 0.99))):
        processor = QuantileLogits(TOKENS, 0.99, number)
        for ids, level in zip((first, second), levels, strict=True):
            assert torch.equal(processor(ids, scores.clone()), alone(level, ids))
    assert not torch.equal(alone(0.99, first), alone(0.5, first))


@pytest.mark.parametrize("kind", [ValueTokenLogits, QuantileLogits])
def test_a_prompt_of_embeddings_has_no_ids(kind: type[ValueTokenLogits]) -> None:
    """What is written from the embeddings of a prompt is what is written from its ids."""
    model, processor = tiny.load()
    tokens = attach(model, processor, CoDiVocabulary.fit(list(range(1, 21)), initializer="manual", beta=1, exact=True))
    ids = processor.tokenizer("<answer>", return_tensors="pt")["input_ids"]
    greedy: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    wanted = model.generate(input_ids=ids, logits_processor=LogitsProcessorList([kind(tokens)]), **greedy)
    embeddings = model.get_input_embeddings()(ids)
    mask = torch.ones_like(ids)
    inputs = {"inputs_embeds": embeddings, "attention_mask": mask, **greedy}
    found = model.generate(logits_processor=LogitsProcessorList([kind(tokens)]), **inputs)
    assert found[0].tolist() == wanted[0, ids.shape[1] :].tolist()
