"""Credit for items: promises against the rewards themselves, and the estimators against the exact gradient."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gor_head import CoDiVocabulary
from rarl import tiny
from rarl.advantages import leave_one_out
from rarl.answer_format import write_completion, write_list
from rarl.credit import (
    CreditedAnswer,
    Statement,
    Worth,
    deviations,
    find_statements,
    rewards_to_go,
    stage_keys,
    token_ends,
)
from rarl.prompt import build_completion
from rarl.rewards import accuracy_reward, regression_reward
from rarl.task import get_task

TASK = get_task("count")


def test_statements_of_an_answer() -> None:
    text = (
        '<think>Image 1: 7, Image 2: 10, Image 2: 4, Image 9: 1</think><answer>[{"image_id": 2, "value": 9}, '
        '{"image_id": 1, "value": 7.5}]</answer>'
    )
    found = find_statements(text, 2)
    assert [(each.image, each.value, each.listed) for each in found] == [
        (1, 7.0, False),
        (2, 10.0, False),  # the first of two, and no ninth image
        (2, 9.0, True),
        (1, 7.5, True),
    ]
    assert [text[each.start : each.end] for each in found] == ["7", "10", "9", "7.5"]


@pytest.mark.parametrize(
    ("listed", "images"),
    [
        ('[{"image_id": 1, "value": 3}, {"image_id": 1, "value": 4}]', [1]),  # the first of two, as the parser
        ('[{"image_id": 1, "value": 3}, {"image_id": 3, "value": 4}]', [1]),  # no such image
        ('[{"image_id": 1, "value": 3}, {"image_id": 2, "value": 4', [1, 2]),
        ('[{"image_id": 1, "value": 3}, oops]', [1]),
        ('[{"value": 3, "image_id": 1}, {"image_id": 2, "value": 4}]', [2]),  # the first is written otherwise
        ("about three", []),
    ],
)
def test_a_list_counts_as_far_as_it_is_written_as_usual(listed: str, images: list[int]) -> None:
    found = find_statements(write_completion("Image 1: 3", listed), 2)
    assert [each.image for each in found if each.listed] == images and not found[0].listed
    assert find_statements("no answer at all", 2) == []
    outside = find_statements('{"image_id": 1, "value": 3} <answer>Image 1: 3', 2)
    assert outside == [], "items stand in the answer, and reasons before it"


TEXTS = [
    "<think>Image 1: 1e5, Image 2: 1.5.3, Image 2: -2.</think>",
    write_completion("Image 1: 3, Image 2: 10", '[{"image_id": 1, "value": 3}, {"image_id": 2, "value": 10}]'),
    write_completion("Image 1: 3", '[{"image_id": 2, "value": 7}, oops]') + "<answer>more</answer>",
    '<think>Image 2: 1</think><answer>[{"image_id": 1, "value": 31}<answer>[{"image_id": 1, "value": 3}]</answer>',
    '<think>Image 1:<=3>, Image 2: <=1></think><answer>[{"image_id": 1, "value":<=3>}, {"image_id": 2, "value": <=0>}]',
    "<think>Image 1:<gor><+5><+2></gor>, Image 2: <gor></gor></think><answer>[]</answer>",
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_stated_does_not_depend_on_what_follows(text: str) -> None:
    """Cut anywhere, an answer has stated the numbers that end before the cut, and no others."""
    whole = find_statements(text, 2)
    for cut in range(len(text)):
        settled = [each for each in find_statements(text[:cut], 2) if each.end < cut]
        assert settled == [each for each in whole if each.end < cut]


@pytest.mark.parametrize(
    "vocabulary", [CoDiVocabulary.for_language_model(range(11)), CoDiVocabulary([1, 4], tolerance=0)]
)
def test_numbers_in_value_tokens_are_stated_as_those_in_digits(vocabulary: CoDiVocabulary) -> None:
    """With the blank before them or, as they are decoded, without."""
    text = build_completion([7, 0, 10], TASK)
    coded = build_completion([7, 0, 10], TASK.with_vocabulary(vocabulary))
    wanted = [(each.image, each.value, each.listed) for each in find_statements(text, 3)]
    assert len(wanted) == 6
    for written in (coded, coded.replace(": <", ":<")):
        assert [(each.image, each.value, each.listed) for each in find_statements(written, 3)] == wanted
        assert all(written[each.start] == "<" and written[each.end - 1] == ">" for each in find_statements(written, 3))
    assert find_statements(text.replace("Image 1: 7", "Image 1:7"), 3)[0].image == 2, "digits have a blank before them"


answers = st.integers(1, 5).flatmap(
    lambda size: st.tuples(
        st.lists(st.integers(0, 10), min_size=size, max_size=size),
        st.lists(st.integers(0, 10), min_size=size, max_size=size),
        st.lists(st.integers(0, 10), min_size=size, max_size=size),
        st.permutations(range(size)),
        st.integers(0, size),
    )
)


@given(answers, st.floats(0, 2), st.floats(0, 2))
def test_promise_of_a_whole_list_is_what_the_rewards_give(drawn: Any, regression: float, accuracy: float) -> None:
    truth, reasoned, listed, order, stated = drawn
    thought = ", ".join(f"Image {image + 1}: {reasoned[image]}" for image in range(stated))
    text = write_completion(thought, write_list((image + 1, str(listed[image])) for image in order))
    worth = Worth(truth, TASK.tolerance, regression, accuracy)
    promises = worth.promises(find_statements(text, len(truth)))
    [closeness], [tau] = regression_reward([text], [truth], TASK), accuracy_reward([text], [truth])
    assert closeness is not None
    assert promises[0] == 0 and len(promises) == 1 + stated + len(truth)
    assert promises[-1] == pytest.approx(regression * closeness + accuracy * (tau or 0.0), abs=1e-9)


def test_promises_written_out() -> None:
    """Truth 2 and 5, δ 3: first 4 (1 − (2/3)² = 5/9), then 3 (5/9, and the wrong way round), then sorted as stated."""
    statements = [
        Statement(1, 4.0, 0, 1, False),
        Statement(2, 3.0, 0, 1, False),
        Statement(2, 3.0, 0, 1, True),
        Statement(1, 4.0, 0, 1, True),
    ]
    worth = Worth([2, 5], 3, regression=1.0, accuracy=1.0)
    np.testing.assert_allclose(worth.promises(statements), [0, 5 / 18, 5 / 9 - 1, 5 / 9 - 1, 5 / 9 - 1])
    np.testing.assert_allclose(worth.gains(statements[:1], 2, [3.0, 4.0, 5.0], listed=False), [5 / 18 - 1, 4 / 9, 1.5])


def test_tokens_and_their_stages() -> None:
    tokenizer = tiny.build_processor().tokenizer
    text = build_completion([7, 10], TASK)
    ids = [*tokenizer.encode(text), tokenizer.eos_token_id]

    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    ends = token_ends(ids, decode)
    assert ends[-1] == len(text) and [len(decode(ids[: end + 1])) for end in range(len(ids))] == ends
    answer = CreditedAnswer.of(ids, 2, Worth([7, 10], 3, 1.0, 1.0), decode=decode, most=4)
    assert [decode([ids[start]]) for start in answer.starts] == [" 7", " 1", " 7", " 1"]
    # The token after a number still decides whether it ends; after that it is settled.
    for place, (start, each) in enumerate(zip(answer.starts, answer.statements, strict=True)):
        digits = len(text[each.start : each.end])
        assert answer.stages[start : start + digits + 1].tolist() == [place] * (digits + 1)
        assert answer.stages[start + digits + 1] == place + 1
    assert answer.keys == [0, 1, 2, 6, 7]


def test_characters_of_several_tokens_count_once() -> None:
    tokenizer = tiny.build_processor().tokenizer
    ids = tokenizer.encode("<think>π ≈ 3</think>")
    ends = token_ends(ids, tokenizer.decode)
    assert ends[-1] == len("<think>π ≈ 3</think>") and ends == sorted(ends)
    assert token_ends([], tokenizer.decode) == []


def test_keys_stay_below_their_number() -> None:
    many = [Statement(1, 0.0, 0, 1, listed) for listed in [False] * 4 + [True] * 4]
    keys = stage_keys(many, 4)
    assert keys == sorted(keys) and max(keys) < 2 * (4 + 1) and len(keys) == len(many) + 1


def test_rewards_to_go_written_out() -> None:
    """Two answers: one with two stages, one that stops after the first."""
    table = rewards_to_go([3.0, 1.0], [np.array([0, 1.0, 2.5]), np.array([0, 0.5])], [[0, 1, 2], [0, 1]], 4)
    assert table.tolist() == [[3, 2, 0.5, 0.5], [1, 0.5, 0.5, 0.5]]
    assert leave_one_out(table, 2).tolist() == [[2, 1.5, 0, 0], [-2, -1.5, 0, 0]]


def test_deviations_written_out() -> None:
    """Groups of two with variances 2 and 0, mean 1: (1 · 2 + 1) / 2 and (1 · 0 + 1) / 2. All: (1 + 1) / 3."""
    np.testing.assert_allclose(deviations([3.0, 1.0, 2.0, 2.0], 2) ** 2, [1.5, 0.5])
    np.testing.assert_allclose(deviations([3.0, 1.0, 2.0, 2.0], 2, "batch") ** 2, [2 / 3, 2 / 3])
    assert deviations([3.0, 1.0, 2.0, 2.0], 2, "none").tolist() == [1.0, 1.0]
    assert deviations([2.0, 2.0, 5.0, 5.0], 2).tolist() == [1.0, 1.0]


# A policy of four choices: the value of each image, the first of the list, and whether the list goes on well; all
# answers can be written down.
NUMBERS = (0.0, 2.0, 5.0)
TRUTH = (2.0, 5.0)
ALL = list(itertools.product(range(3), range(3), range(2), range(2)))
PARAMETERS = 3 + 9 + 18 + 36


def policy(parameters: np.ndarray) -> list[np.ndarray]:
    """Probabilities of each choice after those before it."""
    shapes = [(3,), (3, 3), (3, 3, 2), (3, 3, 2, 2)]
    parts = np.split(parameters, np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1])
    weights = [np.exp(part.reshape(shape)) for part, shape in zip(parts, shapes, strict=True)]
    return [weight / weight.sum(axis=-1, keepdims=True) for weight in weights]


def scores(parameters: np.ndarray, answer: tuple[int, ...]) -> np.ndarray:
    """Gradient of the log-probability of each of the four choices, `[4, p]`."""
    found, start = [], 0
    for place, chance in enumerate(policy(parameters)):
        gradient = np.zeros(chance.shape)
        gradient[answer[:place]] = np.eye(chance.shape[-1])[answer[place]] - chance[answer[:place]]
        whole = np.zeros(len(parameters))
        whole[start : start + gradient.size] = gradient.ravel()
        found.append(whole)
        start += gradient.size
    return np.stack(found)


def written(answer: tuple[int, ...]) -> str:
    """With the fourth choice the list breaks off after its first item."""
    first, second, order, broken = NUMBERS[answer[0]], NUMBERS[answer[1]], answer[2], answer[3]
    items = [(1, f"{first:g}"), (2, f"{second:g}")][:: -1 if order else 1]
    listed = write_list(items[:1])[:-1] + ", oops]" if broken else write_list(items)
    return write_completion(f"Image 1: {first:g}, Image 2: {second:g}", listed)


def expected_gradients(parameters: np.ndarray, group: int) -> dict[str, tuple[np.ndarray, float]]:
    """Mean and total variance of each estimator over all groups of answers, and the exact gradient.

    Stages 0, 1 and 2 come before the values and the first of the list, stage 4 after its first item.
    """
    first, second, third, fourth = policy(parameters)
    chance = np.array([first[i] * second[i, j] * third[i, j, k] * fourth[i, j, k, end] for i, j, k, end in ALL])
    texts = [written(answer) for answer in ALL]
    totals = np.array(regression_reward(texts, [TRUTH] * len(ALL), TASK), dtype=float)
    totals += np.array(accuracy_reward(texts, [TRUTH] * len(ALL)), dtype=float)
    worth = Worth(TRUTH, TASK.tolerance, 1.0, 1.0)
    found = [find_statements(text, 2) for text in texts]
    promises = [worth.promises(each) for each in found]
    to_go = rewards_to_go(totals, promises, [stage_keys(each, 2) for each in found], 6)
    score = np.stack([scores(parameters, answer) for answer in ALL])
    # The expectation of what each number promises, differentiated directly.
    direct = np.zeros((len(ALL), len(parameters)))
    for row, (i, *_) in enumerate(ALL):
        gains = worth.gains([], 1, NUMBERS, listed=False)
        direct[row, :3] = first * (gains - first @ gains)
        gains = worth.gains(found[row][:1], 2, NUMBERS, listed=False)
        direct[row, 3:12].reshape(3, 3)[i] = second[i] * (gains - second[i] @ gains)
    estimates: dict[str, list[np.ndarray]] = {"completion": [], "item": [], "exact": []}
    weights = []
    for rows in itertools.product(range(len(ALL)), repeat=group):
        picked = list(rows)
        weights.append(chance[picked].prod())
        whole = leave_one_out(totals[picked][:, None], group)
        items = leave_one_out(to_go[picked], group)
        estimates["completion"].append(np.einsum("gcp,gc->p", score[picked], np.repeat(whole, 4, axis=1)) / group)
        estimates["item"].append(np.einsum("gcp,gc->p", score[picked], items[:, [0, 1, 2, 4]]) / group)
        after = np.einsum("gcp,gc->p", score[picked], items[:, [1, 2, 2, 4]])
        estimates["exact"].append((after + direct[picked].sum(axis=0)) / group)
    shares = np.array(weights)
    result: dict[str, tuple[np.ndarray, float]] = {}
    for name, each in estimates.items():
        table = np.stack(each)
        mean = shares @ table
        result[name] = mean, float(shares @ ((table - mean) ** 2).sum(axis=1))
    result["truth"] = (chance * totals) @ score.sum(axis=1), 0.0
    return result


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("group", [2])
def test_estimators_have_the_expectation_of_the_policy_gradient(seed: int, group: int) -> None:
    """Over all groups of all answers, whatever the policy."""
    found = expected_gradients(np.random.default_rng(seed).normal(size=PARAMETERS), group)
    for name in ("completion", "item", "exact"):
        np.testing.assert_allclose(found[name][0], found["truth"][0], atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_promises_that_are_kept_take_variance_away(seed: int) -> None:
    """Where the list is sorted as it was reasoned, items vary less than completions, and expectations less still."""
    parameters = np.random.default_rng(seed).normal(size=PARAMETERS)
    parameters[30:].reshape(3, 3, 2, 2)[..., 0] += 6.0  # lists end well
    sorts = parameters[12:30].reshape(3, 3, 2)
    sorts[:] = 0.0
    for i, j in itertools.product(range(3), repeat=2):
        sorts[i, j, int(i > j)] = 6.0
    found = expected_gradients(parameters, 2)
    print({name: round(variance, 4) for name, (_, variance) in found.items()})
    assert found["exact"][1] < found["item"][1] < found["completion"][1]


def test_no_gain_without_a_pair(values: Sequence[float] = (3.0, 3.0)) -> None:
    """Equal truths have no order, so numbers are worth their closeness only."""
    worth = Worth(values, 3, 1.0, 1.0)
    stated = [Statement(1, 3.0, 0, 1, False)]
    np.testing.assert_allclose(worth.gains(stated, 2, [3.0, 9.0], listed=False), [0.5, 0.0])
