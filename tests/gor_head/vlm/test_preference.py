import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gor_head.vlm.preference import Candidate, PreferenceFile, choose_pair


def candidates(*errors: float) -> list[Candidate]:
    return [Candidate(f"answer {place}", error, place) for place, error in enumerate(errors)]


@pytest.mark.parametrize(
    ("errors", "gap", "pair"),
    [
        ((2, 1, 3), 0.0, (1, 0)),  # least error; of the worse ones the likeliest
        ((2, 1, 3), 1.0, (1, 2)),  # 2 is not worse by more than 1
        ((2, 2, 2), 0.0, None),
        ((5,), 0.0, None),
        ((math.inf, 4), 0.0, (1, 0)),
        ((math.inf, math.inf), 0.0, None),
        ((0, 1), 1.0, None),
    ],
)
def test_pairs_by_hand(errors: tuple[float, ...], gap: float, pair: tuple[int, int] | None) -> None:
    assert choose_pair(candidates(*errors), gap) == pair


def test_candidates_that_say_the_same_are_one() -> None:
    same = [Candidate("a", 3, "x"), Candidate("b", 1, "y"), Candidate("c", 3, "x"), Candidate("d", 9, "z")]
    assert choose_pair(same) == (1, 0)
    assert choose_pair(same, gap=2) == (1, 3)


def test_the_true_answer_may_be_the_chosen_one() -> None:
    own = Candidate("truth", 0.0, "truth")
    assert choose_pair(candidates(0, 2, 1), perfect=own) == (3, 1)
    assert choose_pair(candidates(0, 0), perfect=own) is None


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(0, 3))
def test_rejected_is_worse_by_more_than_the_gap_or_there_is_no_pair(errors: list[int], gap: int) -> None:
    pair = choose_pair(candidates(*errors), gap)
    if pair is None:
        assert max(errors) - min(errors) <= gap
    else:
        assert errors[pair[0]] == min(errors) and errors[pair[1]] > errors[pair[0]] + gap
        assert all(errors[place] <= errors[pair[0]] + gap for place in range(pair[1]))


def test_file_goes_on_and_counts(tmp_path: Path) -> None:
    file = PreferenceFile(tmp_path, {"beams": 4})
    one, two, unread = Candidate("near", 1.0, 1), Candidate("far", 3.5, 2), Candidate("?", math.inf, 3)
    file.add(0, (one, two))
    file.add(1, None)
    with file.path.open("a") as broken:
        broken.write('{"row": 2, "chos')  # stopped in the middle of a line
    again = PreferenceFile(tmp_path, {"beams": 4})
    assert len(again) == 2
    again.add(2, (one, unread))
    found = PreferenceFile(tmp_path, {"beams": 4}).statistics()
    assert (found.rows, found.pairs, found.ties, found.unreadable, found.gaps) == (3, 2, 1, 1, [2.5])
    assert found.histogram() == [(2.0, 3.0, 1)]
    assert again.pairs() == [(0, "near", "far"), (2, "near", "?")]
    for line in again.path.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # no NaN, no Infinity
    card = again.write_card("Ages", "Pairs of ages.").read_text()
    assert "ties skipped: 1 (33.3%)" in card and "| 2 to 3 | 1 |" in card and "- beams: 4" in card
    with pytest.raises(ValueError, match=r"made with \{'beams': 4\}, wanted \{'beams': 8\}"):
        PreferenceFile(tmp_path, {"beams": 8})


def test_paths_and_answers_that_are_no_text_in_utf8(tmp_path: Path) -> None:
    odd = os.fsdecode(b"adapter \xff")
    file = PreferenceFile(tmp_path, {"adapter": odd})
    file.add(0, (Candidate(f"τ {odd}", 0.0, 0), Candidate("b", 1.0, 1)))
    assert PreferenceFile(tmp_path, {"adapter": odd}).pairs() == [(0, f"τ {odd}", "b")]
    assert "- adapter: adapter ?" in file.write_card("τ", "Pairs.").read_text(encoding="utf-8")
