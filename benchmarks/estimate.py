"""Work and memory of a GRPO step on Qwen2.5-VL-3B by formula: shared prompts beside TRL's layout.

In bf16 with LoRA and gradient checkpointing on a GPU of 80 GB. **An estimate: nothing of it was run.** `--check` runs
the mid-size model of [`benchmarks.learner_step`][benchmarks.learner_step] and sets torch's count of floating-point
operations and the measured peak of memory beside the formulas ([`benchmarks.formulas`][benchmarks.formulas]); that
takes a minute or two. Time is not estimated: kernels differ in how much of a GPU they use.
"""

import argparse
import bisect
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from benchmarks import learner_step
from benchmarks.formulas import (
    Layout,
    Trained,
    activation_bytes,
    adapter_parameters,
    forward_flops,
    layouts,
    pixel_size,
    step_flops,
    text_sizes,
)
from benchmarks.measure import peak_bytes
from gor_head.output import replace_unprintable

NUM_GENERATIONS = 8
ANSWER_TOKENS = 100
MEMORY = 80e9
"""Of the GPU, in bytes."""


def in_place_flops(_: Any, left: Any, right: Any, **__: Any) -> int:
    """Of `addmm_`, the fused head's gradients; torch's counter knows `addmm` only."""
    return 2 * left[0] * left[1] * right[1]


def largest(fits: Callable[[int], bool]) -> int:
    """Largest number that fits, where all smaller ones do; 0 if none does."""
    high = 1
    while fits(high):
        high *= 2
    return bisect.bisect_left(range(1, high + 1), True, key=lambda number: not fits(number))


def estimate(config: Any, weights: int, num_images: int, number: int, answer: int, memory: float) -> dict[str, Any]:
    """Figures for LoRA in bf16 with checkpointing, and `num_images` of 32 x 32 patches, or 256 tokens, each.

    Args:
        config: The configuration of the model.
        weights: Number of parameters of the model.
        num_images: Number of images in the prompt.
        number: G.
        answer: Tokens of an answer.
        memory: Memory of the GPU, in bytes.
    """
    prompt = 180 + (7 + 256) * num_images  # a built-in task's text is about as many of Qwen2.5-VL's own tokens
    grids = ((32, 32),) * num_images
    # Adapters, their gradients and Adam's two moments are fp32, and so are pixels.
    free = memory - 2 * weights - 16 * adapter_parameters(config)

    def held(layout: Layout) -> int:
        return activation_bytes(config, layout, "lora", True, 2) + 4 * pixel_size(config) * layout.patches

    def fits(name: str) -> Callable[[int], bool]:
        def fit(number: int) -> bool:
            # Every answer has a key-value cache of its own while it is sampled, which comes before the pass.
            layers, _, _, key, _ = text_sizes(config)
            cache = 2 * 2 * layers * key * number * (prompt + answer)
            return max(cache, held(layouts(config, prompt, grids, number, answer)[name])) <= free

        return fit

    row: dict[str, Any] = {"images": num_images, "prompt": prompt}
    prefill = {"plain": Layout(number, prompt, grids * number, number, False)}
    prefill["shared"] = Layout(1, prompt - 1, grids, 1, False)
    for name, layout in layouts(config, prompt, grids, number, answer).items():
        row[name] = {
            "prefill_tflops": sum(forward_flops(config, prefill[name]).values()) / 1e12,
            "learner_tflops": step_flops(config, layout, "lora", True) / 1e12,
            "activations_gb": held(layout) / 1e9,
            "largest_G": largest(fits(name)),
        }
    return row


def check(trained: Trained, num_images: int, checkpointing: bool = False) -> dict[str, Any]:
    """Formulas beside the count and peak of a real pass of the benchmark's model; that is in fp32, on a CPU."""
    with tempfile.TemporaryDirectory() as folder:
        trainer: Any = learner_step.build_trainer(trained, folder, num_images)
    if checkpointing:  # as TRL and the trainer of transformers turn it on
        trainer.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": True})
        if trained == "lora":
            trainer.model.enable_input_require_grads()
    batch, config = learner_step.build_batch(trainer), trainer.model.config
    number, answer = learner_step.NUM_GENERATIONS, learner_step.ANSWER_TOKENS
    grids = [(height, width) for _, height, width in batch["image_grid_thw"][:num_images].tolist()]
    both = layouts(config, batch["input_ids"].shape[1] - answer, grids, number, answer, score_all=True)
    row: dict[str, Any] = {"trained": trained, "images": num_images}
    for name, step in zip(both, learner_step.passes(trainer).values(), strict=True):
        trainer.model.zero_grad()
        if name == "shared":
            trainer._leave_out_frozen_vision()  # as its constructor does, but here checkpointing came after that
        with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place_flops}) as counter:
            _, peak = peak_bytes(step)
        row[name] = {
            "flops": step_flops(config, both[name], trained, checkpointing),
            "counted_flops": counter.get_total_flops(),
            "bytes": activation_bytes(config, both[name], trained, checkpointing, 4),
            "measured_bytes": peak,
        }
    return row


def build_config() -> Qwen2_5_VLConfig:
    """Sizes of Qwen2.5-VL-3B."""
    text = {"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36}
    text |= {"num_attention_heads": 16, "num_key_value_heads": 2, "tie_word_embeddings": True}
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 2048}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)


def count_parameters(config: Any) -> int:
    """Of a model, which is not built."""
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    return sum(parameter.numel() for parameter in model.parameters())


def show(title: str, results: list[dict[str, Any]]) -> None:
    """One line for each layout of each row."""
    fixed = [name for name, value in results[0].items() if not isinstance(value, dict)]
    table = Table(title=title)
    for column in [*fixed, "layout", *results[0]["plain"]]:
        table.add_column(column.replace("_", " "), justify="right")
    for row in results:
        for layout in ("plain", "shared"):
            table.add_row(*[str(row[name]) for name in fixed], layout, *[f"{v:,.4g}" for v in row[layout].values()])
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--check", action="store_true", help="run the small model, and compare")
    arguments = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):  # the object or the table is all of the output
        if arguments.check:
            kind = "Formulas beside a count and a measurement, on the mid-size model"
            results = [check(mode, number) for mode in ("full", "lora") for number in learner_step.IMAGES]
        else:
            kind = (
                f"Estimate by formula, not a measurement: Qwen2.5-VL-3B, LoRA in bf16, gradient checkpointing, 80 GB,"
                f" G = {NUM_GENERATIONS}, answers of {ANSWER_TOKENS} tokens"
            )
            config = build_config()
            weights = count_parameters(config)
            results = [
                estimate(config, weights, number, NUM_GENERATIONS, ANSWER_TOKENS, MEMORY)
                for number in learner_step.IMAGES
            ]
    if arguments.json:
        print(json.dumps({"kind": kind, "results": results}, indent=2))
    else:
        show(kind, results)


if __name__ == "__main__":
    replace_unprintable()
    main()
