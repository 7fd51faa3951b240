import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gor_head import CoDiVocabulary
from gor_head.theory import error_bound, independence_gap

samples_of_one = st.lists(st.integers(0, 6), min_size=1, max_size=30)
ascending = st.sets(st.integers(-1, 7), min_size=1, max_size=5).map(sorted)


def divergence_by_enumeration(samples: list[int], boundaries: list[int]) -> float:
    """Equation 10: the sum over all 2^M joint decisions."""
    decisions = [tuple(int(y > c) for c in boundaries) for y in samples]
    n = len(samples)
    joint = Counter(decisions)
    single = [sum(decision[m] for decision in decisions) / n for m in range(len(boundaries))]
    total = 0.0
    for bits in product((0, 1), repeat=len(boundaries)):
        if joint[bits]:
            naive = math.prod(share if bit else 1 - share for bit, share in zip(bits, single, strict=True))
            total += joint[bits] / n * math.log(joint[bits] / n / naive)
    return total


def information_by_enumeration(samples: list[int], boundaries: list[int], m: int) -> float:
    """Equation 15 for one decision and the history before it."""
    pairs = [(tuple(y > c for c in boundaries[:m]), y > boundaries[m]) for y in samples]
    both, history, now = Counter(pairs), Counter(before for before, _ in pairs), Counter(bit for _, bit in pairs)
    n = len(samples)
    return sum(count / n * math.log(count * n / history[before] / now[bit]) for (before, bit), count in both.items())


def test_gap_by_hand() -> None:
    # P(y > 1) = 3/4, P(y > 2) = 1/4. Known that y > 1, the second decision is a coin of 1/3; known that not, it is 0.
    first, second = independence_gap([1, 2, 2, 3], [1, 2])
    coin = -(1 / 4 * math.log(1 / 4) + 3 / 4 * math.log(3 / 4))
    third = -(1 / 3 * math.log(1 / 3) + 2 / 3 * math.log(2 / 3))
    assert first == 0
    assert second == pytest.approx(coin - 3 / 4 * third)


def test_copied_decision_costs_its_whole_entropy() -> None:
    # No label lies between the boundaries, so both decisions are one fair coin.
    assert independence_gap([0, 9], [3, 6]).tolist() == pytest.approx([0, math.log(2)])
    # Decisions that are certain cost nothing.
    assert independence_gap([5, 5, 5], [1, 4, 6]).tolist() == [0, 0, 0]


@given(samples_of_one, ascending)
def test_gap_is_the_divergence_of_the_enumerated_joint(samples: list[int], boundaries: list[int]) -> None:
    gap = independence_gap(samples, boundaries)
    assert gap.shape == (len(boundaries),)
    assert (gap >= 0).all()
    assert gap.sum() == pytest.approx(divergence_by_enumeration(samples, boundaries), abs=1e-12)
    for m, information in enumerate(gap):
        assert information == pytest.approx(information_by_enumeration(samples, boundaries, m), abs=1e-12)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6)), min_size=1, max_size=30), ascending)
def test_groups_are_averaged_by_size(rows: list[tuple[str, int]], boundaries: list[int]) -> None:
    groups, samples = zip(*rows, strict=True)
    wanted = np.zeros(len(boundaries))
    for group, size in Counter(groups).items():
        wanted += size / len(rows) * independence_gap([y for x, y in rows if x == group], boundaries)
    assert independence_gap(samples, boundaries, groups) == pytest.approx(wanted, abs=1e-12)


def test_estimate_nears_the_divergence_of_the_distribution() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 4, 200_000)
    y = x + rng.integers(0, 8, x.size)  # uniform on eight values, wherever x puts them
    truth = [divergence_by_enumeration(list(range(start, start + 8)), [2, 5, 8]) for start in range(4)]
    assert independence_gap(y, [2, 5, 8], x).sum() == pytest.approx(np.mean(truth), abs=5e-3)
    assert independence_gap(y, [2, 5, 8], np.arange(x.size)).sum() == 0  # one label per x says nothing


def test_bad_samples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"boundaries: wanted ascending numbers, got \[2, 2\]"):
        independence_gap([1], [2, 2])
    with pytest.raises(ValueError, match="samples: wanted finite numbers, got 1 NaN or infinite of 2"):
        independence_gap([1, math.nan], [2])
    with pytest.raises(ValueError, match="boundaries: wanted at least 1 number"):
        independence_gap([1], [])
    with pytest.raises(ValueError, match=r"groups: wanted one per sample, shape \(2,\), got shape \(1,\)"):
        independence_gap([1, 2], [1], ["a"])


def test_bound_by_hand() -> None:
    # Tokens 0.5, 1 and 2.5, T 3, B 0.2.
    bound = error_bound(CoDiVocabulary([1, 2, 5], resolution=0.5), max_bias=0.2, length=3)
    assert bound.length == 3
    assert bound.bias == pytest.approx(0.36)
    assert bound.variance == pytest.approx(9 * 2.0**2 / 4)
    assert bound.corrected_variance == pytest.approx(9 * 2.5**2 / 2)
    assert bound.paper == pytest.approx(9.36)
    assert bound.corrected == pytest.approx(28.485)


def test_length_comes_from_the_fit() -> None:
    fitted = CoDiVocabulary.fit([1, 2, 3, 7], initializer="binary", beta=1)
    assert error_bound(fitted, 0).length == 3  # 7 = 4 + 2 + 1
    assert error_bound(CoDiVocabulary([1, 2, 4], max_length=5), 0).length == 5


@given(
    st.sets(st.integers(1, 50), min_size=1, max_size=5),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_simulated_errors_stay_below_the_corrected_bound(
    tokens: set[int], length: int, together: bool, seed: int
) -> None:
    """True and predicted value of a step independent, both among tokens and EOS; steps independent or all the same."""
    rng = np.random.default_rng(seed)
    values = np.array([0, *sorted(tokens)])
    chances = rng.dirichlet(np.full(len(values), 0.5), size=2)
    draws = [rng.choice(values, p=p, size=(2000, 1 if together else length)) for p in chances]
    true, predicted = (np.broadcast_to(draw, (2000, length)) for draw in draws)
    bias = abs((chances[1] - chances[0]) @ values)
    bound = error_bound(CoDiVocabulary(sorted(tokens)), bias, length)
    errors = (predicted - true).sum(axis=1) ** 2
    assert errors.mean() <= bound.corrected + 6 * errors.std() / math.sqrt(len(errors))


def test_paper_bound_is_exceeded_and_the_corrected_one_attained() -> None:
    # Each step's true and predicted values are fair coins of two tokens, the same at all T = 3 steps; no bias.
    vocabulary, length = CoDiVocabulary([1, 9]), 3
    bound = error_bound(vocabulary, max_bias=0, length=length)

    def squared_error(values: tuple[int, int]) -> float:
        return float(np.mean([(length * (p - t)) ** 2 for t, p in product(values, values)]))

    assert squared_error((1, 9)) == 2 * bound.paper
    assert squared_error((0, 9)) == bound.corrected  # 0: the step is behind EOS


def test_bad_bound_settings_are_refused() -> None:
    vocabulary = CoDiVocabulary([1, 2])
    for bias in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="max_bias: wanted a number from 0 on, got"):
            error_bound(vocabulary, bias)
    for length in (0, 1.5):
        with pytest.raises(ValueError, match="length: wanted a whole number from 1, got"):
            error_bound(vocabulary, 0, length)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="vocabulary: wanted at least 1 value token, got none"):
        error_bound(CoDiVocabulary.fit([0, 0]), 0)
