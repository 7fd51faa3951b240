import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gor_head import EOS, PAD, CoDiVocabulary
from gor_head.construction import (
    binary_tokens,
    close,
    codi,
    covers,
    greedy_codes,
    manual_tokens,
    order_statistic,
    prune,
    quantile_tokens,
    slack_units,
    strict_prune,
    strict_quantile_tokens,
    token_usage,
    with_tail,
)
from gor_head.construction.strict import interpolated_percentile
from gor_head.grid import Grid, exact_resolution

pytestmark = pytest.mark.filterwarnings("ignore:Only .* labels are positive", "ignore:No power of ten")


def naive_code(y: int, tokens: list[int], tolerance: float, max_length: int) -> list[int]:
    """Section 2.4.2 of the paper, one label at a time."""
    code: list[int] = []
    left = y
    while left > math.floor(tolerance * y) and len(code) < max_length:
        fitting = [token for token in tokens if token <= left]
        if not fitting:
            break
        code.append(max(fitting))
        left -= code[-1]
    return code


def naive_codi(codes: list[list[int]], token: int) -> float:
    coverage = sum(code.count(token) / len(code) for code in codes if code) / len(codes)
    return coverage * math.log(len(codes) / (sum(token in code for code in codes) + 1))


def naive_prune(
    tokens: list[int], labels: list[int], tolerance: float, beta: float, max_length: int, update: str
) -> list[int]:
    """Algorithm 1 with rollback: every code anew, label by label, for every trial."""

    def encode(with_tokens: list[int]) -> list[list[int]]:
        return [naive_code(y, with_tokens, tolerance, max_length) for y in labels]

    smallest, tried = max(1, math.ceil(beta * len(tokens))), set()
    scores = {token: naive_codi(encode(tokens), token) for token in tokens}
    while len(tokens) > smallest and set(tokens) - tried:
        if update == "recompute":
            scores = {token: naive_codi(encode(tokens), token) for token in tokens}
        candidate = min(set(tokens) - tried, key=lambda token: (round(scores[token], 12), -token))
        tried.add(candidate)
        rest = [token for token in tokens if token != candidate]
        if all(y - sum(code) <= math.floor(tolerance * y) for y, code in zip(labels, encode(rest), strict=True)):
            tokens = rest
    return tokens


def counted(labels: list[int]) -> tuple[Any, Any]:
    units, counts = np.unique(np.array(labels, dtype=np.int64), return_counts=True)
    return units, counts.astype(np.int64)


LABEL_SETS = st.one_of(
    st.lists(st.integers(0, 120), min_size=1, max_size=60),
    st.lists(st.integers(0, 10**7), min_size=1, max_size=40),
    st.lists(st.sampled_from([0, 0, 0, 0, 1, 3, 1000]), min_size=1, max_size=60),
    st.lists(st.integers(0, 10**6).map(lambda cents: cents / 100), min_size=1, max_size=40),
    st.lists(st.floats(0, 30).map(math.exp), min_size=1, max_size=40),
)
SETTINGS = st.fixed_dictionaries(
    {
        "initializer": st.sampled_from(["quantile", "manual", "binary", "place", "labels"]),
        "q": st.sampled_from([0.5, 0.9, 1.0]),
        "tolerance": st.sampled_from([0.0, 0.005, 0.2]),
        "beta": st.sampled_from([0.0, 0.3, 0.7, 1.0]),
        "max_length": st.sampled_from([1, 2, 5, 16]),
        "exact": st.booleans(),
        "mean_length": st.sampled_from([None, 1, 1.5, 3]),
        "codi_update": st.sampled_from(["static", "recompute"]),
        "offset": st.sampled_from([None, "min"]),
    }
)


