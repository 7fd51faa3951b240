"""Tiny random models of the vision-language families that the trainers are tested on, each with a processor of its own.

The chat templates are those that TRL ships for a family; where it ships none, the family's own, in short.
`python -m tests.families` writes `docs/families.md`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast, ProcessorMixin

from rarl import tiny
from rarl.inputs import batch_inputs
from rarl.prompt import build_prompt
from rarl.shared_prefix import unsupported_model
from rarl.task import get_task
from rarl.vision_tokens import vision_token_ids
from tests.paths import ROOT

WIDTH: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
TOWER: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
SQUARE = {**TOWER, "image_size": 56, "patch_size": 14}
QWEN = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
SIDES = {"height": 56, "width": 56}

CHATML_IMAGES = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for block in message['content'] %}{% if block['type'] == 'image' %}IMAGE"
    "{% else %}{{ block['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """How a tiny model of a family is made.

    Attributes:
        config: Its configuration, from the text's widths and a function token → id.
        processor: Its processor, from its tokenizer and chat template.
        special: Its special tokens; the first ends a turn, the second pads.
        template: Name of a template of TRL's, or the template.
        bos: Its token at the beginning of a text, if it has one.
        named: Special tokens that its tokenizer knows by name.
    """

    config: Callable[[dict[str, Any], Callable[[str], int]], Any]
    processor: Callable[[Any, str], ProcessorMixin]
    special: Sequence[str]
    template: str
    bos: str | None = None
    named: dict[str, str] | None = None


def qwen_tokens(id_of: Callable[[str], int]) -> dict[str, int]:
    """Ids of the vision tokens of a Qwen-VL configuration."""
    return {
        "image_token_id": id_of("<|image_pad|>"),
        "video_token_id": id_of("<|video_pad|>"),
        "vision_start_token_id": id_of("<|vision_start|>"),
        "vision_end_token_id": id_of("<|vision_end|>"),
    }


def qwen_processor(name: str, patch_size: int) -> Callable[[Any, str], ProcessorMixin]:
    """Maker of a processor of the Qwen-VL family."""

    def make(tokenizer: Any, template: str) -> ProcessorMixin:
        side = 2 * patch_size
        bounds = {"shortest_edge": side * side, "longest_edge": 4 * side * side}
        images: Any = transformers.Qwen2VLImageProcessor(size=bounds, patch_size=patch_size)
        videos: Any = (
            transformers.Qwen3VLVideoProcessor(patch_size=patch_size)
            if name == "Qwen3VL"
            else transformers.Qwen2VLVideoProcessor(patch_size=patch_size)
        )
        return getattr(transformers, f"{name}Processor")(images, tokenizer, videos, chat_template=template)

    return make


def gemma3_processor(tokenizer: Any, template: str) -> ProcessorMixin:
    """Images of 56 x 56 pixels, 4 tokens each."""
    images = transformers.Gemma3ImageProcessor(size=SIDES)
    return transformers.Gemma3Processor(images, tokenizer, chat_template=template, image_seq_length=4)


def llava_next_processor(tokenizer: Any, template: str) -> ProcessorMixin:
    """A base of 56 x 56 pixels, and tiles of it."""
    images = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": 56}, crop_size=SIDES, image_grid_pinpoints=[[56, 112], [112, 56]]
    )
    return transformers.LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,  # that of CLIP's class
    )


def idefics_config(name: str) -> Callable[[dict[str, Any], Callable[[str], int]], Any]:
    """Maker of a configuration of Idefics3 or SmolVLM."""
    return lambda text, id_of: getattr(transformers, f"{name}Config")(
        text_config=text | {"model_type": "llama"},
        vision_config=SQUARE,
        scale_factor=2,
        image_token_id=id_of("<image>"),
    )


def idefics_processor(name: str) -> Callable[[Any, str], ProcessorMixin]:
    """Maker of a processor of Idefics3 or SmolVLM: tiles of 56 x 56 pixels, 4 tokens each."""

    def make(tokenizer: Any, template: str) -> ProcessorMixin:
        images = getattr(transformers, f"{name}ImageProcessor")(
            size={"longest_edge": 112}, max_image_size={"longest_edge": 56}
        )
        videos = () if name == "Idefics3" else (transformers.SmolVLMVideoProcessor(size={"longest_edge": 56}),)
        kind = getattr(transformers, f"{name}Processor")
        return kind(images, tokenizer, *videos, image_seq_len=4, chat_template=template)

    return make


def internvl_processor(tokenizer: Any, template: str) -> ProcessorMixin:
    """Images of 56 x 56 pixels, 4 tokens each, cut into tiles if they are large."""
    images = transformers.GotOcr2ImageProcessor(size=SIDES, crop_to_patches=True, max_patches=2)
    videos = transformers.InternVLVideoProcessor(size=SIDES)
    return transformers.InternVLProcessor(images, tokenizer, videos, image_seq_length=4, chat_template=template)


CHATML = ["<|im_end|>", "<|endoftext|>", "<|im_start|>"]
QWEN_SPECIAL = [*CHATML, "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
TILES = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
IDEFICS = ["<end_of_utterance>", "<|endoftext|>", "<image>", "<fake_token_around_image>", "<global-img>", *TILES]

FAMILIES: dict[str, Family] = {
    "qwen2_vl": Family(
        lambda text, id_of: transformers.Qwen2VLConfig(
            text_config=text | {"rope_parameters": MROPE},
            vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
            **qwen_tokens(id_of),
        ),
        qwen_processor("Qwen2VL", 14),
        QWEN_SPECIAL,
        "qwen2_5_vl",
    ),
    "qwen2_5_vl": Family(
        lambda text, id_of: transformers.Qwen2_5_VLConfig(
            text_config=text | {"rope_parameters": MROPE},
            vision_config=QWEN | {"fullatt_block_indexes": [0]},
            **qwen_tokens(id_of),
        ),
        qwen_processor("Qwen2_5_VL", 14),
        QWEN_SPECIAL,
        "qwen2_5_vl",
    ),
    "qwen3_vl": Family(
        lambda text, id_of: transformers.Qwen3VLConfig(
            text_config=text | {"head_dim": 8, "rope_parameters": MROPE | {"mrope_interleaved": True}},
            vision_config=QWEN | {"patch_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
            **qwen_tokens(id_of),
        ),
        qwen_processor("Qwen3VL", 16),
        QWEN_SPECIAL,
        "qwen3_vl",
    ),
    "gemma3": Family(
        lambda text, id_of: transformers.Gemma3Config(
            text_config=text
            | {"head_dim": 8, "sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"]},
            vision_config=SQUARE,
            mm_tokens_per_image=4,
            image_token_index=id_of("<image_soft_token>"),
            boi_token_index=id_of("<start_of_image>"),
            eoi_token_index=id_of("<end_of_image>"),
        ),
        gemma3_processor,
        [
            *("<end_of_turn>", "<pad>", "<bos>", "<start_of_turn>"),
            *("<image_soft_token>", "<start_of_image>", "<end_of_image>"),
        ],
        "gemma3",
        "<bos>",
        {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
    ),
    "llava_next": Family(
        lambda text, id_of: transformers.LlavaNextConfig(
            text_config=text | {"model_type": "llama"},
            vision_config={**SQUARE, "num_hidden_layers": 2, "model_type": "clip_vision_model", "projection_dim": 32},
            image_token_index=id_of("<image>"),
            image_grid_pinpoints=[[56, 112], [112, 56]],
            image_seq_length=16,
        ),
        llava_next_processor,
        ["</s>", "<unk>", "<s>", "<image>"],
        "llava_next",
        "<s>",
    ),
    "idefics3": Family(
        idefics_config("Idefics3"),
        idefics_processor("Idefics3"),
        [*IDEFICS, "<|begin_of_text|>"],
        "idefics3",
        "<|begin_of_text|>",
    ),
    "smolvlm": Family(
        idefics_config("SmolVLM"),
        idefics_processor("SmolVLM"),
        [*IDEFICS, "<|im_start|>", "<video>"],
        "smolvlm",
        "<|im_start|>",
        {
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "end_of_utterance_token": "<end_of_utterance>",
            "video_token": "<video>",
        },
    ),
    "internvl": Family(
        lambda text, id_of: transformers.InternVLConfig(
            text_config=text | {"model_type": "qwen2"},
            vision_config={**TOWER, "image_size": [56, 56], "patch_size": [14, 14]},
            image_token_id=id_of("<IMG_CONTEXT>"),
            image_seq_length=4,
        ),
        internvl_processor,
        [*CHATML, "<img>", "</img>", "<IMG_CONTEXT>", "<video>"],
        CHATML_IMAGES.replace("IMAGE", "<IMG_CONTEXT>\n"),
        named={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    ),
}


def build_processor(name: str) -> Any:
    """Processor of a family, padding on the left."""
    family = FAMILIES[name]
    end, padding, *others = family.special
    raw = tiny.build_tokenizer(1024, family.special)
    if family.bos is not None:  # as Gemma's and Llama's: a text begins with it
        raw.post_processor = TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, raw.token_to_id(family.bos))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token=end,
        pad_token=padding,
        bos_token=family.bos,
        padding_side="left",
        additional_special_tokens=others,
        extra_special_tokens=family.named or {},
    )
    template = family.template
    if "{" not in template:
        template = (resources.files("trl") / "chat_templates" / f"{template}.jinja").read_text(encoding="utf-8")
    return family.processor(tokenizer, template)


def build_model(name: str, processor: Any, seed: int = 0) -> Any:
    """A random model of a family for its processor."""
    tokenizer = processor.tokenizer
    text = WIDTH | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    text |= {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id}
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(FAMILIES[name].config(text, tokenizer.convert_tokens_to_ids))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def save(name: str, folder: Path) -> Path:
    """A folder with a model and its processor, as users have it."""
    processor = build_processor(name)
    build_model(name, processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


PAGE = ROOT / "docs" / "families.md"
HEAD = """# Families of models

