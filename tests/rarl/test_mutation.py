"""The Response Mutation Operation on one group and on one response."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rarl import tiny
from rarl.answer import is_formatted, parse_answer
from rarl.mutation import (
    MutationSettings,
    attainable_maximum,
    choose_mutated,
    is_stagnant,
    learning_signal,
    reference_text,
    rewrite_ids,
    total_rewards,
    zero_tied_advantages,
)
from rarl.prompt import build_completion
from rarl.rewards import REWARDS, weights
from rarl.task import get_task
from tests.paths import DATA

QWEN = DATA / "qwen2_5_vl_tokenizer"
ALWAYS = MutationSettings(probability=1.0)
NAN = math.nan
# The five rewards of a response to one image and to several, unreadable and perfect.
UNREADABLE = {1: [0, NAN, NAN, NAN, 0], 4: [0, 0, -1, -1, 0]}
PERFECT = {1: [1, NAN, NAN, NAN, 1], 4: [1, 1, 1, 1, 1]}


def choose(group: Any, settings: MutationSettings = ALWAYS, step: int = 0, index: int = 0) -> list[int]:
    rewards = np.asarray(group, dtype=float)
    rewards = rewards[:, None] if rewards.ndim == 1 else rewards
    reward_weights = weights() if rewards.shape[1] == 5 else [1.0] * rewards.shape[1]
    return choose_mutated(rewards, reward_weights, settings, step=step, group=index).tolist()


@pytest.mark.parametrize(("num_images", "maximum", "lowest"), [(1, 1.5, 0.0), (4, 4.5, -2.0)])
def test_totals_and_attainable_maximum(num_images: int, maximum: float, lowest: float) -> None:
    group = np.array([UNREADABLE[num_images], PERFECT[num_images]])
    assert attainable_maximum(group, weights()) == maximum
    assert total_rewards(group, weights()).tolist() == [lowest, maximum]


@pytest.mark.parametrize("num_images", [1, 4])
def test_equally_wrong_group_is_mutated_and_a_solved_one_is_not(num_images: int) -> None:
    assert len(choose([UNREADABLE[num_images]] * 8)) == 1
    assert choose([PERFECT[num_images]] * 8) == []
    assert choose([UNREADABLE[num_images]] * 7 + [PERFECT[num_images]]) == []


def test_perfect_answer_about_equal_images_counts_as_stagnant() -> None:
    values = [5.0, 5.0]
    completion = build_completion(values, get_task("count"))
    columns: dict[str, Any] = {"completions": [completion] * 4, "values": [values] * 4, "task": ["count"] * 4}
    rewards = np.array([function(**columns) for function in REWARDS.values()], dtype=float).T
    assert total_rewards(rewards, weights()).tolist() == [2.5] * 4
    assert attainable_maximum(rewards, weights()) == 3.5
    assert len(choose(rewards)) == 1


def stagnant(totals: list[float], **settings: Any) -> bool:
    """Of a group with one reward of weight 1.5, as totals."""
    return is_stagnant(np.array(totals)[:, None] / 1.5, [1.5], MutationSettings(**settings))


def test_ceiling_is_a_share_of_the_attainable_maximum() -> None:
    assert stagnant([1.34] * 4)
    assert not stagnant([1.35] * 4)
    assert stagnant([1.35] * 4, ceiling=1.0)
    assert not stagnant([0.0] * 4, ceiling=0.0)


def test_rounding_does_not_untie_a_group() -> None:
    assert stagnant([0.1 + 0.2, 0.3, 0.3 + 1e-7])
    assert not stagnant([0.3, 0.3 + 2e-6])


GDPO = MutationSettings(probability=1.0, aggregation="normalize_then_sum")


def test_equal_totals_of_unlike_parts_are_no_dead_group_where_parts_are_normalised() -> None:
    """1.0 * (0.5, 0, 0.5, 0) + 0.5 * (0, 1, 0, 1) is 0.5 throughout, but each part tells good from bad."""
    rewards, given = np.array([[0.5, 0], [0, 1], [0.5, 0], [0, 1]]), [1.0, 0.5]
    assert total_rewards(rewards, given).tolist() == [0.5] * 4
    assert is_stagnant(rewards, given, ALWAYS) and not is_stagnant(rewards, given, GDPO)
    assert len(choose_mutated(rewards, given, ALWAYS, step=0, group=0)) == 1
    assert len(choose_mutated(rewards, given, GDPO, step=0, group=0)) == 0
    rounded = np.array([[0.25 + 1e-8 * row, 0] for row in range(4)])
    for tied in (np.full((4, 2), 0.25), np.array([[0.25, NAN]] * 4), rounded):
        assert is_stagnant(tied, given, GDPO)
    assert not is_stagnant(np.array([[1.0, 1.0]] * 4), given, GDPO)  # solved


@given(
    rewards=hnp.arrays(np.float64, (4, 3), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])),
    given_weights=st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=3, max_size=3),
)
@settings(deadline=None)
def test_no_signal_means_no_advantage(rewards: np.ndarray, given_weights: list[float]) -> None:
    """The second derivation: what TRL's GDPO sums up for a group, written with torch."""
    grouped = torch.tensor(rewards)
    parts = (grouped - grouped.mean(dim=0)) / (grouped.std(dim=0) + 1e-4)
    wanted = (parts * torch.tensor(given_weights, dtype=torch.float64)).sum(dim=1)
    found = learning_signal(rewards, given_weights, "normalize_then_sum")
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-9)


