"""What tests of `rarl` share: the tiny processor, and a registry of tasks that no test leaves changed."""

from collections.abc import Iterator

import pytest
from transformers import Qwen2_5_VLProcessor

from rarl import tiny
from rarl.task import TASKS


@pytest.fixture(scope="module")
def processor() -> Qwen2_5_VLProcessor:
    """The built-in tiny model's, one a file: value tokens that a test adds stay in the file."""
    return tiny.build_processor()


@pytest.fixture(autouse=True)
def registered_tasks() -> Iterator[None]:
    """Tasks that a test registers are gone after it."""
    before = dict(TASKS)
    yield
    TASKS.clear()
    TASKS.update(before)
