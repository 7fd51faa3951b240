"""Which layers LoRA adapts: the language model's, never the vision tower's."""

import re
from typing import Any

from torch import nn


def language_lora_targets(model: Any) -> str:
    """`LoraConfig(target_modules=...)` for a model of any family: all linear layers of its language model.

    A bare list of names such as `["gate_proj"]` would match the vision tower's layers of the same name, too. PEFT
    matches a string against whole module names.

    Args:
        model: A model of transformers, not yet inside PEFT.

    Raises:
        ValueError: If its language model has no linear layers.
    """
    decoder = model.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    names = {
        name.rpartition(".")[2]
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear) and module is not model.get_output_embeddings()
    }
    if not names:
        raise ValueError(f"{type(model).__name__}: no linear layers in its language model; give lora_target_modules.")
    return (re.escape(prefix) + r"\." if prefix else "") + rf"(.*\.)?({'|'.join(sorted(names))})"
