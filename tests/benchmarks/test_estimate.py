"""Formulas for work and memory, beside torch's own count and the measured peak of real passes of a small model."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.vision_utils import get_vision_window_index

from benchmarks import learner_step
from benchmarks.estimate import build_config, check, count_parameters, estimate, largest
from benchmarks.formulas import Trained, window_pairs
from rarl import tiny


def build_model(name: str | None = None) -> tuple[Any, Any]:
    """Text and vision differ in every size, so none can stand for the other."""
    processor = tiny.build_processor()
    config = tiny.build_config(processor, width=64, layers=4)
    config.text_config.intermediate_size = 100
    vision = config.vision_config
    vision.hidden_size, vision.intermediate_size, vision.num_heads = 32, 40, 2
    vision.depth, vision.fullatt_block_indexes = 3, [1]
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(config), processor


@pytest.mark.parametrize(
    ("trained", "images", "checkpointing"),
    [("full", 1, False), ("full", 8, False), ("full", 1, True), ("lora", 4, False), ("lora", 1, True)],
)
def test_formulas_agree_with_real_passes(
    trained: Trained, images: int, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner_step, "build_model", build_model)
    row = check(trained, images, checkpointing)
    for layout in (row["plain"], row["shared"]):
        # With LoRA the first layer's adapters need fewer gradients than the formula has.
        assert layout["flops"] == pytest.approx(layout["counted_flops"], rel=1e-6 if trained == "full" else 5e-3)
        # What is not in the formula: temporary tensors, mostly of the head, which has a kernel of its own on a GPU.
        assert 0.8 * layout["measured_bytes"] < layout["bytes"] < layout["measured_bytes"]
    ratios = [row["shared"][name] / row["plain"][name] for name in ("bytes", "measured_bytes")]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.05)


@pytest.mark.parametrize("grid", [(32, 32), (16, 10), (6, 22)])
def test_window_pairs(grid: tuple[int, int]) -> None:
    _, bounds = get_vision_window_index(
        torch.tensor([[1, *grid]]), spatial_merge_size=2, window_size=112, patch_size=14
    )
    assert window_pairs(grid, 8) == int((np.diff(bounds.numpy()) ** 2).sum())


def test_largest() -> None:
    for number in range(20):
        assert largest(lambda n, number=number: n <= number) == number  # type: ignore[misc]


def test_estimate_of_the_3b() -> None:
    config = build_config()
    weights = count_parameters(config)
    assert weights == 3_754_622_976  # as published
    row = estimate(config, weights, 8, 8, 100, 80e9)
    plain, shared = row["plain"], row["shared"]
    assert plain["prefill_tflops"] / shared["prefill_tflops"] == pytest.approx(8, rel=1e-3)
    # More than tokens alone say, less than the ratio of the vision tower: TRL's goes backward for nothing.
    assert 8 * 2384 / 3084 < plain["learner_tflops"] / shared["learner_tflops"] < 4.5 * 8
    # The work of a token of the language model is twice its weights, without embeddings, and attention's.
    assert shared["prefill_tflops"] * 1e12 > 2 * 2283 * 36 * (2048 * (2 * 2048 + 2 * 256 + 3 * 11008))
    assert shared["largest_G"] > plain["largest_G"] > 8
    assert plain["activations_gb"] < 80 - 2 * weights / 1e9
