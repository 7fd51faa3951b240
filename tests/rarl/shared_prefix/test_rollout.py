"""Answers sampled after encoding each prompt once, beside TRL's own way to sample; and images preprocessed once."""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from PIL import Image
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from trl import GRPOTrainer
from trl.trainer.utils import unsplit_pixel_values_by_grid

from rarl import tiny
from rarl.datasets.builtin import BuiltinSource
from rarl.lora import language_lora_targets
from rarl.prompt import build_prompt
from rarl.shared_prefix.image_memo import ImageMemo, images_processed_once
from rarl.shared_prefix.rollout import unsupported_settings
from rarl.trainer import RARLConfig, SharedPrefixTrainer

GROUP = 4
LENGTH = 24
GREEDY = {"do_sample": False}
ENDS = list(range(300, 420))  # of 768 tokens, so that answers end early and at different lengths
Make = Callable[..., SharedPrefixTrainer]


@pytest.fixture(scope="module")
def load(processor: Any) -> Callable[[str], Any]:
    """A random model of a family; norms and biases are random too, so that greedy answers do not repeat one token."""
    qwen2_5_vl = tiny.build_config(processor, width=64, layers=2, vision_layers=2)
    tokens = {key: getattr(qwen2_5_vl, key) for key in ("image_token_id", "video_token_id", "vision_start_token_id")}
    tokens["vision_end_token_id"] = processor.tokenizer.convert_tokens_to_ids("<|vision_end|>")
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "max_position_embeddings", "eos_token_id", "pad_token_id", "bos_token_id")
    text: Any = {name: getattr(qwen2_5_vl.text_config, name) for name in names}
    rope: Any = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}

    def build(family: str = "qwen2_5_vl") -> Any:
        torch.manual_seed(0)
        model: Any
        if family == "qwen2_5_vl":
            model = tiny.build_model(processor, width=64, layers=2, vision_layers=2)
        elif family == "qwen2_vl":
            vision = {"depth": 2, "embed_dim": 64, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2}
            config = Qwen2VLConfig(text_config=text | {"rope_parameters": rope}, vision_config=vision, **tokens)
            model = Qwen2VLForConditionalGeneration(config)
        elif family == "qwen3_vl":
            vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "patch_size": 14}
            vision |= {"out_hidden_size": 64, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
            rotary = {"head_dim": 16, "rope_parameters": rope | {"mrope_interleaved": True}}
            model = Qwen3VLForConditionalGeneration(
                Qwen3VLConfig(text_config=text | rotary, vision_config=vision, **tokens)
            )
        elif family == "qwen2":
            model = Qwen2ForCausalLM(Qwen2Config(**text))
        else:
            model = LlamaForCausalLM(LlamaConfig(**text))
        for parameter in model.parameters():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
        model.generation_config.eos_token_id = ENDS
        return model

    return build


def image_rows(*num_images: int, first: int = 0) -> Dataset:
    """One prompt for each number of images, beginning with image `first` of the source."""
    source = BuiltinSource("count", size=16)
    return Dataset.from_list(
        [
            {
                "prompt": build_prompt(source.task, number),
                "images": [source.load(first + index) for index in range(number)],
                "values": source.values[first : first + number].tolist(),
                "task": "count",
            }
            for number in num_images
        ]
    )


@pytest.fixture
def make(load: Any, processor: Any, tmp_path: Path) -> Make:
    def build(rows: Dataset, model: Any = None, init: Any = None, **settings: Any) -> Any:
        model = load() if model is None else model
        settings = {
            "generation_kwargs": GREEDY,
            "rmo": False,
            "per_device_train_batch_size": GROUP * len(rows),
            **settings,
        }
        args = RARLConfig(
            str(tmp_path),
            num_generations=GROUP,
            max_completion_length=LENGTH,
            use_cpu=True,
            bf16=False,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            shuffle_dataset=False,
            seed=3,
            **settings,
        )
        text = not hasattr(model.config, "vision_config")
        return SharedPrefixTrainer(
            model=model,
            reward_funcs=lambda completion_ids, **_: [sum(ids) % 7 / 7 for ids in completion_ids],
            args=args,
            train_dataset=rows,
            processing_class=processor.tokenizer if text else processor,
            **(init or {}),
        )

    return build


def batch_of(trainer: SharedPrefixTrainer) -> list[dict[str, Any]]:
    trainer.model.train()
    return next(iter(trainer.get_train_dataloader()))


def prompts_of(trainer: SharedPrefixTrainer) -> tuple[Any, ...]:
    """Arguments of `_generate_single_turn` as TRL makes them of the first batch."""
    taken: list[Any] = []
    inner = trainer._generate_single_turn

    def spy(*args: Any) -> Any:
        taken.append(args)
        return inner(*args)

    trainer._generate_single_turn = spy  # type: ignore[method-assign]
    trainer._generate_and_score_completions(batch_of(trainer))
    del trainer._generate_single_turn  # type: ignore[attr-defined]
    return taken[0]


class Calls:
    """Batch sizes of the language model, and patches that the vision tower sees."""

    def __init__(self, trainer: SharedPrefixTrainer) -> None:
        self.rows: list[int] = []
        self.patches = 0
        model = trainer.accelerator.unwrap_model(trainer.model)
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: self.rows.append(len(inputs[0])))
        if hasattr(model.model, "visual"):
            model.model.visual.register_forward_hook(self.see, with_kwargs=True)

    def see(self, module: Any, inputs: Any, named: Any, output: Any) -> None:
        self.patches += len(inputs[0] if inputs else named["hidden_states"])