@hypothesis_settings(max_examples=150, deadline=None)
@given(labels=LABEL_SETS, settings=SETTINGS)
def test_every_training_label_has_a_descending_code_within_tolerance_and_length(
    labels: list[float], settings: dict[str, Any]
) -> None:
    vocabulary = CoDiVocabulary.fit(labels, **settings)
    grid, tokens = vocabulary.grid, vocabulary.tokens.tolist()
    ids = vocabulary.encode(labels)
    on_grid = grid.values(grid.units(np.array(labels, dtype=np.float64)))
    room = vocabulary.tolerance * (on_grid - vocabulary.offset)
    assert (np.abs(on_grid - vocabulary.decode(ids)) <= room + 1e-12 * np.maximum(on_grid, 1)).all()
    assert np.abs(on_grid - labels).max() <= grid.resolution * 0.5000001
    assert ids.shape[1] <= vocabulary.max_length + 1
    for row, y in zip(ids, grid.units(np.array(labels, dtype=np.float64)), strict=True):
        code = row[: row.tolist().index(EOS)]
        assert (np.diff(code) <= 0).all() and (code > EOS).all() and (row[len(code) + 1 :] == PAD).all()
        values = vocabulary.tokens[code - 3].tolist()
        assert values == naive_code(int(y), tokens, vocabulary.tolerance, vocabulary.max_length)
    summary = vocabulary.summary()
    before, after = summary["before"]["size"], summary["after"]["size"]
    assert after == summary["size"] == len(tokens) <= before
    assert after >= max(1, math.ceil(settings["beta"] * before)) or before == 0
    path = summary["pruning"]
    assert path[0] == [before, summary["before"]["mean_length"]]
    assert path[-1] == [after, summary["after"]["mean_length"]] and len(path) == before - after + 1
    if settings["mean_length"] is not None:
        assert all(mean <= max(settings["mean_length"], path[0][1]) for _, mean in path)
    distance = np.array(labels, dtype=np.float64) - vocabulary.offset
    errors = np.abs(vocabulary.decode(ids) - labels)
    relative = errors[distance > 1e-12] / distance[distance > 1e-12]
    assert vocabulary.coverage(labels) == {
        "labels": len(labels),
        "clipped": 0,
        "missed": (errors > vocabulary.tolerance * distance + 1e-14 * np.abs(labels)).sum(),
        "max_relative_error": pytest.approx(relative.max(initial=0), rel=1e-9, abs=1e-12),
    }


@hypothesis_settings(max_examples=100, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3000), min_size=1, max_size=30).filter(any),
    initial=st.sets(st.integers(1, 3000), max_size=8),
    tolerance=st.sampled_from([0.0, 0.01, 0.1]),
    beta=st.sampled_from([0.0, 0.5]),
    max_length=st.sampled_from([2, 6, 20]),
    update=st.sampled_from(["static", "recompute"]),
)
def test_incremental_pruning_equals_encoding_everything_anew(
    labels: list[int], initial: set[int], tolerance: float, beta: float, max_length: int, update: Any
) -> None:
    units, counts = counted(labels)
    slack = slack_units(units, tolerance)
    tokens = close(np.array(sorted(initial), dtype=np.int64), units, slack, max_length=max_length)
    assert covers(units, slack, tokens, max_length=max_length).all() and initial <= set(tokens.tolist())
    found = prune(tokens, units, counts, slack=slack, beta=beta, max_length=max_length, update=update)
    pruned, codes = found.tokens, found.codes
    assert pruned.tolist() == naive_prune(tokens.tolist(), labels, tolerance, beta, max_length, update)
    again = greedy_codes(units, slack, pruned, max_length=max_length)
    width = again.tokens.shape[1]
    assert np.array_equal(codes.tokens[:, :width], again.tokens) and not codes.tokens[:, width:].any()
    assert np.array_equal(codes.length, again.length) and np.array_equal(codes.residual, again.residual)


@hypothesis_settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 500), min_size=1, max_size=30), st.sets(st.integers(1, 300), min_size=1, max_size=6))
def test_codi_and_usage_equal_their_definition(labels: list[int], token_set: set[int]) -> None:
    units, counts = counted(labels)
    tokens = np.array(sorted(token_set), dtype=np.int64)
    codes = greedy_codes(units, slack_units(units, 0.0), tokens, max_length=1000)
    naive = [naive_code(y, tokens.tolist(), 0.0, 1000) for y in labels]
    assert codi(codes, counts, tokens) == pytest.approx([naive_codi(naive, t) for t in tokens.tolist()])
    occurrences, users = token_usage(codes, counts, tokens)
    assert occurrences.tolist() == [sum(code.count(t) for code in naive) for t in tokens.tolist()]
    assert users.tolist() == [sum(t in code for code in naive) for t in tokens.tolist()]


