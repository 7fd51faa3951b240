"""The exact distribution over the legal numbers against enumeration of token sequences."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerFast

from gor_head.text import token_names
from gor_head.vlm import CodeMask, add_tokens
from gor_head.vocabulary import CoDiVocabulary
from rarl import tiny
from rarl.answer import parse_answer
from rarl.number_trie import NumberTrie, Stated, legal_numbers, token_texts
from rarl.prompt import build_completion
from rarl.task import OrdinalTask, get_task
from tests.paths import DATA

FILES = DATA / "qwen2_5_vl_tokenizer"
TASKS = ("count", "brightness", "age")
BELOW = OrdinalTask("frost", "degrees", -12, 12, tolerance=2, integer=True)


@cache
def tokenizer(name: str) -> Any:
    if name == "qwen":
        if not FILES.is_dir():
            pytest.skip("Qwen2.5-VL's tokenizer files not present")
        return AutoTokenizer.from_pretrained(FILES)
    return tiny.build_processor().tokenizer


@cache
def trie(name: str, task: str) -> NumberTrie:
    return NumberTrie.of(tokenizer(name), get_task(task))


def ids_of(name: str, text: str) -> list[int]:
    return list(tokenizer(name)(text, add_special_tokens=False)["input_ids"])


def random_logits(trie: NumberTrie, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = len(trie.goes_on) + 7
    return 3 * torch.randn(len(trie.branching), size, generator=generator, dtype=dtype)


def enumerate_sequences(trie: NumberTrie, logits: torch.Tensor) -> dict[str, float]:
    """Probability of each number as a walk over texts, from all token sequences that spell it: at each prefix the
    tokens that go on to a number, and all that do not go on, divided by what they have together."""
    texts = [*trie._texts, *[""] * (logits.shape[-1] - len(trie._texts))]
    legal = {tuple(texts[token] for token in path) for path in trie.tokens}
    rows = {tuple(texts[token] for token in prefix): row for row, prefix in enumerate(trie.prefixes)}
    token_of = {texts[token]: token for path in trie.tokens for token in path}
    inner = {text for path in legal for text in path[1:]}
    ends = [
        token
        for token, text in enumerate(texts)
        if text not in inner
        and not (text[:1] in "0123456789" and text or (text[:1] == "." and all(c in "0123456789" for c in text[1:])))
    ]
    found: dict[str, float] = {}

    def walk(prefix: tuple[str, ...], probability: float) -> None:
        following = {path[len(prefix)] for path in legal if path[: len(prefix)] == prefix and len(path) > len(prefix)}
        weights = {text: 1.0 for text in following}
        end = 1.0 if prefix in legal else 0.0
        if len(following) + (prefix in legal) > 1:
            exponentials = logits[rows[prefix]].exp()
            weights = {text: float(exponentials[token_of[text]]) for text in following}
            end *= float(exponentials[ends].sum())
        total = math.fsum([*weights.values(), end])
        if end:
            found["".join(prefix).strip()] = probability * end / total
        for text, weight in weights.items():
            walk((*prefix, text), probability * weight / total)

    walk((), 1.0)
    return found


@pytest.mark.parametrize("name", ["tiny", "qwen"])
@pytest.mark.parametrize("task", TASKS)
def test_probabilities_equal_enumeration(name: str, task: str) -> None:
    numbers = trie(name, task)
    logits = random_logits(numbers)
    oracle = enumerate_sequences(numbers, logits)
    assert list(oracle) and sorted(map(float, oracle)) == numbers.numbers.tolist()
    wanted = torch.tensor([oracle[text] for text in numbers.written], dtype=torch.float64)
    torch.testing.assert_close(numbers.log_probs(logits), wanted.log(), rtol=0, atol=1e-12)
    torch.testing.assert_close(numbers.log_probs(logits.float()).double(), wanted.log(), rtol=0, atol=2e-5)
    torch.testing.assert_close(numbers.log_probs(logits.float()).double().exp(), wanted, rtol=0, atol=1e-6)


@given(st.sampled_from(TASKS), st.integers(0, 2**31), st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_they_add_up_to_one(task: str, seed: int, scale: float) -> None:
    numbers = trie("tiny", task)
    log_probs = numbers.log_probs(scale * random_logits(numbers, seed))
    assert float(log_probs.exp().sum()) == pytest.approx(1, abs=1e-12)


def test_gradients_equal_finite_differences() -> None:
    numbers = trie("tiny", "count")
    logits = random_logits(numbers).requires_grad_()
    weights = torch.linspace(-1, 1, len(numbers.numbers), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: (numbers.log_probs(x) * weights).sum(), logits)


def test_leading_dimensions_and_wide_enough_sums() -> None:
    numbers = trie("tiny", "age")
    logits = torch.stack([random_logits(numbers, seed) for seed in range(6)]).unflatten(0, (2, 3))
    whole = numbers.log_probs(logits)
    assert whole.shape == (2, 3, 117)
    torch.testing.assert_close(whole[1, 2], numbers.log_probs(random_logits(numbers, 5)), rtol=0, atol=1e-13)
    assert numbers.log_probs(logits.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("name, with_blank", [("tiny", True), ("qwen", False)])
def test_where_a_number_begins(name: str, with_blank: bool) -> None:
    numbers = trie(name, "count")
    assert numbers.with_blank is with_blank
    assert numbers.numbers.tolist() == list(range(11))
    assert [numbers.text(path) for path in numbers.tokens] == [" " * with_blank + str(n) for n in range(11)]
    assert [numbers.text(prefix) for prefix in numbers.prefixes] == ["", " " * with_blank + "1"]
    assert numbers.nodes[0] == () and len(numbers.nodes) == 12


def test_a_sign_may_take_the_blank() -> None:
    name = "qwen"
    numbers = NumberTrie.of(tokenizer(name), BELOW)
    assert [numbers.text(path) for path in numbers.tokens] == [f" {n}" for n in range(-12, 13)]
    assert float(numbers.log_probs(random_logits(numbers)).exp().sum()) == pytest.approx(1, abs=1e-12)
    ids = ids_of(name, build_completion([-3, 7], BELOW))
    assert [(each.image_id, each.number - 12) for each in numbers.find(ids)] == [(1, -3), (2, 7), (1, -3), (2, 7)]


@pytest.mark.parametrize("name", ["tiny", "qwen"])
@pytest.mark.parametrize("task", TASKS)
def test_numbers_of_an_answer_are_found(name: str, task: str) -> None:
    numbers = trie(name, task)
    chosen = [3, len(numbers.numbers) - 1, 0, 10]
    ids = ids_of(name, build_completion([float(numbers.numbers[index]) for index in chosen], get_task(task)))
    found = numbers.find(ids)
    assert [(each.image_id, each.number) for each in found[:4]] == list(enumerate(chosen, start=1))
    assert [each.place for each in found] == ["reasoning"] * 4 + ["list"] * 4
    assert {(each.image_id, each.number) for each in found[4:]} == set(enumerate(chosen, start=1))
    for each in found:
        assert tuple(ids[each.start : each.end]) == numbers.tokens[each.number]


@pytest.mark.parametrize("name", ["tiny", "qwen"])
def test_what_is_no_legal_number_is_left_out(name: str) -> None:
    reasoning = "Image 1: 11, Image 2: seven, Image 3: 7.5, Image 4: 7. Image 5:8, Image 6: 6"
    listed = '[{"image_id": 7, "value": "3"}, {"image_id": 8, "value": 10}, {"image_id": 9, "value": 2'
    text = f"<think>{reasoning}</think><answer>{listed}"
    numbers = trie(name, "count")
    found = [(each.image_id, each.number, each.place) for each in numbers.find(ids_of(name, text))]
    tight = [] if name == "tiny" else [(5, 8, "reasoning")]
    legal: list[Any] = [(6, 6, "reasoning"), (8, 10, "list"), (9, 2, "list")]
    assert [each for each in found if each[0] != 4] == [*tight, *legal]
    assert numbers.find([]) == [] and numbers.find([10**9]) == []


def test_a_long_answer_is_read_in_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = trie("tiny", "count")
    calls = 0
    text = numbers.text

    def counted(ids: Any) -> str:
        nonlocal calls
        calls += len(ids)
        return text(ids)

    monkeypatch.setattr(numbers, "text", counted)
    ids = ids_of("tiny", "Image 1: 7, " * 3000)
    assert len(numbers.find(ids)) == 3000 and calls == len(ids)


def test_legal_numbers_by_hand() -> None:
    assert legal_numbers(get_task("count")) == list(range(11))
    brightness = legal_numbers(get_task("brightness"))
    assert len(brightness) == 101 and brightness[57] == 0.57 and brightness[-1] == 1
    assert legal_numbers(OrdinalTask("half", "h", 0.3, 2.2, 1), 0.5) == [0.5, 1, 1.5, 2]
    assert legal_numbers(get_task("age"), 20) == [0, 20, 40, 60, 80, 100]
    written = trie("tiny", "brightness").written
    assert [written[index] for index in (0, 5, 50, 57, 100)] == ["0", "0.05", "0.5", "0.57", "1"]


def test_bad_input() -> None:
    count = get_task("count")
    for resolution in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="resolution: wanted a positive number"):
            legal_numbers(count, resolution)
    with pytest.raises(ValueError, match="'count' wants whole numbers, got 0.5"):
        legal_numbers(count, 0.5)
    with pytest.raises(ValueError, match="'count' has 1 multiples of 20 from 0 to 10; wanted 2 to 20000"):
        legal_numbers(count, 20)
    with pytest.raises(ValueError, match="has 10000001 multiples"):
        legal_numbers(get_task("brightness"), 1e-7)
    coded = count.with_vocabulary(CoDiVocabulary([1, 2, 4, 8]))
    with pytest.raises(ValueError, match="processor: 6 of 6 value tokens are missing"):
        NumberTrie.of(tokenizer("tiny"), coded)
    with pytest.raises(
        ValueError, match=r"labels: 2 of 3 .* the 11 legal numbers of task 'count' \(0, 1 … 10\), such "
    ):
        trie("tiny", "count").check_labels([3, 3, -1, 12], count)
    trie("tiny", "brightness").check_labels([0.25, 1.0, 0.57], get_task("brightness"))
    with pytest.raises(ValueError, match=r"labels: 1 of 1 .* such as 0\.255"):
        trie("tiny", "brightness").check_labels([0.255], get_task("brightness"))
    numbers = trie("tiny", "count")
    for shape in ((713,), (3, 713), (2, 20)):
        with pytest.raises(ValueError, match=r"logits: wanted \[\.\.\., 2, V\] with V above"):
            numbers.log_probs(torch.zeros(shape))


def test_a_tokenizer_that_joins_a_blank_to_a_colon_is_refused() -> None:
    with pytest.raises(ValueError, match=r"wanted the same tokens of '-12' whatever stands beside it, but '<think>Im"):
        NumberTrie.of(tokenizer("tiny"), BELOW)


def test_a_tokenizer_that_glues_numbers_to_what_follows_is_refused() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<e>"],
        show_progress=False,
    )
    raw.train_from_iterator([build_completion([n], get_task("count")) for n in range(11)] * 50, trainer)
    glued = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<e>")
    with pytest.raises(ValueError, match=r"wanted the same tokens of '0' whatever .* but '<think>Image 1: 0.* tokens"):
        NumberTrie.of(glued, get_task("count"))


def test_token_texts_have_blanks() -> None:
    texts = token_texts(tokenizer("tiny"))
    assert " 7" in texts and "." in texts and len(texts) == len(trie("tiny", "count").goes_on)
    assert trie("tiny", "count").find(ids_of("tiny", "Image 2: 10")) == [Stated(2, 10, 3, 5, "reasoning")]


CODES = {
    "a token each": CoDiVocabulary.for_language_model(range(11)),
    "tags": CoDiVocabulary([1, 2, 4], tolerance=0, max_length=4),
    "rounded": CoDiVocabulary([1, 2, 4, 7], tolerance=0.2, max_length=3),
}


def test_codes_of_adapters_whose_tags_took_no_blank_along(tmp_path: Path) -> None:
    """As they were saved at first: their processor goes on as it was, and so do the numbers that it writes."""
    codes, tokens = CODES["tags"], tiny.build_processor().tokenizer
    task = get_task("count").with_vocabulary(codes)
    tokens.add_tokens([AddedToken(each, special=False, normalized=False) for each in ("<gor>", "</gor>")])
    tokens.add_tokens([AddedToken(each, special=False, normalized=False) for each in token_names(codes)])
    tokens.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    add_tokens(again, codes)  # what loading does; nothing is added
    text = build_completion([3, 9], task)
    ids = again(text, add_special_tokens=False)["input_ids"]
    assert again.decode(ids) == text and parse_answer(text, 2).values() == [3, 9]
    numbers = NumberTrie.of(again, task)
    stated = [(each.image_id, float(numbers.numbers[each.number])) for each in numbers.find(ids)]
    assert not numbers.with_blank and stated == [(1, 3), (2, 9), (1, 3), (2, 9)]


FRACTIONS = {
    "eighths, a token each": CoDiVocabulary.for_language_model([each / 8 for each in range(9)], maximum=1),
    "thousandths": CoDiVocabulary([1, 2, 4, 8, 100, 500], resolution=0.001, tolerance=0),
    "halves, rounded": CoDiVocabulary([1, 2, 4], resolution=0.25, tolerance=0.3, max_length=2),
}


@pytest.mark.parametrize("name", FRACTIONS)
def test_codes_of_fractions_are_those_of_the_vocabulary(name: str) -> None:
    """Whatever their resolution: what the model can say is legal, and found where it is said."""
    codes, tokens = FRACTIONS[name], tiny.build_processor().tokenizer
    task = OrdinalTask("level", "level", 0, 1, tolerance=0.2).with_vocabulary(codes)
    add_tokens(tokens, codes)
    numbers = NumberTrie.of(tokens, task)
    grid = [unit * codes.grid.resolution for unit in range(round(1 / codes.grid.resolution) + 1)]
    sayable = {float(codes.decode(codes.encode(number))) for number in grid}
    wanted = sorted(number for number in sayable if number <= 1)
    assert numbers.numbers.tolist() == pytest.approx(wanted) and len(wanted) > 4
    for value in wanted[:: max(1, len(wanted) // 20)]:
        ids = tokens(build_completion([value], task), add_special_tokens=False)["input_ids"]
        assert [float(numbers.numbers[each.number]) for each in numbers.find(ids)] == pytest.approx([value, value])
    if name == "thousandths":
        assert NumberTrie.of(tokens, task, 0.37).numbers.tolist() == [0, 0.37, 0.74]
        return
    with pytest.raises(ValueError, match="codes of at least 2 numbers of task 'level' that are multiples of 0.37, got"):
        NumberTrie.of(tokens, task, 0.37)


def test_vocabularies_with_too_many_numbers_are_refused() -> None:
    codes, tokens = CoDiVocabulary([1, 4096, 16384], resolution=2.0**-16, tolerance=0), tiny.build_processor().tokenizer
    task = OrdinalTask("level", "level", 0, 1, tolerance=0.2).with_vocabulary(codes)
    add_tokens(tokens, codes)
    with pytest.raises(ValueError, match="has 65537 multiples of its resolution 1.52587890625e-05; wanted at most 200"):
        NumberTrie.of(tokens, task)


@pytest.mark.parametrize("name", CODES)
def test_codes_are_numbers(name: str) -> None:
    """Those that are said exactly, with the probabilities of legal codes; against the mask that decoding has."""
    codes, tokens = CODES[name], tiny.build_processor().tokenizer
    most = int(codes.largest)  # so that every legal code is in the range
    task = OrdinalTask("n", "number", 0, most, tolerance=3, integer=True).with_vocabulary(codes)
    of_model = add_tokens(tokens, codes)
    numbers = NumberTrie.of(tokens, task)
    wanted = sorted({float(codes.decode(codes.encode(number))) for number in range(most + 1)})
    assert numbers.numbers.tolist() == wanted and (len(wanted) <= most) == (not codes.tagless)
    for written, path in zip(numbers.written, numbers.tokens, strict=True):
        assert tokens(f" {written}", add_special_tokens=False)["input_ids"] == list(path)
    mask = CodeMask(of_model, len(tokens) + 5)
    generator = torch.Generator().manual_seed(1)
    table = {prefix: torch.randn(len(tokens) + 5, generator=generator).double() for prefix in numbers.nodes}
    weights = []
    for path in numbers.tokens:
        total = 0.0
        for length in range(len(path)):
            if codes.tagless:
                shares = table[path[:length]][of_model.columns].log_softmax(0)
                total += float(shares[of_model.columns.index(path[length])])
            elif length:
                ids = torch.tensor([[1, *path[:length]]])
                total += float(mask.log_softmax(ids, table[path[:length]][None])[0, path[length]])
        weights.append(total)
    found = numbers.log_probs(torch.stack([table[prefix] for prefix in numbers.prefixes]))
    assert float(found.exp().sum()) == pytest.approx(1)
    assert found.tolist() == pytest.approx(weights)
    values = [numbers.numbers[0].item(), numbers.numbers[-1].item(), numbers.numbers[1].item()]
    text = build_completion(values, task)
    stated = numbers.find(tokens(text, add_special_tokens=False)["input_ids"])
    assert [(each.image_id, float(numbers.numbers[each.number]), each.place) for each in stated] == [
        (1, values[0], "reasoning"), (2, values[1], "reasoning"), (3, values[2], "reasoning"),
        (1, values[0], "list"), (3, values[2], "list"), (2, values[1], "list"),
    ]  # fmt: skip
