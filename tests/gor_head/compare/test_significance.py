import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from gor_head.compare import significance
from gor_head.compare.significance import bootstrap_p_values, holm, standings

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("raw", "corrected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # R: p.adjust(…, "holm")
        ([0.01, 0.02, 0.03], [0.03, 0.04, 0.04]),
        ([0.6, 0.5], [1.0, 1.0]),
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_holm_by_hand(raw: list[float], corrected: list[float]) -> None:
    np.testing.assert_allclose(holm(raw), corrected)


@given(P_VALUES, st.randoms(use_true_random=False))
def test_holm_rejects_what_the_step_down_procedure_rejects(raw: list[float], random: Any) -> None:
    random.shuffle(raw)
    rejected = set()
    for step, index in enumerate(sorted(range(len(raw)), key=raw.__getitem__)):
        if raw[index] * (len(raw) - step) > 0.05:
            break
        rejected.add(index)
    assert {index for index, p in enumerate(holm(raw)) if p <= 0.05} == rejected


def exact_p(differences: list[float]) -> float:
    """Share of all nⁿ resamples as far from the observed mean as that is from 0."""
    observed = np.mean(differences)
    means = [np.mean(drawn) for drawn in itertools.product(differences, repeat=len(differences))]
    return float(np.mean(np.abs(np.array(means) - observed) >= abs(observed) - 1e-12))


@pytest.mark.parametrize("differences", [[1.0, 2.0, -0.5, 3.0], [0.2, -0.1, 0.4, 0.1, -0.3], [1.0, 0.0, 0.0, 0.0]])
def test_bootstrap_against_all_resamples(differences: list[float]) -> None:
    p = bootstrap_p_values(np.array(differences)[:, None], np.arange(len(differences)), resamples=40_000)
    np.testing.assert_allclose(p, exact_p(differences), atol=0.01)


def test_bootstrap_of_repeated_samples_draws_them_together() -> None:
    differences = np.random.default_rng(0).normal(0.3, 1, 30)
    once = bootstrap_p_values(differences[:, None], np.arange(30))
    thrice = bootstrap_p_values(np.repeat(differences, 3)[:, None], np.repeat(np.arange(30), 3))
    np.testing.assert_array_equal(once, thrice)  # three copies are no more evidence than one
    apart = bootstrap_p_values(np.repeat(differences, 3)[:, None], np.arange(90))
    assert apart[0] < 0.5 * once[0]


def test_bootstrap_with_groups_of_unequal_size() -> None:
    """A sample tested twice counts twice in the mean of every resample that holds it."""
    groups = {0: [1.0, 2.0], 1: [-0.5], 2: [0.7]}
    flat = [(sample, value) for sample, values in groups.items() for value in values]
    observed = np.mean([value for _, value in flat])
    means = [
        np.mean([value for sample in drawn for value in groups[sample]])
        for drawn in itertools.product(groups, repeat=3)
    ]
    expected = np.mean(np.abs(np.array(means) - observed) >= observed)
    p = bootstrap_p_values([[value] for _, value in flat], [sample for sample, _ in flat], resamples=40_000)
    np.testing.assert_allclose(p, expected, atol=0.01)


def test_bootstrap_is_deterministic_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(1).normal(0.1, 1, (50, 3))
    whole = bootstrap_p_values(differences, np.arange(50), resamples=999)
    monkeypatch.setattr(significance, "CHUNK", 700)
    np.testing.assert_array_equal(bootstrap_p_values(differences, np.arange(50), resamples=999), whole)
    other = bootstrap_p_values(differences, np.arange(50), resamples=999, seed=1)
    assert (other != whole).any()


def test_p_is_never_zero_and_one_where_nothing_differs() -> None:
    p = bootstrap_p_values(np.stack([np.full(20, 3.0), np.zeros(20)], axis=1), np.arange(20), resamples=999)
    np.testing.assert_allclose(p, [1 / 1000, 1.0])


def test_null_is_rejected_about_as_often_as_the_level_says() -> None:
    """1000 null tables of 60 rows; the t-test on the same data is the yardstick."""
    generator = np.random.default_rng(2)
    data = generator.normal(size=(60, 1000))
    p = bootstrap_p_values(data, np.arange(60), resamples=1000)
    assert 0.035 < (p < 0.05).mean() < 0.08
    np.testing.assert_allclose(p, ttest_1samp(data, 0).pvalue, atol=0.08)


def test_family_of_null_comparisons_is_tied_with_the_best_mostly() -> None:
    generator = np.random.default_rng(3)
    wrong = 0
    for seed in range(100):
        common = np.abs(generator.normal(5, 1, 80))
        errors = {name: common + generator.normal(0, 0.5, 80) for name in "abcde"}
        wrong += any(not place.tied for place in standings(errors, np.arange(80), resamples=500, seed=seed).values())
    assert wrong <= 15


def test_standings() -> None:
    generator = np.random.default_rng(4)
    base = np.abs(generator.normal(size=400)) + 1
    errors = {
        "worst": base + 1,
        "best": base,
        "a hair behind": base * 1.005,  # sure to be behind, but by less than 1 %
        "noisy": base + 0.06 + generator.normal(0, 0.9, 400).clip(-1, 1),
        "best again": base.copy(),
    }
    places = standings(errors, np.arange(400))
    assert {name for name, place in places.items() if place.best} == {"best", "best again"}
    assert {name for name, place in places.items() if place.tied} == set(errors) - {"worst"}
    assert places["a hair behind"].p_value < 0.05
    assert places["noisy"].mae > 1.01 * places["best"].mae
    assert places["worst"].p_value == pytest.approx(4 / 10_001)
    assert places["worst"].mae == pytest.approx(base.mean() + 1)


def test_standing_of_one_method_and_of_a_perfect_one() -> None:
    assert standings({"a": [1.0, 2.0]}, [0, 1])["a"].tied
    places = standings({"perfect": np.zeros(50), "close": np.full(50, 1e-6)}, np.arange(50))
    assert places["perfect"].best and not places["close"].tied


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ({}, "at least one method"),
        ({"a": [1.0], "b": [1.0, 2.0]}, r"errors of b: wanted shape \(1,\).*\(2,\)"),
        ({"a": [np.nan]}, "errors of a: wanted finite"),
        ({"a": [-1.0]}, "errors of a: wanted finite numbers from 0"),
    ],
)
def test_errors_name_the_method(errors: dict[str, list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        standings(errors, [0])
