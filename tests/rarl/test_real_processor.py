"""Qwen2.5-VL's own tokenizer, chat template, processor and configuration; skipped where the files are absent."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import (
    AutoTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from trl.data_utils import prepare_multimodal_messages

from rarl.datasets import BuiltinSource, FolderSource, check_context, make_dataset
from rarl.inputs import prompt_lengths
from rarl.lora import language_lora_targets
from tests.paths import DATA

FILES = DATA / "qwen2_5_vl_tokenizer"

pytestmark = pytest.mark.skipif(not FILES.is_dir(), reason="Qwen2.5-VL's tokenizer files not present")


@pytest.fixture(scope="module")
def processor() -> Qwen2_5_VLProcessor:
    settings = json.loads((FILES / "preprocessor_config.json").read_text())
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            **{name: value for name, value in settings.items() if not name.endswith(("_type", "_class"))}
        ),
        tokenizer=AutoTokenizer.from_pretrained(FILES),
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=json.loads((FILES / "chat_template.json").read_text())["chat_template"],
    )


def process(row: dict[str, Any], processor: Qwen2_5_VLProcessor) -> Any:
    messages = prepare_multimodal_messages(row["prompt"], images=row["images"])
    return processor.apply_chat_template(
        [messages], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


def runs(flags: torch.Tensor) -> list[int]:
    """Lengths of the runs of true values."""
    return [len(run) for run in re.findall("1+", "".join(str(int(flag)) for flag in flags))]


def test_eight_images_and_their_placeholders_are_in_step(processor: Qwen2_5_VLProcessor, tmp_path: Path) -> None:
    shapes = [(56, 56), (84, 140), (300, 200), (640, 480), (29, 400), (112, 113), (1000, 30), (224, 224)]
    for number, (height, width) in enumerate(shapes):
        Image.new("RGB", (width, height), (30 * number, 0, 0)).save(tmp_path / f"{number}.png")
    table = "file,value\n" + "".join(f"{number}.png,{number}\n" for number in range(8))
    (tmp_path / "t.csv").write_text(table)
    source = FolderSource(tmp_path, tmp_path / "t.csv", "count", min_pixels=56 * 56, max_pixels=300 * 300)
    dataset = make_dataset(source, np.arange(8), 1, mix={8: 1.0})
    group = dataset.with_format(None)["images"][0]
    inputs = process(dataset[0], processor)
    ids = inputs["input_ids"][0]

    expected = [height * width // 28**2 for height, width in map(source.size, group)]
    assert runs(ids == processor.image_token_id) == expected
    assert (inputs["image_grid_thw"].prod(dim=1) // 4).tolist() == expected
    assert inputs["pixel_values"].shape[0] == 4 * sum(expected)
    # The first pixel of each image tells which image it is, so order and placeholders agree.
    starts = np.cumsum([0, *(4 * count for count in expected[:-1])])
    mean, std = processor.image_processor.image_mean[0], processor.image_processor.image_std[0]
    reds = (inputs["pixel_values"][starts, 0] * std + mean) * 255 / 30
    assert reds.round().int().tolist() == group
    text = processor.tokenizer.decode(ids)
    for number in range(1, 9):
        assert f"Image {number}: <|vision_start|><|image_pad|>" in text
    assert text.endswith("<|im_start|>assistant\n")

    assert prompt_lengths(source.task, [[source.size(i) for i in group]], processor).tolist() == [len(ids)]
    check_context(dataset, processor, len(ids) + 100, max_completion_length=100)
    with pytest.raises(ValueError, match=f"Row 0 .*{len(ids)} tokens, but at most {len(ids) - 1} fit"):
        check_context(dataset, processor, len(ids) + 99, max_completion_length=100)


@pytest.mark.parametrize("num_images", [1, 2, 4])
def test_prompt_lengths_of_built_in_images(processor: Qwen2_5_VLProcessor, num_images: int) -> None:
    source = BuiltinSource("brightness", size=8)
    dataset = make_dataset(source, np.arange(8), 2, mix={num_images: 1.0})
    groups = dataset.with_format(None)["images"]
    lengths = prompt_lengths(source.task, [[source.size(i) for i in group] for group in groups], processor)
    assert lengths.tolist() == [process(row, processor)["input_ids"].shape[1] for row in dataset]


def test_lora_reaches_the_language_model_of_the_3b_only() -> None:
    config = Qwen2_5_VLConfig.from_pretrained(FILES)
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    rank = 8
    adapted = get_peft_model(model, LoraConfig(r=rank, target_modules=language_lora_targets(model)))
    trainable = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all("language_model" in name and "lora_" in name for name in trainable)
    vision = [parameter for name, parameter in adapted.named_parameters() if ".visual." in name]
    assert vision and not any(parameter.requires_grad for parameter in vision)

    # Shape of the 3B: 36 layers, width 2048, 16 query heads and 2 key-value heads of 128, feed-forward 11008. A layer
    # of a x b costs rank * (a + b).
    width, feed_forward, key_value, layers = 2048, 11008, 2 * 128, 36
    attention = 2 * (width + width) + 2 * (width + key_value)
    assert len(trainable) == layers * 7 * 2
    expected = rank * layers * (attention + 3 * (width + feed_forward))
    assert sum(parameter.numel() for parameter in trainable.values()) == expected == 14_966_784
