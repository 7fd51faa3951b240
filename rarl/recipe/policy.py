"""The model of a training run: its processor, its adapter, its value tokens."""

from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import AutoConfig, PreTrainedModel
from trl import ModelConfig, get_peft_config

from gor_head.vlm import ValueTokens, add_tokens, attach
from gor_head.vlm.checkpoint import add_adapter
from rarl import models, tiny
from rarl.lora import language_lora_targets
from rarl.prompt import number_contexts
from rarl.recipe.arguments import RecipeArguments
from rarl.recipe.settings import check_policy
from rarl.task import OrdinalTask


def starting_adapter(arguments: RecipeArguments, path: str) -> str:
    """The adapter that stage 2 starts from: the one given, else `outputs/rarl_stage1`, else the built-in one of the
    tiny model.

    Args:
        arguments: The run's arguments, whose `adapter` goes first.
        path: The base model, as [`resolve_model`][rarl.models.resolve_model] gives it.

    Raises:
        FileNotFoundError: If there is none.
    """
    found = arguments.adapter
    if found is None and (Path("outputs/rarl_stage1") / "adapter_config.json").is_file():
        found = "outputs/rarl_stage1"
    if found is None and path == tiny.path():
        found = tiny.adapter_path()
    if found is None:
        raise FileNotFoundError(
            "Stage 2 starts from an adapter, of stage 1 or of SFT: give --adapter, or run one first."
        )
    if PartialState().is_main_process:
        print(f"Stage 2 starts from {found}.")
    return found


def load_processor(path: str, task: OrdinalTask, adapter: str | None = None) -> Any:
    """Processor of a model, with the task's value tokens if it has any, padding and truncating on the left as GRPO
    needs it."""
    models.check_kind(path, task)
    processor = models.load_processor(path, adapter, padding_side="left", truncation_side="left")
    if task.vocabulary is not None:
        add_tokens(processor, task.codi_vocabulary)
    return processor


def load_policy(
    path: str,
    model_args: ModelConfig,
    training_args: Any,
    *,
    processor: Any,
    task: OrdinalTask,
    adapter: str | None = None,
) -> tuple[Any, Any]:
    """The model to train and its PEFT configuration (`None` for full training, or with an adapter to go on from).

    Where the task has value tokens, the model has rows for them, and LoRA trains these rows.

    Raises:
        ValueError: If LoRA is to train a matrix with the rows of value tokens in another way, too.
    """
    check_policy(path, training_args, model_args, adapter=adapter, has_value_tokens=task.vocabulary is not None)
    settings: dict[str, Any] = {"dtype": model_args.dtype or "auto"}
    if model_args.attn_implementation:
        settings["attn_implementation"] = model_args.attn_implementation
    model: PreTrainedModel = models.model_class(AutoConfig.from_pretrained(path)).from_pretrained(path, **settings)
    if adapter is not None:
        plugin = training_args.deepspeed_plugin
        # ZeRO-3 gathers parameters of one type only: the adapter keeps the type of a bf16 model.
        autocast = plugin is None or plugin.zero_stage != 3
        policy = add_adapter(model, processor, adapter, is_trainable=True, autocast_adapter_dtype=autocast)
        policy.peft_config["default"].base_model_name_or_path = path  # the base in use, wherever the adapter was made
        return policy, None
    if model_args.use_peft and model_args.lora_target_modules is None:
        model_args.lora_target_modules = language_lora_targets(model)  # type: ignore[assignment]  # a regular expression
    peft_config = get_peft_config(model_args)
    if task.vocabulary is not None:
        tokens = attach(model, processor, task.codi_vocabulary, number_contexts(task))
        if peft_config is not None:
            peft_config.trainable_token_indices = tokens.lora_settings(model)["trainable_token_indices"]  # type: ignore[attr-defined]
    return model, peft_config


def rollout_tokens(arguments: RecipeArguments, processor: Any, task: OrdinalTask) -> ValueTokens | None:
    """Value tokens that rollouts are constrained to with `gor_constrained`; `None` without.

    Raises:
        ValueError: If the task writes digits, or its vocabulary has no codes that could be illegal.
    """
    if not arguments.gor_constrained:
        return None
    if task.vocabulary is None:
        raise ValueError(
            f"gor_constrained: task {task.name!r} writes digits; wanted an adapter of recipes/gor_sft.py, or "
            "gor_vocabulary."
        )
    if task.codi_vocabulary.tagless:
        raise ValueError(
            "gor_constrained: has no effect where every value token is a whole number; wanted no such argument, got "
            "True."
        )
    return ValueTokens.of(processor, task.codi_vocabulary)