def compare(trainer: SharedPrefixTrainer) -> Calls:
    """Answers are those of TRL, token for token; returns what sampling them took."""
    assert trainer._shares_generation
    arguments = prompts_of(trainer)
    torch.manual_seed(5)
    expected, _ = GRPOTrainer._generate_single_turn(trainer, *arguments)
    calls = Calls(trainer)
    torch.manual_seed(5)
    found, logprobs = trainer._generate_single_turn(*arguments)
    assert found == expected
    assert logprobs is None
    return calls


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pad_to_multiple_of": 8},
        {"repetition_penalty": 1.3},
        {"generation_kwargs": {**GREEDY, "no_repeat_ngram_size": 2}},
        {"generation_kwargs": {**GREEDY, "suppress_tokens": list(range(520, 600))}},
        {"generation_kwargs": {**GREEDY, "min_length": 58}, "repetition_penalty": 1.3},
    ],
    ids=lambda settings: "-".join(map(str, settings)) or "plain",
)
def test_greedy_answers_are_those_of_trl(make: Make, settings: dict[str, Any]) -> None:
    rows = Dataset.from_list([*image_rows(1, 2, 4), *image_rows(3, 1, first=5)])
    calls = compare(make(rows, **settings))
    assert calls.rows[0] == 5  # each prompt is encoded once
    assert calls.rows[1] == 5 * GROUP
    assert calls.rows[-1] < 5 * GROUP  # what has ended has left
    assert calls.patches == 16 * (1 + 2 + 4 + 3 + 1)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_other_families_with_images(make: Make, load: Any, family: str) -> None:
    calls = compare(make(image_rows(2, 1), load(family)))
    assert calls.rows[0] == 2


@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen2_5_vl"])
def test_text_alone(make: Make, load: Any, family: str) -> None:
    texts = ("value of", "Give the count of dots.", "images " * 6)
    rows: Any = texts if family != "qwen2_5_vl" else [[{"role": "user", "content": text}] for text in texts]
    calls = compare(make(Dataset.from_list([{"prompt": row} for row in rows]), load(family)))
    assert calls.rows[0] == 3


def test_lora(make: Make, load: Any) -> None:
    lora = LoraConfig(target_modules=language_lora_targets(load()), r=4, task_type="CAUSAL_LM", init_lora_weights=False)
    compare(make(image_rows(1, 2), init={"peft_config": lora}))


def test_sampling_with_the_same_seed(make: Make, load: Any, processor: Any) -> None:
    model = load()
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    sampling = {"temperature": 0.9, "top_p": 0.95, "top_k": 50}
    trainer = make(
        image_rows(1, 3),
        model,
        generation_kwargs={"suppress_tokens": [model.generation_config.eos_token_id]},
        **sampling,
    )
    calls = compare(trainer)
    assert calls.rows == [2, *[2 * GROUP] * LENGTH]  # none ended: the draws of the whole batch are TRL's


