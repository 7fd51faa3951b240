"""A language model inside Qwen2.5-VL says the same of text, to the last bit, and sees images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rarl.fetching import fetched
from rarl.graft import VISION_TOKENS, graft, graft_processor
from rarl.inputs import batch_inputs, render
from rarl.models import load_model
from rarl.prompt import build_prompt, build_text_prompt
from rarl.task import get_task
from rarl.vision_tokens import vision_token_ids
from tests.rarl.language_model import save_language_model


def largest_difference(plain: Any, grafted: Any, tokenizer: Any, texts: list[str]) -> float:
    """Largest difference of the logits that both know, over prompts of texts, alone and padded on the left."""
    worst = 0.0
    prompts = [render(tokenizer, build_text_prompt(get_task("sentiment"), [text])) for text in texts]
    for batch in ([prompts[0]], prompts):
        inputs = tokenizer(batch, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        with torch.no_grad():
            ours, theirs = grafted(**inputs).logits, plain(**inputs).logits
        kept = inputs["attention_mask"].bool()
        worst = max(worst, float((ours[kept][:, : theirs.shape[-1]] - theirs[kept]).abs().max()))
    return worst


TEXTS = ["A fine film.", "Not worth the two hours that it takes, and the ending least of all.", "שלום 🎬"]


def grafted_from(folder: Path) -> tuple[Any, Any, Any, Any]:
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = graft_processor(AutoTokenizer.from_pretrained(folder), "You help.")
    return plain, tokenizer, graft(plain, processor, vision_width=64, vision_layers=2), processor


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any, Any]:
    return grafted_from(save_language_model(tmp_path_factory.mktemp("language")))


def test_a_grafted_llama_says_the_same_of_text(small: tuple[Any, Any, Any, Any]) -> None:
    plain, tokenizer, grafted, _ = small
    assert largest_difference(plain, grafted, tokenizer, TEXTS) == 0.0


def test_smollm2_says_the_same_of_text_inside_qwen() -> None:
    try:
        folder = fetched("smollm2")
    except FileNotFoundError:
        pytest.skip("smollm2 is not here: rarl fetch smollm2")
    plain, tokenizer, grafted, _ = grafted_from(folder)
    assert largest_difference(plain, grafted, tokenizer, TEXTS) == 0.0


def test_an_output_layer_of_its_own_is_taken_over(small: tuple[Any, Any, Any, Any]) -> None:
    _, tokenizer, _, processor = small
    config = LlamaConfig(**{**small[0].config.to_dict(), "tie_word_embeddings": False})
    torch.manual_seed(1)
    plain = LlamaForCausalLM(config).eval()
    assert largest_difference(plain, graft(plain, processor, vision_width=64, vision_layers=2), tokenizer, TEXTS) == 0.0


def test_greedy_answers_are_the_same(small: tuple[Any, Any, Any, Any]) -> None:
    plain, tokenizer, grafted, processor = small
    texts = [render(each, build_text_prompt(get_task("sentiment"), ["fine"])) for each in (tokenizer, processor)]
    assert texts[0] == texts[1]
    said = []
    for model in (plain, grafted):
        inputs = tokenizer(texts[0], return_tensors="pt", add_special_tokens=False)
        said.append(model.generate(**inputs, max_new_tokens=12, do_sample=False).tolist())
    assert said[0] == said[1]


def test_a_graft_sees_images_and_is_loaded_by_its_folder(small: tuple[Any, Any, Any, Any], tmp_path: Path) -> None:
    _, _, grafted, processor = small
    grafted.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model, loaded = load_model(str(tmp_path))
    assert type(loaded) is type(AutoProcessor.from_pretrained(tmp_path)) is type(processor)
    pixels = np.random.default_rng(0).integers(0, 256, size=(56, 84, 3), dtype=np.uint8)
    row = {
        "prompt": build_prompt(get_task("count"), 2),
        "images": [Image.fromarray(pixels), Image.new("RGB", (56, 56))],
    }
    inputs = batch_inputs(loaded, [row])
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 6 + 4
    with torch.no_grad():
        before = model(**inputs).logits[0, -1]
        row["images"].reverse()
        row["images"][1] = Image.new("RGB", (84, 56))
        after = model(**batch_inputs(loaded, [row])).logits[0, -1]
    assert float((before - after).abs().max()) > 0
    ids = {loaded.tokenizer.convert_tokens_to_ids(token) for token in VISION_TOKENS}
    assert ids <= set(vision_token_ids(loaded, model.config))


def test_new_rows_begin_at_the_mean(small: tuple[Any, Any, Any, Any]) -> None:
    plain, _, grafted, processor = small
    known = plain.get_input_embeddings().weight
    rows = grafted.get_input_embeddings().weight
    assert torch.equal(rows[: len(known)], known)
    assert all(torch.allclose(row, known.mean(dim=0)) for row in rows[len(known) :])
    assert len(rows) >= len(processor.tokenizer)


def test_what_would_be_lost_is_refused(small: tuple[Any, Any, Any, Any]) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    biased = LlamaForCausalLM(LlamaConfig(vocab_size=128, attention_bias=True, **sizes))
    with pytest.raises(ValueError, match="wanted no biases and plain rotary positions, got attention_bias=True"):
        graft(biased, small[3])
