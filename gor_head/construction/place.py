"""Place-value initial vocabulary: a code is a number's digits in some base, each in its place."""

import numpy as np

from gor_head.construction.greedy import Units


def place_tokens(largest: int, base: int = 10) -> Units:
    """All 1, 2, …, base − 1 times powers of the base up to the largest label, in grid units, ascending.

    Every number up to the largest then has a code of at most as many tokens as it has digits.
    """
    steps, place = [], 1
    while place <= largest:
        steps += [digit * place for digit in range(1, base) if digit * place <= largest]
        place *= base
    return np.array(steps, dtype=np.int64)


def smallest_base(largest: int, size: int) -> tuple[int, int]:
    """The base with the fewest places that writes numbers up to `largest` in at most `size` tokens.

    Args:
        largest: The largest number, in grid units, at least 1.
        size: The largest number of tokens, at least 2.

    Returns:
        The base, and how many places it needs.

    Raises:
        ValueError: If not even base 2 has few enough tokens.
    """
    for places in range(1, largest.bit_length() + 1):
        base = max(2, _root(largest, places))
        top = base ** (places - 1)
        if (places - 1) * (base - 1) + largest // top <= size:
            return base, places
    raise ValueError(
        f"size: wanted at least {largest.bit_length()} tokens for numbers up to {largest} steps of the grid, got "
        f"{size}."
    )


def _root(largest: int, places: int) -> int:
    """The least base whose numbers of so many places reach `largest`: the least b with b ** places > largest."""
    base = max(1, int(largest ** (1 / places)) - 1)
    while base**places <= largest:
        base += 1
    return base
