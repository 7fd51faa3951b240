"""What value tokens cost in a vision-language model: tokens of an answer, its time, and the mask's share of a step.

Tokens are counted on perfect answers, with the tokenizer of the built-in model (whose digits are single tokens that
take the blank before them along) or another one (Qwen2.5's blanks are tokens of their own). An answer takes a decode
step a token. The mask is timed beside decode steps of the same model on rows that are in the middle of an answer, half
of them inside a code.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from benchmarks import midsize
from gor_head import CoDiVocabulary
from gor_head.intervals import legal_ids
from gor_head.output import replace_unprintable
from gor_head.vlm import ValueTokenLogits, ValueTokens, add_tokens, attach
from rarl import tiny
from rarl.prompt import answer_list
from rarl.task import OrdinalTask, get_task

TASKS = ("age", "aesthetics")
GRIDS = {"age": 1.0, "aesthetics": 0.01}
NUM_IMAGES = (1, 4, 8)
LOGITS = 151_936
"""Width of Qwen2.5-VL-3B's logits."""


KINDS = ("digits", "codes", "codi")
"""How numbers are written: in digits, in the codes for language models, in those that CoDi prunes."""


def value_tokens(task: OrdinalTask, kind: str, seed: int = 0) -> OrdinalTask:
    """The task with a vocabulary fitted on 2 000 labels over its range; for digits, without."""
    if kind == "digits":
        return task
    generator = np.random.default_rng(seed)
    labels = generator.normal((task.minimum + task.maximum) / 2, (task.maximum - task.minimum) / 6, 2000)
    grid = GRIDS[task.name]
    labels = np.round(np.round(labels.clip(task.minimum, task.maximum) / grid) * grid, 2)
    if kind == "codes":
        return task.with_vocabulary(CoDiVocabulary.for_language_model(labels, maximum=task.maximum, resolution=grid))
    return task.with_vocabulary(CoDiVocabulary.fit([*labels, task.maximum], resolution=grid))


def answer_tokens(tokenizer_name: str, seed: int = 0) -> list[dict[str, Any]]:
    """Mean tokens of a perfect answer's list and of one number in it, in each of the ways to write numbers."""
    generator = np.random.default_rng(seed)
    results = []
    for name in TASKS:
        digits = get_task(name)
        tasks = {kind: value_tokens(digits, kind) for kind in KINDS}
        tokenizers = {kind: AutoTokenizer.from_pretrained(tokenizer_name) for kind in KINDS}
        for kind in KINDS[1:]:
            add_tokens(tokenizers[kind], tasks[kind].codi_vocabulary)
        grid = GRIDS[name]
        for num_images in NUM_IMAGES:
            counts: dict[str, list[int]] = {kind: [] for kind in KINDS}
            numbers: dict[str, list[int]] = {kind: [] for kind in KINDS}
            for _ in range(100):
                drawn = generator.uniform(digits.minimum, digits.maximum, num_images)
                values = np.round(np.round(drawn / grid) * grid, 2).tolist()  # 5.47, not 5.470000000000001
                for kind, task in tasks.items():
                    counts[kind].append(len(tokenizers[kind](answer_list(values, task))["input_ids"]))
                    numbers[kind] += [len(tokenizers[kind](task.format_value(value))["input_ids"]) for value in values]
            results.append(
                {
                    "task": name,
                    "images": num_images,
                    **{f"{kind}_tokens": float(np.mean(counts[kind])) for kind in KINDS},
                    **{f"{kind}_per_value": float(np.mean(numbers[kind])) for kind in KINDS},
                    "value_tokens": len(tasks["codes"].codi_vocabulary.tokens),
                }
            )
    return results


def median_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median time of a call, after two that do not count."""
    times = []
    for turn in range(repeats + 2):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if turn > 1:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


@torch.no_grad()
def mask_share(batch: int, length: int, repeats: int) -> dict[str, Any]:
    """Time of a decode step and of the mask on its logits."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, processor = midsize.build_model()
    model.resize_token_embeddings(LOGITS, mean_resizing=False)
    model.to(device).eval()
    task = value_tokens(get_task("age"), "codi")  # without tags nothing is masked
    tokens = attach(model, processor, task.codi_vocabulary)
    ids = torch.randint(300, (batch, length), device=device)
    assert tokens.open_id is not None
    ids[: batch // 2, -2] = tokens.open_id
    ids[: batch // 2, -1] = tokens.ids[-1]
    cache = model(input_ids=ids[:, :-1], use_cache=True).past_key_values
    logits_processor = ValueTokenLogits(tokens)
    scores = torch.randn(batch, LOGITS, device=device)

    def step() -> None:
        model(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True)
        cache.crop(-1)

    step_seconds = median_seconds(step, repeats)
    mask_seconds = median_seconds(lambda: logits_processor(ids, scores), repeats)
    return {
        "batch": batch,
        "step_ms": 1000 * step_seconds,
        "mask_ms": 1000 * mask_seconds,
        "mask_share": mask_seconds / (step_seconds + mask_seconds),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "width": midsize.WIDTH,
        "layers": midsize.LAYERS,
        "logits": LOGITS,
        "legal_equals_vocabulary": legal_equals_vocabulary(logits_processor, tokens, ids, torch.randn_like(scores)),
    }


def legal_equals_vocabulary(processor: ValueTokenLogits, tokens: ValueTokens, ids: Any, scores: Any) -> bool:
    """Exactness: what the mask leaves inside a code is what `gor_head.intervals.legal_ids` says."""
    first = tokens.vocabulary.values.tolist().index(float(tokens.vocabulary.values[-1]))
    wanted = {tokens.end_id if token == 2 else tokens.ids[token - 3] for token in legal_ids(tokens.vocabulary, [first])}
    left = processor(ids[:1], scores[:1])[0].isfinite().nonzero().flatten().tolist()
    return set(left) == wanted


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of value tokens in a language model.", allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--tokenizer", default=tiny.path(), help="folder or Hub id; by default the built-in one")
    parser.add_argument("--batch", type=int, default=64, help="rows of a decode step")
    parser.add_argument("--length", type=int, default=300, help="tokens before it")
    parser.add_argument("--repeats", type=int, default=9, help="timed calls; the median counts")
    arguments = parser.parse_args()
    if min(arguments.batch, arguments.length - 2, arguments.repeats) < 1:
        parser.error("--batch and --repeats must be at least 1, --length at least 3")
    with Console(stderr=True).status("answers and decode steps"):
        answers = answer_tokens(arguments.tokenizer)
        mask = mask_share(arguments.batch, arguments.length, arguments.repeats)
        for row in answers:  # a step a token
            row["digits_ms"] = row["digits_tokens"] * mask["step_ms"]
            row["codes_ms"] = row["codes_tokens"] * (mask["step_ms"] + mask["mask_ms"])
    if arguments.json:
        print(json.dumps({"answers": answers, "mask": mask}))
        return
    table = Table(title="Tokens of a perfect answer")
    for name in ("task", "images", "digits", "value tokens", "CoDi's", "a number in digits", "value tokens", "CoDi's"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for row in answers:
        numbers = [f"{row[f'{kind}_{of}']:.1f}" for of in ("tokens", "per_value") for kind in KINDS]
        table.add_row(row["task"], str(row["images"]), *numbers)
    table.caption = (
        f"mask {mask['mask_ms']:.2f} ms beside a decode step of {mask['step_ms']:.1f} ms, batch {mask['batch']}: "
        f"{mask['mask_share']:.1%} ({mask['device']})"
    )
    Console().print(table)


if __name__ == "__main__":
    replace_unprintable()
    main()