def test_codi_by_hand() -> None:
    # Labels 0, 3, 5, 6 in {1, 5}: codes [], [1 1 1], [5], [5 1]; N counts the zero label.
    tokens = np.array([1, 5])
    codes = greedy_codes(np.array([0, 3, 5, 6]), np.zeros(4, dtype=np.int64), tokens, max_length=9)
    assert codes.tokens.tolist() == [[0, 0, 0], [1, 1, 1], [5, 0, 0], [5, 1, 0]]
    expected = [(3 / 3 + 1 / 2) / 4 * math.log(4 / 3), (1 + 1 / 2) / 4 * math.log(4 / 3)]
    assert codi(codes, np.ones(4, dtype=np.int64), tokens) == pytest.approx(expected)


def test_token_of_all_labels_has_negative_codi_and_is_tried_first_but_kept_if_needed() -> None:
    units, counts = counted([1, 2, 3])
    found = prune(
        np.array([1, 2]), units, counts, slack=np.zeros(3, dtype=np.int64), beta=0, max_length=3, update="static"
    )
    assert found.tokens.tolist() == [1]


@pytest.mark.parametrize(("q", "expected"), [(0.0, 0), (0.5, 1), (0.6, 1), (0.61, 7), (0.9, 7), (0.91, 40), (1.0, 40)])
def test_order_statistic_is_never_interpolated(q: float, expected: int) -> None:
    # 0 0 0 0 1 1 7 7 7 40
    assert order_statistic(np.array([0, 1, 7, 40]), np.array([4, 2, 3, 1]), q) == expected


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30), st.floats(0, 1))
def test_strict_percentile_is_numpys(labels: list[int], q: float) -> None:
    units, counts = counted(labels)
    assert abs(interpolated_percentile(units, counts, q) - np.quantile(labels, q)) <= 0.5 + 1e-9


def test_quantile_tokens_by_hand() -> None:
    # 1..10, q 0.9 → 9, then residuals 1..8, 0, 1: 7, then 1..6, 0, 1, 0, 1: 5, then 1..4, 0, 1, ...: 3, ...
    units, counts = counted(list(range(1, 11)))
    result = quantile_tokens(units, counts, slack_units(units, 0.0), q=0.9, tolerance=0.0, max_length=16)
    assert result.tokens[::-1].tolist() == [9, 7, 5, 3, 1]


def test_manual_and_binary_tokens() -> None:
    assert manual_tokens(72).tolist() == [1, 3, 5, 7, 10, 30, 50, 70]
    assert binary_tokens(72).tolist() == [1, 2, 4, 8, 16, 32, 64]
    assert binary_tokens(64)[-1] == 64 and binary_tokens(63)[-1] == 32


def test_tail_tokens_double_until_the_largest_label() -> None:
    assert with_tail(np.array([2, 10]), 100, 10).tolist() == [2, 10]
    assert with_tail(np.array([2, 10]), 101, 10).tolist() == [2, 10, 20, 40, 80]


def test_closure_adds_the_smallest_violating_residual() -> None:
    # 17 and 23 leave 7 and 3 in {10}: 3 first, then 7 leaves 1.
    assert close(np.array([10]), np.array([17, 23]), np.array([0, 0]), max_length=9).tolist() == [1, 3, 10]


@pytest.mark.parametrize("initializer", ["quantile", "manual", "binary", "place", "labels"])
def test_equal_labels_are_one_token_and_zeros_are_eos(initializer: Any) -> None:
    equal = CoDiVocabulary.fit([58.5] * 9, initializer=initializer)
    assert equal.values.tolist() == [0, 0, 0, 58.5] and equal.encode(58.5) == [3, EOS]
    zero = CoDiVocabulary.fit([0, 0, 0], initializer=initializer)
    assert len(zero) == 3 and zero.encode([0, 0]).tolist() == [[EOS], [EOS]] and zero.decode([EOS]) == 0
    third = CoDiVocabulary.fit([1 / 3] * 4, initializer=initializer)
    assert third.decode(third.encode(1 / 3)) == 1 / 3