def test_low_reward_replaces_only_what_lies_below_the_threshold() -> None:
    low = MutationSettings("low_reward", probability=1.0, num_replaced=2, threshold=0.5)
    assert choose([0.9, 0.1, 0.3, 0.2], low) == [1, 3]
    assert choose([0.9, 0.1, 0.5, 0.7], low) == [1]
    assert choose([0.9, 0.5, 0.5, 0.7], low) == []
    assert len(choose([0.1] * 4, low)) == 2


def test_ties_are_drawn_evenly() -> None:
    counts = np.bincount([choose([0.0] * 4, step=step, index=index)[0] for step in range(200) for index in range(5)])
    assert len(counts) == 4
    assert counts.min() > 200  # 250 expected, standard deviation 14


def test_rounding_does_not_decide_between_ties() -> None:
    low = MutationSettings("low_reward", probability=1.0, threshold=1.0)
    assert {choose([0.3, 0.1 + 0.2], low, step)[0] for step in range(30)} == {0, 1}


def test_probability_is_the_share_of_mutated_groups() -> None:
    share = np.mean([bool(choose([0.0] * 4, MutationSettings(probability=0.3), step)) for step in range(1000)])
    assert share == pytest.approx(0.3, abs=0.06)  # four standard deviations


def test_seeds_draw_differently() -> None:
    draws = [
        [choose([0.0] * 8, MutationSettings(probability=1.0, seed=seed), step) for step in range(20)] for seed in (0, 1)
    ]
    assert draws[0] != draws[1]


GROUPS = st.lists(st.sampled_from([-2.0, 0.0, 0.1 + 0.2, 0.3, 0.5, 1.0]), min_size=2, max_size=16)
SETTINGS = st.builds(
    MutationSettings,
    trigger=st.sampled_from(["stagnant", "low_reward"]),
    probability=st.sampled_from([0.0, 0.5, 1.0]),
    num_replaced=st.integers(1, 20),
    ceiling=st.floats(0, 1),
    threshold=st.sampled_from([-1.0, 0.0, 0.4, 2.0]),
    seed=st.integers(0, 2**32),
)


@given(GROUPS, SETTINGS, st.integers(0, 10**6), st.integers(0, 1000))
@settings(deadline=None)
def test_choice_keeps_its_promises(group: list[float], options: MutationSettings, step: int, index: int) -> None:
    chosen = choose(group, options, step, index)
    assert chosen == choose(list(group), options, step, index)
    assert chosen == sorted(set(chosen)) and set(chosen) <= set(range(len(group)))
    below = [value for value in group if value < options.threshold]
    if options.trigger == "stagnant":
        triggered = max(group) - min(group) <= 1e-6 and np.mean(group) < options.ceiling
        most = min(options.num_replaced, len(group))
    else:
        triggered, most = bool(below), min(options.num_replaced, len(below))
    if not triggered or options.probability == 0:
        assert chosen == []
    elif options.probability == 1:
        assert len(chosen) == most
    else:
        assert len(chosen) in (0, most)
    if chosen:
        kept = [value for place, value in enumerate(group) if place not in chosen]
        assert max(group[place] for place in chosen) <= min(kept, default=math.inf) + 1e-6


