"""What a recipe is told: YAML read as strictly as flags, and what it refuses before a model is loaded.

An argument acts, or is refused by its name.
"""

import copy
import importlib.util
import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
import yaml
from peft import PeftConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig, Trainer, get_scheduler
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
    is_azureml_available,
    is_flytekit_available,
)
from transformers.training_args import ParallelMode
from trl import DPOConfig, GRPOConfig, ModelConfig, SFTConfig, TrlParser, get_peft_config
from trl.import_utils import is_liger_kernel_available, is_vllm_available

from gor_head.vlm.tokens import check_lora
from rarl.lora import language_lora_targets

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

REWARDS = ("rewards", "weight_regression", "weight_ranking", "weight_format", "gor_constrained")
"""Arguments of recipes that sample answers and reward them."""

Bound = tuple[str, Callable[[float], bool]]
POSITIVE: Bound = ("above 0", lambda value: value > 0)
NOT_NEGATIVE: Bound = ("0 or more", lambda value: value >= 0)
SHARE: Bound = ("from 0 to 1", lambda value: 0 <= value <= 1)
PART: Bound = ("above 0, at most 1", lambda value: 0 < value <= 1)
DROPOUT: Bound = ("from 0 to below 1", lambda value: 0 <= value < 1)
STEPS: Bound = ("above 0, or -1 for num_train_epochs", lambda value: value > 0 or value == -1)

BOUNDS: dict[str, Bound] = {
    **dict.fromkeys(("size", "num_prompts", "num_images", "eval_num_images", "min_pixels", "max_pixels"), POSITIVE),
    **dict.fromkeys(("eval_batch_size", "eval_max_new_tokens", "task_tolerance"), POSITIVE),
    **dict.fromkeys(("eval_prompts", "min_gap", "split_seed", "num_images_weights", "seed", "data_seed"), NOT_NEGATIVE),
    **dict.fromkeys(("weight_regression", "weight_ranking", "weight_format", "huber_weight", "gap"), NOT_NEGATIVE),
    **dict.fromkeys(("beams", "preference_batch_size", "max_completion_length", "temperature"), POSITIVE),
    **dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs"), POSITIVE),
    **dict.fromkeys(("num_generations", "generation_batch_size", "steps_per_generation", "num_iterations"), POSITIVE),
    **dict.fromkeys(("shared_prefix_tokens", "logging_steps", "save_steps", "save_total_limit"), POSITIVE),
    **dict.fromkeys(("repetition_penalty", "lora_r", "lora_alpha", "ref_model_sync_steps", "adam_epsilon"), POSITIVE),
    **dict.fromkeys(("learning_rate", "weight_decay", "warmup_steps", "max_grad_norm", "beta", "top_k"), NOT_NEGATIVE),
    **dict.fromkeys(("dataloader_num_workers", "epsilon", "epsilon_high"), NOT_NEGATIVE),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "lora_dropout"), DROPOUT),
    **dict.fromkeys(("min_p", "rmo_probability", "top_entropy_quantile", "ref_model_mixup_alpha"), SHARE),
    "top_p": PART,
    "max_steps": STEPS,
    "reward_weights": ("a number", lambda value: True),
    "task_minimum": ("a number", lambda value: True),
    "task_maximum": ("a number", lambda value: True),
}
"""What numbers have to be, by argument. None may be infinite or no number, but for `max_grad_norm`."""

