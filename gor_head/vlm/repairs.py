"""What TRL 1.16 and peft 0.21 get wrong about trainable token rows, mended in one place.

Each function is harmless where there is nothing to mend. ZeRO-3 cannot train token rows: peft's layer assumes that the
whole matrix is there. Train them under ZeRO-2, merge, and go on with plain LoRA.
"""

from typing import Any

from peft.utils.other import TrainableTokensWrapper
from torch import nn

from gor_head.versions import check_versions
from gor_head.vlm.rows import ROWS
from gor_head.vlm.tokens import check_lora

check_versions("trl", "peft")


def mend_token_rows(model: Any) -> None:
    """All repairs, for the model of a trainer that has been made and has not trained yet.

    Raises:
        ValueError: If an adapter trains a matrix with token rows in another way, too.
    """
    for config in getattr(model, "peft_config", {}).values():
        if getattr(config, "trainable_token_indices", None):
            check_lora(model, config)
    give_heads_a_bias(model)
    copy_rows_to_reference(model)


def give_heads_a_bias(model: nn.Module) -> None:
    """Let a wrapped head say that it has no bias: TRL's fused head asks for `lm_head.bias`.

    Call it after peft has wrapped the model.
    """
    for module in model.modules():
        if isinstance(module, TrainableTokensWrapper) and isinstance(module.original_module, nn.Linear):
            if not hasattr(module, "bias"):
                module.register_parameter("bias", module.original_module.bias)


def copy_rows_to_reference(model: Any, source: str = "default", target: str = "ref") -> None:
    """Copy the token rows of one adapter to another.

    TRL copies what has `.default.` in its name to the frozen adapter `ref`; the rows' name ends in `.default`, and the
    reference would keep the rows that training began with before. Call it after the trainer is made, before it trains.

    Raises:
        ValueError: If the target adapter lacks rows that the source has.
    """
    if target not in getattr(model, "peft_config", {}):
        return
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if name.endswith(ROWS + source):
            other = name.removesuffix(source) + target
            if other not in parameters:
                raise ValueError(
                    f"adapter {target!r}: wanted token rows like those of {source!r}, got none at {other}."
                )
            parameters[other].data.copy_(parameter.data)