def test_sampled_tokens_have_the_chances_that_the_model_gives_them(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(image_rows(1, 3), generation_kwargs={})
    arguments = prompts_of(trainer)
    drawn: list[torch.Tensor] = []
    inner = torch.multinomial

    def multinomial(chances: torch.Tensor, num_samples: int) -> torch.Tensor:
        tokens = inner(chances, num_samples)
        drawn.append(torch.cat([tokens, chances.gather(1, tokens)], dim=1))
        return tokens

    monkeypatch.setattr(torch, "multinomial", multinomial)
    answers, _ = trainer._generate_single_turn(*arguments)
    assert len({len(row) for row in drawn}) > 3  # answers left at different times
    assert len({len(answer) for answer in answers[:GROUP]}) > 1
    prompt_ids, images, fields, *_ = arguments
    found = torch.cat(drawn)
    pixels, patch = fields["pixel_values"], 0
    for row, answer in enumerate(answers):
        number = len(images[row])
        inputs = {
            "pixel_values": pixels[patch : patch + 16 * number],
            "image_grid_thw": fields["image_grid_thw"][:number],
        }
        patch += 16 * number
        ids = torch.tensor([prompt_ids[row] + answer])
        types = torch.tensor([fields["mm_token_type_ids"][row] + [0] * len(answer)])
        with torch.no_grad():
            logits = trainer.model(input_ids=ids, mm_token_type_ids=types, **inputs).logits[0, -len(answer) - 1 : -1]
        logits[:, trainer.model.config.image_token_id] = -torch.inf
        for token, chances in zip(answer, logits.softmax(dim=-1), strict=True):
            same = found[found[:, 0] == token, 1]
            assert (same - chances[token]).abs().min() < 1e-5


def test_equal_text_with_other_images_is_another_prompt(make: Make) -> None:
    rows = Dataset.from_list([*image_rows(2), *image_rows(2, first=5)])
    trainer = make(rows)
    ids = prompts_of(trainer)[0]
    assert ids[0] == ids[-1]
    assert compare(trainer).rows[0] == 2


def test_positions_do_not_leak_into_later_calls(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(image_rows(2), generation_kwargs={**GREEDY, "suppress_tokens": ENDS})
    arguments = prompts_of(trainer)
    base = trainer.model.model
    trainer._generate_single_turn(*arguments)
    assert base.rope_deltas is None
    seen: list[int] = []

    def fail(module: Any, inputs: Any) -> None:
        seen.append(len(inputs[0]))
        if len(seen) == 3:
            raise RuntimeError("the third step")

    trainer.model.get_input_embeddings().register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="third step"):
        trainer._generate_single_turn(*arguments)
    assert base.rope_deltas is None


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"num_beams": 3}, "generation is beam_search"),
        ({"prompt_lookup_num_tokens": 3}, "generation is assisted_generation"),
        ({"min_new_tokens": 4}, "min_new_tokens=4"),
        ({"cache_implementation": "static"}, "cache_implementation='static'"),
        ({"exponential_decay_length_penalty": (4, 1.1)}, "exponential_decay_length_penalty"),
        ({"max_new_tokens": None}, "no max_new_tokens"),
        ({"use_cache": False}, "use_cache=False"),
    ],
)
def test_settings_that_count_from_the_start_are_named(settings: dict[str, Any], reason: str) -> None:
    plain: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}
    assert unsupported_settings(GenerationConfig(**plain), GenerationConfig()) is None
    assert reason in str(unsupported_settings(GenerationConfig(**{**plain, **settings}), GenerationConfig()))
    if settings.get("max_new_tokens", 8):  # the model's own hold where none are given
        assert reason in str(unsupported_settings(GenerationConfig(**plain), GenerationConfig(**settings)))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"generation_kwargs": {**GREEDY, "num_beams": 2}}, "generation is beam_search"),
        ({"generation_kwargs": {**GREEDY, "eos_token_id": [7]}}, "generation ends with [7], but"),
        ({"shared_prefix": "off"}, None),
    ],
)
def test_trl_samples_where_we_cannot(
    make: Make, caplog: pytest.LogCaptureFixture, settings: dict[str, Any], reason: str | None
) -> None:
    with caplog.at_level(logging.INFO, logger="rarl.trainer"):
        trainer = make(image_rows(1), **settings)
    lines = [record.getMessage() for record in caplog.records if "not shared in generation" in record.getMessage()]
    assert len(lines) == (reason is not None)
    assert all(f"Prompts are not shared in generation: {reason}" in line for line in lines)
    arguments = prompts_of(trainer)
    calls = Calls(trainer)
    trainer._generate_single_turn(*arguments)
    assert min(calls.rows) >= GROUP


