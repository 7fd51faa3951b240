"""The five rewards in TRL's own GRPOTrainer, unchanged, in batches that mix numbers of images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from rarl import tiny
from rarl.datasets.builtin import BuiltinSource
from rarl.prompt import build_prompt
from rarl.rewards import REWARDS, weights

ANSWER = '<think>so</think><answer>[{"image_id": 1, "value": 3}, {"image_id": 2, "value": 7}]</answer>'


def make_row(values: Sequence[float]) -> dict[str, Any]:
    """The values need not be those of the images: the answer is the same, whatever is shown."""
    source = BuiltinSource("count", size=2)
    images = [source.load(index) for index in range(len(values))]
    return {"prompt": build_prompt(source.task, len(values)), "images": images, "values": values, "task": "count"}


# Values, and what ANSWER earns on them: regression, length, consistency, accuracy, format.
CASES: list[tuple[list[float], list[float | None]]] = [
    ([3, 7], [1.0, 1.0, 1.0, 1.0, 1.0]),
    ([8, 7], [0.5, 1.0, 1.0, -1.0, 1.0]),
    ([3, 3], [0.5, 1.0, 1.0, None, 1.0]),
    # Image 2 is not in the prompt: the answer is not well-formed.
    ([3], [1.0, None, None, None, 0.0]),
]


@pytest.fixture(scope="module")
def model(processor: Any) -> Any:
    """A tiny model fitted to write ANSWER, whatever the prompt."""
    torch.manual_seed(0)
    model = tiny.build_model(processor, width=64, layers=1, vision_layers=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    rows = [make_row([3, 7]), make_row([3])]
    texts = [processor.apply_chat_template(row["prompt"], add_generation_prompt=True) for row in rows]
    images = [row["images"] for row in rows]
    prompt_only = processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")
    full = [text + ANSWER + processor.tokenizer.eos_token for text in texts]
    batch = processor(text=full, images=images, padding=True, padding_side="left", return_tensors="pt")
    labels = batch["input_ids"].clone()
    labels[:, : prompt_only["input_ids"].shape[1]] = -100
    for _ in range(80):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.05, "the fixture did not learn its answer"
    return model


def test_rewards_work_in_grpo_trainer(model: Any, processor: Any, tmp_path: Path) -> None:
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=list(REWARDS.values()),
        args=GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=2 * len(CASES),
            num_generations=2,
            max_completion_length=64,
            generation_kwargs={"do_sample": False},
            learning_rate=0.0,
            max_steps=2,
            logging_steps=1,
            reward_weights=weights(),
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
        ),
        train_dataset=Dataset.from_list([make_row(values) for values, _ in CASES]),
        processing_class=processor,
    )
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(steps) == 2
    # Every step holds every case, two completions each.
    totals = [
        sum(weight * number for weight, number in zip(weights(), earned, strict=True) if number is not None)
        for _, earned in CASES
    ]
    for logged in steps:
        for index, name in enumerate(REWARDS):
            numbers = [earned[index] for _, earned in CASES]
            applicable = [number for number in numbers if number is not None]
            assert logged[f"rewards/{name}_reward/mean"] == pytest.approx(sum(applicable) / len(applicable)), name
        assert logged["reward"] == pytest.approx(sum(totals) / len(totals))
        assert logged["frac_reward_zero_std"] == 1.0
