"""The five rewards: cases by hand, scipy and brute force as oracles, and properties."""

import doctest
import inspect
import itertools
import json
import math
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import kendalltau

import rarl.answer
from rarl.prompt import build_completion
from rarl.rewards import (
    REWARDS,
    accuracy_reward,
    consistency_reward,
    format_reward,
    get_reward,
    graded_length_reward,
    length_reward,
    regression_reward,
    weights,
)
from rarl.task import OrdinalTask, get_task

LOWEST = {"regression": 0.0, "length": 0.0, "consistency": -1.0, "accuracy": -1.0, "format": 0.0}


def write(items: Sequence[tuple[int, float]]) -> str:
    listed = [{"image_id": image_id, "value": value} for image_id, value in items]
    return f"<think>so</think><answer>{json.dumps(listed)}</answer>"


def reward(name: str, text: Any, values: Sequence[float], task: Any = "age") -> float | None:
    [number] = get_reward(name)([text], values=[values], task=[task])
    return number


def all_five(text: str, values: Sequence[float]) -> dict[str, float | None]:
    return {name: reward(name, text, values) for name in REWARDS}


# By hand


def test_perfect_answer() -> None:
    assert all_five(build_completion([30, 4, 17], get_task("age")), [30, 4, 17]) == dict.fromkeys(REWARDS, 1.0)


def test_one_image() -> None:
    expected = {"regression": 1.0, "length": None, "consistency": None, "accuracy": None, "format": 1.0}
    assert all_five(build_completion([30], get_task("age")), [30]) == expected
    assert all_five("nothing", [30]) == expected | {"regression": 0.0, "format": 0.0}


@pytest.mark.parametrize("text", ["", "nothing", "<answer>[]</answer>", write([(9, 1)]), write([(1, math.nan)])])
def test_unreadable_scores_the_lower_bounds(text: str) -> None:
    assert all_five(text, [30, 4]) == LOWEST
    assert all_five(text, [4, 4]) == LOWEST | {"accuracy": None}


def test_single_valid_item_of_several_images() -> None:
    expected = {"regression": 0.25, "length": 0.0, "consistency": -1.0, "accuracy": -1.0, "format": 1.0}
    assert all_five(write([(2, 4)]), [30, 4, 17, 60]) == expected
    assert reward("graded_length", write([(2, 4)]), [30, 4, 17, 60]) == 0.25


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [(30, 1.0), (35, 0.75), (25, 0.75), (39, 0.19), (40, 0.0), (20, 0.0), (40.001, 0.0), (1e308, 0.0), (-1e308, 0.0)],
)
def test_regression_by_hand(predicted: float, expected: float) -> None:
    assert reward("regression", write([(1, predicted)]), [30]) == pytest.approx(expected, abs=1e-12)


def test_regression_counts_missing_images_as_zero() -> None:
    assert reward("regression", write([(3, 17), (1, 35)]), [30, 4, 17]) == pytest.approx(1.75 / 3)
    assert reward("regression", write([(1, 35), (1, 30)]), [30]) == 0.75, "of a repeated image the first counts"


