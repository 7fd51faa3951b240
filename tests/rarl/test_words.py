"""Tasks whose reasoning says a word of a verbal scale before each number."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer
from typer.testing import CliRunner

from gor_head.vlm import attach
from gor_head.vocabulary import CoDiVocabulary
from rarl import tiny
from rarl.answer import is_formatted, parse_answer
from rarl.cli import app
from rarl.credit import CreditedAnswer, Worth, find_statements
from rarl.datasets import load_source
from rarl.evaluation.codes import sorted_by_reasoning
from rarl.evaluation.decoding import NumberLogits, mean, median
from rarl.evaluation.heldout import heldout_prompts
from rarl.inputs import batch_inputs
from rarl.number_trie import NumberTrie
from rarl.prompt import build_completion, build_prompt, build_text_prompt, list_reasoning, number_contexts
from rarl.recipe.preferences import number_pair
from rarl.task import OrdinalTask, get_task, read_task, save_task
from tests.rarl.language_model import save_language_model

WORDS = ("few", "some", "many")
DIGITS = OrdinalTask("few_objects", "number of objects", 0, 9, 3, integer=True, words=WORDS)
"""All numbers of one digit, so that a distribution can be written down."""
REVIEWS = replace(get_task("sentiment"), words=("negative", "neutral", "positive"))


@cache
def loaded() -> tuple[Any, Any]:
    return tiny.load(dtype=torch.float32)


def prompts(num_images: int) -> list[dict[str, Any]]:
    images = load_source("builtin", "count", size=100, seed=0)
    datasets, _ = heldout_prompts(images, "test", [num_images], num_prompts=3, min_gap=0, seed=1)
    return list(datasets[num_images])


def test_words_are_equal_parts_of_the_range() -> None:
    values = [0, 2.99, 3, 5.9, 6.1, 9]
    assert [DIGITS.word(value) for value in values] == ["few", "few", "some", "some", "many", "many"]
    assert replace(REVIEWS, words=("low", "high")).word(5) == "high"
    with pytest.raises(ValueError, match="'count' has no words"):
        get_task("count").word(3)


@given(st.floats(-5, 15), st.floats(-5, 15))
def test_words_ascend_with_values(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert WORDS.index(DIGITS.word(low)) <= WORDS.index(DIGITS.word(high))


def test_ends_of_parts_are_in_the_higher_one() -> None:
    task = replace(get_task("aesthetics"), words=("a", "b", "c", "d", "e"))  # 2.8 is an end but for the last bit
    assert [task.word(value) for value in (1, 2.8, 4.6, 6.4, 8.2, 10)] == ["a", "b", "c", "d", "e", "e"]
    assert replace(get_task("brightness"), words=("low", "high")).word(1e308) == "high"
    assert replace(get_task("brightness"), words=("low", "high")).word(-1e308) == "low"


@pytest.mark.parametrize(
    "words", [("one",), ("one", "one"), ("a b", "c"), ("", "c"), ("1", "2"), ("<b>", "c"), (3, 4), "low"]
)
def test_words_that_could_not_be_told_apart_are_refused(words: Any) -> None:
    with pytest.raises(ValueError, match="words: wanted none, or at least 2 different ones"):
        replace(DIGITS, words=words)


def test_the_digest_of_a_task_is_of_all_that_it_says() -> None:
    others = [replace(REVIEWS, words=()), replace(REVIEWS, shots=(("so", 3.0),)), replace(REVIEWS, rule="joy"), DIGITS]
    assert len({task.digest for task in (REVIEWS, *others)}) == 5
    assert replace(REVIEWS).digest == REVIEWS.digest and REVIEWS.digest.startswith("sentiment@")


def test_words_stay_with_the_task(tmp_path: Path) -> None:
    save_task(REVIEWS, tmp_path)
    assert read_task(tmp_path) == REVIEWS and read_task(tmp_path).words == ("negative", "neutral", "positive")


def test_words_are_asked_for_and_said() -> None:
    assert list_reasoning([2, 7], DIGITS) == "Image 1: few 2, Image 2: many 7"
    text = build_completion([7, 2], DIGITS)
    assert is_formatted(text, 2) and parse_answer(text, 2).values() == [7, 2]
    assert "Reason in this form: Image 1: few/some/many value, ..." in build_prompt(DIGITS, 2)[1]["content"][-1]["text"]
    shown = build_text_prompt(replace(REVIEWS, shots=(("Fine.", 8.0),)), ["so"])
    assert "<think>Text 1: negative/neutral/positive value, ...</think>" in shown[0]["content"]
    assert shown[2]["content"].startswith("<think>Text 1: positive 8</think>")
    plain = get_task("count")
    assert "form:" not in build_prompt(plain, 2)[1]["content"][-1]["text"]


def test_a_number_of_the_reasoning_stands_behind_a_word_of_the_task() -> None:
    text = build_completion([7, 2], DIGITS)
    found = [(each.image, each.value, each.listed) for each in find_statements(text, 2, DIGITS.words)]
    assert found == [(1, 7, False), (2, 2, False), (2, 2, True), (1, 7, True)]
    assert [each.listed for each in find_statements(text, 2)] == [True, True]
    without = text.replace("many ", "").replace("few ", "lots ")
    assert [each.listed for each in find_statements(without, 2, DIGITS.words)] == [True, True]
    wrong = "<think>Image 1: few 7, Image 2: few 2</think><answer>[]</answer>"
    assert sorted_by_reasoning(wrong.replace("[]", '[{"image_id": 1, "value": 1}]'), 2, DIGITS) == build_completion(
        [7, 2], replace(DIGITS, integer=False)
    )


@pytest.mark.parametrize("vision", [True, False])
def test_tries_find_numbers_behind_words(vision: bool, tmp_path: Path) -> None:
    tokenizer = loaded()[1].tokenizer if vision else AutoTokenizer.from_pretrained(save_language_model(tmp_path))
    task = DIGITS if vision else REVIEWS
    trie = NumberTrie.of(tokenizer, task, 1.0)
    ids = tokenizer(build_completion([7, 2], task), add_special_tokens=False)["input_ids"]
    found = trie.find(ids)
    assert [(each.image_id, each.number, each.place) for each in found] == [
        (1, 7, "reasoning"),
        (2, 2, "reasoning"),
        (2, 2, "list"),
        (1, 7, "list"),
    ]
    texts = [tokenizer.decode(ids[each.start : each.end]) for each in found]
    assert [text.strip() for text in texts] == ["7", "2", "2", "7"]
    word = [*trie.openings[7], *trie.tokens[7]]
    assert any(ids[place : place + len(word)] == word for place in range(len(ids)))
    assert tokenizer.decode(word).strip() == f"{task.word(7)} 7"
    worth = Worth([7.0, 2.0], 3.0, 1.0, 1.0)
    credited = CreditedAnswer.of(ids, 2, worth, decode=tokenizer.decode, most=2, words=task.words)
    assert len(credited.statements) == 4 and credited.promises[-1] == pytest.approx(2.0)


@torch.no_grad()
def brute_force(row: dict[str, Any], before: list[int]) -> torch.Tensor:
    """The distribution over the ten numbers of the next image: a plain pass for each word, and the words' shares."""
    model, processor = loaded()
    words, numbers = [], []
    for word in WORDS:
        behind = []
        for number in range(10):
            answer = build_completion([*before, number, *[0] * (len(row["images"]) - len(before) - 1)], DIGITS)
            said = list_reasoning([*before, number], DIGITS).removesuffix(f" {DIGITS.word(number)} {number}")
            answer = answer.replace(f"{said} {DIGITS.word(number)} {number}", f"{said} {word} {number}")
            ids = processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
            model.model.rope_deltas = None
            inputs = batch_inputs(processor, [row], [answer])
            logits = model.eval()(**inputs).logits[0, -len(ids) - 1 : -1].double().log_softmax(dim=-1)
            written = [processor.tokenizer.decode(ids[:place]).rstrip() for place in range(len(ids))]
            # The blank may be the end of a token, or the beginning of the next one.
            first = max(place for place, text in enumerate(written) if text == f"<think>{said}")
            place = max(place for place, text in enumerate(written) if text == f"<think>{said} {word}")
            behind.append(float(logits[place, ids[place]]))
        words.append(float(logits[first, ids[first]]))
        numbers.append(torch.tensor(behind, dtype=torch.float64).softmax(dim=0))
    return torch.tensor(words, dtype=torch.float64).softmax(dim=0) @ torch.stack(numbers)


