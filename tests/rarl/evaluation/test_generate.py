"""Batched greedy generation on a tiny random model."""

import copy
import logging
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from rarl import tiny
from rarl.evaluation.generate import generate_answers, greedy_config
from rarl.inputs import batch_inputs
from rarl.prompt import build_prompt
from rarl.task import get_task
from rarl.vision_tokens import vision_token_ids

MAX_NEW_TOKENS = 12


@pytest.fixture
def model(processor: Any) -> Any:
    torch.manual_seed(0)
    model = tiny.build_model(processor, layers=2, vision_layers=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed_tokens" not in name:
                parameter.mul_(6.0)  # weights large enough for the images to decide the tokens
    return model.float().eval()


def make_rows(counts: list[int]) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    rows = []
    for count in counts:
        sizes = [(56, 56), (84, 56), (112, 84)]
        images = [
            Image.fromarray(rng.integers(0, 256, size=(*sizes[int(rng.integers(3))], 3), dtype=np.uint8))
            for _ in range(count)
        ]
        rows.append({"prompt": build_prompt(get_task("count"), count), "images": images, "values": [0.0] * count})
    return rows


def answers(model: Any, processor: Any, rows: list[dict[str, Any]], batch_size: int = 4) -> list[str]:
    return generate_answers(
        model, processor, rows, batch_size=batch_size, max_new_tokens=MAX_NEW_TOKENS, progress=False
    )


def test_batches_of_mixed_image_counts_equal_single_prompts(model: Any, processor: Any) -> None:
    rows = make_rows([1, 4, 2, 1, 8, 2, 1])
    singles = [answers(model, processor, [row])[0] for row in rows]
    assert len(set(singles)) == len(rows), "the model must tell the rows apart for the test to say something"
    assert answers(model, processor, rows, batch_size=3) == singles
    assert answers(model, processor, rows, batch_size=len(rows)) == singles


def test_greedy_whatever_the_generation_config_says(
    model: Any, processor: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows([1, 2])
    expected = answers(model, processor, rows)
    for key, value in {"do_sample": True, "temperature": 0.1, "top_p": 0.001, "top_k": 1, "min_p": 0.05}.items():
        setattr(model.generation_config, key, value)
    model.generation_config.repetition_penalty = 1.5
    model.generation_config.num_beams = 3
    before = copy.deepcopy(model.generation_config)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        assert answers(model, processor, rows) == expected
    assert "do_sample" not in caplog.text and "num_beams" not in caplog.text
    assert model.generation_config == before


def test_vision_tokens_are_never_generated(model: Any, processor: Any) -> None:
    rows = make_rows([1])
    text = processor.apply_chat_template(rows[0]["prompt"], tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=[rows[0]["images"]], return_tensors="pt")
    pad = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
        # The pad's own embedding is replaced by image features, so only its output logit changes.
        model.lm_head.weight[pad] = 100 * hidden
        assert model(**inputs).logits[0, -1].argmax() == pad
        tokens = model.generate(**inputs, generation_config=greedy_config(model, processor, MAX_NEW_TOKENS))
    new = tokens[0, inputs["input_ids"].shape[1] :].tolist()
    assert len(new) > 0 and not set(new) & set(vision_token_ids(processor))


def test_vision_token_ids_of_processor_and_tokenizer(processor: Any) -> None:
    ids = vision_token_ids(processor)
    assert processor.tokenizer.convert_ids_to_tokens(ids) == tiny.SPECIAL_TOKENS[3:]
    assert vision_token_ids(processor.tokenizer) == ids


def test_a_text_tokenizer_has_no_vision_tokens(processor: Any) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny.build_tokenizer(300, ["<pad>", "<eos>"]), pad_token="<pad>", eos_token="<eos>"
    )
    assert vision_token_ids(tokenizer) == []


def test_what_is_no_vision_token_whatever_it_is_called() -> None:
    """Settings that are true (which is 1), and tokens that end or pad a text, as some models have them for images."""
    special = ["<a>", "<b>", "<pad>", "<eos>", "<image>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny.build_tokenizer(300, special), pad_token="<pad>", eos_token="<eos>"
    )
    names = {"use_image_start_token": True, "image_token_id": 4, "video_token_id": 2, "eoi_token_index": 3}
    assert vision_token_ids(tokenizer, PreTrainedConfig(**names)) == [4]


def test_a_prompt_longer_than_the_context_is_refused(processor: Any) -> None:
    model = tiny.build_model(processor)
    model.config.get_text_config().max_position_embeddings = 60
    row = {"prompt": build_prompt(get_task("count"), 2), "images": [Image.new("RGB", (56, 56))] * 2}
    with pytest.raises(ValueError, match=r"Row 0 \(2 items\): the prompt has \d+ tokens.* context of 60"):
        generate_answers(model, processor, [row], max_new_tokens=40)
    assert generate_answers(model, processor, [row], max_new_tokens=2)


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored(model: Any, processor: Any, training: bool) -> None:
    model.train(training)
    answers(model, processor, make_rows([1]))
    assert model.training is training
    broken = make_rows([1])
    broken[0]["prompt"] = build_prompt(get_task("count"), 3)
    with pytest.raises(Exception):  # noqa: B017 - whatever the processor says of a missing image
        answers(model, processor, broken)
    assert model.training is training


def test_training_settings_and_stale_position_offsets_do_not_matter(model: Any, processor: Any) -> None:
    rows = make_rows([2, 1])
    expected = answers(model, processor, rows)
    model.model.rope_deltas = torch.full((7, 1), 1000)
    model.activation_checkpointing_enable()
    model.config.use_cache = False
    model.train()
    assert answers(model, processor, rows) == expected
    assert model.model.rope_deltas is None


def test_adapter_answers(model: Any, processor: Any) -> None:
    rows = make_rows([1, 2, 4])
    plain = answers(model, processor, rows)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data.mul_(10)
    assert answers(adapted, processor, rows) != plain
    assert answers(adapted, processor, rows, 1) == answers(adapted, processor, rows, 3)
    with adapted.disable_adapter():
        assert answers(adapted, processor, rows) == plain


def test_no_rows_and_bad_batch_size(model: Any, processor: Any) -> None:
    assert answers(model, processor, []) == []
    with pytest.raises(ValueError, match="batch_size.*0"):
        answers(model, processor, make_rows([1]), batch_size=0)


def test_prompts_are_the_tokens_that_training_sees(processor: Any) -> None:
    from trl.data_utils import prepare_multimodal_messages

    rows = make_rows([1, 4, 2])
    inputs = batch_inputs(processor, rows)
    for number, row in enumerate(rows):
        messages = prepare_multimodal_messages(row["prompt"], images=row["images"])
        single = processor.apply_chat_template(
            [messages], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        ids = inputs["input_ids"][number][inputs["attention_mask"][number].bool()]
        assert torch.equal(ids, single["input_ids"][0])
    assert len(inputs["image_grid_thw"]) == 7