def picture(seed: int, size: tuple[int, int] = (56, 56), mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("return_tensors", ["pt", None])
def test_memo_gives_what_the_processor_gives(processor: Any, return_tensors: str | None) -> None:
    large, small, other = picture(0, (300, 130)), picture(1), picture(2)
    rows = [
        [large, small],
        [large.copy(), small],
        [],
        [other, picture(3, mode="P"), picture(3, mode="RGBA"), picture(3, mode="L"), picture(3)],
    ]
    image_processor = processor.image_processor
    memo = ImageMemo(image_processor)
    for images in (rows, rows[:2], [other, large], [small]):
        for settings in ({}, {"do_normalize": False}):
            expected = image_processor(images=images, return_tensors=return_tensors, **settings)
            found = memo(images=images, return_tensors=return_tensors, **settings)
            assert list(found) == list(expected)
            for name, value in expected.items():
                assert found[name].dtype == value.dtype
                assert torch.equal(found[name], value)


def test_memo_leaves_other_images_and_processors_alone(processor: Any) -> None:
    array = np.asarray(picture(0))
    memo = ImageMemo(processor.image_processor)
    assert torch.equal(
        memo(images=[array], return_tensors="pt")["pixel_values"],
        processor.image_processor(images=[array], return_tensors="pt")["pixel_values"],
    )
    before = processor.image_processor
    with pytest.raises(KeyError), images_processed_once(processor):
        assert isinstance(processor.image_processor, ImageMemo)
        raise KeyError
    assert processor.image_processor is before
    with images_processed_once(processor.tokenizer):
        assert not hasattr(processor.tokenizer, "image_processor")


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images in each call of the image processor."""
    counts: list[int] = []
    inner = Qwen2VLImageProcessor._preprocess

    def count(self: Any, images: Any, *args: Any, **kwargs: Any) -> Any:
        counts.append(len(images))
        return inner(self, images, *args, **kwargs)

    monkeypatch.setattr(Qwen2VLImageProcessor, "_preprocess", count)
    return counts


def test_each_image_is_preprocessed_once_a_step(make: Make, patched: list[int]) -> None:
    trainer = make(image_rows(1, 3), beta=0.0)
    rows = batch_of(trainer)
    found = trainer._generate_and_score_completions(rows)
    assert patched == [3]  # the first prompt shows an image of the second
    patched.clear()
    trainer._shares_images = False
    expected = trainer._generate_and_score_completions(rows)
    assert sum(patched) == 2 * GROUP * 4
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value, name


def test_pixels_are_kept_once_a_prompt(make: Make) -> None:
    trainer = make(image_rows(1, 3), gradient_accumulation_steps=2, per_device_train_batch_size=GROUP, beta=0.0)
    trainer.model.train()
    batches = []
    for _ in range(2):
        batches.append(trainer._prepare_inputs(next(iter(trainer.get_train_dataloader()))))
        trainer._step += 1
    assert sorted(batch["num_images"] for batch in batches) == [[1] * GROUP, [3] * GROUP]
    for batch in batches:
        assert len({pixels.untyped_storage().data_ptr() for pixels in batch["pixel_values"]}) == 1
        for pixels in batch["pixel_values"]:
            assert pixels.untyped_storage().nbytes() == 4 * pixels.numel()
        batch["num_items_in_batch"] = batch["completion_mask"].sum()
        trainer.current_gradient_accumulation_steps = 2
        shared = trainer._compute_loss(trainer.model, batch)
        whole = trainer._compute_loss(trainer.model, unsplit_pixel_values_by_grid(batch))
        assert torch.equal(shared, whole)


def test_two_steps_move_the_parameters(make: Make) -> None:
    trainer = make(image_rows(1, 3), max_steps=2, learning_rate=1e-3, logging_steps=1, beta=0.0, generation_kwargs={})
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    moved = [not torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items()]
    assert sum(moved) > len(moved) // 2
