"""Vision-language models of every family: prompts, both stages of RARL with mutation, saved, loaded and evaluated."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

from rarl.datasets import load_source, make_dataset
from rarl.evaluation.protocol import evaluate
from rarl.lora import language_lora_targets
from rarl.models import load_model
from rarl.rewards import REWARDS, weights
from rarl.trainer import RARLConfig, RARLTrainer
from tests import families
from tests.families import FAMILIES

SIZE = 24
GROUP = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder of a family's model and processor, made once."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = families.save(family, tmp_path_factory.mktemp(family))
        return made[family]

    return get


def train(model: Any, processor: Any, output: Path, num_images: tuple[int, ...], peft: LoraConfig | None) -> Any:
    """Two steps; every group is mutated, as random text earns nothing."""
    source = load_source("builtin", task="count", size=SIZE)
    trainer = RARLTrainer(
        model,
        list(REWARDS.values()),
        RARLConfig(
            str(output),
            reward_weights=weights(),
            per_device_train_batch_size=2 * GROUP,
            num_generations=GROUP,
            max_completion_length=48,
            max_steps=2,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            warmup_steps=0,
            rmo_probability=1.0,
            logging_steps=1,
            beta=0.04,
            use_cpu=True,
            bf16=False,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
        ),
        make_dataset(source, np.arange(SIZE), 8, {number: 1.0 for number in num_images}),
        processing_class=processor,
        peft_config=peft,
    )
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    log = [entry for entry in trainer.state.log_history if "rmo/mutated" in entry]
    assert len(log) == 2 and all(entry["rmo/mutated"] == 2 and entry["grad_norm"] > 0 for entry in log)
    trainer.save_model(str(output))
    processor.save_pretrained(output)
    return moved


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_stages(folder: Any, tmp_path: Path, family: str, kind: str) -> None:
    base = folder(family)
    processor = AutoProcessor.from_pretrained(base, padding_side="left")
    model = AutoModelForImageTextToText.from_pretrained(base)
    config = LoraConfig(r=2, target_modules=language_lora_targets(model)) if kind == "lora" else None
    first, second = tmp_path / "stage1", tmp_path / "stage2"
    moved = train(model, processor, first, (1,), config)
    assert moved
    if kind == "lora":
        assert not any(re.search(r"vis|tower|connector|projector", name) for name in moved)
        model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), first, is_trainable=True)
    else:
        assert any("embed_tokens" in name for name in moved)
        model = AutoModelForImageTextToText.from_pretrained(first)
    assert train(model, processor, second, (1, 2), None)
    trained, processor = load_model(*((str(base), str(second)) if kind == "lora" else (str(second), None)))
    source = load_source("builtin", task="count", size=SIZE)
    rows = {number: make_dataset(source, np.arange(SIZE), 2, {number: 1.0}) for number in (1, 2)}
    report = evaluate(trained, processor, rows, "count", max_new_tokens=12, progress=False)
    assert report["num_prompts"] == {"1": 2, "2": 2} and 0 <= report["failure_rate"] <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_reaches_the_language_model_and_nothing_else(folder: Any, family: str) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder(family))
    hits = [name for name, _ in model.named_modules() if re.fullmatch(language_lora_targets(model), name)]
    decoder = next(name for name, module in model.named_modules() if module is model.get_decoder())
    assert len(hits) == 7 * 2  # seven products in each of two layers
    assert all(name.startswith(f"{decoder}.layers.") for name in hits)
