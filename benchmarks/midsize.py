"""A Qwen2.5-VL large enough for its arithmetic to count, small enough for a CPU: weights are random."""

from typing import Any

import numpy as np
import torch
from datasets import Dataset

from rarl import tiny
from rarl.datasets import load_source, make_dataset

WIDTH = 384
LAYERS = 6
VISION_LAYERS = 4
IMAGE_SIDE = 224
"""Pixels; such an image is 64 tokens, so eight make a prompt of about 600."""


def build_model(seed: int = 0) -> tuple[Any, Any]:
    """A model of 6 layers and width 384 and its processor; same seed, same weights. Seeds torch's generator."""
    processor = tiny.build_processor()
    torch.manual_seed(seed)
    return tiny.build_model(processor, width=WIDTH, layers=LAYERS, vision_layers=VISION_LAYERS), processor


def make_rows(num_images: int, num_prompts: int) -> Dataset:
    """Rows (`prompt`, `images`, `values`, `task`) over built-in images of 224 x 224 pixels, the same in every run."""
    size = max(16, num_images)
    source = load_source("builtin", size=size, min_pixels=IMAGE_SIDE**2, max_pixels=IMAGE_SIDE**2)
    return make_dataset(source, np.arange(size), num_prompts, mix={num_images: 1.0})
