"""Manual initial vocabulary: [1, 3, 5, 7] × 10ⁿ units (GoR, section 3.2.3)."""

import numpy as np

from gor_head.construction.greedy import Units


def manual_tokens(largest: int) -> Units:
    """All 1, 3, 5, 7 × 10ⁿ up to the largest label, in grid units, ascending."""
    steps = (digit * 10**n for n in range(len(str(largest))) for digit in (1, 3, 5, 7))
    return np.array([step for step in steps if step <= largest], dtype=np.int64)
