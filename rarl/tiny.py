"""The built-in tiny Qwen2.5-VL: a real `Qwen2_5_VLForConditionalGeneration` of under two million parameters.

It has a processor, chat template and byte-level BPE tokenizer of its own (vision tokens are special, think and answer
tags are not) and was cold-started to answer in the format, with mediocre values, by `recipes/tiny_cold_start.py`.
`path()` and `adapter_path()` are folders that load like any other model and adapter.
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from rarl.prompt import build_completion, build_prompt
from rarl.task import get_task

SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for block in message['content'] %}"
    "{% if block['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif block['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ block['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


TOKENIZER_TASKS = ("age", "count", "aesthetics", "brightness")
"""Tasks whose texts the tokenizer was made for; another one here would be another tokenizer, and another model."""


def path() -> str:
    """Folder of the cold-started tiny model and its processor."""
    return str(Path(str(resources.files("rarl"))) / "assets" / "tiny")


def adapter_path() -> str:
    """Folder of the small LoRA adapter that stage 1 makes of the tiny model."""
    return str(Path(str(resources.files("rarl"))) / "assets" / "tiny_stage1")


def load(**kwargs: Any) -> tuple[Any, Any]:
    """The cold-started model and its processor; `kwargs` go to the model's `from_pretrained`."""
    return AutoModelForImageTextToText.from_pretrained(path(), **kwargs), AutoProcessor.from_pretrained(path())


def build_tokenizer(vocab_size: int = 768, special_tokens: Sequence[str] = SPECIAL_TOKENS) -> Tokenizer:
    """A byte-level BPE tokenizer trained on the prompts and answers of some tasks; `special_tokens` first.

    Digits stay single, as in Qwen2.5; between digits merges may cross spaces (SuperBPE, arXiv:2503.13423), so the fixed
    sentences of a prompt are a handful of tokens and an answer for eight images is about seventy: a training step on a
    CPU is several times cheaper. Training is deterministic.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\d"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    texts = []
    for task in map(get_task, TOKENIZER_TASKS):
        values = [task.minimum + (task.maximum - task.minimum) * step / 7 for step in range(8)]
        for num_images in (1, 2, 4, 8):
            for message in build_prompt(task, num_images):
                texts += [block["text"] for block in message["content"] if block["text"]]
            texts += [build_completion(values[:num_images], task)] * 20
    texts += ["system\n", "user\n", "assistant\n"] * 50
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(special_tokens),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def build_processor(vocab_size: int = 768) -> Qwen2_5_VLProcessor:
    """Processor of the tiny model: its tokenizer, Qwen2-VL image and video processors, and a chat template."""
    raw = build_tokenizer(vocab_size)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        bos_token=None,
        unk_token=None,
        padding_side="left",
        additional_special_tokens=SPECIAL_TOKENS[3:],
    )
    pixels: dict[str, Any] = {"min_pixels": 56 * 56, "max_pixels": 448 * 448}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**pixels),
        chat_template=CHAT_TEMPLATE,
    )


def build_config(processor: Qwen2_5_VLProcessor, width: int = 128, layers: int = 3, *, vision_layers: int = 2) -> Any:
    """Configuration with Qwen2.5-VL's own shape (grouped-query attention, mRoPE, windowed vision attention)."""
    tokenizer = processor.tokenizer
    token_id = tokenizer.convert_tokens_to_ids
    half_head = width // 4 // 2  # rotary frequencies of one of the four heads, shared by time, height and width
    mrope_section = [half_head - 2 * (3 * half_head // 8), 3 * half_head // 8, 3 * half_head // 8]
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": -(-len(tokenizer) // 64) * 64,
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": mrope_section},
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": vision_layers,
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_heads": 4,
            "out_hidden_size": width,
            "fullatt_block_indexes": [vision_layers - 1],
        },
        tie_word_embeddings=True,
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
    )


def build_model(processor: Qwen2_5_VLProcessor, **kwargs: Any) -> Qwen2_5_VLForConditionalGeneration:
    """A tiny model with random weights (seed them first); `kwargs` go to [`build_config`][rarl.tiny.build_config]."""
    model = Qwen2_5_VLForConditionalGeneration(build_config(processor, **kwargs))
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model
