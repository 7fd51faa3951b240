"""A Qwen2.5-VL of random weights whose arithmetic counts, small enough for a CPU; or a model by name."""

import argparse
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import ProcessorMixin

from rarl import tiny
from rarl.datasets import ItemSource, TableSource, load_source, make_dataset
from rarl.models import load_model

WIDTH = 384
LAYERS = 6
VISION_LAYERS = 4
IMAGE_SIDE = 224
"""Pixels; such an image is 64 tokens, so eight make a prompt of about 600."""

WORDS = "the film was a long and rather dull story of love which nobody in our town would want to see again".split()
"""What texts are made of, twenty words each, where a language model is measured."""


def build_model(name: str | None = None, seed: int = 0) -> tuple[Any, Any]:
    """A model and its processor: of 6 layers and width 384, same seed, same weights; or what a name, folder or id of
    the Hub stands for, such as `"smollm2"`, in float32. Seeds torch's generator."""
    torch.manual_seed(seed)
    if name is not None:
        return load_model(name, dtype=torch.float32)
    processor = tiny.build_processor()
    torch.manual_seed(seed)
    return tiny.build_model(processor, width=WIDTH, layers=LAYERS, vision_layers=VISION_LAYERS), processor


def make_rows(num_items: int, num_prompts: int, processor: Any) -> Dataset:
    """Rows (`prompt`, `images`, `values`, `task`) over built-in images of 224 x 224 pixels, or texts of twenty words
    where a model sees no images; the same in every run."""
    size = max(16, num_items)
    source: ItemSource
    if isinstance(processor, ProcessorMixin):
        source = load_source("builtin", size=size, min_pixels=IMAGE_SIDE**2, max_pixels=IMAGE_SIDE**2)
    else:
        rng = np.random.default_rng(0)
        texts = [" ".join(rng.choice(WORDS, size=20)) for _ in range(size)]
        source = TableSource(Dataset.from_dict({"text": texts, "value": [float(i % 11) for i in range(size)]}))
    return make_dataset(source, np.arange(size), num_prompts, mix={num_items: 1.0})


def add_model(parser: argparse.ArgumentParser) -> None:
    """The argument `--model`."""
    parser.add_argument("--model", help="a model by name, folder or id of the Hub instead of one with random weights")
