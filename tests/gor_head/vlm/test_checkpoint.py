"""Models with value tokens leave and come back with their vocabulary: folders, the Hub, merged."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from gor_head import CoDiVocabulary
from gor_head.vlm import ValueTokens, attach, load, merge, save_pretrained
from tests.gor_head.vlm.models import qwen3_vl, text_model
from tests.hub_server import HubServer, run_client

AGES = CoDiVocabulary([1, 2, 5, 10, 50], tolerance=0)
SEEDS = {"text, tied": lambda: text_model(), "text, untied": lambda: text_model(tied=False), "qwen3_vl": qwen3_vl}


def with_adapter(base: Path, kind: str) -> tuple[Any, Any, ValueTokens]:
    """An adapter whose token rows and weights differ from its base model, which is saved in `base`."""
    model, processor = SEEDS[kind]()
    model.save_pretrained(base)
    model.config._name_or_path = model.name_or_path = str(base)
    tokens = attach(model, processor, AGES)
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, **tokens.lora_settings(model))
    wrapped = get_peft_model(model, lora)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "trainable_tokens_delta" in name:
                parameter += torch.randn_like(parameter) * 0.1
    return wrapped.eval(), processor, tokens


def logits(model: Any, tokens: ValueTokens) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[30, 31, *tokens.all_ids, 32]])).logits


@pytest.mark.parametrize("kind", SEEDS)
def test_adapter_comes_back_with_its_vocabulary(kind: str, tmp_path: Path) -> None:
    model, processor, tokens = with_adapter(tmp_path / "base", kind)
    save_pretrained(model, processor, AGES, directory=tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter/adapter_model.safetensors")
    others = [name for name in saved if "lora_" not in name and not name.endswith("trainable_tokens_delta")]
    assert not others, f"whole matrices are saved: {others}"
    again, its_processor, its_tokens = load(tmp_path / "adapter")
    assert isinstance(again, PeftModel) and not again.training
    assert its_tokens.vocabulary == AGES and its_tokens.all_ids == tokens.all_ids
    assert ValueTokens.of(its_processor, AGES) == tokens
    assert torch.equal(logits(again, tokens), logits(model, tokens))


@pytest.mark.parametrize("kind", SEEDS)
def test_merged_model_is_plain_and_says_the_same(kind: str, tmp_path: Path) -> None:
    model, processor, tokens = with_adapter(tmp_path / "base", kind)
    wanted = logits(model, tokens)
    plain = merge(model)
    assert not isinstance(plain, PeftModel)
    assert not any("lora" in name or "trainable_tokens" in name for name, _ in plain.named_parameters())
    save_pretrained(plain, processor, AGES, directory=tmp_path / "merged")
    again, _, its_tokens = load(tmp_path / "merged")
    assert its_tokens == tokens
    assert torch.allclose(logits(again, tokens), wanted, atol=1e-5)


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    model, processor, _ = with_adapter(tmp_path / "base", "text, tied")
    _, plain_processor = text_model()
    with pytest.raises(ValueError, match="value tokens are missing"):
        save_pretrained(model, plain_processor, AGES, directory=tmp_path / "adapter")
    save_pretrained(model, processor, AGES, directory=tmp_path / "adapter")
    (tmp_path / "adapter/vocabulary.json").rename(tmp_path / "vocabulary.json")
    with pytest.raises(FileNotFoundError, match="adapter: no vocabulary.json"):
        load(tmp_path / "adapter")
    CoDiVocabulary([1, 2, 5], tolerance=0).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"rows of 7 tokens .*, but its vocabulary has 5 tokens"):
        load(tmp_path / "adapter")
    base, _ = text_model()
    base.save_pretrained(tmp_path / "small")
    processor.save_pretrained(tmp_path / "small")
    AGES.save_pretrained(tmp_path / "small")
    with pytest.raises(ValueError, match="small: the model has .* rows, but value tokens have ids up to"):
        load(tmp_path / "small")


def test_pushed_adapter_says_the_same_elsewhere(tmp_path: Path) -> None:
    model, processor, tokens = with_adapter(tmp_path / "base", "text, untied")
    save_pretrained(model, processor, AGES, directory=tmp_path / "adapter")
    with HubServer() as hub:
        push = f"""
from gor_head.vlm import load, push_to_hub
model, processor, tokens = load({str(tmp_path / "adapter")!r})
model.add_adapter("ref", model.peft_config["default"])
push_to_hub(model, processor, tokens.vocabulary, repo_id="me/ages")
"""
        run_client(push, hub.url, tmp_path / "push")
        files = hub.repos["me/ages"]
        assert {"adapter_model.safetensors", "adapter_config.json", "vocabulary.json", "README.md"} <= set(files)
        assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "base"
        assert not any(name.startswith("ref/") for name in files), "the frozen reference was pushed"
        for name, data in files.items():
            if not name.endswith(".safetensors"):
                assert str(tmp_path).encode() not in data and b"hf_loopback" not in data, name
        pull = f"""
import torch
from gor_head.vlm import load
model, processor, tokens = load("me/ages", base_model={str(tmp_path / "base")!r})
ids = torch.tensor([[30, 31, *tokens.all_ids, 32]])
with torch.no_grad():
    torch.save(model(input_ids=ids).logits, {str(tmp_path / "logits.pt")!r})
"""
        run_client(pull, hub.url, tmp_path / "pull")
        refuse = f"""
import os
del os.environ["HF_TOKEN"]
from gor_head.vlm import load, push_to_hub
model, processor, tokens = load({str(tmp_path / "adapter")!r})
try:
    push_to_hub(model, processor, tokens.vocabulary, repo_id="me/ages")
except OSError as error:
    print(error)
"""
        output = run_client(refuse, hub.url, tmp_path / "refuse")
        assert "The model could not be pushed to 'me/ages': " in output
    # The other process has one thread, whose sums are rounded otherwise.
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), logits(model, tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "ensure_weight_tying": True},
    ],
    ids=str,
)
def test_merged_head_or_embedding_leaves_the_other_as_it_was(tied: bool, settings: Any, tmp_path: Path) -> None:
    """Merged into a matrix that is both, an adapter of one of them would change the other."""
    model, tokenizer = text_model(tied=tied)
    tokens = attach(model, tokenizer, AGES)
    policy = get_peft_model(model, LoraConfig(init_lora_weights=False, **settings)).eval()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "modules_to_save" in name:
                parameter += torch.randn_like(parameter) * 0.1
    wanted = logits(policy, tokens)
    save_pretrained(merge(policy), tokenizer, AGES, directory=tmp_path)
    assert torch.allclose(logits(load(tmp_path)[0], tokens), wanted, atol=1e-5)


def test_adapter_over_token_rows_is_not_merged() -> None:
    model, tokenizer = text_model()
    tokens = attach(model, tokenizer, AGES)
    lora = LoraConfig(target_modules=["q_proj", "lm_head"], **tokens.lora_settings(model))
    with pytest.raises(ValueError, match="^target_modules: lm_head holds the rows of value tokens"):
        merge(get_peft_model(model, lora))
