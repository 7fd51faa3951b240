"""Rollouts of legal codes only: sampled under the mask, and scored under the same mask by all three policies."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from gor_head import CoDiVocabulary
from gor_head.vlm import ValueTokenLogits, ValueTokens, attach, codes_to_numbers
from rarl.trainer import RARLConfig, SharedPrefixTrainer
from tests.gor_head.vlm.models import text_model

VOCABULARY = CoDiVocabulary([1, 3], max_length=3, tolerance=0)
LENGTH, TEMPERATURE = 8, 1.5


def length_reward(completions: list[str], **_: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def make_trainer(folder: Path, constrained: bool = True, **settings: Any) -> tuple[SharedPrefixTrainer, ValueTokens]:
    """A random model whose prompts end in an open code."""
    model, tokenizer = text_model(spare=8)
    tokens = attach(model, tokenizer, VOCABULARY)
    rows = Dataset.from_list([{"prompt": f"number {number} is <gor>"} for number in range(8)])
    options: dict[str, Any] = {"per_device_train_batch_size": 8, "num_generations": 4, "max_steps": 2, "beta": 0.1,
                               "max_completion_length": LENGTH, "temperature": TEMPERATURE, "use_cpu": True,
                               "bf16": False, "activation_checkpointing": False, "report_to": [], "save_strategy": "no",
                               "logging_steps": 1, "learning_rate": 1e-2, "num_iterations": 2, "rmo": False,
                               "disable_tqdm": True}  # fmt: skip
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **tokens.lora_settings(model))
    trainer = SharedPrefixTrainer(
        model,
        length_reward,
        RARLConfig(str(folder), **(options | settings)),
        rows,
        processing_class=tokenizer,
        peft_config=lora,
        value_tokens=tokens if constrained else None,
    )
    return trainer, tokens


def generation_batch(trainer: SharedPrefixTrainer) -> dict[str, Any]:
    trainer.model.train()
    torch.manual_seed(0)
    rows = next(iter(trainer.get_train_dataloader()))
    return trainer._generate_and_score_completions(rows)


def test_every_rollout_is_a_legal_code(tmp_path: Path) -> None:
    trainer, _ = make_trainer(tmp_path)
    batch = generation_batch(trainer)
    texts = trainer.processing_class.batch_decode(torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1))
    assert all("<gor>" not in codes_to_numbers(text).split("is")[1][:5] for text in texts)
    unconstrained = generation_batch(make_trainer(tmp_path, constrained=False)[0])
    close = trainer.processing_class.convert_tokens_to_ids("</gor>")
    assert bool((batch["completion_ids"][:, : VOCABULARY.max_length + 1] == close).any(dim=1).all())
    assert not bool((unconstrained["completion_ids"] == close).any(dim=1).all())


def test_log_probabilities_are_those_of_the_masked_distribution(tmp_path: Path) -> None:
    """Token by token, with the processor that `generate` uses, on the plain layout."""
    trainer, tokens = make_trainer(tmp_path)
    batch = generation_batch(trainer)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    trainer.model.eval()
    with torch.no_grad():
        found, entropy, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, LENGTH, compute_entropy=True
        )
        for row in range(len(ids)):
            kept = ids[row][mask[row].bool()][None]
            logits = trainer.model(input_ids=kept).logits / TEMPERATURE
            start = int(batch["prompt_mask"][row].sum())
            for place in range(start, kept.shape[1]):
                scores = ValueTokenLogits(tokens)(kept[:, :place], logits[:, place - 1].clone()).log_softmax(-1)
                wanted = scores[0, kept[0, place]]
                assert torch.allclose(found[row, place - start], wanted, atol=1e-5)
                spread = torch.distributions.Categorical(logits=scores).entropy()
                assert entropy is not None and torch.allclose(entropy[row, place - start], spread, atol=1e-4)


def test_all_policies_agree_before_the_first_step(tmp_path: Path) -> None:
    trainer, _ = make_trainer(tmp_path)
    batch = generation_batch(trainer)
    assert torch.equal(batch["ref_per_token_logps"], batch["old_per_token_logps"])
    trainer, _ = make_trainer(tmp_path)
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["kl"] == pytest.approx(0, abs=1e-6)
    assert first["clip_ratio/region_mean"] == 0
    assert first["grad_norm"] > 0


def test_constraint_wants_shared_prompts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="value_tokens constrain .* but shared_prefix is off"):
        make_trainer(tmp_path, shared_prefix="off")


def test_illegal_answer_is_named(tmp_path: Path) -> None:
    trainer, tokens = make_trainer(tmp_path)
    batch = generation_batch(trainer)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    ids[0, -LENGTH] = tokens.open_id  # a second tag inside a code
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    with pytest.raises(ValueError, match=f"Token {tokens.open_id} after .* is no legal value token"):
        trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, LENGTH)
