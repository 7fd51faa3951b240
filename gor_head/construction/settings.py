"""Settings of a vocabulary, and what they have to be."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np

from gor_head.construction.codi import CodiUpdate
from gor_head.grid import MAX_UNITS

Initializer = Literal["quantile", "manual", "binary", "place", "labels"]

RULES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "initializer": (lambda value: value in get_args(Initializer), "quantile, manual, binary, place or labels"),
    "q": (lambda value: 0 < value <= 1, "a number above 0 and up to 1"),
    "beta": (lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "tolerance": (lambda value: 0 <= value < 1, "a number from 0 to below 1"),
    "max_length": (lambda value: value >= 1 and value == int(value), "a whole number from 1"),
    "size": (lambda value: value >= 2 and value == int(value), "a whole number from 2"),
    "mean_length": (lambda value: np.isfinite(value) and value >= 1, "a number from 1"),
    "codi_update": (lambda value: value in get_args(CodiUpdate), "static or recompute"),
    "offset": (lambda value: value in (None, "min"), "None or 'min'"),
    "resolution": (lambda value: np.isfinite(value) and value > 0, "a positive number"),
    "offset_units": (lambda value: value == int(value) and abs(value) <= MAX_UNITS, "a whole number of units"),
}
"""By setting: whether a value is a good one, and what is wanted, in words."""


def check_settings(**settings: Any) -> None:
    """Refuse settings by the [`RULES`][gor_head.construction.settings.RULES], in the order given; an error in a rule
    means that it is broken.

    Raises:
        ValueError: Names the setting, what is wanted and the value.
    """
    for name, value in settings.items():
        holds, wanted = RULES[name]
        try:
            fine = not isinstance(value, bool) and bool(holds(value))
        except (TypeError, ValueError, OverflowError):  # text, a list, int(infinity)
            fine = False
        if not fine:
            raise ValueError(f"{name.removesuffix('_units')}: wanted {wanted}, got {value!r}.")
