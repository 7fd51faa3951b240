"""The answer parser: what it accepts, what it refuses, and that no text makes it raise or crawl."""

import ast
import json
import math
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rarl.answer
from rarl.answer import REASONS, Item, answer_span, completion_text, is_formatted, parse_answer
from rarl.prompt import build_completion
from rarl.task import get_task
from tests.paths import DATA

COMPLETIONS = DATA / "completions"

TWO = '[{"image_id": 2, "value": 4}, {"image_id": 1, "value": 30}]'


def wrap(block: str) -> str:
    return f"<think>so</think><answer>{block}</answer>"


def one(image_id: str, value: str) -> str:
    return wrap(f'[{{"image_id": {image_id}, "value": {value}}}]')


def test_reads_items_in_listed_order() -> None:
    answer = parse_answer(wrap(TWO), 2)
    assert answer.well_formed and answer.problem is None and answer.readable
    assert answer.items == (Item(2, 4.0), Item(1, 30.0))
    assert answer.order == (2, 1)
    assert answer.values() == [30.0, 4.0]
    assert all(type(item.image_id) is int and type(item.value) is float for item in answer.items)


@pytest.mark.parametrize(
    "block",
    [
        TWO.replace('"', "'"),
        TWO.replace("]", ",]"),
        f"\n  {TWO}\n",
        f"```json\n{TWO}\n```",
        f"\n```\n{TWO}```\n",
        f"```python\n{TWO.replace(chr(34), chr(39))}\n```",
        '[{"image_id": "2", "value": "4"}, {"image_id": 1.0, "value": 3e1}]',
        '[{"image_id": 2, "value": " 4.0 ", "why": {"x": [null]}}, {"image_id": 1, "value": "+30."}]',
        "[{'image_id': 2, 'value': 4, 'why': None}, {'image_id': 1, 'value': +30}]",
    ],
)
def test_accepts(block: str) -> None:
    answer = parse_answer(wrap(block), 2)
    assert answer.well_formed, answer.problem
    assert answer.items == ((2, 4.0), (1, 30.0))


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("-3.5", -3.5),
        ("0", 0.0),
        ("1e-400", 0.0),
        ("1e308", 1e308),
        ("9007199254740993", 9007199254740992.0),
        ('"-.5"', -0.5),
        ('"1E2"', 100.0),
        ("1" + "0" * 300, 1e300),
    ],
)
def test_valid_values(value: str, number: float) -> None:
    assert parse_answer(one("1", value), 1).values() == [number]


@pytest.mark.parametrize(
    "value",
    [
        "true",
        "null",
        "NaN",
        "Infinity",
        "-Infinity",
        "1e400",
        "9e999",
        "9" * 5000,
        "-" + "9" * 5000,
        "[17]",
        "{}",
        '""',
        '"NaN"',
        '"inf"',
        '"1e400"',
        '"1_000"',
        '"17 years"',
        '"1,000"',
        '"0x11"',
        '"１７"',
        '"١٧"',
        '"1" "7"]',
        '"--1"',
        '"1e"',
        '"."',
    ],
)
def test_invalid_values(value: str) -> None:
    answer = parse_answer(one("1", value), 1)
    assert not answer.well_formed and not answer.readable and answer.problem
    assert answer.values() == [None] and answer.order is None


@pytest.mark.parametrize("value", ["True", "None", "1e400", "9" * 400, "3+4j", "b'1'", "(1,)", "{1}", "'１'"])
def test_invalid_literal_values(value: str) -> None:
    answer = parse_answer(wrap(f"[{{'image_id': 2, 'value': 4}}, {{'image_id': 1, 'value': {value}}}]"), 2)
    assert not answer.well_formed and answer.items == ((2, 4.0),)


@pytest.mark.parametrize("value", ["1_000", "0x11", "0b1", "017", "１７", "int('4')", "1 - 2", "f'4'", "x", "9" * 5000])
def test_source_code_is_not_a_list(value: str) -> None:
    answer = parse_answer(wrap(f"[{{'image_id': 1, 'value': {value}}}]"), 1)
    assert not answer.readable and answer.problem


@pytest.mark.parametrize(
    "image_id", ["0", "3", "-1", "1.5", "true", "null", '"one"', "[1]", "1e400", "NaN", "9" * 5000]
)
def test_invalid_ids(image_id: str) -> None:
    answer = parse_answer(one(image_id, "17"), 2)
    assert not answer.well_formed and not answer.readable
    assert answer.problem is not None and answer.problem.startswith("item 1: wanted an image_id in 1..2, got ")