def test_regression_uses_each_row_s_tolerance() -> None:
    text = write([(1, 5)])
    strict = OrdinalTask("strict", "something", 0, 10, tolerance=0.5)
    numbers = regression_reward([text] * 4, values=[[6]] * 4, task=["age", "count", "aesthetics", strict])
    assert numbers == pytest.approx([0.99, 8 / 9, 5 / 9, 0.0])
    assert regression_reward([text] * 2, values=[[6]] * 2, task="count") == pytest.approx([8 / 9] * 2)
    assert regression_reward([text] * 2, values=[[6]] * 2, task=strict) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("items", "strict", "graded"),
    [
        ([(1, 1), (2, 2), (3, 3)], 1.0, 1.0),
        ([(1, 1), (2, 2)], 0.0, 2 / 3),
        ([(1, 1), (1, 2), (1, 3)], 0.0, 1 / 3),
        ([(1, 1), (2, 2), (9, 3)], 0.0, 2 / 3),
        ([(1, 1), (2, 2), (3, 3), (3, 4), (9, 5)], 1.0, 1.0),
    ],
)
def test_length_by_hand(items: list[tuple[int, float]], strict: float, graded: float) -> None:
    assert length_reward([write(items)], values=[[1, 2, 3]]) == [strict]
    assert graded_length_reward([write(items)], values=[[1, 2, 3]]) == [graded]
    assert length_reward([write(items)], values=[[1]]) == graded_length_reward([write(items)], values=[[1]]) == [None]


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ([1, 2, 3], 1.0),
        ([3, 2, 1], -1.0),
        ([1, 3, 2], 1 / 3),
        ([5, 5, 5], 0.0),
        ([1, 1, 2], 2 / math.sqrt(6)),
        ([2, 1, 1], -2 / math.sqrt(6)),
        ([5, 7], 1.0),
        ([-1e308, 0.0, 1e308], 1.0),
    ],
)
def test_consistency_by_hand(predicted: list[float], expected: float) -> None:
    text = write([(place, value) for place, value in enumerate(predicted, start=1)])
    assert consistency_reward([text], values=[[9, 9, 9]]) == [pytest.approx(expected, abs=1e-15)]


@pytest.mark.parametrize(
    ("order", "values", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], 1.0),
        ([3, 2, 1], [1, 2, 3], -1.0),
        ([2, 1, 3], [1, 2, 3], 1 / 3),
        ([1, 2, 3], [5, 5, 6], 1.0),
        ([2, 1, 3], [5, 5, 6], 1.0),
        ([3, 1, 2], [5, 5, 6], -1.0),
        ([1, 3, 2], [5, 5, 6], 0.0),
        ([1, 3], [1, 2, 3], 1 / 3),
        ([3, 1], [1, 2, 3], -1 / 3),
        ([1, 2], [5, 5, 6], 0.0),
        ([1, 2, 3], [5, 5, 5], None),
    ],
)
def test_accuracy_by_hand(order: list[int], values: list[float], expected: float | None) -> None:
    # The predicted values contradict the listed order: they play no part.
    text = write([(image_id, -place) for place, image_id in enumerate(order)])
    assert accuracy_reward([text], values=[values]) == [pytest.approx(expected)]


def test_format_by_hand() -> None:
    good = write([(1, 30), (2, 40)])
    texts = [good, good + "<|im_end|>", good.replace('"', "'"), good[7:], good.replace("40", "true"), good + "!"]
    assert format_reward(texts, values=[[30, 40]] * 6) == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]


# Oracles


distinct_ids = st.integers(2, 8).flatmap(lambda count: st.tuples(st.just(count), st.permutations(range(1, count + 1))))
small = st.integers(0, 6)


@st.composite
def answers(draw: Callable[..., Any], least: int = 2) -> tuple[list[tuple[int, int]], list[int]]:
    """Items about some of N images, in any order, and the N true values; ties are common in both."""
    count = draw(st.integers(2, 8))
    order = draw(st.permutations(range(1, count + 1)))[: draw(st.integers(least, count))]
    items = [(image_id, draw(small)) for image_id in order]
    return items, draw(st.lists(small, min_size=count, max_size=count))


@given(answers())
def test_consistency_is_scipy_s_tau_b(case: tuple[list[tuple[int, int]], list[int]]) -> None:
    items, values = case
    predicted = [value for _, value in items]
    number = reward("consistency", write(items), values)
    if len(set(predicted)) == 1:
        assert number == 0.0
    else:
        assert number == pytest.approx(kendalltau(range(len(items)), predicted, variant="b").statistic, abs=1e-12)


@given(distinct_ids, st.randoms(use_true_random=False))
def test_accuracy_is_scipy_s_tau_without_ties(case: tuple[int, list[int]], rng: random.Random) -> None:
    count, order = case
    values = rng.sample(range(117), count)
    number = reward("accuracy", write([(image_id, 0) for image_id in order]), values)
    listed = [values[image_id - 1] for image_id in order]
    assert number == pytest.approx(kendalltau(range(count), listed).statistic, abs=1e-12)