def test_seven_percent_positive_labels_use_positive_residuals_with_a_warning() -> None:
    labels = [0] * 93 + [2, 5, 9, 9, 30, 41, 80]
    with pytest.warns(UserWarning, match="Only 7 of 100 labels are positive"):
        vocabulary = CoDiVocabulary.fit(labels, tolerance=0)
    assert vocabulary.decode(vocabulary.encode(labels)).tolist() == labels


def test_grades() -> None:
    vocabulary = CoDiVocabulary.fit([0, 1, 2, 3, 4] * 5)
    assert [vocabulary.decode(vocabulary.encode(float(grade))) for grade in range(5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("exact", [False, True])
def test_cents_with_a_long_tail(exact: bool) -> None:
    labels = np.round(np.random.default_rng(0).lognormal(3, 2.5, 4000), 2)
    vocabulary = CoDiVocabulary.fit(labels, exact=exact)
    decoded = vocabulary.decode(vocabulary.encode(labels))
    assert vocabulary.grid.resolution == 0.01
    assert np.array_equal(decoded, labels) if exact else (labels - decoded <= 0.005 * labels).all()
    assert vocabulary.summary()["after"]["longest"] <= 16 < labels.max() / np.quantile(labels, 0.9)


@pytest.mark.parametrize(
    ("labels", "resolution"),
    [
        ([1, 21, 116], 1),
        ([0.5, 3.25], 0.01),
        ([29.33, 0], 0.01),
        ([200, 3000], 100),
        ([0, 0], 1),
        (np.array([0.1, 2.7], dtype=np.float32), 0.1),
        ([0.1 + 0.2, 1], None),
    ],
)
def test_exact_resolution(labels: Any, resolution: float | None) -> None:
    array = np.asarray(labels)
    assert exact_resolution(array.astype(np.float64), array.dtype) == resolution


def test_labels_that_no_power_of_ten_holds_are_rounded_with_a_warning() -> None:
    labels = np.linspace(0, math.pi, 50)
    with pytest.warns(UserWarning, match="1e-4 of their range, 0.000314159"):
        vocabulary = CoDiVocabulary.fit(labels, tolerance=0)
    assert np.abs(vocabulary.decode(vocabulary.encode(labels)) - labels).max() <= math.pi / 20000 * 1.001


def test_coverage_counts_what_the_grid_rounds_away() -> None:
    """Codes of 0.4 and 1.4 are 0 and 1."""
    found = CoDiVocabulary([1, 2], tolerance=0.05).coverage([0.4, 1.4, 2, 1.96, 0])
    assert found == {"labels": 5, "clipped": 0, "missed": 2, "max_relative_error": 1.0}
    cents = CoDiVocabulary(2 ** np.arange(20), resolution=0.01, tolerance=0)
    # What the type of a number makes of 29.33 is no error.
    assert cents.coverage(np.array([29.33, 0.07], dtype=np.float32))["missed"] == 0
    assert cents.coverage([0.1 + 0.2]) == {"labels": 1, "clipped": 0, "missed": 0, "max_relative_error": 0}


def test_a_grid_too_coarse_for_the_labels_is_said() -> None:
    with pytest.warns(UserWarning, match="resolution 1 moves 3 of 5 labels by more than the tolerance 0.005"):
        CoDiVocabulary.fit([0.3, 0.3, 1.4, 7, 100.4], resolution=1.0)
    with pytest.warns(UserWarning, match="resolution 100 moves 2 of 2 labels"):
        assert not len(CoDiVocabulary.fit([20, 30], resolution=100).tokens)
    with pytest.warns(UserWarning, match="resolution 0.1 moves 1 of 3 labels by more than the tolerance 0"):
        CoDiVocabulary.fit([-3, 0.25, 1], resolution=0.1, offset="min", exact=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CoDiVocabulary.fit(np.array([0.1, 29.3], dtype=np.float32), resolution=0.1, exact=True)
        CoDiVocabulary.fit([100.4, 200, 0], resolution=1.0)


def test_values_on_a_decimal_grid_are_the_nearest_floats() -> None:
    assert Grid(0.01).values(np.array([2933, 7, 58])).tolist() == [29.33, 0.07, 0.58]


def test_offset_takes_negative_labels_and_clips_below() -> None:
    labels = [-3.5, -1, 0, 2.5]
    vocabulary = CoDiVocabulary.fit(labels, offset="min", exact=True)
    assert vocabulary.decode(vocabulary.encode(labels)).tolist() == labels
    assert vocabulary.encode(-3.5) == [EOS] and vocabulary.offset == -3.5
    with pytest.warns(UserWarning, match="1 of 2 labels lie outside -3.5 to"):
        assert vocabulary.decode(vocabulary.encode([-9.0, 0.0])).tolist() == [-3.5, 0]


def test_labels_above_the_largest_code_are_clipped_counted_and_said_once() -> None:
    vocabulary = CoDiVocabulary([1, 10], tolerance=0, max_length=3)
    with pytest.warns(UserWarning, match="2 of 3 labels lie outside 0 to 30"):
        ids = vocabulary.encode([12, 31, 500])
    assert vocabulary.decode(ids).tolist() == [12, 30, 30] and vocabulary.clipped == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vocabulary.encode(31.0)
    assert vocabulary.clipped == 3
    # 19 needs ten tokens: not clipped, but missed.
    assert vocabulary.coverage([12, 19, 31]) == pytest.approx(
        {"labels": 3, "clipped": 1, "missed": 1, "max_relative_error": 7 / 19}
    )


def test_a_label_within_tolerance_above_the_largest_code_is_not_clipped() -> None:
    vocabulary = CoDiVocabulary([1, 10], tolerance=0.2, max_length=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert vocabulary.decode(vocabulary.encode([20, 25])).tolist() == [20, 20]
    with pytest.warns(UserWarning, match="1 of 2 labels"):
        vocabulary.encode([25, 26])


def test_encode_and_decode_give_what_they_are_given() -> None:
    vocabulary = CoDiVocabulary([1, 5, 50], tolerance=0)
    code = vocabulary.encode(58)
    assert code == [5, 4, 3, 3, 3, EOS] and vocabulary.decode(code) == 58.0
    assert vocabulary.encode(np.float64(5)) == [4, EOS]
    array = vocabulary.encode([5, 58, 0])
    assert array.dtype == np.int16 and array.tolist() == [[4, 2, 0, 0, 0, 0], code, [2, 0, 0, 0, 0, 0]]
    assert np.array_equal(vocabulary.encode(pd.Series([5, 58, 0])), array)
    tensor = vocabulary.encode(torch.tensor([5.0, 58.0, 0.0]))
    assert tensor.dtype == torch.int64 and tensor.tolist() == array.tolist()
    decoded = vocabulary.decode(tensor)
    assert decoded.dtype == torch.float64 and decoded.tolist() == vocabulary.decode(array).tolist() == [5, 58, 0]
    # What follows EOS does not count; a code need not be greedy or end.
    assert vocabulary.decode([3, 5, EOS, 5]) == 51 and vocabulary.decode([]) == 0
    assert vocabulary.decode(torch.tensor([[3, 5, EOS, 5]])).tolist() == [51]


def test_ids_of_a_large_vocabulary_do_not_overflow() -> None:
    vocabulary = CoDiVocabulary(np.arange(1, 40_001), tolerance=0)
    ids = vocabulary.encode([40_000, 32_765])
    assert ids.tolist() == [[40_002, EOS], [32_767, EOS]] and vocabulary.decode(ids).tolist() == [40_000, 32_765]


@given(st.lists(st.integers(0, 10**6).map(lambda n: n / 100), min_size=1, max_size=20))
def test_torch_and_numpy_decode_the_same_floats(labels: list[float]) -> None:
    vocabulary = CoDiVocabulary.fit(labels, offset="min")
    ids = vocabulary.encode(labels)
    assert vocabulary.decode(torch.from_numpy(ids)).tolist() == vocabulary.decode(ids).tolist()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1.0, math.nan, math.inf], "2 NaN or infinite of 3"),
        ([], "at least 1 number, got none"),
        ([1.0, -2.0, -3.0], "got 2 negative of 3 \\(smallest -3\\).*offset='min'"),
        (["a", "b"], "wanted numbers, got dtype <U1 \\(first value 'a'\\)|np.str_"),
        ([1.0, None], "wanted numbers, got dtype object"),
        ([[1.0, 2.0]], "shape \\(n,\\), got shape \\(1, 2\\)"),
        ([[1.0], [2.0, 3.0]], "rows of unequal length"),
        (7.0, "got shape \\(\\)"),
        ([2**60], "up to 2\\*\\*53"),
        (torch.tensor([math.nan]), "1 NaN or infinite of 1"),
    ],
)
def test_bad_labels_say_what_was_seen_and_wanted(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CoDiVocabulary.fit(labels)
    if not isinstance(labels, float) and labels != [2**60]:
        with pytest.raises(ValueError):
            CoDiVocabulary([1, 2]).encode(labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"initializer": "huffman"}, "initializer: wanted quantile, manual, binary, place or labels, got 'huffman'"),
        ({"q": 0}, "q: wanted"),
        ({"tolerance": 1}, "tolerance: wanted"),
        ({"beta": 1.5}, "beta: wanted"),
        ({"max_length": 0}, "max_length: wanted"),
        ({"mean_length": 0.5}, "mean_length: wanted a number from 1, got 0.5"),
        ({"mean_length": math.nan}, "mean_length: wanted"),
        ({"mean_length": "short"}, "mean_length: wanted"),
        ({"mean_length": 2, "strict_paper": True}, "mean_length: the paper has no limit"),
        ({"resolution": -1}, "resolution: wanted"),
        ({"offset": "max"}, "offset: wanted None or 'min'"),
        ({"codi_update": "never"}, "codi_update: wanted"),
        ({"strict_paper": True, "initializer": "manual"}, "'quantile' under strict_paper"),
        ({"resolution": 1e-20}, "more than 2\\*\\*53 units"),
        ({"max_length": "a"}, "max_length: wanted a whole number from 1, got 'a'"),
        ({"max_length": math.inf}, "max_length: wanted a whole number from 1, got inf"),
        ({"max_length": True}, "max_length: wanted a whole number from 1, got True"),
        ({"tolerance": "small"}, "tolerance: wanted a number from 0 to below 1, got 'small'"),
        ({"tolerance": math.nan}, "tolerance: wanted"),
        ({"q": None}, "q: wanted"),
        ({"beta": [0.5]}, "beta: wanted"),
        ({"resolution": "fine"}, "resolution: wanted"),
        ({"initializer": ["binary"]}, "initializer: wanted"),
    ],
)
def test_bad_settings_name_the_setting(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CoDiVocabulary.fit([1, 2, 3], **settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": [1.5, 2]}, r"tokens: wanted whole numbers of units from 1 to 2\*\*53, got 1.5"),
        ({"tokens": [3, 0]}, "tokens: wanted .*, got 0"),
        ({"tokens": [1, 2**53 + 1]}, "tokens: wanted .*, got 9007199254740993"),
        ({"tokens": [math.nan]}, "tokens: wanted .*, got nan"),
        ({"tokens": ["1"]}, "tokens: wanted whole numbers of units, got dtype <U1"),
        ({"tokens": [1], "offset": 0.5}, "offset: wanted a whole number of units, got 0.5"),
        ({"tokens": [2**53], "max_length": 512}, r"max_length: wanted less than 2\*\*62 units in a code, got 512"),
        ({"tokens": [1], "max_length": math.inf}, "max_length: wanted a whole number from 1, got inf"),
    ],
)
def test_tokens_that_are_none(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CoDiVocabulary(**arguments)


def test_the_largest_tokens_there_are() -> None:
    vocabulary = CoDiVocabulary([2**53, 1.0], max_length=511)
    assert vocabulary.tokens.tolist() == [1, 2**53] and vocabulary.encode(2.0**53) == [4, EOS]


def test_labels_of_another_type_are_the_same_labels() -> None:
    labels = np.array([0.1, 29.3, 7, 7], dtype=np.float64)
    CoDiVocabulary.fit(labels).check_labels(labels.astype(np.float32))
    CoDiVocabulary.fit(labels.astype(np.float32)).check_labels(labels)


@pytest.mark.parametrize(
    "ids",
    [
        [[99]],
        np.array([[-1]]),
        np.array([[1.5]]),
        np.array([3, 2]),
        torch.tensor([3]),
        torch.ones(1, 1),
        [3.0, 2.0],
        ["3"],
        [None],
        None,
        [True],
        [[3], [3, 2]],
    ],
)
def test_bad_ids_are_refused(ids: Any) -> None:
    with pytest.raises(ValueError, match="ids: wanted"):
        CoDiVocabulary([1, 2]).decode(ids)


def test_saved_vocabulary_comes_back_and_a_changed_file_does_not(tmp_path: Path) -> None:
    labels = [0.5, 1.25, 7, 7, 30.75, -2]
    vocabulary = CoDiVocabulary.fit(labels, offset="min", codi_update="recompute")
    path = vocabulary.save_pretrained(tmp_path / "new")
    loaded = CoDiVocabulary.from_pretrained(tmp_path / "new")
    assert loaded.summary() == vocabulary.summary() and repr(loaded) == repr(vocabulary)
    assert loaded.values.tolist() == vocabulary.values.tolist()
    assert loaded.encode(labels).tolist() == vocabulary.encode(labels).tolist()
    loaded.check_labels(labels[::-1])
    loaded.check_labels(torch.tensor(labels, dtype=torch.float32))
    with pytest.raises(ValueError, match="fitted on labels with hash .*, these 5 have"):
        loaded.check_labels(labels[1:])
    content = json.loads(path.read_text())
    content["tokens"][0] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="vocabulary.json: hash .* it was changed"):
        CoDiVocabulary.from_pretrained(tmp_path / "new")
    path.write_text("[]")
    with pytest.raises(ValueError, match="not a saved vocabulary"):
        CoDiVocabulary.from_pretrained(tmp_path / "new")
    with pytest.raises(FileNotFoundError, match="save_pretrained is wanted"):
        CoDiVocabulary.from_pretrained(tmp_path)


