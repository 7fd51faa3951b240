"""Settings of TRL's GRPOTrainer and what ours makes of each: rows of `test_parity.py` and `docs/parity.md`.

`python -m tests.parity --write` writes the table into the documentation.
"""

import atexit
import contextlib
import functools
import logging
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from accelerate.logging import MultiProcessAdapter
from datasets import Dataset, IterableDataset
from peft import (
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    MistralConfig,
    PrinterCallback,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
)
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_chat_template

import rarl.shared_prefix.scoring
import rarl.trainer.sharing
from rarl import tiny
from rarl.trainer import RARLConfig, RARLTrainer, SharedPrefixTrainer
from tests.families import FAMILIES, build_model, build_processor
from tests.paths import ROOT

PAGE = ROOT / "docs" / "parity.md"
TRAINERS: dict[str, tuple[Any, Any]] = {
    "trl": (GRPOTrainer, GRPOConfig),
    "shared": (SharedPrefixTrainer, GRPOConfig),
    "rarl": (RARLTrainer, RARLConfig),
}
RARL_OFF = {"rmo": False, "exact_zero_advantages": False, "suppress_vision_tokens": False}
BOUND = 1e-6
"""Of losses and weights in fp32; SGD with a step of 0.05 moves weights by far more."""


@functools.cache
def processor_of(model: str) -> Any:
    """Processor of a family that sees, else a tokenizer whose chat template knows tools."""
    if model in FAMILIES:
        return build_processor(model)
    tokenizer = tiny.build_processor().tokenizer
    tokenizer.chat_template = qwen3_chat_template
    return tokenizer


def config_of(model: str) -> Any:
    """Two layers of width 32 in the shape of a family that reads."""
    words = processor_of(model)
    text: dict[str, Any] = {
        "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id, "bos_token_id": None,
    }  # fmt: skip
    if model == "sliding":
        return Qwen2Config(**text, use_sliding_window=True, max_window_layers=0, sliding_window=8)
    if model == "moe":
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
        return Qwen2MoeConfig(**text, **experts, shared_expert_intermediate_size=16, output_router_logits=True)
    if model == "mistral":
        return MistralConfig(**text, sliding_window=None)
    if model == "qwen3":
        return Qwen3Config(**text, head_dim=8)
    return Qwen2Config(**text)


@functools.cache
def folder_of(model: str) -> str:
    """Folder of a random model; TRL loads the reference model from there."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    torch.manual_seed(0)
    made = (
        build_model(model, processor_of(model))
        if model in FAMILIES
        else AutoModelForCausalLM.from_config(config_of(model))
    )
    made.save_pretrained(folder.name)
    return folder.name


def load(folder: str, **given: Any) -> Any:
    seeing = AutoConfig.from_pretrained(folder).model_type in FAMILIES
    auto: Any = AutoModelForImageTextToText if seeing else AutoModelForCausalLM
    return auto.from_pretrained(folder, **given)


def text_of(completion: Any) -> str:
    return completion if isinstance(completion, str) else " ".join(str(turn["content"]) for turn in completion)


def text_reward(completions: Any, **columns: Any) -> list[float]:
    return [float(sum(map(ord, text_of(completion)))) % 17 / 7 for completion in completions]


async def slow_reward(completions: Any, **columns: Any) -> list[float]:
    return text_reward(completions)


def column_reward(completions: Any, age: list[int], **columns: Any) -> list[float]:
    return [reward * years for reward, years in zip(text_reward(completions), age, strict=True)]


def reward_model() -> Any:
    torch.manual_seed(2)
    config = config_of("text")
    config.num_labels = 1
    return AutoModelForSequenceClassification.from_config(config)


def length_reward(completion_ids: Any, **columns: Any) -> list[float]:
    return [sum(ids) % 5 / 5 for ids in completion_ids]


def no_reward(completions: Any, **columns: Any) -> list[float | None]:
    """Speaks of every second answer."""
    return [None if index % 2 else reward for index, reward in enumerate(text_reward(completions))]


def text_rows(number: int = 6) -> Dataset:
    return Dataset.from_dict({"prompt": [f"How old is face {index} of six?" for index in range(number)]})


def aged_rows() -> Dataset:
    return text_rows().add_column("age", [1, 2, 3, 4, 5, 6])


def unlike_rows() -> Dataset:
    """Prompts of unlike length, so that some are padded."""
    return Dataset.from_dict({"prompt": ["Sort" + " the images" * (index + 1) for index in range(6)]})


def chat_rows() -> Dataset:
    rows = text_rows()["prompt"]
    return Dataset.from_dict({"prompt": [[{"role": "user", "content": text}] for text in rows]})


def stream() -> IterableDataset:
    return text_rows(12).to_iterable_dataset()


def letters(*texts: str) -> Callable[[], Dataset]:
    return lambda: Dataset.from_dict({"prompt": list(texts)})


def image_rows(images: tuple[int | None, ...] = (1, 2, 1, 2)) -> Dataset:
    """One prompt for each entry, which is its number of images; `None` for a null."""
    pixels = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for index, count in enumerate(images):
        shown = [Image.fromarray(pixels.integers(0, 255, (56, 56, 3), dtype=np.uint8)) for _ in range(count or 0)]
        prompt = [{"role": "user", "content": f"What is number {index} of {count}?"}]
        rows.append({"prompt": prompt, "images": None if count is None else shown})
    return Dataset.from_list(rows)


def lora(**more: Any) -> Callable[[], LoraConfig]:
    return lambda: LoraConfig(**{"target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, **more})


def adapted(folder: str) -> Any:
    return get_peft_model(load(folder), lora()())


def prompt_tuning() -> PromptTuningConfig:
    return PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")


def prefix_tuning() -> PrefixTuningConfig:
    return PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")


def p_tuning() -> PromptEncoderConfig:
    return PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=8, task_type="CAUSAL_LM")


def rollout(prompts: Any, trainer: Any) -> dict[str, Any]:
    """Random answers of several turns, of which the middle is not the model's."""
    ids = [trainer._tokenizer(text).input_ids for text in prompts]
    generator = torch.Generator().manual_seed(1)
    answers = [torch.randint(20, 300, (6 + i % 3,), generator=generator).tolist() for i in range(len(prompts))]
    masks = [[1] * 3 + [0] * 2 + [1] * (len(answer) - 5) for answer in answers]
    logprobs = [[-1.0] * len(answer) for answer in answers]
    return {"prompt_ids": ids, "completion_ids": answers, "logprobs": logprobs, "env_mask": masks}