def _accuracy_by_pairs(order: list[int], values: list[int]) -> float | None:
    """The definition, pair by pair over the images of the prompt."""
    scores = []
    for first, second in itertools.combinations(range(1, len(values) + 1), 2):
        if values[first - 1] == values[second - 1]:
            continue
        if first not in order or second not in order:
            scores.append(0)
        else:
            right = (order.index(first) < order.index(second)) == (values[first - 1] < values[second - 1])
            scores.append(1 if right else -1)
    return sum(scores) / len(scores) if scores else None


@given(answers())
def test_accuracy_is_its_definition(case: tuple[list[tuple[int, int]], list[int]]) -> None:
    items, values = case
    assert reward("accuracy", write(items), values) == _accuracy_by_pairs([image_id for image_id, _ in items], values)


@given(answers(least=0))
def test_regression_is_its_definition(case: tuple[list[tuple[int, int]], list[int]]) -> None:
    items, values = case
    predicted = dict(items)
    closeness = [
        1 - ((predicted[image_id] - value) / 3) ** 2
        if image_id in predicted and abs(predicted[image_id] - value) <= 3
        else 0.0
        for image_id, value in enumerate(values, start=1)
    ]
    assert reward("regression", write(items), values, "count") == pytest.approx(sum(closeness) / len(values))


# Properties


@given(st.lists(st.integers(0, 116), min_size=2, max_size=12, unique=True))
def test_perfect_answer_is_exactly_one(values: list[int]) -> None:
    assert set(all_five(build_completion(values, get_task("age")), values).values()) == {1.0}


@given(st.lists(small, min_size=2, max_size=12))
def test_perfect_answer_with_ties(values: list[int]) -> None:
    """All terms but consistency are 1; τ-b cannot be, since equal values are listed one after the other."""
    scores = all_five(build_completion(values, get_task("count")), values)
    pairs = len(values) * (len(values) - 1) / 2
    untied = sum(left != right for left, right in itertools.combinations(values, 2))
    assert scores["accuracy"] == (1.0 if untied else None)
    assert scores["consistency"] == pytest.approx(math.sqrt(untied / pairs))
    assert scores["regression"] == scores["length"] == scores["format"] == 1.0


@given(answers(least=0), st.randoms(use_true_random=False))
def test_numbering_of_the_images_does_not_matter(
    case: tuple[list[tuple[int, int]], list[int]], rng: random.Random
) -> None:
    items, values = case
    renumbered = list(range(1, len(values) + 1))
    rng.shuffle(renumbered)
    moved = [0] * len(values)
    for old, new in enumerate(renumbered):
        moved[new - 1] = values[old]
    before = all_five(write(items), values)
    after = all_five(write([(renumbered[image_id - 1], value) for image_id, value in items]), moved)
    assert after == {name: pytest.approx(number) for name, number in before.items()}


@given(answers())
def test_reversing_the_list_reverses_both_taus(case: tuple[list[tuple[int, int]], list[int]]) -> None:
    items, values = case
    forward, backward = all_five(write(items), values), all_five(write(items[::-1]), values)
    for name in ("consistency", "accuracy"):
        number = forward[name]
        assert backward[name] == (None if number is None else pytest.approx(-number))


@given(answers(least=0), st.lists(st.tuples(st.integers(0, 2000), st.text(max_size=3)), max_size=6))
def test_bounds_whatever_the_text(case: tuple[list[tuple[int, int]], list[int]], edits: list[tuple[int, str]]) -> None:
    items, values = case
    text = write(items)
    for place, inserted in edits:
        place %= len(text) + 1
        text = text[:place] + inserted + text[place + 1 :]
    for name, number in all_five(text, values).items():
        assert number is None or LOWEST[name] <= number <= 1.0
        assert (number is None) == (name == "accuracy" and len(set(values)) == 1)
    graded = reward("graded_length", text, values)
    assert graded is not None and 0 <= graded <= 1


