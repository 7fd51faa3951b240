from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig

from gor_head import CoDiVocabulary
from gor_head.vlm import ValueTokens, attach, write_value
from gor_head.vlm.sft import GoRSFTTrainer, expected_numbers
from tests.gor_head.vlm.models import qwen3_vl, text_model

AGES = CoDiVocabulary([1, 2, 5, 10, 50], tolerance=0)
TOKENS = ValueTokens(AGES, 40, 41, (42, 43, 44, 45, 46))
TEXT = -100


def test_numbers_by_hand() -> None:
    # <gor> +50 +5 </gor> text <gor> </gor>, and in a second row a prompt that is no label, then <gor> +2 </gor>.
    labels = torch.tensor([[40, 46, 44, 41, 7, 40, 41], [TEXT, TEXT, 40, 43, 41, 8, TEXT]])
    logits = torch.randn(2, 7, 50, dtype=torch.float64)
    predicted, true = expected_numbers(logits, labels, TOKENS)
    assert true.tolist() == [55, 0, 2]
    values = torch.tensor([0.0, 1, 2, 5, 10, 50], dtype=torch.float64)
    step = logits[..., 41:47].softmax(-1) @ values
    assert predicted.tolist() == pytest.approx(
        [float(step[0, 1:4].sum()), float(step[0, 6]), float(step[1, 3:5].sum())]
    )


def test_perfect_logits_give_the_true_numbers() -> None:
    labels = torch.tensor([[40, 46, 44, 41]])
    logits = torch.nn.functional.one_hot(labels, 50).double() * 1000
    predicted, true = expected_numbers(logits, labels, TOKENS)
    assert predicted.tolist() == true.tolist() == [55]


def test_no_code_is_no_number() -> None:
    predicted, true = expected_numbers(torch.randn(1, 3, 50), torch.tensor([[1, 2, TEXT]]), TOKENS)
    assert len(predicted) == len(true) == 0


def train(folder: Path, weight: float, steps: int, qwen3: bool = False, **settings: Any) -> tuple[Any, list[float]]:
    model, processor = qwen3_vl() if qwen3 else text_model(tied=False)
    tokenizer = getattr(processor, "tokenizer", processor)
    tokens = attach(model, tokenizer, AGES)
    rows = [{"prompt": f"{value}:", "completion": f" {write_value(AGES, value)}"} for value in range(0, 60, 4)]
    config = SFTConfig(str(folder), max_steps=steps, per_device_train_batch_size=15, learning_rate=1e-2, use_cpu=True,
                       bf16=False, activation_checkpointing=False, report_to=[], logging_steps=1, save_strategy="no",
                       disable_tqdm=True)  # fmt: skip
    settings = {"target_modules": ["q_proj", "v_proj", "down_proj"], **settings, **tokens.lora_settings(model)}
    lora = LoraConfig(r=4, **settings)
    torch.manual_seed(0)
    trainer = GoRSFTTrainer(
        model,
        config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora,
        tokens=tokens,
        huber_weight=weight,
        huber_scale=10.0,
    )
    trainer.train()
    return trainer, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("qwen3", [False, True], ids=["text-only", "qwen3_vl"])
def test_numbers_are_learnt_with_the_rows(qwen3: bool, tmp_path: Path) -> None:
    trainer, losses = train(tmp_path, 1.0, 40, qwen3)
    assert losses[-1] < 0.6 * losses[0]
    rows = [p for name, p in trainer.model.named_parameters() if "trainable_tokens_delta" in name]
    assert len(rows) == 2 and all(parameter.requires_grad for parameter in rows)


def test_first_loss_is_trls_plus_the_hubers(tmp_path: Path) -> None:
    with_huber, losses = train(tmp_path, 2.0, 1)
    _, plain = train(tmp_path, 0.0, 1)
    batch = with_huber._prepare_inputs(next(iter(with_huber.get_train_dataloader())))
    assert losses[0] > plain[0]
    model, tokenizer = text_model(tied=False)
    tokens = attach(model, tokenizer, AGES)
    logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits[:, :-1]
    predicted, true = expected_numbers(logits, batch["labels"][:, 1:], tokens)
    wanted = torch.nn.functional.huber_loss(predicted / 10, true / 10)
    assert losses[0] - plain[0] == pytest.approx(2 * float(wanted.detach()), rel=1e-2)


@pytest.mark.parametrize(
    "settings", [{"modules_to_save": ["lm_head"]}, {"target_modules": ["embed_tokens"]}], ids=["saved", "adapted"]
)
def test_rows_are_trained_in_one_way_only(settings: dict[str, Any], tmp_path: Path) -> None:
    setting, [name] = next(iter(settings.items()))
    with pytest.raises(ValueError, match=rf"^{setting}: (model\.)?{name} holds the rows of value tokens"):
        train(tmp_path, 1.0, 1, **settings)
