"""Binary initial vocabulary: powers of two, from 1 unit on (GoR, section 3.2.3)."""

import numpy as np

from gor_head.construction.greedy import Units


def binary_tokens(largest: int) -> Units:
    """All 2ⁿ up to the largest label, in grid units, ascending."""
    return np.array([1 << n for n in range(largest.bit_length())], dtype=np.int64)
