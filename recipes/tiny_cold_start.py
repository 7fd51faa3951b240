"""Makes the built-in tiny model, in about 25 minutes on two cores.

python recipes/tiny_cold_start.py --output rarl/assets/tiny

Supervised learning from random weights, in five phases: one image, then up to four, then up to eight, with true values;
last a short phase on the labels of careless annotators, who miss each dot with probability 0.4 (and see a disc 0.4 too
dark) and mostly sort images into few and many only. The result knows how to look, answer and sort, and
answers with mediocre values and orders: what reinforcement learning has to mend. Same seed, same machine, same weights.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.progress import track

from gor_head.output import check_output_folder, replace_unprintable
from rarl import tiny
from rarl.answer_format import write_completion, write_list
from rarl.datasets.builtin import RENDERERS
from rarl.prompt import build_prompt, list_reasoning
from rarl.task import OrdinalTask, get_task


@dataclass(frozen=True)
class Phase:
    """One stretch of training: which numbers of images, for how long, how fast, with whose labels."""

    name: str
    num_images: tuple[int, ...]
    steps: int
    batch_size: int
    learning_rate: float
    final_share: float = 1.0  # of the learning rate, reached linearly
    careless: bool = False


PHASES = (
    Phase("one image", (1,), 600, 64, 1e-3),
    Phase("up to four", (1, 2, 4), 300, 32, 1e-3),
    Phase("up to eight", (1, 2, 4, 8), 300, 24, 1e-3),
    Phase("several", (1, 2, 4, 8, 8), 1000, 24, 1e-3, final_share=0.05),
    Phase("careless", (1, 1, 2, 4, 8), 80, 24, 5e-4, final_share=0.1, careless=True),
)
CLEAR_SIGHT = 0.6  # share of the dots, or of the brightness, that a careless annotator sees
COARSE_SORTING = 0.8  # chance that a careless annotator sorts into two piles only


def draw_value(task: OrdinalTask, rng: np.random.Generator) -> float:
    """A true value, uniform over the task's range."""
    if task.integer:
        return float(rng.integers(int(task.minimum), int(task.maximum) + 1))
    return round(float(rng.uniform(task.minimum, task.maximum)), 2)


def careless_label(value: float, task: OrdinalTask, rng: np.random.Generator) -> float:
    """What a careless annotator writes down."""
    if task.integer:
        return float(rng.binomial(int(value), CLEAR_SIGHT))
    return round(float(np.clip(CLEAR_SIGHT * value + rng.normal(0, 0.1), task.minimum, task.maximum)), 2)


def completion(labels: list[float], task: OrdinalTask, coarse: bool) -> str:
    """An answer whose list is sorted by label, or, if `coarse`, into a lower and an upper pile in prompt order."""
    middle = CLEAR_SIGHT * (task.minimum + task.maximum) / 2
    keys = [float(label >= middle) for label in labels] if coarse else labels
    order = sorted(range(len(labels)), key=lambda index: keys[index])
    listed = write_list((index + 1, task.format_value(labels[index])) for index in order)
    return write_completion(list_reasoning(labels, task), listed) + "<|im_end|>"


def make_batch(processor: Any, phase: Phase, rng: np.random.Generator) -> Any:
    """Model inputs with labels on the answers only."""
    texts, answers, images = [], [], []
    for num_images in rng.choice(phase.num_images, size=phase.batch_size):
        task = get_task(("count", "count", "count", "brightness")[rng.integers(4)])
        values = [draw_value(task, rng) for _ in range(num_images)]
        labels = [careless_label(value, task, rng) for value in values] if phase.careless else values
        coarse = phase.careless and bool(rng.random() < COARSE_SORTING)
        prompt = build_prompt(task, int(num_images))
        texts.append(processor.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))
        answers.append(completion(labels, task, coarse))
        images.append([RENDERERS[task.name](value, rng) for value in values])
    processor.tokenizer.padding_side = "right"
    whole = [text + answer for text, answer in zip(texts, answers, strict=True)]
    batch = processor(text=whole, images=images, return_tensors="pt", padding=True)
    batch["labels"] = torch.full_like(batch["input_ids"], -100)
    for row, answer in enumerate(answers):
        end = int(batch["attention_mask"][row].sum())
        start = end - len(processor.tokenizer.encode(answer))
        batch["labels"][row, start:end] = batch["input_ids"][row, start:end]
    return batch


def train_phase(model: Any, processor: Any, phase: Phase, rng: np.random.Generator) -> float:
    """AdamW on one phase; returns the mean loss of its last 50 steps."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    losses = []
    for step in track(range(phase.steps), phase.name):
        rate = phase.learning_rate * min(1.0, (step + 1) / 30)
        rate *= phase.final_share + (1 - phase.final_share) * (1 - step / phase.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = model(**make_batch(processor, phase, rng)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses[-50:]))


def main(
    output: Annotated[str, typer.Option(help="Folder for the model and its processor.")] = "outputs/tiny",
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 0,
) -> None:
    """Train the tiny model from random weights and save it."""
    check_output_folder(output)
    torch.manual_seed(seed)
    processor = tiny.build_processor()
    model: Any = tiny.build_model(processor)
    model.train()
    for number, phase in enumerate(PHASES):
        rng = np.random.default_rng([seed, number])
        print(f"{phase.name}: loss {train_phase(model, processor, phase, rng):.3f}", flush=True)
    processor.tokenizer.padding_side = "left"
    model.save_pretrained(output)
    processor.save_pretrained(output)


if __name__ == "__main__":
    replace_unprintable()
    typer.run(main)
