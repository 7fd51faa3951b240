"""Forward and backward pass of GRPO's log-probabilities, each prompt encoded once, beside TRL's own layout.

One prompt of 1, 4 or 8 images of 64 tokens each and 8 answers of 64 tokens, on a random Qwen2.5-VL of 6 layers and
width 384 ([`benchmarks.midsize`][benchmarks.midsize]), in fp32: all parameters trained, or LoRA on the language model.
Both layouts go through the same trainer and model in turn, and their gradients are compared.

Memory is the peak of what a pass allocates on top of weights and batch, gradients included, in an untimed pass; see
[`benchmarks.measure`][benchmarks.measure].
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig
from rich.console import Console
from rich.table import Table
from trl import GRPOTrainer

from benchmarks.measure import peak_bytes
from benchmarks.midsize import add_model, build_model, make_rows
from gor_head.output import replace_unprintable
from rarl.inputs import render, tokenizer_of
from rarl.lora import language_lora_targets
from rarl.trainer import RARLConfig, SharedPrefixTrainer

IMAGES = (1, 4, 8)
NUM_GENERATIONS = 8
ANSWER_TOKENS = 64

Pass = Callable[[], torch.Tensor]


def build_trainer(
    mode: str, folder: str, num_images: int, attention: str = "sdpa", name: str | None = None
) -> SharedPrefixTrainer:
    """A trainer of all parameters (`"full"`) or of adapters with random weights (`"lora"`).

    `attention` is what `shared_prefix_attention` takes; `name` is that of a model.
    """
    model, processor = build_model(name)
    # Adapters begin as 0, and half of their gradients, too, if not told otherwise.
    config = LoraConfig(r=16, target_modules=language_lora_targets(model), init_lora_weights=False)
    lora = config if mode == "lora" else None
    args = RARLConfig(
        folder,
        per_device_train_batch_size=NUM_GENERATIONS,
        num_generations=NUM_GENERATIONS,
        shared_prefix="on",
        shared_prefix_attention=attention,
        bf16=False,
        activation_checkpointing=False,
        report_to="none",
    )
    rows = make_rows(num_images, 1, processor)
    trainer = SharedPrefixTrainer(model, lambda **_: None, args, rows, processing_class=processor, peft_config=lora)
    trainer.model.train()
    return trainer


def build_batch(trainer: Any) -> dict[str, Any]:
    """Arguments of the trainer's log-probabilities: the prompt repeated for random answers, as TRL lays them out."""
    row, processor = trainer.train_dataset[0], trainer.processing_class
    text, tokenizer = [render(processor, row["prompt"])] * NUM_GENERATIONS, tokenizer_of(processor)
    images = [row["images"]] * NUM_GENERATIONS if "images" in row else None
    if images is None:
        prompts = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    else:
        prompts = processor(text=text, images=images, return_tensors="pt", return_mm_token_type_ids=True)
    special = len(tokenizer.all_special_ids)
    generator = torch.Generator().manual_seed(0)
    shape = (NUM_GENERATIONS, ANSWER_TOKENS)
    answers = torch.randint(special, len(tokenizer), shape, generator=generator)
    batch = {
        "input_ids": torch.cat([prompts["input_ids"], answers], dim=1),
        "attention_mask": torch.cat([prompts["attention_mask"], torch.ones_like(answers)], dim=1),
    }
    if images is not None:
        types = torch.cat([prompts["mm_token_type_ids"], torch.zeros_like(answers)], dim=1)
        batch |= {"mm_token_type_ids": types}
        batch |= {name: prompts[name] for name in ("pixel_values", "image_grid_thw")}
    device = trainer.accelerator.device
    return {name: field.to(device) for name, field in batch.items()} | {
        "logits_to_keep": ANSWER_TOKENS,
        "num_images": None if images is None else [len(row_images) for row_images in images],
        "compute_entropy": True,
    }