@torch.no_grad()
@pytest.mark.parametrize("before", [[], [2]])
def test_means_are_over_all_words(before: list[int]) -> None:
    model, processor = loaded()
    firsts = {processor.tokenizer(f": {word}", add_special_tokens=False)["input_ids"][1] for word in WORDS}
    assert len(firsts) == len(WORDS)  # so that the first token of a word decides it
    for row in prompts(2):
        said = "".join(f"Image {image}: {DIGITS.word(value)} {value}, " for image, value in enumerate(before, 1))
        begun = f"<think>{said}Image {len(before) + 1}: "
        width = len(processor.tokenizer(begun, add_special_tokens=False)["input_ids"])
        model.model.rope_deltas = None
        inputs = batch_inputs(processor, [row], [begun])
        seen = model.eval()(**inputs, use_cache=True)
        numbers = NumberLogits(
            model,
            NumberTrie.of(processor, DIGITS),
            mean,
            num_images=[2],
            cache=seen.past_key_values,
            mask=inputs["attention_mask"][:, :-width],
            end=0,
        )
        numbers(inputs["input_ids"], seen.logits[:, -1])
        exact = float(brute_force(row, before) @ torch.arange(10, dtype=torch.float64))
        assert numbers.values[0][len(before) + 1] == pytest.approx(exact, abs=2e-3)
        assert numbers.written[0][len(before) + 1] == round(exact)


