"""What tests of trainers share: a tiny random model that has not learned to answer."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from rarl import tiny


@pytest.fixture(scope="module")
def random_model(processor: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Loaded from a folder, since TRL loads the reference model from where the model came from."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    tiny.build_model(processor, width=64, layers=1, vision_layers=1).save_pretrained(folder)
    return AutoModelForImageTextToText.from_pretrained(folder)
