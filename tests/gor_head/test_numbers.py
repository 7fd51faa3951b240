"""Numbers as text: what is one, and that writing loses nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gor_head.numbers import read_number, resembles_number, show_number, write_number

NO_NUMBERS = [
    *("1_0", "2_5", "１２", "٣", "1,234", "1,5", "1 000", "0x10", "1e", "1e999", "-1e999", "12 %", "$5", "1d5"),
    *("", " ", "-", ".", "?", "NA", "null", "nan", "inf", "-Infinity", "True", "1.2.3", "--1", "1j", "NaN"),
]


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_no_number(text: str) -> None:
    assert read_number(text) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [("12", 12), (" 2.5e1 ", 25), ("+.5", 0.5), ("3.", 3), ("-0", 0), ("1E+2", 100), ("007", 7), ("\t4\u00a0", 4)],
)
def test_what_is_a_number(text: str, number: float) -> None:
    assert read_number(text) == number


@pytest.mark.parametrize("text", ["12", "1,234.5", "$ 5", "5 €", "12 %", "1 000", "1'000", "2_5", "−5", "１２", "٣"])
def test_what_a_person_would_take_for_a_number(text: str) -> None:
    assert resembles_number(text)


@pytest.mark.parametrize("text", ["", "?", "NA", "Oslo", "3A", "2020-01-31", "12:30", "1-2", "<5", "½"])
def test_what_nobody_would(text: str) -> None:
    assert not resembles_number(text)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53))
def test_writing_is_exact(number: float) -> None:
    assert read_number(write_number(number)) == number


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1234567, "1234567"),
        (1234567.0, "1234567"),
        (np.int64(1234567), "1234567"),
        (9e-7, "9e-07"),
        (np.float32(0.1), "0.1"),
        (np.float64(0.1), "0.1"),
        (-0.0, "0"),
        (0.1 + 0.2, "0.30000000000000004"),
    ],
)
def test_the_shortest_form_is_written(number: float, text: str) -> None:
    assert write_number(number) == text


def test_figures_for_people_keep_the_digits_before_the_point() -> None:
    shown = [show_number(number) for number in (1234567.8, -98765.4, 12.34567, 0.00012344, 3.21987e-8, 0, 1e20)]
    assert shown == ["1234568", "-98765", "12.35", "0.0001234", "3.22e-08", "0", "1e+20"]
    assert [show_number(number, 3) for number in (1234.5, 0.98765)] == ["1234", "0.988"]