def test_chosen_numbers_are_written_behind_their_words() -> None:
    _, processor = loaded()
    trie = NumberTrie.of(processor, DIGITS)
    assert trie.word_trie is not None and len(set(trie.openings)) == 3
    scores = torch.zeros(1, len(trie.goes_on))
    numbers = NumberLogits(None, trie, median, num_images=[2], cache=None, mask=torch.ones(1, 1), end=0)
    numbers._distribution = lambda each, ids, scores, rows, word=(): torch.full(  # type: ignore[method-assign]
        (1, len(each.tokens)), -np.log(len(each.tokens))
    )
    ids = [0, *processor.tokenizer("<think>Image 1: ", add_special_tokens=False)["input_ids"]]
    for _ in range(len(trie.openings[4]) + 1):
        ids.append(int(numbers(torch.tensor([ids]), scores)[0].argmax()))
    assert processor.tokenizer.decode(ids[1:]) == "<think>Image 1: some 4"
    assert numbers.values == [{1: 4.0}]
    listed = processor.tokenizer('[{"image_id": 1, "value":', add_special_tokens=False)["input_ids"]
    fresh = NumberLogits(None, trie, median, num_images=[2], cache=None, mask=torch.ones(1, 1), end=0)
    assert fresh._begun(0, listed) == (1 if trie.with_blank else None) and not fresh._worded(0)


def test_a_word_may_begin_with_another_one() -> None:
    task = replace(DIGITS, words=("no", "some", "notable"))
    tokenizer = loaded()[1].tokenizer
    assert find_statements(build_completion([7, 0], task), 2, task.words)[0].value == 7
    ids = tokenizer(build_completion([7, 0], task), add_special_tokens=False)["input_ids"]
    assert [each.number for each in NumberTrie.of(tokenizer, task).find(ids)] == [7, 0, 0, 7]


