"""Settings that do not go together, or with this machine or this model, are refused before a model is loaded."""

import copy
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from transformers import AutoConfig, GenerationConfig, Trainer, get_scheduler
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
    is_azureml_available,
    is_flytekit_available,
)
from transformers.training_args import ParallelMode
from trl import GRPOConfig, ModelConfig, get_peft_config
from trl.import_utils import is_liger_kernel_available, is_vllm_available

from gor_head.vlm.tokens import check_lora
from rarl.lora import language_lora_targets
from rarl.models import model_class
from rarl.recipe.effects import LORA


def check_settings(args: Any, num_prompts: int, trains_adapter: bool) -> None:
    """Refuse training arguments that do not go together, and what
    [`check_installed`][rarl.recipe.settings.check_installed] refuses.

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
    path: str, args: Any, model_args: ModelConfig, *, adapter: str | None = None, has_value_tokens: bool = False
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
            model = model_class(config).from_config(config, **({"attn_implementation": attention} if attention else {}))
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
