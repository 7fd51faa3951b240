"""Values that cannot be meant are refused: numbers out of range, unknown words, settings that are no JSON."""

import importlib.util
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trl import DPOConfig, GRPOConfig, SFTConfig

Bound = tuple[str, Callable[[float], bool]]
POSITIVE: Bound = ("above 0", lambda value: value > 0)
NOT_NEGATIVE: Bound = ("0 or more", lambda value: value >= 0)
SHARE: Bound = ("from 0 to 1", lambda value: 0 <= value <= 1)
PART: Bound = ("above 0, at most 1", lambda value: 0 < value <= 1)
DROPOUT: Bound = ("from 0 to below 1", lambda value: 0 <= value < 1)
STEPS: Bound = ("above 0, or -1 for num_train_epochs", lambda value: value > 0 or value == -1)


BOUNDS: dict[str, Bound] = {
    **dict.fromkeys(("size", "num_prompts", "num_images", "eval_num_images", "min_pixels", "max_pixels"), POSITIVE),
    **dict.fromkeys(("eval_batch_size", "eval_max_new_tokens", "task_tolerance", "raters"), POSITIVE),
    **dict.fromkeys(("eval_prompts", "min_gap", "split_seed", "num_images_weights", "seed", "data_seed"), NOT_NEGATIVE),
    **dict.fromkeys(("rater_noise", "virtual_rewards", "dynamic_sampling", "shots"), NOT_NEGATIVE),
    **dict.fromkeys(
        ("weight_regression", "weight_ranking", "weight_format", "number_weight", "gap", "margin", "chosen_fall"),
        NOT_NEGATIVE,
    ),
    **dict.fromkeys(("num_candidates", "preference_batch_size", "max_completion_length", "temperature"), POSITIVE),
    **dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs"), POSITIVE),
    **dict.fromkeys(("num_generations", "generation_batch_size", "steps_per_generation", "num_iterations"), POSITIVE),
    **dict.fromkeys(("shared_prefix_tokens", "logging_steps", "save_steps", "save_total_limit"), POSITIVE),
    **dict.fromkeys(("repetition_penalty", "lora_r", "lora_alpha", "ref_model_sync_steps", "adam_epsilon"), POSITIVE),
    **dict.fromkeys(("learning_rate", "weight_decay", "warmup_steps", "max_grad_norm", "beta", "top_k"), NOT_NEGATIVE),
    **dict.fromkeys(("dataloader_num_workers", "epsilon", "epsilon_high"), NOT_NEGATIVE),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "lora_dropout"), DROPOUT),
    **dict.fromkeys(("min_p", "rmo_probability", "top_entropy_quantile", "ref_model_mixup_alpha"), SHARE),
    "row_learning_rate": POSITIVE,
    "grounding_steps": NOT_NEGATIVE,
    "top_p": PART,
    "max_steps": STEPS,
    "reward_weights": ("a number", lambda value: True),
    "task_minimum": ("a number", lambda value: True),
    "task_maximum": ("a number", lambda value: True),
}
"""What numbers have to be, by argument. None may be infinite or no number, but for `max_grad_norm`."""

CHOICES: dict[str, tuple[Any, ...]] = {
    "pairs": ("numbers", "answers"),
    "candidates": ("beams", "samples"),
    "expected_error": ("absolute", "squared"),
    "number_loss": ("huber", "squared", "wasserstein"),
    "scale_rewards": ("group", "batch", "none", True, False),
    "importance_sampling_level": ("token", "sequence"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "f_divergence_type": ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"),
}
"""Words that are looked at after the model is loaded only."""

LOSSES: dict[type, tuple[str, ...]] = {
    GRPOConfig: ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"),
    SFTConfig: ("nll", "dft"),
    DPOConfig: (
        *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
        *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
    ),
}
"""The `loss_type` of each of TRL's trainers."""


def check_numbers(given: Mapping[str, Any]) -> None:
    """Refuse numbers that cannot be meant.

    Raises:
        ValueError: Names the argument, what was wanted and the value.
    """
    for name, value in given.items():
        if name not in BOUNDS or value is None:
            continue
        wanted, holds = BOUNDS[name]
        for number in value if isinstance(value, list) else [value]:
            finite = math.isfinite(number) or (name == "max_grad_norm" and number > 0)
            if not finite or not holds(number):
                raise ValueError(f"{name}: wanted {wanted}, got {number}.")
    for name in ("num_images", "eval_num_images", "task_words"):
        if given.get(name) == []:
            raise ValueError(f"{name}: wanted at least one, got none.")
    low, high = given.get("min_pixels"), given.get("max_pixels")
    if low is not None and high is not None and low > high:
        raise ValueError(f"min_pixels: wanted at most max_pixels, {high}, got {low}.")


def check_words(given: Mapping[str, Any], config_type: type) -> None:
    """Refuse words that TRL does not know, which it would say in training only.

    Raises:
        ValueError: Names the argument, the words that are known and the one given.
    """
    losses = [words for each, words in LOSSES.items() if issubclass(config_type, each)]
    for name, known in {**CHOICES, "loss_type": losses[0] if losses else ()}.items():
        value = given.get(name)
        for word in value if isinstance(value, list) else [value]:
            if word is not None and known and word not in known:
                raise ValueError(f"{name}: wanted one of {', '.join(map(str, known))}, got {word!r}.")


def check_json(given: Mapping[str, Any]) -> None:
    """Refuse settings that are no JSON object, and a missing or broken file of settings.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it holds something else.
    """
    names: tuple[str, ...] = ("deepspeed", "fsdp_config", "accelerator_config", "lr_scheduler_kwargs")
    names += ("gradient_checkpointing_kwargs",)
    names += ("activation_checkpointing_kwargs", "generation_kwargs", "chat_template_kwargs", "dataset_kwargs")
    for name in names:
        value = given.get(name)
        if not isinstance(value, str):
            continue
        where, text = name, value
        if name in ("deepspeed", "fsdp_config", "accelerator_config") and not value.lstrip().startswith("{"):
            if not Path(value).is_file():
                raise FileNotFoundError(f"{name}: wanted a JSON file, but there is no {value}.")
            where, text = f"{name}: {value}", Path(value).read_text(encoding="utf-8")
        try:
            found = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{where}: wanted a JSON object, got {text!r:.60} ({error}).") from None
        if not isinstance(found, dict):
            raise ValueError(f"{where}: wanted a JSON object, got {text!r:.60}.")
    if given.get("deepspeed") is not None and importlib.util.find_spec("deepspeed") is None:
        raise ValueError("deepspeed: wanted the package deepspeed, which is not installed; pip install deepspeed.")
