"""Words instead of numbers: the baseline of rating in words, read as an expectation (Q-Align, arXiv:2312.17090).

Each image is asked about alone. Training writes one sentence, "The aesthetic quality is good."; for a prediction the
probabilities of the sentences, restricted to these, weight the middles of their parts of the range.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from rarl.datasets.prompts import RowTransform, text_completion
from rarl.evaluation import Report
from rarl.evaluation.generate import reset_rope_deltas
from rarl.evaluation.protocol import score
from rarl.inputs import batch_inputs
from rarl.prompt import build_completion
from rarl.task import OrdinalTask

WORDS = ("bad", "poor", "fair", "good", "excellent")
"""Q-Align's levels, lowest first."""


@dataclass(frozen=True)
class Levels:
    """Equal parts of a task's range, each with a word.

    Args:
        task: Gives the range, and the words; [`WORDS`][rarl.levels.WORDS] if it has none.
    """

    task: OrdinalTask

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", replace(self.task, words=self.task.words or WORDS))

    @property
    def words(self) -> tuple[str, ...]:
        """The words, lowest first."""
        return self.task.words

    @property
    def centres(self) -> list[float]:
        """Middle of each part, in units of the label."""
        width = (self.task.maximum - self.task.minimum) / len(self.words)
        return [self.task.minimum + (index + 0.5) * width for index in range(len(self.words))]

    def prompt(self) -> list[dict[str, Any]]:
        """Chat messages that ask about one image."""
        question = f"How would you rate the {self.task.rule} of the image? Answer with one of: {', '.join(self.words)}."
        return [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": question}]}]

    def sentence(self, word: str) -> str:
        """The answer with a word."""
        return f"The {self.task.rule} is {word}."


@dataclass(frozen=True)
class LevelRows(RowTransform):
    """Stored one-image rows as prompts and sentences in words."""

    levels: Levels

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = super().__call__(
            {name: column for name, column in batch.items() if name not in ("prompt", "completion")}
        )
        if "prompt" in batch:
            rows["prompt"] = [self.levels.prompt() for _ in batch["prompt"]]
        if "completion" in batch:
            rows["completion"] = [
                text_completion(self.levels.sentence(self.levels.task.word(value))) for [value] in batch["completion"]
            ]
        return rows


def expected_values(model: Any, processor: Any, images: Sequence[Any], *, levels: Levels) -> list[float]:
    """Expected value of each image: Σ p(word) · centre, over the words' whole sentences, so that words may have any
    number of tokens.

    Args:
        model: Trained on [`LevelRows`][rarl.levels.LevelRows], in evaluation mode.
        processor: The processor of the model.
        images: PIL images; each is a row for every word of one forward pass.
        levels: The words.

    Returns:
        Values in units of the label, within the middles of the first and the last word.
    """
    rows = [{"prompt": levels.prompt(), "images": [image]} for image in images for _ in levels.words]
    endings = [levels.sentence(word) for _ in images for word in levels.words]
    inputs = batch_inputs(processor, rows, endings).to(model.device)
    reset_rope_deltas(model)
    ids, is_token = inputs["input_ids"], inputs["attention_mask"].bool()
    # Up to where the sentences part they have the same probability: only what follows is scored.
    whole = [row[mask] for row, mask in zip(ids, is_token, strict=True)]
    tails = []
    for start in range(0, len(whole), len(levels.words)):
        sentences = whole[start : start + len(levels.words)]
        shared = next(
            position for position, tokens in enumerate(zip(*sentences, strict=False)) if len(set(map(int, tokens))) > 1
        )
        tails += [len(row) - shared for row in sentences]
    with torch.no_grad():
        logits = model(**inputs, logits_to_keep=max(tails) + 1).logits[:, :-1]
    reset_rope_deltas(model)
    steps = logits.double().log_softmax(dim=2).gather(2, ids[:, -logits.shape[1] :, None])[:, :, 0]
    position = torch.arange(logits.shape[1], device=ids.device)
    scored = position >= logits.shape[1] - torch.tensor(tails, device=ids.device)[:, None]
    shares = steps.masked_fill(~scored, 0.0).sum(dim=1).view(len(images), -1).softmax(dim=1)
    return (shares @ shares.new_tensor(levels.centres)).tolist()


def evaluate_levels(
    model: Any,
    processor: Any,
    datasets: dict[int, Any],
    *,
    levels: Levels,
    batch_size: int = 8,
    constant: float | None = None,
) -> Report:
    """[`score`][rarl.evaluation.protocol.score] of expected values: the images of a prompt are rated one by one, and
    listed by what comes out.

    Args:
        model: Trained on [`LevelRows`][rarl.levels.LevelRows].
        processor: The processor of the model.
        datasets: Test rows by number of images, as for [`evaluate`][rarl.evaluation.protocol.evaluate].
        levels: The words.
        batch_size: Images per forward pass, each a row for every word.
        constant: A constant prediction to compare with.
    """
    numbers = replace(levels.task, integer=False, vocabulary=None)  # an expectation is no whole number
    console = Console(stderr=True)
    was_training = model.training
    model.eval()
    completions: dict[int, list[str]] = {}
    for num_images, rows in datasets.items():
        step = max(1, batch_size // num_images)
        completions[num_images] = []
        starts = range(0, len(rows), step)
        for start in track(starts, "Rating", console=console, disable=not console.is_terminal):
            batch = [rows[index] for index in range(start, min(start + step, len(rows)))]
            images = [image for row in batch for image in row["images"]]
            values = expected_values(model, processor, images, levels=levels)
            for index in range(len(batch)):
                rated = values[index * num_images : (index + 1) * num_images]
                completions[num_images].append(build_completion(rated, numbers))
    model.train(was_training)
    values_by_number = {number: [list(truth) for truth in rows["values"]] for number, rows in datasets.items()}
    return score(completions, values_by_number, levels.task, constant=constant)