def some_end(prompts: Any, trainer: Any) -> dict[str, Any]:
    """Random answers, one in three of which ends."""
    made = rollout(prompts, trainer)
    for answer in made["completion_ids"][::3]:
        answer[-1] = trainer.eos_token_ids[0]
    return {name: value for name, value in made.items() if name != "env_mask"}


def multiply(a: int, b: int) -> int:
    """
    Multiplies two integers.

    Args:
        a: The first integer.
        b: The second integer.

    Returns:
        The product of the two integers.
    """
    return a * b


class Shop:
    """An environment with one tool, which owns its reward."""

    def reset(self, **columns: Any) -> None:
        self.earned = 0.0

    def multiply(self, a: int, b: int) -> int:
        """
        Multiplies two integers.

        Args:
            a: The first integer.
            b: The second integer.

        Returns:
            The product of the two integers.
        """
        self.earned += a * b / 12
        return a * b

    def get_reward(self) -> float:
        return self.earned


def calling(trainer: Any) -> Any:
    """The model's words are given: it calls the tool in every second answer, and is done in the turn after that."""
    call = '<tool_call>\n{"name": "multiply", "arguments": {"a": 3, "b": 4}}\n</tool_call><|im_end|>'

    def speak(input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        texts = [call, "I don't know<|im_end|>"] if len(input_ids) == 8 else ["Done!<|im_end|>"]
        ids = [trainer._tokenizer(texts[row % len(texts)]).input_ids for row in range(len(input_ids))]
        width = max(map(len, ids))
        return torch.cat(
            [input_ids, torch.tensor([r + [trainer._tokenizer.pad_token_id] * (width - len(r)) for r in ids])], dim=1
        )

    return patch.object(trainer.model, "generate", speak)


def in_place(trainer: Any) -> Any:
    """Token types without the second token of the beginning, which TRL's call of the processor adds."""
    inner = trainer._get_per_token_logps_and_entropies

    def cut(model: Any, input_ids: torch.Tensor, *args: Any, token_type_ids: torch.Tensor, **kwargs: Any) -> Any:
        types = token_type_ids[:, -input_ids.shape[1] :]
        return inner(model, input_ids, *args, token_type_ids=types, **kwargs)

    return patch.object(trainer, "_get_per_token_logps_and_entropies", cut)


class Engine:
    """What TRL asks of `VLLMGeneration`, which is no CPU's, with random answers and log-probabilities."""

    def __init__(self, *_: Any, **given: Any) -> None:
        self.generation_kwargs = given.get("generation_kwargs")
        self.generator = torch.Generator().manual_seed(5)

    def sync_weights(self) -> None:
        pass

    def generate(self, prompts: Any, images: Any, num_generations: int, profiler: Any = None, **_: Any) -> Any:
        draw = functools.partial(torch.randint, 20, 300, generator=self.generator)
        answers = [draw((4 + i % 5,)).tolist() for i in range(len(prompts))]
        noise = functools.partial(torch.randn, generator=self.generator)
        return prompts, answers, [[[float(x)] for x in 0.1 * noise(len(a)) - 6.65] for a in answers], None


def few_tokens() -> list[int]:
    """All tokens but three and the end, so that answers end early."""
    words = processor_of("text")
    return sorted(set(range(len(words))) - {words.eos_token_id, 40, 41, 42})


@dataclass(frozen=True)
class Row:
    """One setting.

    Attributes:
        settings: Arguments of `GRPOConfig` beside the defaults of [`train`].
        model: Key of [`config_of`].
        rows: Makes the training data.
        reward: Reward functions.
        given: Makers of further arguments of the trainer.
        own: Arguments of `RARLConfig`, which `RARLTrainer` alone takes.
        plain: Ours is a `RARLTrainer` whose arguments are a `GRPOConfig`.
        prepare: Makes the trainer's model from the folder of the random one.
        absent: Package that must not be installed.
        around: Context in which the trainer trains.
        shares: Whether answers to a prompt really share it, in training and in generation.
        reason: Words of the one line of the log, which says why they do not.
        differs: Why the run is another than TRL's.
        first_answers: With `differs`: whether the first generation batch is TRL's even so.
        raises: The error that TRL raises, and ours too: its type and words of it.
        ours: The error that `RARLTrainer` raises instead, or where TRL raises none.
        bound: Of losses and weights.
        loss_bound: Of losses alone, if it is another.
        bound_reason: Why one of them is not [`BOUND`].
        still: Nothing is learnt, so that weights stay.
        long: Left to `make test-long`.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    model: str = "text"
    rows: Callable[[], Any] = text_rows
    reward: Any = text_reward
    given: dict[str, Callable[[], Any]] = field(default_factory=dict)
    own: dict[str, Any] | None = None
    plain: bool = False
    prepare: Callable[[str], Any] = load
    absent: str = ""
    around: Callable[[Any], Any] = lambda trainer: contextlib.nullcontext()
    shares: tuple[bool, bool] = (True, True)
    reason: str = ""
    differs: str = ""
    first_answers: bool = True
    raises: tuple[type[Exception], str] | None = None
    ours: tuple[type[Exception], str] | None = None
    bound: float = BOUND
    loss_bound: float | None = None
    bound_reason: str = ""
    still: bool = False
    long: bool = False


ITERATED = {"num_iterations": 2, "max_steps": 4}
GREEDY = {"generation_kwargs": {"do_sample": False}, "beta": 1.0}  # equal answers teach nothing but to be the reference
FAST = {"learning_rate": 1.0}
OFF = {"shared_prefix": "off"}
MANY_STEPS = {"steps_per_generation": 4, "max_steps": 4, "per_device_train_batch_size": 4}
TORN = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_steps": 3}
TORN_STEPS = {"per_device_train_batch_size": 2, "steps_per_generation": 4, "max_steps": 4}
EARLY = {"generation_kwargs": {"suppress_tokens": few_tokens()}}
EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4}
BFLOAT = {"bound": 2e-3, "bound_reason": "bf16 rounds to 3 digits, in another order"}
VIRTUAL: dict[str, Any] = {
    "shares": (False, False),
    "reason": "adds tokens to every row",
}
TURNS: dict[str, Any] = {"shares": (True, False), "reason": "answers take several turns, or are generated elsewhere"}
ENGINE: dict[str, Any] = {"shares": (True, False), "reason": "its engine caches prefixes itself"}
ONE_TOKEN: dict[str, Any] = {
    "shares": (False, False),
    "reason": "prompt of one token is sampled as TRL does",
}
OTHER_RANDOM_NUMBERS = "once an answer ends early, the rest is drawn with other random numbers"
TOKEN_TYPES = "TRL counts a second `<bos>` in its token types, so that its images see themselves one place off"
WHOLE_GROUPS = "optimiser steps see whole groups, where TRL deals out single answers"
ONE_MASK = "dropout draws one mask for a prompt, where TRL draws one for each answer, in sampling too"

SECTIONS: dict[str, dict[str, Row]] = {
    "Losses": {
        **{
            f"loss_type {loss}": Row({"loss_type": loss, **ITERATED})
            for loss in ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo")
        },
        "loss_type vespo": Row(
            {"loss_type": "vespo", **ITERATED},
            loss_bound=1e-5,
            bound_reason="it multiplies log-probabilities by the rounding of all those of the answer",
        ),
        "loss_type luspo": Row({"loss_type": "luspo", "importance_sampling_level": "sequence", **ITERATED}),
        "importance_sampling_level sequence": Row(
            {"loss_type": "grpo", "importance_sampling_level": "sequence", **ITERATED}
        ),
        "delta": Row({"delta": 4.0, **ITERATED}),
        "epsilon_high": Row({"epsilon": 0.001, "epsilon_high": 0.002, **ITERATED}),
        "beta": Row({"beta": 0.1}),
        "beta, use_bias_correction_kl": Row({"beta": 0.1, "use_bias_correction_kl": True, **ITERATED}),
        "beta, sync_ref_model": Row(
            {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1, "max_steps": 3},
        ),
        "sync_ref_model without beta": Row({"sync_ref_model": True}, raises=(ValueError, "sync_ref_model")),
        "top_entropy_quantile": Row({"top_entropy_quantile": 0.3}),
        "entropy_coef": Row({"entropy_coef": 0.5}),
        "use_adaptive_entropy": Row(
            {"entropy_coef": 0.1, "use_adaptive_entropy": True, "entropy_target": 15.0, "max_steps": 3}
        ),
        "off_policy_mask_threshold": Row({"off_policy_mask_threshold": 1e-5, **ITERATED}),
        "scale_rewards batch": Row({"scale_rewards": "batch"}),
        "scale_rewards none": Row({"scale_rewards": "none"}),
        "reward_weights": Row({"reward_weights": [0.5, 2.0]}, reward=[no_reward, length_reward]),
        "reward_weights, too few": Row(
            {"reward_weights": [0.5]}, reward=[no_reward, length_reward], raises=(ValueError, "reward weights")
        ),
        "multi_objective_aggregation normalize_then_sum": Row(
            {"multi_objective_aggregation": "normalize_then_sum"}, reward=[no_reward, length_reward]
        ),
        "reward of a column of the data": Row(rows=aged_rows, reward=column_reward),
        "reward, asynchronous": Row(reward=slow_reward),
        "reward model": Row(
            given={"reward_funcs": reward_model, "reward_processing_classes": lambda: processor_of("text")}
        ),
        "no reward": Row(reward=None, raises=(ValueError, "No reward source provided")),
        **{
            f"mask_truncated_completions, {loss}": Row(
                {
                    "mask_truncated_completions": True,
                    "loss_type": loss,
                    "beta": 0.1,
                    "top_entropy_quantile": 0.5,
                    **ITERATED,
                },
                given={"rollout_func": lambda: some_end},
                **TURNS,
            )  # fmt: skip
            for loss in ("grpo", "dapo")
        },
        "mask_truncated_completions, all are": Row({"mask_truncated_completions": True}, still=True),
    },
    "Adapters": {
        "LoRA": Row(given={"peft_config": lora()}),
        "LoRA, beta": Row({"beta": 0.1, **ITERATED}, given={"peft_config": lora()}),
        "LoRA, rank-stabilised": Row(given={"peft_config": lora(use_rslora=True)}),
        "LoRA, all layers": Row(given={"peft_config": lora(target_modules="all-linear")}),
        "LoRA, lora_dropout": Row(given={"peft_config": lora(lora_dropout=0.2)}, differs=ONE_MASK, first_answers=False),
        "LoRA, lora_dropout, disable_dropout": Row(
            {"disable_dropout": True}, given={"peft_config": lora(lora_dropout=0.2)}
        ),
        "LoRA, modules_to_save": Row(given={"peft_config": lora(modules_to_save=["lm_head"])}),
        "LoRA on lm_head": Row(
            given={"peft_config": lora(target_modules=["q_proj", "lm_head"])}, raises=(ValueError, "`lm_head`")
        ),
        "LoRA, sync_ref_model": Row(
            {"beta": 0.1, "sync_ref_model": True},
            given={"peft_config": lora()},
            raises=(NotImplementedError, "PEFT"),
        ),
        "DoRA": Row(given={"peft_config": lora(use_dora=True)}),
        "IA3": Row(
            {"learning_rate": 1.0},
            given={"peft_config": lambda: IA3Config(target_modules=["k_proj", "v_proj"], feedforward_modules=[])},
        ),
        "adapter trained before, beta": Row({"beta": 0.1, **ITERATED}, prepare=adapted),
        "adapter trained before, and another": Row(
            prepare=adapted, given={"peft_config": lora()}, raises=(ValueError, "`PeftModel` instance together")
        ),
        "prompt tuning": Row({"learning_rate": 10.0}, given={"peft_config": prompt_tuning}, **VIRTUAL),
        "prompt tuning, beta": Row({"beta": 0.1, **ITERATED, **FAST}, given={"peft_config": prompt_tuning}, **VIRTUAL),
        "prompt tuning, greedy": Row(
            {**GREEDY, "learning_rate": 50.0}, given={"peft_config": prompt_tuning}, **VIRTUAL
        ),
        "p-tuning": Row(FAST, given={"peft_config": p_tuning}, **VIRTUAL),
        "prefix tuning": Row(
            {"gradient_checkpointing": False, **FAST}, given={"peft_config": prefix_tuning}, **VIRTUAL
        ),
        "prefix tuning, beta": Row(
            {"gradient_checkpointing": False, "beta": 0.1, **ITERATED, **FAST},
            given={"peft_config": prefix_tuning},
            **VIRTUAL,
        ),
        "LoRA, Qwen2.5-VL": Row(model="qwen2_5_vl", rows=image_rows, given={"peft_config": lora()}),
        "LoRA, Gemma 3": Row(model="gemma3", rows=image_rows, given={"peft_config": lora()}, differs=TOKEN_TYPES),
        "LoRA, Gemma 3, token types put in place": Row(
            model="gemma3", rows=image_rows, given={"peft_config": lora()}, around=in_place
        ),
        "LoRA, SmolVLM": Row(model="smolvlm", rows=image_rows, given={"peft_config": lora()}),
        "LoRA, Qwen3-VL": Row(model="qwen3_vl", rows=image_rows, given={"peft_config": lora()}),
    },
    "Batches": {
        "RARLTrainer with a GRPOConfig": Row(plain=True, reason="Responses are not mutated: RMO needs the columns"),
        "gradient_accumulation_steps, num_iterations": Row(
            {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4, **ITERATED}
        ),
        "num_generations 2": Row({"num_generations": 2}),
        "gradient_accumulation_steps": Row({"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}),
        "steps_per_generation above the accumulation": Row(MANY_STEPS, differs=WHOLE_GROUPS),
        "steps_per_generation above the accumulation, off": Row(MANY_STEPS, own=OFF, shares=(False, False), bound=0.0),
        "groups torn over micro-batches": Row(TORN),
        "groups torn over micro-batches, off": Row(TORN, own=OFF, shares=(False, False), bound=0.0),
        "groups torn over micro-batches, loss_type bnpo": Row(
            {**TORN, "loss_type": "bnpo"},
            given={"rollout_func": lambda: rollout},
            differs="this loss divides by the tokens of a micro-batch, whose rows differ",
            **TURNS,
        ),
        "groups torn over optimiser steps": Row(TORN_STEPS, differs=WHOLE_GROUPS),
        "groups torn over optimiser steps, off": Row(TORN_STEPS, own=OFF, shares=(False, False), bound=0.0),
        "fewer prompts than a generation batch takes": Row(
            {"per_device_train_batch_size": 64}, ours=(ValueError, "6 prompts, but one generation batch takes 16")
        ),
        "shuffle_dataset false": Row({"shuffle_dataset": False}),
        "shared_prefix off": Row(own=OFF, shares=(False, False), bound=0.0),
        "shared_prefix off, images, beta": Row(
            {"beta": 0.1, **ITERATED}, model="qwen2_5_vl", rows=image_rows, own=OFF, shares=(False, False), bound=0.0
        ),
        "shared_prefix off, lora_dropout": Row(
            given={"peft_config": lora(lora_dropout=0.2)}, own=OFF, shares=(False, False), bound=0.0
        ),
    },
    "Memory and number format": {
        "gradient_checkpointing false": Row({"gradient_checkpointing": False}),
        "gradient checkpointing, reentrant": Row({"gradient_checkpointing_kwargs": {"use_reentrant": True}}),
        "gradient checkpointing, not reentrant": Row({"gradient_checkpointing_kwargs": {"use_reentrant": False}}),
        "LoRA, gradient checkpointing, reentrant": Row(
            {"gradient_checkpointing_kwargs": {"use_reentrant": True}}, given={"peft_config": lora()}
        ),
        "eager attention": Row(prepare=lambda folder: load(folder, attn_implementation="eager")),
        "model by its path, model_init_kwargs": Row(
            {"model_init_kwargs": {"attn_implementation": "eager", "dtype": "float32"}}, prepare=lambda folder: folder
        ),
        "flex attention on a CPU": Row(
            {"gradient_checkpointing": False},
            prepare=lambda folder: load(folder, attn_implementation="flex_attention"),
            raises=(NotImplementedError, "FlexAttention does not support backward on CPU"),
            long=True,
        ),
        "cast_lm_head_to_fp32": Row({"cast_lm_head_to_fp32": True}),
        "AdamW": Row(
            {"optim": "adamw_torch", "learning_rate": 1e-3},
            bound=1e-4,
            loss_bound=1e-5,
            bound_reason="Adam divides by the size of gradients, rounding of the smallest included",
        ),
        "max_grad_norm": Row({"max_grad_norm": 0.1}),
        "LoRA, bf16": Row({"bf16": True}, given={"peft_config": lora()}, **BFLOAT),
        "images, bf16": Row({"bf16": True}, model="qwen2_5_vl", rows=image_rows, long=True, **BFLOAT),
        "bf16": Row({"bf16": True}, **BFLOAT),
        "bf16, model too": Row({"bf16": True}, prepare=lambda folder: load(folder, dtype=torch.bfloat16), **BFLOAT),
        "disable_dropout": Row({"disable_dropout": True}),
        "pad_to_multiple_of": Row({"pad_to_multiple_of": 8}, rows=unlike_rows),
        "torch_empty_cache_steps": Row({"torch_empty_cache_steps": 1}, long=True),
        "use_liger_kernel, not installed": Row(
            {"use_liger_kernel": True}, raises=(ImportError, "liger-kernel"), absent="liger_kernel"
        ),
    },
    "Sampling": {
        "prompts of unlike length": Row(rows=unlike_rows),
        "temperature": Row({"temperature": 0.7}),
        "top_p, top_k, min_p, repetition_penalty": Row(
            {"top_p": 0.9, "top_k": 50, "min_p": 0.01, "repetition_penalty": 1.1}
        ),
        "greedy": Row(GREEDY, given={"peft_config": lora()}),
        "greedy, answers end early": Row(
            {
                **GREEDY,
                "generation_kwargs": {**EARLY["generation_kwargs"], "do_sample": False},
                "repetition_penalty": 2.0,
            },
            given={"peft_config": lora()},
        ),
        "answers end early": Row(EARLY, differs=OTHER_RANDOM_NUMBERS, first_answers=False),
        "answers end early, shared_prefix off": Row(EARLY, own=OFF, shares=(False, False), bound=0.0),
        "cache_implementation static": Row(
            {"cache_implementation": "static"},
            shares=(True, False),
            reason="generation has cache_implementation='static'",
        ),
        "beams": Row({"generation_kwargs": {"num_beams": 2}}, shares=(True, False), reason="generation is beam_sample"),
        "min_new_tokens": Row(
            {"generation_kwargs": {"min_new_tokens": 4}}, shares=(True, False), reason="generation has min_new_tokens=4"
        ),
        "stop_strings": Row(
            {"generation_kwargs": {"stop_strings": ["zz"]}}, raises=(ValueError, "could not locate a tokenizer")
        ),
        "use_transformers_continuous_batching": Row(
            {"use_transformers_continuous_batching": True},
            shares=(True, False),
            reason="its engine caches prefixes itself",
            long=True,
        ),
        "prompts of one token": Row(rows=letters(*"abcdef"), **ONE_TOKEN),
        "prompts of one token, all truncated": Row(
            {"mask_truncated_completions": True},
            rows=letters(*"abcdef"),
            still=True,
            **{**ONE_TOKEN, "shares": (True, False)},
        ),
        "prompts of one token among others": Row(
            rows=letters("a", "b better", "c", "d is"), **{**ONE_TOKEN, "shares": (True, False)}
        ),
        "vLLM, not installed": Row({"use_vllm": True}, raises=(ImportError, "vLLM"), absent="vllm"),
        "vLLM (played), off_policy_mask_threshold": Row(
            {"use_vllm": True, "vllm_mode": "colocate", "off_policy_mask_threshold": 0.5}, long=True, **ENGINE
        ),
        "vLLM (played), images": Row(
            {"use_vllm": True, "vllm_mode": "colocate"}, model="qwen2_5_vl", rows=image_rows, long=True, **ENGINE
        ),
        **{
            f"vLLM (played), {mode}": Row(
                {"use_vllm": True, "vllm_mode": "colocate", "vllm_importance_sampling_mode": mode}, long=True, **ENGINE
            )
            for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
        },
    },
    "Data": {
        "conversational": Row(rows=chat_rows),
        "stream": Row(rows=stream),
        "evaluation": Row({**EVALUATED, "num_generations_eval": 1}, given={"eval_dataset": lambda: text_rows(4)}),
        "log_completions, log_unique_prompts": Row({"log_completions": True, "log_unique_prompts": True}),
        "images": Row(model="qwen2_5_vl", rows=image_rows),
        "images, num_iterations, beta": Row({"beta": 0.1, **ITERATED}, model="qwen2_5_vl", rows=image_rows),
        "images, pad_to_multiple_of": Row({"pad_to_multiple_of": 8}, model="qwen2_5_vl", rows=image_rows),
        "images, log_completions": Row({"log_completions": True}, model="qwen2_5_vl", rows=image_rows),
        "images, evaluation": Row(
            {**EVALUATED, "seed": 4}, model="qwen2_5_vl", rows=image_rows, given={"eval_dataset": image_rows}
        ),
        "images, Qwen2-VL": Row(model="qwen2_vl", rows=image_rows),
        "images, Qwen3-VL": Row(model="qwen3_vl", rows=image_rows),
        "text only, Qwen2.5-VL": Row(model="qwen2_5_vl", rows=chat_rows),
        "rows with and without images, each kind in batches of its own": Row(
            {"per_device_train_batch_size": 4, "max_steps": 4},
            model="qwen2_5_vl",
            rows=lambda: image_rows((1, 0, 1, 0)),
        ),
        "rows with and without images in one batch": Row(
            model="qwen2_5_vl",
            rows=lambda: image_rows((1, 0, 1, 0)),
            raises=(TypeError, "NoneType"),
            ours=(ValueError, "images"),
        ),
        "rows with images and null in one batch": Row(
            model="qwen2_5_vl",
            rows=lambda: image_rows((1, None, 1, None)),
            raises=(TypeError, "NoneType"),
            ours=(ValueError, "images"),
        ),
    },
    "Models and turns": {
        "Qwen3": Row(model="qwen3"),
        **{
            f"images, {name}": Row(model=model, rows=image_rows, long=model != "smolvlm")
            for name, model in (
                ("LLaVA-NeXT", "llava_next"),
                ("Idefics3", "idefics3"),
                ("SmolVLM", "smolvlm"),
                ("InternVL", "internvl"),
            )
        },
        "images, Gemma 3": Row(model="gemma3", rows=image_rows, differs=TOKEN_TYPES),
        "images, Gemma 3, token types put in place": Row(model="gemma3", rows=image_rows, around=in_place),
        "sliding windows": Row(model="sliding", shares=(False, False), reason="its layers have sliding windows"),
        "mixture of experts": Row(model="moe", shares=(False, False), reason="model type 'qwen2_moe'"),
        "mixture of experts, no auxiliary loss": Row(
            {"router_aux_loss_coef": 0.0},
            model="moe",
            shares=(False, False),
            reason="model type",
        ),
        "another family (Mistral)": Row(model="mistral", shares=(False, False), reason="model type 'mistral'"),
        "rollout_func": Row(ITERATED, given={"rollout_func": lambda: rollout}, **TURNS),
        "tools": Row(
            {"max_completion_length": 96, "gradient_checkpointing": False, "max_steps": 1},
            model="qwen3",
            rows=chat_rows,
            given={"tools": lambda: [multiply]},
            around=calling,
            **TURNS,
        ),
        "environment_factory, which owns the reward": Row(
            {"max_completion_length": 96, "gradient_checkpointing": False, "max_steps": 1},
            model="qwen3",
            rows=chat_rows,
            reward=None,
            given={"environment_factory": lambda: Shop},
            around=calling,
            **TURNS,
        ),
    },
}
ROWS = {name: row for rows in SECTIONS.values() for name, row in rows.items()}


@contextlib.contextmanager
def playing_vllm() -> Iterator[None]:
    """[`Engine`] in place of vLLM."""
    module = sys.modules["trl.trainer.grpo_trainer"]
    with patch.object(module, "VLLMGeneration", Engine, create=True):
        with patch.object(module, "is_vllm_available", lambda *_, **__: True, create=True):
            yield


class Lines(logging.Handler):
    """What is said about shared prompts."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@contextlib.contextmanager
def watched(found: dict[str, Any]) -> Iterator[None]:
    """Notes lines of the log, and whether any two answers went through the model behind one prompt."""
    lines = Lines()
    found |= {"lines": lines.said, "shares": [False, False]}
    MultiProcessAdapter.warning_once.cache_clear()  # once a run, not once for all of them
    pack, sample = rarl.shared_prefix.scoring.pack_groups, rarl.trainer.sharing.sample_answers

    def packs(groups: Any, *args: Any, **kwargs: Any) -> Any:
        found["shares"][0] |= any(len(group.rows) > 1 for group in groups)
        return pack(groups, *args, **kwargs)

    def samples(model: Any, prompts: Any, index: Any, *args: Any, **kwargs: Any) -> Any:
        found["shares"][1] |= len(prompts["input_ids"]) < len(index)
        return sample(model, prompts, index, *args, **kwargs)

    logging.getLogger("rarl").addHandler(lines)
    with patch.object(rarl.shared_prefix.scoring, "pack_groups", packs):
        with patch.object(rarl.trainer.sharing, "sample_answers", samples):
            try:
                yield
            finally:
                logging.getLogger("rarl").removeHandler(lines)


def train(kind: str, row: Row) -> dict[str, Any]:
    """What one trainer samples, logs and learns in a row."""
    found: dict[str, Any] = {"error": None}
    with watched(found), playing_vllm() if "vllm_mode" in row.settings else contextlib.nullcontext():
        try:
            found |= _train(kind, row)
        except Exception as error:
            if row.raises is None and row.ours is None:
                raise
            found["error"] = error.with_traceback(None)
    return found


def _train(kind: str, row: Row) -> dict[str, Any]:
    trainer_class, config = TRAINERS[kind]
    config = GRPOConfig if row.plain else config
    own = {**RARL_OFF, **(row.own or {})} if config is RARLConfig else {}
    with tempfile.TemporaryDirectory() as folder:
        defaults = dict(
            output_dir=folder, use_cpu=True, bf16=False, learning_rate=0.05, optim="sgd", max_grad_norm=0.0,
            lr_scheduler_type="constant", per_device_train_batch_size=8, num_generations=4, max_completion_length=8,
            max_steps=2, report_to="none", logging_steps=1, save_strategy="no", disable_tqdm=True, seed=3,
        )  # fmt: skip
        args = config(**{**defaults, **row.settings, **own})
        path = folder_of(row.model)
        given = {name: make() for name, make in row.given.items()}
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        ours = {
            "model": row.prepare(path),
            "reward_funcs": row.reward,
            "args": args,
            "train_dataset": row.rows(),
            "processing_class": processor_of(row.model),
        }
        trainer = trainer_class(**{**ours, **given})
        trainer.remove_callback(PrinterCallback)
        start = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
        answers: list[Any] = []
        generate = trainer._generate_and_score_completions

        def watch(inputs: Any) -> Any:
            output = generate(inputs)
            answers.append(sorted(output["completion_ids"].tolist()))
            return output

        trainer._generate_and_score_completions = watch
        with row.around(trainer):
            trainer.train()
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    moved = max(float((weights[name] - value).abs().max()) for name, value in start.items())
    texts = sorted(re.sub(" at 0x[0-9A-F]+", "", str(trainer._logs[name])) for name in ("prompt", "completion"))
    return {"answers": answers, "log": trainer.state.log_history, "weights": weights, "moved": moved, "texts": texts}


def table() -> str:
    """The page of the documentation."""
    lines = []
    for section, rows in SECTIONS.items():
        lines += [f"## {section}", "", "| setting | training | sampling | beside TRL |", "|---|---|---|---|"]
        for name, row in rows.items():
            shares = (
                ["shared" if shared else "TRL's way" for shared in row.shares]
                if row.raises is None and row.ours is None
                else ["", ""]
            )
            lines.append(f"| {name} | {' | '.join(shares)} | {beside(row)} |")
        lines.append("")
    return HEAD + "\n".join(lines)


def beside(row: Row) -> str:
    """What a row of the table says of the run beside TRL's."""
    if row.raises is not None or row.ours is not None:
        theirs = f"`{row.raises[0].__name__}`" if row.raises else "trains no step, and says nothing"
        return f"`{row.ours[0].__name__}` before training; TRL: {theirs}" if row.ours else f"TRL's error, {theirs}"
    if row.differs:
        return f"another run: {row.differs}"
    if row.bound == 0:
        return "bit-equal"
    bound = row.loss_bound or row.bound
    equal = "equal" if bound == BOUND else f"within {bound:g}: {row.bound_reason}"
    return f"{equal}; the log says: {row.reason}" if row.reason else equal


HEAD = """# Beside TRL's trainer

Settings of TRL's `GRPOTrainer`, each trained with it, with `SharedPrefixTrainer` and with `RARLTrainer` (without
mutation, exact zeros and suppressed vision tokens): tiny random models, two to four steps of SGD in fp32, one seed.
`tests/rarl/trainer/test_parity.py` compares them; this page is made of its rows by `python -m tests.parity --write`.

- **equal**: the same answers are sampled, losses and all trained weights are within 1e-6, and what else is logged is
  within 1e-5. Each run is seen to move weights by over 1e-4, unless everything is masked.
- **shared**: several answers are seen to go through the model behind one prompt. Where they take TRL's way, one line of
  the log says why; results are TRL's, only slower.
- **TRL's error**: the same error, word for word.

Random numbers part from TRL's once an answer ends early: it leaves the batch that is sampled, and the rest is drawn
from the same distributions with other numbers. With `steps_per_generation` above `gradient_accumulation_steps`,
optimiser steps see whole groups, where TRL deals out single answers, so weights and later answers are others. With
`shared_prefix="off"` all of it is TRL's to the last bit.

"""

if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("python -m tests.parity --write")
    PAGE.write_text(table(), encoding="utf-8")
