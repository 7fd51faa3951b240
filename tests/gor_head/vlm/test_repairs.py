"""Each repair with TRL's and peft's own classes, and the defect without it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from gor_head import CoDiVocabulary
from gor_head.vlm import attach, write_value
from gor_head.vlm.repairs import copy_rows_to_reference, give_heads_a_bias, mend_token_rows
from tests.gor_head.vlm.models import text_model

AGES = CoDiVocabulary([1, 2, 5, 10, 50], tolerance=0)


def wrapped(tied: bool, fused: bool = False) -> tuple[Any, Any]:
    model, tokenizer = text_model(tied=tied)
    tokens = attach(model, tokenizer, AGES)
    if fused:
        add_fused_lm_head(model)
    return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], **tokens.lora_settings(model))), tokenizer


def test_fused_head_finds_its_bias_and_its_rows() -> None:
    model, tokenizer = wrapped(tied=False, fused=True)
    ids = tokenizer(f"a {write_value(AGES, 58)} b", return_tensors="pt")["input_ids"]
    with pytest.raises(AttributeError, match="bias"):
        model(input_ids=ids, labels=ids, fused_lm_head=True)
    give_heads_a_bias(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "trainable_tokens_delta" in name:
                parameter += torch.randn_like(parameter)  # rows that differ from those beneath
        fused = model(input_ids=ids, labels=ids, fused_lm_head=True).log_probs
        plain = model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    torch.testing.assert_close(fused.reshape(-1), plain.reshape(-1), atol=1e-5, rtol=0)


def trained(folder: Path, tied: bool) -> tuple[Any, Any]:
    """A saved adapter whose rows have moved, loaded again as TRL wants it."""
    model, tokenizer = wrapped(tied)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.5 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    base, tokenizer = text_model(tied=tied)
    attach(base, tokenizer, AGES)
    return PeftModel.from_pretrained(base, folder, is_trainable=True), tokenizer


@pytest.mark.parametrize("tied", [True, False])
def test_reference_of_grpo_is_the_policy_before_the_first_step(tied: bool, tmp_path: Path) -> None:
    model, tokenizer = trained(tmp_path / "adapter", tied)
    give_heads_a_bias(model)
    text = f"a {write_value(AGES, 58)} b"
    trainer = GRPOTrainer(
        model,
        lambda completions, **_: [0.0] * len(completions),
        GRPOConfig(tmp_path / "run", beta=0.1, use_cpu=True, bf16=False, report_to=[], num_generations=2,
                   per_device_train_batch_size=2, max_completion_length=4),
        train_dataset=Dataset.from_dict({"prompt": [text] * 2}),
        processing_class=tokenizer,
    )  # fmt: skip
    policy = trainer.model
    ids = tokenizer(text, return_tensors="pt")["input_ids"]

    def logits(adapter: str) -> torch.Tensor:
        policy.set_adapter(adapter)
        policy.eval()
        with torch.no_grad():
            return policy(input_ids=ids).logits

    assert (logits("ref") - logits("default")).abs().max() > 1e-3  # TRL's copy misses the rows
    copy_rows_to_reference(policy)
    torch.testing.assert_close(logits("ref"), logits("default"), atol=0, rtol=0)


def test_nothing_to_copy_is_no_error() -> None:
    model, _ = wrapped(tied=True)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    copy_rows_to_reference(model)
    assert all(parameter.equal(before[name]) for name, parameter in model.named_parameters())


def test_a_trainer_whose_adapter_trains_the_head_twice_is_refused() -> None:
    """PEFT would fail in the first forward pass."""
    model, tokenizer = text_model()
    tokens = attach(model, tokenizer, AGES)
    lora = LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"], **tokens.lora_settings(model))
    with pytest.raises(ValueError, match="^modules_to_save: lm_head holds the rows of value tokens"):
        mend_token_rows(get_peft_model(model, lora))