def test_invalid_items_leave_the_valid_ones() -> None:
    block = '[3, {"value": 1}, {"image_id": 2, "value": 4}, "x", {"image_id": 1, "value": NaN}, null]'
    answer = parse_answer(wrap(block), 2)
    assert answer.items == ((2, 4.0),) and answer.readable and not answer.well_formed
    assert answer.problem == "item 1: wanted a dictionary with image_id and value, got 3.0"


def test_first_valid_item_of_a_repeated_id_counts() -> None:
    block = '[{"image_id": 1, "value": null}, {"image_id": 1, "value": 5}, {"image_id": 1, "value": 6}]'
    assert parse_answer(wrap(block), 1).values() == [5.0]
    repeated = parse_answer(wrap('[{"image_id": 1, "value": 5}, {"image_id": "1", "value": 6}]'), 2)
    assert repeated.problem == "item 2: image_id 1 is repeated"
    assert repeated.items == ((1, 5.0),)


def test_length_does_not_matter_for_well_formed() -> None:
    answer = parse_answer(one("3", "17"), 4)
    assert answer.well_formed and answer.order is None
    assert answer.values() == [None, None, 17.0, None]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no complete <answer>...</answer>"),
        (TWO, "no complete <answer>...</answer>"),
        (f"<answer>{TWO}", "no complete <answer>...</answer>"),
        (f"{TWO}</answer>", "no complete <answer>...</answer>"),
        (f"</answer>{TWO}<answer>", "no complete <answer>...</answer>"),
        (wrap(""), "the answer is neither JSON nor a Python literal"),
        (wrap("[]"), "the list is empty"),
        (wrap("17"), "the answer is not a list but float"),
        (wrap('{"image_id": 1, "value": 2}'), "the answer is not a list but dict"),
        (wrap('{"image_id": 1, "value": 2}, {"image_id": 2, "value": 3}'), "the answer is not a list but tuple"),
        (wrap(f"Here: {TWO}"), "the answer is neither JSON nor a Python literal"),
        (wrap(TWO[:-1]), "the answer is neither JSON nor a Python literal"),
        (wrap(f"```json\n{TWO}"), "the answer is neither JSON nor a Python literal"),
        (wrap("```"), "the answer is neither JSON nor a Python literal"),
        (wrap("{[]: 1}"), "the answer is neither JSON nor a Python literal"),
        (wrap("__import__('os').abort()"), "the answer is neither JSON nor a Python literal"),
    ],
)
def test_unreadable(text: str, problem: str) -> None:
    answer = parse_answer(text, 2)
    assert (answer.well_formed, answer.readable, answer.problem) == (False, False, problem)
    assert answer.values() == [None, None]


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("<answer>a</answer>", "<answer>a</answer>"),
        ("<answer>a</answer><answer>b</answer>", "<answer>b</answer>"),
        ("<answer>a</answer><answer>b", "<answer>a</answer>"),
        ("<answer><answer>b</answer>", "<answer>b</answer>"),
        ("<answer>a</answer> c</answer>", "<answer>a</answer>"),
        ("x\n<answer>\na\n</answer><|im_end|>", "<answer>\na\n</answer>"),
    ],
)
def test_answer_span_is_the_last_complete_block(text: str, block: str) -> None:
    span = answer_span(text)
    assert span is not None and text[slice(*span)] == block


def _spans_by_scan(text: str) -> tuple[int, int] | None:
    """The last complete block by walking over all tags in order: an opening and the next closing tag."""
    opened, span = None, None
    for tag in re.finditer("</?answer>", text):
        if tag.group() == "<answer>":
            opened = tag.start()
        elif opened is not None:
            span, opened = (opened, tag.end()), None
    return span


@given(st.lists(st.sampled_from(["<answer>", "</answer>", "a", "<", ">", "/"]), max_size=12).map("".join))
def test_answer_span_equals_a_scan_of_all_tags(text: str) -> None:
    assert answer_span(text) == _spans_by_scan(text)