CHOICES: dict[str, tuple[Any, ...]] = {
    "scale_rewards": ("group", "batch", "none", True, False),
    "importance_sampling_level": ("token", "sequence"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "f_divergence_type": ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"),
}
"""Words that TRL looks at in training only."""

LOSSES: dict[type, tuple[str, ...]] = {
    GRPOConfig: ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"),
    SFTConfig: ("nll", "dft"),
    DPOConfig: (
        *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
        *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
    ),
}
"""The `loss_type` of each of TRL's trainers."""

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


class PlainParser(TrlParser):
    """TRL's parser, whose errors are one line: the usage of four hundred flags would hide it."""

    def error(self, message: str) -> Any:
        raise ValueError(message)


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key stands once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ValueError(f"line {key_node.start_mark.line + 1}: {key} stands there twice; wanted once")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_config(path: str | Path, types: Collection[Any]) -> dict[str, Any]:
    """Arguments of a YAML file, each of the type that its flag has; one value where a list is wanted is a list of it.

    Args:
        path: The file.
        types: Dataclasses that the arguments belong to.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no YAML mapping, or a key is unknown, there twice, or of another type.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: wanted a YAML file of arguments, but there is no such file.")
    try:
        config = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from None
    except ValueError as error:  # a key twice, or text that is not UTF-8
        raise ValueError(f"{path}: {error}.") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: wanted a YAML mapping of arguments, got {config!r:.60}.")
    hints: dict[str, Any] = {}
    choices: dict[str, Any] = {}
    for each in types:
        hints |= {name: hint for name, hint in get_type_hints(each).items() if name in init_names(each)}
        choices |= {field.name: field.metadata.get("choices") for field in fields(each)}
    unknown = [str(key) for key in config if key not in hints]
    if unknown:
        raise ValueError(f"{path}: unknown arguments {', '.join(unknown)}.")
    typed = {name: typed_value(f"{path}: {name}", value, hints[name]) for name, value in config.items()}
    for name, value in typed.items():
        if choices[name] is not None and value is not None and value not in choices[name]:
            raise ValueError(f"{path}: {name}: wanted one of {', '.join(choices[name])}, got {value!r}.")
    return typed


def init_names(each: Any) -> set[str]:
    """Names of the arguments of a dataclass."""
    return {field.name for field in fields(each) if field.init}


def typed_value(name: str, value: Any, hint: Any) -> Any:
    """A value from YAML as its flag would give it.

    Raises:
        ValueError: If it is of another type.
    """
    options = [hint]
    if get_origin(hint) in (Union, UnionType):
        options = [each for each in get_args(hint) if each is not NoneType]
        if value is None and len(options) < len(get_args(hint)):
            return None
    if len(options) > 1:  # such as `dict | str`: transformers reads it
        return value
    [wanted] = options
    if get_origin(wanted) is list:
        [element] = get_args(wanted)
        items = value if isinstance(value, list) else [value]
        return [typed_value(name, item, element) for item in items]
    if wanted is bool:
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise ValueError(f"{name}: wanted true or false, got {value!r}.")
    elif wanted in (int, float):
        try:
            number = float(value) if not isinstance(value, bool) else math.nan
        except (TypeError, ValueError):
            number = math.nan
        if math.isnan(number) or (wanted is int and not number.is_integer()):
            raise ValueError(f"{name}: wanted {'a whole number' if wanted is int else 'a number'}, got {value!r}.")
        return int(number) if wanted is int else number
    elif wanted is str:
        if isinstance(value, bool) and name.endswith(("resume_from_checkpoint", "scale_rewards")):
            return value
        if value is None or isinstance(value, bool | list | dict):
            raise ValueError(f"{name}: wanted text, got {value!r}; words such as no and on want quotes in YAML.")
        return str(value)
    return value


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
    for name in ("num_images", "eval_num_images", "words"):
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


def check_effects(given: Mapping[str, Any], all_given: Mapping[str, Any], types: Collection[Any]) -> None:
    """Refuse arguments that would do nothing.

    Args:
        given: What the user gives, in flags and in a configuration of their own.
        all_given: The same over the recipe's own configuration.
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
        elif name in REWARDS and not rewarded and value is not None and value is not False:
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
        elif name == "size" and all_given.get("source", "builtin") != "builtin":
            reason = f"source {all_given['source']} has as many images as it holds"
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


def check_settings(args: Any, num_prompts: int, trains_adapter: bool) -> None:
    """Refuse training arguments that do not go together, and what [`check_installed`] refuses.

    Args:
        args: Training arguments.
        num_prompts: Rows of the training data.
        trains_adapter: Whether LoRA or an adapter is trained.

    Raises:
        ValueError: Names the arguments and their values.
    """
    if getattr(args, "sync_ref_model", False) and (trains_adapter or args.beta == 0):
        why = (
            "TRL keeps no reference model beside an adapter" if trains_adapter else "with beta 0 there is no reference"
        )
        raise ValueError(f"sync_ref_model: {why}; wanted false, got True.")
    if isinstance(args, GRPOConfig):
        assert args.generation_batch_size is not None and args.num_generations is not None
        prompts = args.generation_batch_size // args.num_generations
        if num_prompts < prompts:
            raise ValueError(
                f"num_prompts: {prompts} prompts are sampled together (generation_batch_size "
                f"{args.generation_batch_size} / num_generations {args.num_generations}); wanted as many or more, got "
                f"{num_prompts}."
            )
        check_generation(args)
    check_installed(args)


def check_generation(args: GRPOConfig) -> None:
    """Refuse settings of generation that transformers does not take."""
    settings: dict[str, Any] = {"max_new_tokens": args.max_completion_length, "do_sample": True}
    for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "cache_implementation"):
        settings[name] = getattr(args, name)
    given: Any = args.generation_kwargs or {}
    try:
        config = GenerationConfig(**(settings | given))
        config.validate()
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"generation_kwargs {given}, cache_implementation {args.cache_implementation}: {error}"
        ) from None
    unknown = [name for name in given if name not in GenerationConfig().to_dict()]
    if unknown:
        raise ValueError(f"generation_kwargs: {', '.join(unknown)}: transformers knows no such setting of generation.")