@given(st.permutations([0.0, 0.1, 0.2, 0.3, 0.4, 0.5]), st.integers(0, 1000))
@settings(deadline=None)
def test_without_ties_the_order_of_a_group_does_not_matter(group: list[float], step: int) -> None:
    low = MutationSettings("low_reward", probability=1.0, num_replaced=2, threshold=1.0)
    assert sorted(group[place] for place in choose(group, low, step)) == [0.0, 0.1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trigger": "never"}, "got 'never'"),
        ({"probability": -0.1}, "got -0.1"),
        ({"ceiling": 1.1}, "got 1.1"),
        ({"num_replaced": 0}, "got 0"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MutationSettings(**options)


REFERENCE = build_completion([30.0, 4.0], get_task("age"))
ANSWER = '<answer>[{"image_id": 2, "value": 4}, {"image_id": 1, "value": 30}]</answer>'


def mutate(completion: str, keep_reasoning: bool = True) -> str:
    start, tail = reference_text(completion, REFERENCE, 2, keep_reasoning=keep_reasoning)
    return completion[:start] + tail


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("<think>hm é 汉</think><answer>[]</answer>", f"<think>hm é 汉</think>{ANSWER}"),
        ("<think>a</think>\n <answer>dunno</answer> and more", f"<think>a</think>\n {ANSWER}"),
        # The answer may be a Python literal, as in the paper's template; what replaces it is JSON.
        ("<think>a</think><answer>[{'image_id': 1, 'value': 9}]</answer>", f"<think>a</think>{ANSWER}"),
        ("<think>a</think><answer>```json\n[]\n```</answer>", f"<think>a</think>{ANSWER}"),
        # Not one think block and then one answer block, whatever the answer says: replaced whole.
        ("", REFERENCE),
        ("no tags", REFERENCE),
        ("<think>a</think><answer>[", REFERENCE),
        ("<answer>[]</answer>", REFERENCE),
        ("well <think>a</think><answer>[]</answer>", REFERENCE),
        ("<think>a</think> so <answer>[]</answer>", REFERENCE),
        ("<think>a<answer>[]</answer></think>", REFERENCE),
        ("<think>a</think><answer>[]</answer><answer>[]</answer>", REFERENCE),
        ("<think>a</think><think>b</think><answer>[]</answer>", REFERENCE),
    ],
)
def test_reference_text(completion: str, expected: str) -> None:
    assert mutate(completion) == expected
    assert mutate(completion, keep_reasoning=False) == REFERENCE


def test_unreadable_completions_get_the_same_fixed_template() -> None:
    assert mutate("") == mutate("!!") == REFERENCE
    assert REFERENCE == f"<think>Image 1: 30, Image 2: 4</think>{ANSWER}"


PIECES = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "[]",
    '[{"image_id": 1, "value": 3}]',
    " ",
    "é",
    "汉字",
    "🙂",
    "a1",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.booleans())
@settings(deadline=None)
def test_mutated_response_is_always_formatted_and_right(completion: str, keep_reasoning: bool) -> None:
    mutated = mutate(completion, keep_reasoning)
    assert is_formatted(mutated, 2)
    assert parse_answer(mutated, 2).values() == [30.0, 4.0]


def wrap(vocab_size: int) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tiny.build_tokenizer(vocab_size),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("tiny", id="tiny"),
        pytest.param("bytes", id="one token a byte"),
        pytest.param("qwen", marks=pytest.mark.skipif(not QWEN.is_dir(), reason="Qwen2.5-VL's tokenizer not present")),
    ],
)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    if request.param == "qwen":
        return AutoTokenizer.from_pretrained(QWEN)
    return wrap(768 if request.param == "tiny" else 256 + len(tiny.SPECIAL_TOKENS))


def rewrite(tokenizer: Any, ids: list[int], start: int, tail: str) -> tuple[list[int], str]:
    """The rewritten ids, and the text of the sampled ones."""
    decode: Any = lambda ids: tokenizer.decode(ids, skip_special_tokens=True)  # noqa: E731
    encode: Any = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    return rewrite_ids(ids, start, tail, decode=decode, encode=encode, eos_token_id=tokenizer.eos_token_id), decode(ids)


