"""Numbers as text of value tokens: 58 is `<gor><+50><+5><+3></gor>`, or `<=58>` where every number is a token.

The tokens' names carry their values, so that a text can be read without its vocabulary, and whatever a model writes in
them is a number or is not.
"""

import re
from decimal import Decimal

from gor_head.numbers import write_number
from gor_head.vocabulary import EOS, FIRST_VALUE, CoDiVocabulary

OPEN, CLOSE = "<gor>", "</gor>"
_DECIMAL = r"[0-9]+(?:\.[0-9]+)?"
_TOKEN = re.compile(rf"<[+=]({_DECIMAL})>")
CODE_PATTERN = rf"{OPEN}(?:<\+{_DECIMAL}>)*{CLOSE}|<={_DECIMAL}>"
"""Regular expression of a whole code, without groups."""

_CODE = re.compile(CODE_PATTERN)


def token_names(vocabulary: CoDiVocabulary) -> list[str]:
    """Texts of the value tokens, by ascending value: `["<+1>", "<+5>", "<+50>"]`, or `["<=1>", "<=2>"]` of a tagless
    vocabulary.

    Raises:
        ValueError: If the vocabulary has an offset: its codes are no sums from 0.
    """
    if vocabulary.offset:
        raise ValueError(f"vocabulary: wanted one without an offset, got {write_number(vocabulary.offset)}.")
    sign = "=" if vocabulary.tagless else "+"
    return [f"<{sign}{_decimal(value)}>" for value in vocabulary.values[FIRST_VALUE:].tolist()]


def end_name(vocabulary: CoDiVocabulary) -> str:
    """Text of what adds nothing: `</gor>`, the end of a code, or the number `<=0>` of a tagless vocabulary."""
    return "<=0>" if vocabulary.tagless else CLOSE


def write_value(vocabulary: CoDiVocabulary, value: float) -> str:
    """The code of a number as text."""
    names = token_names(vocabulary)
    code = "".join(names[token - FIRST_VALUE] for token in vocabulary.encode(value) if token != EOS)
    return (code or end_name(vocabulary)) if vocabulary.tagless else OPEN + code + CLOSE


def has_codes(text: str) -> bool:
    """Whether anything in a text may be a code, quickly."""
    return OPEN in text or "<=" in text


def codes_to_numbers(text: str) -> str:
    """A text with every whole code replaced by the decimal number that it adds up to; an unfinished one stays.

    Example:

    ```python
    >>> from gor_head.vlm import codes_to_numbers
    >>> codes_to_numbers('{"value": <gor><+50><+5><+3></gor>}, {"value": <=58>}')
    '{"value": 58}, {"value": 58}'
    ```
    """
    return _CODE.sub(lambda match: _decimal(sum(map(Decimal, _TOKEN.findall(match[0])), Decimal(0))), text)


def _decimal(value: float | Decimal) -> str:
    """Shortest decimal without an exponent."""
    text = format(Decimal(repr(value)) if isinstance(value, float) else value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
