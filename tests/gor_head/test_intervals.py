import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gor_head import EOS, PAD, CoDiVocabulary
from gor_head.construction import greedy_codes, slack_units
from gor_head.intervals import UNBOUNDED, Intervals, bounds, legal_ids


def codes_of_all_labels(vocabulary: CoDiVocabulary, largest: int) -> dict[tuple[int, ...], list[int]]:
    """Each prefix of a greedy code of 0..largest (not clipped), and the labels that have it."""
    labels = np.arange(largest + 1)
    slack = slack_units(labels, vocabulary.tolerance)
    codes = greedy_codes(labels, slack, vocabulary.tokens, max_length=vocabulary.max_length)
    prefixes: dict[tuple[int, ...], list[int]] = {}
    for y, row, length in zip(labels.tolist(), codes.tokens, codes.length, strict=True):
        code = [*(np.searchsorted(vocabulary.tokens, row[:length]) + 3).tolist(), EOS]
        for end in range(len(code) + 1):
            prefixes.setdefault(tuple(code[:end]), []).append(y)
    return prefixes


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    tokens=st.sets(st.integers(1, 40), min_size=1, max_size=6),
    tolerance=st.sampled_from([0.0, 0.005, 0.05, 0.3, 0.6]),
    max_length=st.integers(1, 4),
)
def test_legal_tokens_and_intervals_equal_brute_force(tokens: set[int], tolerance: float, max_length: int) -> None:
    vocabulary = CoDiVocabulary(sorted(tokens), tolerance=tolerance, max_length=max_length)
    intervals = Intervals.of(vocabulary)
    # The largest token may follow itself without end; the labels that need it under a tolerance lie within this.
    top = 4 * max_length * max(tokens)
    prefixes = codes_of_all_labels(vocabulary, top)
    for prefix, labels in prefixes.items():
        state = intervals.prefixes(torch.tensor([prefix], dtype=torch.int64))
        assert state.legal.item()
        legal = set(intervals.legal_tokens(state)[0].nonzero()[:, 0].tolist())
        if prefix and prefix[-1] == EOS:
            assert state.finished.item() and legal == {PAD}
            continue
        assert legal == {child[-1] for child in prefixes if len(child) == len(prefix) + 1 and child[:-1] == prefix}
        low, width = state.low.item(), state.width.item()
        assert low <= min(labels) and max(labels) < low + width
        # Every label of [s, s + B) either has this prefix or stopped within tolerance before its last token.
        for y in range(int(low), int(min(low + width, top + 1))):
            last = int(vocabulary.tokens[prefix[-1] - 3]) if prefix else 0
            stopped = bool(prefix) and y - (low - last) <= math.floor(tolerance * y)
            assert (y in labels) != stopped
    codes = torch.from_numpy(vocabulary.encode(np.arange(max_length * max(tokens) + 1)))
    assert intervals.prefixes(codes).legal.all()


def test_by_hand_with_the_relative_stop() -> None:
    # Tokens 1, 10, 1000; ε 0.005. After 1000 the next token is below 1000; 1 is picked by residuals up to 9 > 5.045.
    intervals = Intervals.of(CoDiVocabulary([1, 10, 1000], tolerance=0.005))
    state = intervals.prefixes(torch.tensor([[5], [4], [3]]))
    assert state.low.tolist() == [1000, 10, 1] and state.width.tolist() == [UNBOUNDED - 1000, 990, 9]
    assert intervals.legal_tokens(state).int().tolist() == [[0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 0, 0]]
    # After 2000 a residual of 9 is within ε of 2009: 1 no longer follows.
    twice = intervals.prefixes(torch.tensor([[5, 5]]))
    assert intervals.legal_tokens(twice).int().tolist() == [[0, 0, 1, 0, 1, 1]]


def test_rows_of_a_batch_are_independent_and_finished_rows_only_pad() -> None:
    vocabulary = CoDiVocabulary([1, 5, 50], tolerance=0, max_length=5)
    intervals = Intervals.of(vocabulary)
    ids = torch.from_numpy(vocabulary.encode([58, 5, 0, 103]))
    whole = intervals.prefixes(ids)
    assert whole.low.tolist() == [58, 5, 0, 103] and whole.finished.all() and whole.legal.all()
    assert intervals.legal_tokens(whole).nonzero()[:, 1].tolist() == [PAD] * 4
    for row in range(4):
        one = intervals.prefixes(ids[row : row + 1])
        assert (one.low, one.width, one.length) == (whole.low[row], whole.width[row], whole.length[row])


@pytest.mark.parametrize("prefix", [[3, 4], [1], [PAD], [3, 3, 3, 3, 3], [EOS, 3]])
def test_prefixes_that_no_label_has_are_marked(prefix: list[int]) -> None:
    intervals = Intervals.of(CoDiVocabulary([1, 5, 50], tolerance=0))
    assert not intervals.prefixes(torch.tensor([prefix])).legal.item()


def test_only_eos_after_max_length_and_without_tokens() -> None:
    intervals = Intervals.of(CoDiVocabulary([1, 5], tolerance=0, max_length=2))
    assert intervals.legal_tokens(intervals.prefixes(torch.tensor([[4, 4]]))).int().tolist() == [[0, 0, 1, 0, 0]]
    empty = Intervals.of(CoDiVocabulary([]))
    assert empty.legal_tokens(empty.start(2)).int().tolist() == [[0, 0, 1]] * 2


def test_legal_ids_and_bounds_of_one_prefix() -> None:
    vocabulary = CoDiVocabulary([10, 50, 500], resolution=0.1, offset=-20, tolerance=0)
    assert legal_ids(vocabulary, []) == [2, 3, 4, 5] and bounds(vocabulary, []) == (-2.0, math.inf)
    assert legal_ids(vocabulary, [4]) == [2, 3, 4] and bounds(vocabulary, [4]) == (3.0, 48.0)
    assert legal_ids(vocabulary, [4, 3, EOS]) == [PAD]


@pytest.mark.parametrize(("prefix", "message"), [([3, 5], "no code begins with"), ([9], "0 to 5"), ([1.5], "integers")])
def test_bad_prefixes_are_refused(prefix: list[Any], message: str) -> None:
    vocabulary = CoDiVocabulary([1, 5, 50])
    for function in (legal_ids, bounds):
        with pytest.raises(ValueError, match=message):
            function(vocabulary, prefix)