@given(st.lists(st.floats(-1e308, 1e308), min_size=2, max_size=6), st.floats(1e-300, 1e300))
def test_wild_values_stay_in_bounds(predicted: list[float], tolerance: float) -> None:
    values = [float(value) for value in range(len(predicted))]
    task = OrdinalTask("wild", "wildness", 0, 10, tolerance=tolerance)
    text = write([(place, value) for place, value in enumerate(predicted, start=1)])
    number = reward("regression", text, values, task)
    assert number is not None and 0 <= number <= 1
    assume(len(set(predicted)) > 1)
    assert -1 <= (reward("consistency", text, values) or 0.0) <= 1


# Interface


def test_names_and_order() -> None:
    assert list(REWARDS) == ["regression", "length", "consistency", "accuracy", "format"]
    for name in (*REWARDS, "graded_length"):
        assert get_reward(name).__name__ == f"{name}_reward"
        assert list(inspect.signature(get_reward(name)).parameters) == ["completions", "values", "task", "kwargs"]
    with pytest.raises(ValueError, match="Unknown reward 'regresion'; known rewards: regression, length, "):
        get_reward("regresion")


def test_weights() -> None:
    assert weights() == [1.0, 1.0, 1.0, 1.0, 0.5]
    assert weights(regression=2, ranking=0.25, format=0) == [2, 0.25, 0.25, 0.25, 0]


@pytest.mark.parametrize("name", [*REWARDS, "graded_length"])
def test_completions_as_text_messages_or_blocks(name: str) -> None:
    text = write([(2, 4), (1, 30)])
    messages = [{"role": "assistant", "content": text}]
    blocks = [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
    rows = [text, messages, blocks]
    assert get_reward(name)(rows, values=[[30, 4]] * 3, task=["age"] * 3, prompts=rows, trainer_state=None) == [1.0] * 3


@pytest.mark.parametrize("name", [*REWARDS, "graded_length"])
def test_rows_in_step(name: str) -> None:
    function = get_reward(name)
    assert function([], values=[], task=[]) == []
    with pytest.raises(ValueError, match="Got 2 completions, but 1 rows of values"):
        function(["a", "b"], values=[[1]], task=["age", "age"])
    with pytest.raises(ValueError, match="Row 1: wanted the true value of each image, got none"):
        function(["a", "b"], values=[[1], []], task=["age", "age"])


def test_regression_refuses_wrong_tasks() -> None:
    with pytest.raises(ValueError, match="Unknown task 'agee'"):
        regression_reward(["a"], values=[[1]], task=["agee"])
    with pytest.raises(ValueError, match="Got 1 completions, but 2 tasks"):
        regression_reward(["a"], values=[[1]], task=["age", "age"])


def test_rows_are_scored_each_by_its_own_values() -> None:
    """One batch of several prompts, with different numbers of images."""
    rows: list[list[float]] = [[30, 4], [7], [1, 2, 3], [4, 30]]
    texts = [build_completion(values, get_task("age")) for values in rows]
    texts[3] = texts[0]
    assert accuracy_reward(texts, values=rows) == [1.0, None, 1.0, -1.0]
    assert regression_reward(texts, values=rows, task="age") == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("documented", [*REWARDS.values(), graded_length_reward, rarl.answer.parse_answer])
def test_examples_in_the_docstrings(documented: Callable[..., Any]) -> None:
    text = re.sub("```.*", "", documented.__doc__ or "")
    test = doctest.DocTestParser().get_doctest(text, {}, documented.__name__, None, None)
    assert test.examples and doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize("truth", [30, None, "30", ["30"], [30, float("nan")], [float("inf")]])
def test_values_that_are_no_numbers_are_refused(truth: Any) -> None:
    for reward in REWARDS.values():
        with pytest.raises(ValueError, match="Row 0: wanted a list of finite numbers, one for each image, got"):
            reward(["<think></think><answer>[]</answer>"], values=[truth], task="age")
