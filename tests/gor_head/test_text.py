from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gor_head import CoDiVocabulary
from gor_head.vlm import CLOSE, OPEN, codes_to_numbers, token_names, write_value


def test_age_by_hand() -> None:
    ages = CoDiVocabulary([1, 3, 5, 50], tolerance=0)
    assert token_names(ages) == ["<+1>", "<+3>", "<+5>", "<+50>"]
    assert write_value(ages, 58) == "<gor><+50><+5><+3></gor>"
    assert write_value(ages, 0) == "<gor></gor>"
    assert codes_to_numbers(f"[{write_value(ages, 58)}, {write_value(ages, 0)}]") == "[58, 0]"


def test_small_and_large_values_have_no_exponent() -> None:
    tiny = CoDiVocabulary([1, 10**9], resolution=1e-6)
    assert token_names(tiny) == ["<+0.000001>", "<+1000>"]


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30))
def test_every_training_label_is_read_back(hundredths: list[int]) -> None:
    labels = [value / 100 for value in hundredths]
    vocabulary = CoDiVocabulary.fit(labels, exact=True, resolution=0.01)
    for value in labels:
        assert Decimal(codes_to_numbers(write_value(vocabulary, value))) == Decimal(repr(value)).normalize()


@given(st.text(alphabet="<gor>/+0123. {}[]", max_size=60))
def test_nothing_but_whole_codes_is_touched(text: str) -> None:
    if OPEN not in text or CLOSE not in text:
        assert codes_to_numbers(text) == text


@pytest.mark.parametrize("text", ["<gor><+5>", "<+5></gor>", "<gor><5></gor>", "<gor><+5> </gor>", "<gor>5</gor>"])
def test_unfinished_and_foreign_codes_stay(text: str) -> None:
    assert codes_to_numbers(text) == text


def test_offset_is_refused() -> None:
    with pytest.raises(ValueError, match="wanted one without an offset, got -3"):
        token_names(CoDiVocabulary.fit([-3, 4], offset="min"))