def passes(trainer: Any) -> dict[str, Pass]:
    """A forward and backward pass through TRL's layout and through ours; each returns its log-probabilities."""
    batch = build_batch(trainer)
    generator = torch.Generator().manual_seed(1)
    advantages = torch.randn(NUM_GENERATIONS, 1, generator=generator).to(trainer.accelerator.device)

    def one(cls: type[GRPOTrainer]) -> Pass:
        def step() -> torch.Tensor:
            trainer.model.zero_grad()
            log_probs, _, _ = cls._get_per_token_logps_and_entropies(trainer, trainer.model, **batch)
            (-(log_probs * advantages).mean()).backward()
            return log_probs.detach()

        return step

    return {"stock": one(GRPOTrainer), "shared": one(SharedPrefixTrainer)}


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def largest_relative_difference(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> float:
    """Over all parameters: largest difference of a gradient, over the largest entry of the expected one."""
    if expected.keys() != found.keys():
        raise ValueError(f"Parameters with a gradient differ: {sorted(expected.keys() ^ found.keys())[:4]}.")
    ratios = [(value - found[name]).abs().max() / value.abs().max() for name, value in expected.items()]
    return float(torch.stack(ratios).max())  # not a number if one of them is not


def milliseconds(step: Pass) -> float:
    start = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


def measure(mode: str, num_images: int, repeats: int, attention: str, model: str | None = None) -> dict[str, Any]:
    """Figures of one mode and number of images; times are medians over `repeats` turns after one to warm up."""
    with tempfile.TemporaryDirectory() as folder:
        trainer: Any = build_trainer(mode, folder, num_images, attention, model)
    steps = passes(trainer)
    log_probs, grads, peaks = {}, {}, {}
    for name, step in steps.items():  # warms up
        trainer.model.zero_grad()  # gradients count as memory of the pass
        log_probs[name], peaks[name] = peak_bytes(step)
        grads[name] = gradients(trainer.model)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            times[name].append(milliseconds(step))
    stock_ms, shared_ms = statistics.median(times["stock"]), statistics.median(times["shared"])
    return {
        "mode": mode,
        "attention": attention,
        "images": num_images,
        "num_generations": NUM_GENERATIONS,
        "prompt_tokens": build_batch(trainer)["input_ids"].shape[1] - ANSWER_TOKENS,
        "answer_tokens": ANSWER_TOKENS,
        "stock_ms": round(stock_ms, 1),
        "shared_ms": round(shared_ms, 1),
        "speedup": round(stock_ms / shared_ms, 3),
        "stock_peak_mb": round(peaks["stock"] / 1e6, 1),
        "shared_peak_mb": round(peaks["shared"] / 1e6, 1),
        "peak_memory_ratio": round(peaks["shared"] / peaks["stock"], 4),
        "max_abs_log_prob_diff": float((log_probs["stock"] - log_probs["shared"]).abs().max()),
        "max_rel_grad_diff": largest_relative_difference(grads["stock"], grads["shared"]),
    }


def show(results: list[dict[str, Any]]) -> None:
    table = Table(title=f"Forward and backward pass, {NUM_GENERATIONS} answers of {ANSWER_TOKENS} tokens to one prompt")
    for column in ("trained", "images", "prompt", "TRL ms", "ours ms", "speed", "memory", "gradients"):
        table.add_column(column, justify="right")
    for row in results:
        cells = [row["mode"], str(row["images"]), str(row["prompt_tokens"])]
        cells += [f"{row['stock_ms']:.0f}", f"{row['shared_ms']:.0f}", f"{row['speedup']:.2f}x"]
        table.add_row(*cells, f"{row['peak_memory_ratio']:.2f}x", f"{row['max_rel_grad_diff']:.1e}")
    table.caption = "prompt: tokens; memory: our peak over TRL's; gradients: largest relative difference"
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--images", type=int, nargs="+", default=list(IMAGES), help="numbers of images in the prompt")
    parser.add_argument("--repeats", type=int, default=3, help="timed turns of each layout")
    parser.add_argument(
        "--modes", choices=("full", "lora"), nargs="+", default=["full", "lora"], help="what is trained"
    )
    add_model(parser)
    parser.add_argument("--attention", choices=("sdpa", "flex"), default="sdpa", help="ours; flex on CUDA only")
    arguments = parser.parse_args()
    for name in ("repeats", "images"):
        value = getattr(arguments, name)
        if min([value] if isinstance(value, int) else value) < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    with contextlib.redirect_stdout(sys.stderr):  # the object or the table is all of the output
        results = [
            measure(mode, number, arguments.repeats, arguments.attention, arguments.model)
            for mode in arguments.modes
            for number in arguments.images
        ]
    if arguments.json:
        on_gpu = torch.cuda.is_available()
        device = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} CPU threads"
        memory = "CUDA's allocations, above weights" if on_gpu else "torch's CPU allocations, above weights"
        print(json.dumps({"device": device, "memory": memory, "results": results}, indent=2))
    else:
        show(results)


if __name__ == "__main__":
    replace_unprintable()
    main()
