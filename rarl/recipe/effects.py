"""Arguments that would do nothing are refused by their name, with the reason."""

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from peft import PeftConfig
from trl import GRPOConfig

from rarl.datasets import takes

EVALUATION = "recipes hand the trainer no evaluation data; eval_prompts evaluates when training has ended"
UNQUANTIZED = "recipes load the model as it is saved"
NO_IMAGES = "TRL has it for text only"
OWN_TEMPLATE = "evaluation reads the model's own"
NO_CUT = "truncation would cut image tokens"
NO_REFERENCE = "TRL keeps no reference model beside an adapter"
ONE_PUSH = "push_to_hub uploads the adapter once, at the end"


WITHOUT_EFFECT: dict[str, str] = {
    **dict.fromkeys(
        ("load_in_8bit", "load_in_4bit", "bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage"),
        UNQUANTIZED,
    ),
    "model_revision": "recipes load the newest revision; clone another one to a folder",
    "model_init_kwargs": "recipes load the model, with dtype and attn_implementation",
    "trust_remote_code": "no code from the Hub is ever run",
    "lora_task_type": "recipes train generating models",
    **dict.fromkeys(
        ("do_eval", "eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "per_device_eval_batch_size"),
        EVALUATION,
    ),
    **dict.fromkeys(
        ("eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object", "batch_eval_metrics"),
        EVALUATION,
    ),
    **dict.fromkeys(
        ("prediction_loss_only", "include_for_metrics", "num_generations_eval", "eval_packing"), EVALUATION
    ),
    **dict.fromkeys(("load_best_model_at_end", "metric_for_best_model", "greater_is_better"), EVALUATION),
    **dict.fromkeys(("bf16_full_eval", "fp16_full_eval", "eval_packing"), EVALUATION),
    **dict.fromkeys(("hub_strategy", "hub_always_push", "hub_revision"), ONE_PUSH),
    **dict.fromkeys(("packing", "padding_free", "assistant_only_loss", "precompute_ref_log_probs"), NO_IMAGES),
    **dict.fromkeys(("packing_strategy", "dataset_text_field", "dataset_kwargs", "dataset_num_proc"), NO_IMAGES),
    **dict.fromkeys(("use_transformers_continuous_batching", "use_transformers_paged"), NO_IMAGES),
    "truncation_mode": NO_CUT,
    **dict.fromkeys(("chat_template_path", "eos_token"), OWN_TEMPLATE),
}
"""Arguments that nothing would come of, with the reason; what they are by default may be said."""

REWARD_ARGUMENTS = ("rewards", "weight_regression", "weight_ranking", "weight_format", "gor_constrained")
"""Arguments of recipes that sample answers and reward them."""

LORA = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "lora_target_modules": "target_modules",
    "lora_target_parameters": "target_parameters",
    "lora_modules_to_save": "modules_to_save",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}
"""Fields of TRL's `ModelConfig` → those of PEFT's `LoraConfig`."""


def check_effects(given: Mapping[str, Any], all_given: Mapping[str, Any], types: Collection[Any]) -> None:
    """Refuse arguments that would do nothing.

    Args:
        given: What the user gives, in flags and in a configuration of their own.
        all_given: What the user gives, over the recipe's own configuration.
        types: Dataclasses that the arguments belong to, the trainer's first.

    Raises:
        ValueError: Names the argument, the value and the reason.
    """
    defaults = {field.name: field.default for each in types for field in fields(each)}
    rewarded = issubclass(next(iter(types)), GRPOConfig)
    for name, value in given.items():
        reason = None
        if name in WITHOUT_EFFECT and value not in (None, [], defaults[name]):
            reason = WITHOUT_EFFECT[name]
        elif name in REWARD_ARGUMENTS and not rewarded and value is not None and value is not False:
            reason = "this recipe learns from given answers, without rewards"
        elif name == "max_length" and value is not None:
            reason = NO_CUT
        elif name == "pad_to_multiple_of" and not rewarded and value not in (None, "auto"):
            reason = NO_IMAGES
        elif name == "rmo_source" and value == "reference":
            reason = "rows of recipes have no column 'reference'"
        elif name == "save_strategy" and value == "best":
            reason = EVALUATION
        elif name == "lr_scheduler_type" and value in ("reduce_lr_on_plateau", "greedy"):
            reason = EVALUATION
        elif name == "size" and not takes(all_given.get("source", "builtin"), "size"):
            reason = f"source {all_given['source']} has as many images as it holds"
        elif name == "rater_noise" and value is not None and not takes(all_given.get("source", "builtin"), name):
            reason = f"source {all_given['source']} has the noise of its own labels"
        elif name == "raters" and value is not None and not takes(all_given.get("source", "builtin"), name):
            reason = f"source {all_given['source']} has one label an image"
        elif name in LORA and all_given.get("adapter") is None and not all_given.get("use_peft", False):
            reason = "it has an effect with use_peft, or with an adapter that has the same"
        if reason is not None:
            raise ValueError(f"{name}: {reason}; wanted no such argument, got {value!r}.")


def check_lora_arguments(given: Mapping[str, Any], adapter: str) -> None:
    """Refuse LoRA arguments that are not those of the adapter that training goes on from.

    Raises:
        ValueError: Names the argument, the value and the adapter's.
    """
    if given.get("sync_ref_model"):
        raise ValueError(f"sync_ref_model: {NO_REFERENCE}; wanted false, got True.")
    if given.get("use_peft") is False:
        raise ValueError(f"use_peft: the adapter {adapter} is trained; wanted true, or no adapter, got False.")
    if not any(name in given for name in LORA):
        return
    config = PeftConfig.from_pretrained(adapter)
    for name, theirs in LORA.items():
        wanted, value = getattr(config, theirs, None), given.get(name)
        if name not in given or value is None:
            continue
        if isinstance(wanted, str) or isinstance(value, str):
            same = wanted == (value[0] if isinstance(value, list) and len(value) == 1 else value)
        else:
            same = set(wanted or ()) == set(value) if isinstance(value, list) else wanted == value
        if not same:
            raise ValueError(f"{name}: the adapter {adapter} has {wanted!r}; wanted that or none, got {value!r}.")