@pytest.mark.parametrize("words", [("schlecht", "mittel", "schön"), ("差", "好")])
@pytest.mark.parametrize("vision", [True, False])
def test_words_that_are_no_ascii(words: tuple[str, ...], vision: bool, tmp_path: Path) -> None:
    tokenizer = loaded()[1].tokenizer if vision else AutoTokenizer.from_pretrained(save_language_model(tmp_path))
    task = replace(DIGITS if vision else REVIEWS, words=words)
    trie = NumberTrie.of(tokenizer, task, 1.0)
    ids = tokenizer(build_completion([7, 2], task), add_special_tokens=False)["input_ids"]
    assert [each.number for each in trie.find(ids)] == [7, 2, 2, 7]


@pytest.mark.parametrize("codes", [CoDiVocabulary([1, 2, 4, 8]), CoDiVocabulary.for_language_model(range(10))])
def test_words_stand_before_value_tokens(codes: CoDiVocabulary) -> None:
    task = DIGITS.with_vocabulary(codes)
    model, processor = tiny.load(dtype=torch.float32)
    attach(model, processor, codes, number_contexts(task))
    trie = NumberTrie.of(processor, task)
    ids = processor.tokenizer(build_completion([7, 2], task), add_special_tokens=False)["input_ids"]
    found = [float(trie.numbers[each.number]) for each in trie.find(ids)]
    assert found == [7, 2, 2, 7] and trie.word_trie is not None and len(trie.word_trie.tokens) == 3


def test_pairs_of_numbers_differ_in_the_number_alone() -> None:
    task = DIGITS.with_vocabulary(CoDiVocabulary([1, 2, 4, 8]))
    chosen, rejected = number_pair([build_completion([8], task)], [2.0], task, 0.5) or (None, None)
    assert chosen is not None and rejected is not None
    assert chosen.text == build_completion([2], task)
    assert rejected.text == chosen.text.replace(task.format_value(2), task.format_value(8), 1)


def test_numbers_that_have_one_word_only() -> None:
    _, processor = loaded()
    whole = NumberTrie.of(processor, DIGITS)
    trie = NumberTrie(
        [0.0, 1.0], ["0", "1"], whole.tokens[:2], whole._texts, with_blank=whole.with_blank, openings=whole.openings[:2]
    )
    numbers = NumberLogits(None, trie, median, num_images=[1], cache=None, mask=torch.ones(1, 1), end=0)
    assert trie.word_trie is not None
    shares = numbers._distribution(trie.word_trie, torch.zeros(1, 2), torch.zeros(1, len(trie.goes_on)), [0])
    assert shares.tolist() == [[0.0]]  # the logarithm of all


def test_evaluation_asks_for_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_language_model(tmp_path / "model")
    lines = ["text,value", *(f"text {number},{number % 11}" for number in range(80))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    asked: list[Any] = []

    def spy(model: Any, processor: Any, datasets: Any, *, task: OrdinalTask, **_: Any) -> Any:
        asked.append((task.words, datasets[1][0]["prompt"]))
        raise ValueError("enough")

    monkeypatch.setattr("rarl.evaluation.protocol.evaluate", spy)
    flags = ["--model", str(model), "--source", "table", "--table", str(tmp_path / "t.csv"), "--num-images", "1"]
    flags += ["--num-prompts", "2", "--max-new-tokens", "8", "--output", str(tmp_path / "report.json")]
    flags += ["--words", "low", "--words", "high", "--shots", "1"]
    assert "enough" in CliRunner().invoke(app, ["evaluate", *flags]).output
    [(words, prompt)] = asked
    assert words == ("low", "high") and "Text 1: low/high value" in prompt[0]["content"] and len(prompt) == 4
