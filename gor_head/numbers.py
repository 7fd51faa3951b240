"""Numbers as text: one strict reader and one exact writer, for tables, labels, answers and prompts."""

import math
import re
import unicodedata
from typing import Any

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_DECORATION = re.compile(r"[\s,'’_%]")


def read_number(text: str) -> float | None:
    """The finite number that a text spells in ASCII digits, blanks around it ignored; `None` if it spells none.

    Python's `float` takes more: `1_0`, digits of other scripts, `nan` and `inf`.

    Example:

    ```python
    >>> from gor_head.numbers import read_number
    >>> [read_number(text) for text in (" 2.5e1 ", "1_000", "1,000", "nan", "1e999")]
    [25.0, None, None, None, None]
    ```
    """
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def parse_number(text: str | float) -> float:
    """[`read_number`][gor_head.numbers.read_number] for options of a command, whose defaults are numbers already.

    Raises:
        ValueError: If the text spells no number.
    """
    number = read_number(text) if isinstance(text, str) else text
    if number is None:
        raise ValueError(f"wanted a finite number in plain digits, got {text!r}.")
    return number


def number_option(help: str) -> Any:
    """An option of a command, a number read by [`parse_number`][gor_head.numbers.parse_number]: no `1_0`, `nan` or
    digits of other scripts."""
    import typer

    return typer.Option(parser=parse_number, metavar="FLOAT", help=help)


def resembles_number(text: str) -> bool:
    """Whether a text is a number, or would be without currency, percent sign, separators or characters of
    other scripts.

    Example:

    ```python
    >>> from gor_head.numbers import resembles_number
    >>> [resembles_number(text) for text in ("12", "1,234.5", "$ 5", "12 %", "?", "Oslo")]
    [True, True, True, True, False, False]
    ```
    """
    if read_number(text) is not None:
        return True
    plain = _DECORATION.sub("", unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-"))
    plain = "".join(str(unicodedata.decimal(mark, mark)) for mark in plain if unicodedata.category(mark) != "Sc")
    return read_number(plain) is not None


def write_number(value: Any) -> str:
    """The shortest decimal that reads back as exactly this number, whole numbers without a decimal point.

    Example:

    ```python
    >>> from gor_head.numbers import write_number
    >>> [write_number(number) for number in (58.0, 1234567, 0.1, 3.2e-8)]
    ['58', '1234567', '0.1', '3.2e-08']
    ```
    """
    # `str`, for numpy's float32 is 0.1 where its float64 is not; `+ 0.0`, for -0.0 + 0.0 is 0.0.
    return str(value + 0.0).removesuffix(".0")


def show_number(value: Any, digits: int = 4) -> str:
    """A measured number for people: so many significant digits, but every digit before the point.

    Example:

    ```python
    >>> from gor_head.numbers import show_number
    >>> [show_number(number) for number in (1234567.8, 12.34567, 3.21987e-8)]
    ['1234568', '12.35', '3.22e-08']
    ```
    """
    whole = 10 ** (digits - 1) <= abs(value) < 1e15
    return f"{value:.0f}" if whole else f"{value:.{digits}g}"


def show_metric(value: Any) -> str:
    """A metric with three decimals, or three significant digits where those would be zeros.

    Example:

    ```python
    >>> from gor_head.numbers import show_metric
    >>> [show_metric(number) for number in (0.1054, 0.0021, 3.21987e-8, 0)]
    ['0.105', '0.0021', '3.22e-08', '0.000']
    ```
    """
    return show_number(value, 3) if 0 < abs(value) < 0.01 else f"{value:.3f}"