@pytest.mark.parametrize(
    "text",
    [
        wrap(TWO),
        f"  <think>\nso\n</think>\n\n<answer>\n{TWO}\n</answer>\n",
        f"{wrap(TWO)}<|im_end|>",
        f"{wrap(TWO)}\n<|endoftext|>\n",
        wrap(f"```json\n{TWO}\n```"),
        f"<think></think><answer>{TWO}</answer>",
        one("1", "17"),
    ],
)
def test_formatted(text: str) -> None:
    assert is_formatted(text, 2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"<answer>{TWO}</answer>",
        f"so</think><answer>{TWO}</answer>",
        f"<think>so<answer>{TWO}</answer>",
        f"<think>so<answer>{TWO}</answer></think>",
        f"<answer>{TWO}</answer><think>so</think>",
        f"Well. {wrap(TWO)}",
        f"{wrap(TWO)} Done.",
        f"<think>so</think> thus <answer>{TWO}</answer>",
        f"{wrap(TWO)}{wrap(TWO)}",
        f"<think>a</think><think>b</think><answer>{TWO}</answer>",
        f"<think>maybe <answer>[]</answer></think><answer>{TWO}</answer>",
        f"<Think>so</Think><Answer>{TWO}</Answer>",
        wrap("[]"),
        wrap("17"),
        one("3", "17"),
        one("1", "NaN"),
        wrap('[{"image_id": 1, "value": 5}, {"image_id": 1, "value": 5}]'),
    ],
)
def test_not_formatted(text: str) -> None:
    assert not is_formatted(text, 2)


def test_completion_text() -> None:
    assert completion_text("a") == "a"
    assert completion_text([{"role": "assistant", "content": "a"}]) == "a"
    blocks = [{"type": "text", "text": "a"}, {"type": "image", "text": None}, {"type": "text", "text": "b"}]
    assert completion_text([{"role": "assistant", "content": blocks}]) == "ab"
    assert completion_text([{"role": "assistant", "content": None}]) == ""
    for wrong in (None, 3, {"role": "assistant", "content": "a"}, ["a"], [{"content": 3}], [{"content": ["a"]}]):
        with pytest.raises(TypeError, match="got "):
            completion_text(wrong)


def test_refuses_no_images() -> None:
    with pytest.raises(ValueError, match="num_images=0"):
        parse_answer(wrap(TWO), 0)