def check_policy(
    path: str, args: Any, model_args: ModelConfig, adapter: str | None = None, has_value_tokens: bool = False
) -> None:
    """Refuse attention and LoRA settings that the model at `path` does not take: tried on it without its weights.

    Args:
        path: Folder or Hub id of the model.
        args: Training arguments.
        model_args: How it is loaded and adapted.
        adapter: Folder or Hub id of the adapter that is trained on; `None` for a new one, or none.
        has_value_tokens: Whether the rows of value tokens are trained.

    Raises:
        ValueError: Names the argument, the value and the reason.
    """
    plugin = args.deepspeed_plugin
    if plugin is not None and plugin.zero_stage == 3:
        return  # transformers makes no model without weights there: it would be parted over the processes
    config = AutoConfig.from_pretrained(path)
    attention = model_args.attn_implementation
    try:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(
                config, **({"attn_implementation": attention} if attention else {})
            )
    except (ImportError, ValueError) as error:
        if not attention:
            raise
        raise ValueError(f"attn_implementation: {attention}: {error}") from None
    if getattr(args, "router_aux_loss_coef", None) and not hasattr(config.get_text_config(), "output_router_logits"):
        raise ValueError(
            f"router_aux_loss_coef: {type(model).__name__} has no experts to route to; wanted none, got "
            f"{args.router_aux_loss_coef}."
        )
    if has_value_tokens:
        check_lora(model, get_peft_config(model_args) if adapter is None else PeftConfig.from_pretrained(adapter))
    if not model_args.use_peft or adapter is not None:
        return
    targets = model_args.lora_target_modules or language_lora_targets(model)
    tried = copy.copy(model_args)
    tried.lora_target_modules = targets  # type: ignore[assignment]
    lora: Any = get_peft_config(tried)
    try:
        policy: Any = get_peft_model(model, lora)
    except (ImportError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        given = {name: getattr(model_args, name) for name in LORA}
        said = ", ".join(f"{name} {value}" for name, value in given.items() if value not in (None, False))
        raise ValueError(f"{said}: {error}") from None
    names = [name for name, module in policy.named_modules() if isinstance(module, AuxiliaryTrainingWrapper)]
    missing = [
        wanted
        for wanted in model_args.lora_modules_to_save or []
        if not any(f".{name}".endswith(f".{wanted}") for name in names)
    ]
    if missing:
        raise ValueError(f"lora_modules_to_save: {type(model).__name__} has no {', '.join(missing)}.")
    if isinstance(policy.get_output_embeddings(), BaseTunerLayer):
        raise ValueError("lora_target_modules: TRL trains no LoRA on the output layer; leave lm_head out.")


def check_installed(args: Any) -> None:
    """Refuse what this machine has not: trackers, optimisers, kernels, number formats, launchers.

    Args:
        args: Training arguments.

    Raises:
        ValueError: Names the argument, the value and what is missing.
    """
    trackers = [*get_available_reporting_integrations()]
    others = (("flyte", is_flytekit_available()), ("azure_ml", is_azureml_available()))
    trackers += [name for name, found in others if found]
    for name in args.report_to:
        if name not in trackers:
            why = "is not installed" if name in INTEGRATION_TO_CALLBACK else "is no tracker of transformers"
            raise ValueError(f"report_to: {name} {why}; wanted {', '.join(['none', *trackers])}.")
    if args.use_liger_kernel and not is_liger_kernel_available():
        raise ValueError("use_liger_kernel: wanted the package liger-kernel, which is not installed; got True.")
    if getattr(args, "use_vllm", False) and not is_vllm_available():
        raise ValueError("use_vllm: wanted the package vllm, which is not installed; got True.")
    if args.fp16 and args.device.type == "cpu":
        raise ValueError("fp16: wanted a GPU, got a CPU; bf16 and float32 train on one.")
    if args.fsdp and args.parallel_mode != ParallelMode.DISTRIBUTED:
        raise ValueError(
            f"fsdp: wanted several processes (accelerate launch --num_processes ...), got 1 and {args.fsdp}."
        )
    layer = torch.nn.Linear(1, 1)
    if args.optim_target_modules is None:
        try:
            Trainer.get_optimizer_cls_and_kwargs(args, layer)  # type: ignore[arg-type]  # any module will do
        except (ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"optim: {args.optim}, optim_args {args.optim_args!r}: {error}") from None
    try:
        get_scheduler(
            args.lr_scheduler_type,
            torch.optim.SGD(layer.parameters(), lr=args.learning_rate),
            num_warmup_steps=args.get_warmup_steps(100),
            num_training_steps=100,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"lr_scheduler_type: {args.lr_scheduler_type}, lr_scheduler_kwargs {args.lr_scheduler_kwargs}: {error}"
        ) from None