def kept_prefix(first: list[int], second: list[int]) -> int:
    return next(
        (n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


@pytest.mark.parametrize("thought", ["so", "é", "汉字", "🙂", "naïve 🙂🙂 汉", "a\n", ""])
@pytest.mark.parametrize("finished", [True, False])
def test_rewritten_ids_spell_prefix_and_tail(tokenizer: Any, thought: str, finished: bool) -> None:
    text = f'<think>{thought}</think><answer>[{{"image_id": 1, "value": 99}}]</answer>'
    sampled = tokenizer.encode(text, add_special_tokens=False) + [tokenizer.eos_token_id] * finished
    start, tail = reference_text(text, REFERENCE, 2, keep_reasoning=True)
    assert (start, tail) == (text.index("<answer>"), ANSWER)
    ids, decoded = rewrite(tokenizer, sampled, start, tail)
    assert decoded == text
    assert ids[-1] == tokenizer.eos_token_id and ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == text[:start] + ANSWER
    # Every sampled token that ends before the answer block stays.
    whole = 0
    while text[:start].startswith(tokenizer.decode(sampled[: whole + 1])):
        whole += 1
    assert kept_prefix(ids, sampled) >= whole
    assert whole > 0


def test_whole_replacement_is_the_encoding_of_the_reference(tokenizer: Any) -> None:
    sampled = tokenizer.encode("what 🙂", add_special_tokens=False)
    ids, _ = rewrite(tokenizer, sampled, 0, REFERENCE)
    assert ids == [*tokenizer.encode(REFERENCE, add_special_tokens=False), tokenizer.eos_token_id]
    assert rewrite(tokenizer, [], 0, REFERENCE)[0] == ids


def test_other_segmentation_of_the_sampled_text_is_kept(tokenizer: Any) -> None:
    """A policy need not sample the canonical tokens of its text; the prefix stays as sampled."""
    text = "<think>because</think><answer>[]</answer>"
    spelled = [tokenizer.encode(letter, add_special_tokens=False)[0] for letter in text]
    start = text.index("<answer>")
    ids, decoded = rewrite(tokenizer, spelled, start, ANSWER)
    assert decoded == text
    assert ids[:start] == spelled[:start]
    assert ids[start:] == [*tokenizer.encode(ANSWER, add_special_tokens=False), tokenizer.eos_token_id]


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_any_tokens_and_any_border(tokenizer: Any, data: st.DataObject) -> None:
    """Random ids spell broken characters too: what is decoded is still prefix + tail, and the ids kept are sampled."""
    special = set(tokenizer.all_special_ids)
    token = st.integers(0, len(tokenizer) - 1).filter(lambda index: index not in special)
    sampled = data.draw(st.lists(token, max_size=12))
    text = tokenizer.decode(sampled, skip_special_tokens=True)
    start = data.draw(st.integers(0, len(text)))
    ids, _ = rewrite(tokenizer, sampled, start, ANSWER)
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text[:start] + ANSWER


def test_zero_tied_advantages() -> None:
    advantages = torch.tensor([1e-3, -1e-3, 0.7, -0.7, 5e-4, 5e-4])
    totals = torch.tensor([0.3, 0.3 + 3e-8, 0.0, 1.0, 0.2, 0.2])
    assert zero_tied_advantages(advantages, totals, 2).tolist() == torch.tensor([0, 0, 0.7, -0.7, 0, 0]).tolist()


@pytest.mark.parametrize("group", [2, 3, 4])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_what_mutation_adds_is_a_step_of_imitation(group: int, share: float) -> None:
    """All groups of a policy over three answers, of which the first earns 1 and is the reference: the expected gradient
    is GRPO's and share · (1 − π)^(G − 1) · (G − 1) / G^1.5 · ∇ log π more."""
    logits = np.array([-0.7, 0.4, 0.1])
    chance = np.exp(logits) / np.exp(logits).sum()
    scores = np.eye(3) - chance  # gradient of each log-probability
    earned = np.array([1.0, 0.0, 0.0])
    settings = MutationSettings(probability=1.0)

    def gradient(answers: list[int]) -> np.ndarray:
        rewards = earned[answers]
        deviation = rewards.std(ddof=1)
        return (rewards - rewards.mean()) / (deviation or 1.0) @ scores[answers] / group

    grpo, mutated = np.zeros(3), np.zeros(3)
    for rows in itertools.product(range(3), repeat=group):
        answers, weight = list(rows), float(chance[list(rows)].prod())
        grpo += weight * gradient(answers)
        replaced = list(answers)
        for row in choose_mutated(earned[answers][:, None], [1.0], settings, step=0, group=0):
            replaced[row] = 0
        mutated += weight * (share * gradient(replaced) + (1 - share) * gradient(answers))
    wanted = share * (1 - chance[0]) ** (group - 1) * (group - 1) / group**1.5 * scores[0]
    np.testing.assert_allclose(mutated - grpo, wanted, atol=1e-12)
