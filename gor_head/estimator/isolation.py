"""A fit leaves nothing behind: neither random state nor settings of logging."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from transformers import set_seed
from transformers.utils import logging


def seed_of(random_state: Any) -> int:
    """A seed from what scikit-learn calls a random state."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31 - 1))
    # Not scikit-learn's answer to None, the global generator: that one is left alone.
    generator = check_random_state(np.random.RandomState() if random_state is None else random_state)
    return int(generator.randint(2**31 - 1))


_DRAWING = threading.RLock()
"""Held by the thread that draws: the generators that it seeds are those of the whole process."""


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Random numbers from a seed inside, and those of the caller afterwards as if nothing had been drawn.

    One thread at a time; others wait.
    """
    with _DRAWING, torch.random.fork_rng():
        before, numpy_before = random.getstate(), np.random.get_state()
        try:
            set_seed(seed)
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numpy_before)


@contextmanager
def silence() -> Iterator[None]:
    """No bars over the writing of checkpoints, and no remarks on files that nobody asked for; undone afterwards."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