Vision-language models of these families go through both stages of RARL, with mutation, all parameters or LoRA, are
saved, loaded and evaluated in `tests/rarl/test_families.py`: tiny and random, but of the real classes, with processors
and chat templates of their own. `python -m tests.families` makes this page of them.

Nothing is set by hand for a family. LoRA adapts the linear layers of what a model calls its language model, never its
vision tower. Tokens that stand for images are those that its configuration, processor and tokenizer name; they are not
sampled. Other families that TRL trains go TRL's way, and one line of the log says so: results are TRL's, only slower.

| family | prompts shared in training and sampling | LoRA adapts | never sampled | inputs beside the ids |
|---|---|---|---|---|
"""
TAIL = """
- LLaVA-NeXT's template writes all images before the text, so that "Image 1:" and so on do not stand beside them. A line
  of the log says so. Train with a template that keeps them in place.
- Gemma 3: tokens of an image see each other, in both directions, also where a prompt is shared; layers with a sliding
  window see as far as in the plain layout. TRL makes its token types of the rendered prompt, to which the tokenizer
  adds a second token of the beginning, so that images see themselves one place off; here they are put in place.
- LLaVA-OneVision is not trained by TRL 1.16, whose trainer does not know its input `batch_num_images`.
"""


def page() -> str:
    """The page of the docs."""
    rows = []
    for name in FAMILIES:
        processor = build_processor(name)
        model = build_model(name, processor)
        decoder = next(part for part, module in model.named_modules() if module is model.get_decoder())
        tokens = processor.tokenizer.convert_ids_to_tokens(vision_token_ids(processor, model.config))
        shown = [token for token in tokens if not token.startswith("<row_")]
        shown += ["<row_1_col_1>", "..."] if len(shown) < len(tokens) else []
        reason = unsupported_model(model.config)
        image = Image.new("RGB", (56, 56))
        fields = batch_inputs(processor, [{"prompt": build_prompt(get_task("count"), 1), "images": [image]}])
        inputs = ", ".join(f"`{field}`" for field in fields if field not in ("input_ids", "attention_mask"))
        cells = [name, reason or "both", f"`{decoder}`", " ".join(f"`{token}`" for token in shown), inputs]
        rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return HEAD + "\n".join(rows) + "\n" + TAIL


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