def test_strict_algorithm_2_stops_at_a_quantile_of_zero_and_leaves_labels_uncovered() -> None:
    units, counts = counted([0] * 93 + [5] * 7)
    assert strict_quantile_tokens(units, counts, q=0.9, tolerance=0.005).tokens.tolist() == []
    with pytest.warns(UserWarning, match="7 of 100 labels miss"):
        assert len(CoDiVocabulary.fit([0] * 93 + [5] * 7, strict_paper=True).tokens) == 0


@pytest.mark.filterwarnings("ignore:strict_paper")
def test_strict_algorithm_2_interpolates() -> None:
    # 0.9 of 1, 2 lies at 1.9: no label's own grid point.
    assert CoDiVocabulary.fit([1, 2], strict_paper=True, beta=1).summary()["before"]["values"][-1] == 1.9


def test_strict_algorithm_1_returns_the_set_that_failed() -> None:
    units, counts = counted([1, 2, 3, 4])
    slack = np.zeros(4, dtype=np.int64)
    strict, codes = strict_prune(np.array([1, 2]), units, counts, slack=slack, beta=0.5, tolerance=0.005, max_length=9)
    # 1 is in two codes, [1] and [2 1], 2 in three: distinctiveness of 2 is log(4/4) = 0, so 2 goes, and then 1.
    assert strict.tolist() == [] and codes.residual.tolist() == [1, 2, 3, 4]
    kept = prune(np.array([1, 2]), units, counts, slack=slack, beta=0.5, max_length=9, update="static").tokens
    assert kept.tolist() == [1]


def test_long_tails_stay_within_max_length_where_the_literal_algorithm_does_not() -> None:
    labels = np.rint(np.random.default_rng(1).lognormal(5, 2, 3000))
    ours = CoDiVocabulary.fit(labels).summary()["after"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strict = CoDiVocabulary.fit(labels, strict_paper=True).summary()["after"]
    assert ours["longest"] <= 16 < strict["longest"]
