"""Settings of all tests, those in the documentation included."""

import gc
import os

import pytest
import torch
from hypothesis import settings

# A machine that is busy with something else is no failure.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

if not torch.cuda.is_available():
    # DeepSpeed prints on import that it found no accelerator, in the middle of whatever is being tested.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Models of tests are so small that threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def young_garbage() -> None:
    """Each training collects garbage, for longer than it trains here if it looks through all that was imported."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()