BIG = 1_000_000
HOSTILE = {
    "plain": "a" * BIG,
    "openings": "<answer>" * (BIG // 8),
    "closings": "</answer>" * (BIG // 9),
    "nested tags": "<answer>" * 50_000 + "</answer>" * 50_000,
    "half tags": "<answer" * (BIG // 7),
    "thinks": "<think>" * 70_000 + "</think>" * 70_000 + wrap(TWO),
    "end tokens": wrap(TWO) + "<|im_end|>" * (BIG // 10),
    "blanks": "<think>" + " " * BIG + "</think>" + "\n" * BIG + f"<answer>{TWO}</answer>" + " " * BIG,
    "brackets": wrap("[" * 100_000),
    "closed brackets": wrap("[" * 50_000 + "]" * 50_000),
    "braces": wrap("{" * 100_000),
    "nested dictionaries": wrap('{"a":' * 100_000),
    "nested literal": wrap("[{'a':" * 90 + "1" + "}]" * 90),
    "parentheses": wrap("(" * 100_000),
    "minus": wrap("-" * 100_000 + "1"),
    "minus below the limit of a literal": wrap("-" * 90_000 + "1"),
    "not": wrap("not " * 20_000 + "1"),
    "sum": wrap("[1" + "+1" * 45_000 + "]"),
    "digits": wrap("9" * BIG),
    "digits in an item": one("1", "9" * BIG),
    "fraction": one("1", "0." + "9" * BIG),
    "exponent": one("1", "1e" + "9" * BIG),
    "digits in a string": one("1", '"' + "1" * BIG + 'x"'),
    "fraction in a string": one("1", '"' + "1" * (BIG // 2) + "." + "1" * (BIG // 2) + 'x"'),
    "underscores": wrap("[" + "1_" * (BIG // 2) + "]"),
    "long string": one("1", '"' + "a" * BIG + '"'),
    "open string": wrap("['" + "a" * 90_000),
    "strings": wrap("['a'," * 20_000 + "]"),
    "odd items": wrap("[" + "1," * (BIG // 2) + "1]"),
    "empty lists": wrap("[" + "[]," * (BIG // 3) + "[]]"),
    "repeated items": wrap("[" + '{"image_id": 1, "value": 2},' * 35_000 + "1]"),
    "literal items": wrap("[" + "{'image_id': 1, 'value': 2}," * 3_500 + "]"),
    "long literal": wrap("[" + "{'image_id': 1, 'value': 2}," * 35_000 + "]"),
    "fences": wrap("```" * (BIG // 3)),
    "null bytes": wrap("\0" * BIG),
    "null byte in a literal": wrap("['\0']"),
    "lone surrogate": wrap("['\ud800']") + "\udfff",
    "lone surrogate in an item": one("1", '"\ud800"'),
    "escaped surrogate": one("1", '"\\ud800"'),
    "bad escape": wrap("['\\x']"),
    "odd escape": wrap("['\\d', {'image_id': 1, 'value': 2}]"),
    "bytes order mark": wrap("\ufeff" + TWO),
    "f-strings": wrap("f'{" * 10_000),
    "lambda": wrap("lambda:" * 10_000),
    "attributes": wrap("a" + ".a" * 40_000),
    "indent": wrap("[\n" + "\n".join(" " * depth + "1," for depth in range(400)) + "]"),
    "form feeds": wrap("\f[\f1\f]"),
}


class CountedText(str):
    """A text that adds up how many of its characters are read, by itself and by what is cut from it."""

    characters = 0

    def __getitem__(self, place: Any) -> "CountedText":
        return self._cut(super().__getitem__(place))

    def __contains__(self, part: object) -> bool:
        return self.find(str(part)) >= 0

    def _cut(self, part: str) -> "CountedText":
        CountedText.characters += len(part)
        return CountedText(part)

    def _search(self, name: str, part: str, start: int, end: int | None) -> int:
        end = len(self) if end is None else end
        found: int = getattr(str, name)(self, part, start, end)
        if found < 0 or name == "count":
            CountedText.characters += max(end - start, 0)
        else:
            CountedText.characters += len(part) + (found - start if name == "find" else end - found)
        return found

    def find(self, part: str, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        return self._search("find", part, start, end)

    def rfind(self, part: str, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        return self._search("rfind", part, start, end)

    def count(self, part: str, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        return self._search("count", part, start, end)

    def _whole(self, name: str, *arguments: Any) -> Any:
        CountedText.characters += len(self)
        result = getattr(str, name)(self, *arguments)
        return CountedText(result) if isinstance(result, str) else type(result)(map(CountedText, result))

    def strip(self, *arguments: Any) -> Any:
        return self._whole("strip", *arguments)

    def lstrip(self, *arguments: Any) -> Any:
        return self._whole("lstrip", *arguments)

    def rstrip(self, *arguments: Any) -> Any:
        return self._whole("rstrip", *arguments)

    def removesuffix(self, *arguments: Any) -> Any:
        return self._whole("removesuffix", *arguments)

    def partition(self, *arguments: Any) -> Any:
        return self._whole("partition", *arguments)

    def split(self, *arguments: Any) -> Any:
        return self._whole("split", *arguments)

    def replace(self, *arguments: Any) -> Any:
        return self._whole("replace", *arguments)


class Counted:
    """A reader in C, or an object that has one, which adds up the characters that it is given."""

    def __init__(self, reader: Any) -> None:
        self.reader = reader

    def __getattr__(self, name: str) -> Any:
        return Counted(getattr(self.reader, name))

    def __call__(self, text: str, *arguments: Any) -> Any:
        CountedText.characters += len(text)
        return self.reader(text, *arguments)


@dataclass(frozen=True)
class Work:
    calls: int
    characters: int


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Work]:
    """What it takes to read a text twice, as answer and for its format: calls, of C functions too, and characters.

    What C reads in one call counts once. Were that quadratic, as regular expressions can be, a million characters
    would have no end.
    """
    for name in ("_JSON", "_CODE_NUMBER", "read_number"):
        monkeypatch.setattr(rarl.answer, name, Counted(getattr(rarl.answer, name)))
    monkeypatch.setattr(ast, "literal_eval", Counted(ast.literal_eval))

    def measure(text: str) -> Work:
        calls = 0

        def count(frame: Any, event: str, argument: Any) -> None:
            nonlocal calls
            calls += event in ("call", "c_call") and "CountedText" not in frame.f_code.co_qualname

        rarl.answer._parse_block_cached.cache_clear()
        CountedText.characters = 0
        before = sys.getprofile()
        sys.setprofile(count)
        try:
            parse_answer(CountedText(text), 2)
            is_formatted(CountedText(text), 2)
        finally:
            sys.setprofile(before)
        return Work(calls, CountedText.characters)

    return measure


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_neither_raises_nor_crawls(name: str, work: Callable[[str], Work]) -> None:
    text = HOSTILE[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = parse_answer(text, 2)
        formatted = is_formatted(text, 2)
        done = work(text)
    assert done.calls < 1000 + 10 * len(text) and done.characters < 1000 + 40 * len(text), done
    assert len(answer.items) <= 2 and all(math.isfinite(item.value) for item in answer.items)
    assert answer.well_formed == (answer.problem is None)
    assert answer.problem is None or len(answer.problem) < 300
    assert answer.well_formed or not formatted


def test_hostile_text_keeps_what_is_valid() -> None:
    assert parse_answer(HOSTILE["thinks"], 2).well_formed
    assert parse_answer(HOSTILE["blanks"], 2).well_formed and is_formatted(HOSTILE["blanks"], 2)
    assert parse_answer(HOSTILE["fraction"], 2).values() == [1.0, None]
    assert parse_answer(HOSTILE["repeated items"], 2).items == ((1, 2.0),)
    assert parse_answer(HOSTILE["literal items"], 2).items == ((1, 2.0),)
    assert parse_answer(HOSTILE["odd escape"], 2).items == ((1, 2.0),)


@pytest.mark.parametrize(
    "make",
    [
        lambda size: "<answer>" * (size // 8),
        lambda size: one("1", '"' + "1" * size + 'x"'),
        lambda size: one("1", "9" * size),
        lambda size: wrap("[" + '{"image_id": 1, "value": 2},' * (size // 28) + "1]"),
        lambda size: wrap("[" + "1_" * (size // 2)),
    ],
)
def test_work_is_linear(make: Callable[[int], str], work: Callable[[str], Work]) -> None:
    small, large = work(make(5_000)), work(make(80_000))
    # Sixteen times the text: 16 times the work if linear, 256 if quadratic.
    assert large.calls <= 17 * small.calls and large.characters <= 17 * small.characters, (small, large)


FRAGMENTS = [
    *("<think>", "</think>", "<answer>", "</answer>", "<|im_end|>", "```json", "```", "[", "]", "{", "}", ",", ":"),
    *('"image_id"', "'image_id'", '"value"', "'value'", "1", "2", "3", "-", "17", "1e400", "NaN", "Infinity", "true"),
    *("True", "None", "null", '"17"', "'17'", "\\", "\n", " ", "\0", "\ud800", "１", "_", "j", "#", "(", ")", "+", "'"),
]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("So be it.", "no_answer"),
        ("<think>1</think>", "no_answer"),
        ("</answer> first, then <answer>[", "cut_off"),
        ("<think>1</think><answer>[1, 2", "cut_off"),
        ("<answer>about thirty</answer>", "no_list"),
        ("<answer>{}</answer>", "no_list"),
        ("<answer>[]</answer>", "empty_list"),
        ("<answer>[3]</answer>", "invalid_item"),
        (wrap('[{"image_id": 3, "value": 1}, {"image_id": 1, "value": 1}]'), "invalid_item"),
        (wrap('[{"image_id": 1, "value": 1}, {"image_id": 1, "value": 1}]'), "repeated_image"),
        (wrap('[{"image_id": 1, "value": 1}]'), None),
    ],
)
def test_reasons(text: str, reason: str | None) -> None:
    assert parse_answer(text, 2).reason == reason


@settings(max_examples=400)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join), st.integers(1, 4))
def test_fragments_never_raise(text: str, num_images: int) -> None:
    for candidate in (text, wrap(text), wrap(f"[{text}]"), one("1", text)):
        answer = parse_answer(candidate, num_images)
        assert answer.well_formed == (answer.problem is None) == (answer.reason is None)
        assert answer.reason in (None, *REASONS)
        assert is_formatted(candidate, num_images) <= answer.well_formed <= answer.readable
        ids = [item.image_id for item in answer.items]
        assert len(set(ids)) == len(ids) and all(1 <= image_id <= num_images for image_id in ids)
        assert all(math.isfinite(item.value) for item in answer.items)


@settings(max_examples=300)
@given(st.text(max_size=200), st.integers(1, 4))
def test_any_text_never_raises(text: str, num_images: int) -> None:
    for candidate in (text, wrap(text)):
        assert is_formatted(candidate, num_images) <= parse_answer(candidate, num_images).well_formed


@settings(max_examples=300)
@given(
    st.lists(st.integers(0, 116), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from(["", *FRAGMENTS])), max_size=4),
)
def test_mutated_completions_never_raise(values: list[int], edits: list[tuple[int, str]]) -> None:
    text = build_completion(values, get_task("age"))
    assert is_formatted(text, len(values)) and parse_answer(text, len(values)).values() == values
    for place, fragment in edits:
        place %= len(text) + 1
        text = text[:place] + fragment + text[place + 1 :]
    answer = parse_answer(text, len(values))
    assert is_formatted(text, len(values)) <= answer.well_formed
    assert len(answer.items) <= len(values)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"image_id": st.integers(-1, 5) | st.text(max_size=2), "value": st.floats() | st.booleans() | st.none()}
        ),
        max_size=6,
    )
)
def test_json_and_literal_agree(items: list[dict[str, Any]]) -> None:
    """The same list in both notations reads the same, where both can write it."""
    finite = [item for item in items if not isinstance(item["value"], float) or math.isfinite(item["value"])]
    if re.search(r"[0-9]_[0-9]|\b0[xob]", repr(finite)):
        return
    assert parse_answer(wrap(json.dumps(finite)), 4).items == parse_answer(wrap(repr(finite)), 4).items


def _lines(name: str) -> list[dict[str, Any]]:
    path = COMPLETIONS / name
    if not path.exists():
        pytest.skip(f"{name} is not there")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_real_grpo_rollouts() -> None:
    """Multiple-choice rollouts: their tags are real, their answers are letters, so none may be read as a list."""
    rows = _lines("vlm_grpo_rollouts_dev.jsonl")
    assert len(rows) > 1000
    for row in rows:
        text = row["completion"]
        span = answer_span(text)
        assert span == _spans_by_scan(text)
        if row["shape"] in ("wellformed", "unbalanced_think", "answer_without_think"):
            assert span is not None
        if row["shape"] == "no_answer_tag":
            assert span is None
        if row["shape"] == "unclosed_or_unopened_answer":
            assert span is None or text.count("<answer>") != text.count("</answer>")
        assert not parse_answer(text, 1).readable and not is_formatted(text, 1)


def test_real_grpo_rollouts_around_a_ranking() -> None:
    """The same reasoning and tags around a ranking: well-formed ones pass, broken ones do not."""
    truth = build_completion([30, 4], get_task("age")).partition("</think>")[2]
    block = truth.removeprefix("<answer>").removesuffix("</answer>")
    seen = dict.fromkeys(("wellformed", "unbalanced_think", "no_answer_tag", "multiple_answer"), 0)
    for row in _lines("vlm_grpo_rollouts_dev.jsonl"):
        text = row["completion"]
        span = answer_span(text)
        if span is not None:
            text = f"{text[: span[0]]}<answer>{block}</answer>{text[span[1] :]}"
            assert parse_answer(text, 2).order == (2, 1)
        if row["shape"] in seen:
            seen[row["shape"]] += 1
            assert is_formatted(text, 2) == (row["shape"] == "wellformed"), text
    assert all(seen.values())


def test_real_counting_outputs() -> None:
    """Answers of a bare number, some broken: the number is inside the span, and no list is read."""
    rows = _lines("r1v_counting_results_superclevr_200_qwen2vl_2b_instruct_legacy.jsonl")
    found = 0
    for row in rows:
        text = row["model_output"]
        span = answer_span(text)
        assert span == _spans_by_scan(text)
        assert not parse_answer(text, 1).readable
        if span is not None and row["extracted_answer"] is not None:
            found += str(row["extracted_answer"]) in text[slice(*span)]
    assert found > 100


def test_numbers_in_value_tokens() -> None:
    code = "<gor><+50><+5><+3></gor>"
    items = f'[{{"image_id": 2, "value": <gor></gor>}}, {{"image_id": 1, "value": {code}}}]'
    text = f"<think>so</think><answer>{items}</answer>"
    answer = parse_answer(text, num_images=2)
    assert answer.well_formed and answer.values() == [58.0, 0.0] and is_formatted(text, 2)
    assert parse_answer(text.replace(code, f'"{code}"'), num_images=2).values() == [58.0, 0.0]
    broken = parse_answer(text.replace("<+3></gor>", "<+3>"), num_images=2)
    assert not broken.well_formed and broken.problem == "the answer is neither JSON nor a Python literal"
