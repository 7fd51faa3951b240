"""TRL's GRPOTrainer with RARL's Response Mutation Operation: wiring only.

The arithmetic lives in [`rarl.mutation`] and [`rarl.rewards`]. Whatever touches a private method of TRL is in this
file; `tests/test_trl_contract.py` fails when one of those methods moves.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate.logging import get_logger
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
from trl.extras.profiling import profiling_context
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import pad, split_tensor_dict

from rarl.datasets.validation import check_uniform
from rarl.image_memo import images_processed_once
from rarl.mutation import (
    MutationSettings,
    attainable_maximum,
    choose_mutated,
    is_stagnant,
    reference_text,
    rewrite_ids,
    total_rewards,
    zero_tied_advantages,
)
from rarl.prompt import build_completion
from rarl.rewards import REWARDS, weights
from rarl.rollout import sample_answers, unsupported_settings
from rarl.shared_prefix import (
    answer_log_probs,
    attention_cost,
    innermost,
    same_prompts,
    share_images,
    shuffled_groups,
    split_images,
    take_rows,
    unsupported,
    unsupported_model,
)
from rarl.task import get_task
from rarl.vision_tokens import vision_token_ids

logger = get_logger(__name__)


@dataclass
class RARLConfig(GRPOConfig):
    r"""Arguments of [`RARLTrainer`]: those of TRL's `GRPOConfig` and the ones below.

    With `rmo=False`, `suppress_vision_tokens=False`, `exact_zero_advantages=False` and `shared_prefix="off"`, the
    trainer is TRL's, step for step. `rmo_importance="luffy"` is the policy shaping of LUFFY (arXiv:2504.14945).
    """

    rmo: bool = field(
        default=True,
        metadata={"help": "Response Mutation Operation: rewrite the worst responses of groups without a signal."},
    )
    rmo_trigger: str = field(
        default="stagnant",
        metadata={"help": "Which groups: 'stagnant' (rewards all equal and short of the ceiling) or 'low_reward'."},
    )
    rmo_probability: float = field(default=0.5, metadata={"help": "Chance that a triggered group is mutated."})
    rmo_num_replaced: int = field(default=1, metadata={"help": "k, responses replaced in a mutated group."})
    rmo_ceiling: float = field(
        default=0.9,
        metadata={"help": "A tied group whose mean reaches this share of the attainable reward counts as solved."},
    )
    rmo_threshold: float = field(
        default=0.0, metadata={"help": "Total reward below which the trigger 'low_reward' replaces a response."}
    )
    rmo_source: str = field(
        default="ground_truth",
        metadata={"help": "'ground_truth' (built from `values`) or 'reference' (a column with a whole response)."},
    )
    rmo_keep_reasoning: bool = field(
        default=True, metadata={"help": "Keep the sampled think block and rewrite the answer block only."}
    )
    rmo_importance: str = field(
        default="on_policy",
        metadata={
            "help": "'on_policy': a mutated response has ratio 1 on its first update (biased, as the policy did not "
            "sample it). 'luffy': behaviour probability 1, shaped p / (p + rmo_luffy_gamma), no clip."
        },
    )
    rmo_luffy_gamma: float = field(default=0.1, metadata={"help": "γ of the 'luffy' shaping."})
    advantage_cap: float | None = field(
        default=None,
        metadata={
            "help": "Clip advantages to ±this. One replaced response in a tied group of G otherwise has (G-1)/√G, "
            "2.47 for G = 8, whatever the gap in reward."
        },
    )
    exact_zero_advantages: bool = field(
        default=True,
        metadata={"help": "Give a tied group advantages of exactly 0 instead of amplified rounding."},
    )
    shared_prefix: str = field(
        default="auto",
        metadata={
            "help": "Encode each prompt once for all answers to it: 'on' (an error if the model cannot), 'off', or "
            "'auto' (on where it can)."
        },
    )
    shared_prefix_tokens: int | None = field(
        default=None,
        metadata={"help": "Most tokens, padding included, of a call of the model with shared prompts."},
    )
    suppress_vision_tokens: bool = field(
        default=True,
        metadata={"help": "Never sample vision tokens: one image pad in an answer ends the run."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mutation_settings()  # raises before a model is loaded
        for name, value, known in (
            ("rmo_source", self.rmo_source, ("ground_truth", "reference")),
            ("rmo_importance", self.rmo_importance, ("on_policy", "luffy")),
            ("shared_prefix", self.shared_prefix, ("auto", "on", "off")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
        if self.rmo_importance == "luffy" and self.loss_type not in _NORMALIZED_LOSSES:
            raise ValueError(
                f"rmo_importance='luffy' works with loss_type {', '.join(_NORMALIZED_LOSSES)}, got {self.loss_type!r}."
            )
        if self.advantage_cap is not None and self.advantage_cap <= 0:
            raise ValueError(f"advantage_cap must be positive, got {self.advantage_cap}.")
        accumulation = self.gradient_accumulation_steps
        window = math.lcm((self.steps_per_generation or 1) * self.num_iterations, accumulation) // accumulation
        if self.save_strategy == "steps" and self.save_steps >= 1 and self.save_steps % window:
            raise ValueError(
                f"save_steps={self.save_steps:g} falls inside a generation window of {window} steps, whose buffered "
                f"completions a checkpoint loses; use a multiple of {window}."
            )

    def mutation_settings(self) -> MutationSettings:
        """The settings of RMO as [`rarl.mutation`] takes them."""
        return MutationSettings(
            trigger=self.rmo_trigger,  # type: ignore[arg-type]  # checked by MutationSettings
            probability=self.rmo_probability,
            num_replaced=self.rmo_num_replaced,
            ceiling=self.rmo_ceiling,
            threshold=self.rmo_threshold,
            seed=self.seed,
        )


_NORMALIZED_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo")


class SharedPrefixTrainer(GRPOTrainer):
    """TRL's `GRPOTrainer`, encoding each prompt once for all answers to it; see [`rarl.shared_prefix`].

    Takes what `GRPOTrainer` takes; `shared_prefix` ("auto", "on", "off") and `shared_prefix_tokens` are read from its
    arguments if they are there. A prompt is encoded once to sample its answers; old, reference and current
    log-probabilities go through the shared layout; micro-batches are made of whole groups; each image is preprocessed
    and kept once. Where model or settings do not allow it, TRL's own way is taken, and one line says why.

    Raises:
        ValueError: With `shared_prefix="on"`, if it is not possible.
    """

    args: Any
    model: Any
    num_generations: int
    _buffered_inputs: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        wanted = getattr(self.args, "shared_prefix", "auto")
        reason = "shared_prefix is off" if wanted == "off" else self._why_not_shared()
        if reason is not None and wanted == "on":
            raise ValueError(f"shared_prefix='on', but {reason}.")
        if reason is not None and wanted == "auto":
            logger.warning(f"Prompts are not shared: {reason}.")
        self._shares_prefix = reason is None
        if self._shares_prefix:
            self._attention_cost = attention_cost(self.accelerator.unwrap_model(self.model).config)
            self._check_calls()
            self._leave_out_frozen_vision()
        in_generation = "shared_prefix is off" if wanted == "off" else self._why_not_shared_in_generation()
        if in_generation is not None and wanted != "off":
            logger.warning(f"Prompts are not shared in generation: {in_generation}.")
        self._shares_generation = in_generation is None
        self._shares_images = wanted != "off"

    def _why_not_shared(self) -> str | None:
        if self.aux_loss_enabled:
            return "the load-balancing loss counts every token of the plain layout"
        if self._is_vlm and (self.tools or self.environment_factories is not None or self.rollout_func is not None):
            return "answers may hold images"
        if self.is_fsdp_enabled:
            return "it is untested under FSDP"
        return unsupported(self.accelerator.unwrap_model(self.model).config)

    def _leave_out_frozen_vision(self) -> None:
        """No gradients of the activations of a vision tower that is not trained.

        With LoRA and gradient checkpointing TRL makes all input embeddings require gradients, those of images too.
        """
        model = innermost(self.accelerator.unwrap_model(self.model))
        visual = getattr(model, "visual", None)
        if visual is not None and not any(parameter.requires_grad for parameter in visual.parameters()):
            visual.get_input_embeddings().register_forward_hook(lambda _module, _inputs, out: out.requires_grad_(False))

    def _check_calls(self) -> None:
        reentrant = (self.args.gradient_checkpointing_kwargs or {}).get("use_reentrant")
        if (
            getattr(self.args, "shared_prefix_tokens", None) is not None
            and self.args.gradient_checkpointing
            and reentrant
            and (self.accelerator.num_processes > 1 or self.is_deepspeed_enabled)
        ):
            raise ValueError(
                "shared_prefix_tokens makes several calls of the model, whose gradients do not go together with "
                "reentrant gradient checkpointing here (TRL sets it for LoRA under ZeRO-3): leave it unset, and lower "
                "per_device_train_batch_size if memory is short."
            )

    def _why_not_shared_in_generation(self) -> str | None:
        if self.use_vllm or self.use_transformers_continuous_batching:
            return "its engine caches prefixes itself"
        if self.rollout_func is not None or self.tools or self.environment_factories is not None:
            return "answers take several turns, or are generated elsewhere"
        if self.is_fsdp_enabled:
            return "it is untested under FSDP"
        if self._dist.is_zero3 and not self.args.ds3_gather_for_generation:
            return "with ds3_gather_for_generation=False all processes must take the same steps"
        model = self.accelerator.unwrap_model(self.model)
        eos_token_ids = self.generation_config.eos_token_id
        if eos_token_ids != self.eos_token_ids:
            return f"generation ends with {eos_token_ids}, but training reads answers up to {self.eos_token_ids}"
        return unsupported_model(model.config) or unsupported_settings(self.generation_config, model.generation_config)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self._shares_images:
            return super()._generate_and_score_completions(inputs)
        with images_processed_once(self.processing_class):
            return super()._generate_and_score_completions(inputs)

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        if not self._shares_generation or min(map(len, prompt_ids)) < 2:
            return super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images
            )
        fields = dict(multimodal_fields)
        num_images = None if images is None else [len(own or ()) for own in images]
        shown = split_images(fields.pop("pixel_values", None), fields.pop("image_grid_thw", None), num_images)
        groups = same_prompts(prompt_ids, shown)
        fields |= {"input_ids": prompt_ids, "attention_mask": [[1] * len(ids) for ids in prompt_ids]}
        prompts: dict[str, torch.Tensor] = {
            name: pad(
                [torch.tensor(rows[group[0]]) for group in groups],
                padding_value=self._tokenizer.pad_token_id if name == "input_ids" else 0,
                padding_side="left",
                pad_to_multiple_of=self.pad_to_multiple_of,  # type: ignore[arg-type]
            )
            for name, rows in fields.items()
        }
        distinct = [own for group in groups if shown is not None and (own := shown[group[0]]) is not None]
        if distinct:
            prompts["image_grid_thw"] = torch.cat([grid for grid, _ in distinct])
            prompts["pixel_values"] = torch.cat([pixels for _, pixels in distinct])
        index = torch.empty(len(prompt_ids), dtype=torch.long)
        for number, group in enumerate(groups):
            index[group] = number
        # As TRL generates, in the same contexts.
        with (
            profiling_context(self, "transformers.generate"),
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                generation_kwargs=self.generation_kwargs,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
        ):
            inputs: Any = self._prepare_input(prompts)
            return sample_answers(model, inputs, index, self.generation_config, self.eos_token_ids), None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **fields: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        if not self._shares_prefix:
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **fields,
            )
        batch_size = batch_size or len(input_ids)
        num_images = fields.get("num_images")
        images = split_images(fields.get("pixel_values"), fields.get("image_grid_thw"), num_images)
        types = fields.get("mm_token_type_ids")
        base_model = innermost(self.accelerator.unwrap_model(model))
        device = input_ids.device.type
        parts = []
        for start in range(0, len(input_ids), batch_size):
            rows = slice(start, start + batch_size)
            with self.accelerator.autocast():
                autocast = torch.is_autocast_enabled(device)
                parts.append(
                    answer_log_probs(
                        model,
                        base_model,
                        input_ids[rows],
                        attention_mask[rows],
                        logits_to_keep,
                        torch.get_autocast_dtype(device) if autocast else base_model.dtype,
                        None if images is None else images[rows],
                        None if types is None else types[rows],
                        getattr(self.args, "shared_prefix_tokens", None),
                        self._attention_cost,
                        self._largest_of_processes,
                    )
                )
        log_probs = torch.cat([part[0] for part in parts])
        entropies = torch.cat([part[1] for part in parts if part[1] is not None]) if compute_entropy else None
        return log_probs, entropies, None

    def _largest_of_processes(self, number: int) -> int:
        numbers = torch.tensor([number], device=self.accelerator.device)
        return int(self.accelerator.gather(numbers).max())

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        # TRL's own, but for the shuffle: it permutes single rows, which would tear groups apart.
        if not (self._shares_prefix and self.model.training):
            return super()._prepare_inputs(generation_batch)
        steps_per_generation = self.args.steps_per_generation
        if self._step % (steps_per_generation * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            num_rows = len(batch["prompt_ids"])
            # One copy of the pixels of a prompt is kept, in a list with one entry for each row.
            images = split_images(*(batch.get(name) for name in ("pixel_values", "image_grid_thw", "num_images")))
            groups = same_prompts(batch["prompt_ids"].tolist(), images)
            order = shuffled_groups(num_rows, self.num_generations, self.accelerator.process_index * num_rows)
            self._buffered_inputs = split_tensor_dict(
                take_rows(share_images(batch, groups), order), steps_per_generation
            )
        return self._buffered_inputs[self._step % steps_per_generation]


class RARLTrainer(SharedPrefixTrainer):
    r"""Ranking-aware reinforcement learning on TRL's GRPOTrainer.

    Args are those of `GRPOTrainer`. `reward_funcs` defaults to RARL's five rewards with [`rarl.rewards.weights`] as
    their weights. Rows hold `prompt`, `images`, `values` and `task`; with `rmo_source="reference"` also `reference`.

    Mutation happens between generation and scoring, so text, ids, end token, masks, old and reference
    log-probabilities, rewards, statistics, logged lengths and the loss's token count are all of the mutated response.
    A mutated response is treated as if the policy had sampled it, which biases the estimator towards imitation: that
    is the operation's purpose, and why it is applied with a probability and to groups that teach nothing otherwise.

    Logged beside TRL's metrics: `rmo/stagnant_fraction` (share of tied groups short of the ceiling), `rmo/mutated`
    (responses rewritten), `rmo/skipped` (rewrites that would not fit `max_completion_length`), `rmo/reward_std_before`
    and `rmo/reward_std_after` (mean standard deviation within a group). The completions table has a `mutated` column.

    Raises:
        ValueError: On data that mixes rows with and without images, on a missing column, and on settings that RMO
            cannot work with (tools, environments, `rollout_func`).
    """

    _tag_names = ["trl", "grpo", "rarl"]
    _name = "RARL"
    args: RARLConfig
    model: Any
    processing_class: Any
    num_generations: int
    max_completion_length: int

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: RARLConfig | None = None,
        train_dataset: Any = None,
        **kwargs: Any,
    ) -> None:
        args = args if args is not None else RARLConfig("RARL")
        if reward_funcs is None:
            reward_funcs = list(REWARDS.values())
            args.reward_weights = weights() if args.reward_weights is None else args.reward_weights
        if args.rmo and any(kwargs.get(name) for name in ("tools", "rollout_func", "environment_factory")):
            raise ValueError("RMO rewrites single-turn responses: set rmo=False with tools, environments or rollouts.")
        held_out = kwargs.get("eval_dataset")
        for rows in (train_dataset, *(held_out.values() if isinstance(held_out, dict) else [held_out])):
            if isinstance(rows, Dataset):  # the rows of a stream are not known beforehand
                check_uniform(rows)
        if train_dataset is not None:
            _check_columns(train_dataset.column_names, args)
            _check_number(train_dataset, args)
        super().__init__(model, reward_funcs, args, train_dataset, **kwargs)
        if args.suppress_vision_tokens and self._is_vlm:
            self._suppress(vision_token_ids(self.processing_class))
        self._mutation_settings = args.mutation_settings()
        self._mutation_inputs: list[dict[str, Any]] = []
        self._mutated = torch.empty(0, dtype=torch.bool)
        self._last_rewards = torch.empty(0)
        self._last_logps = torch.empty(0)

    def _suppress(self, token_ids: list[int]) -> None:
        if self.use_vllm:
            generation = self.vllm_generation
            given = dict(generation.generation_kwargs or {})
            bias = {**{token_id: -100.0 for token_id in token_ids}, **given.get("logit_bias", {})}
            generation.generation_kwargs = {**given, "logit_bias": bias}
        else:
            # A list given by the user replaces TRL's own, so the two are joined.
            token_ids = sorted({*token_ids, *(self.generation_kwargs.get("suppress_tokens") or [])})
            self.generation_kwargs["suppress_tokens"] = token_ids
            self.generation_config.suppress_tokens = token_ids

    @property
    def _rmo_active(self) -> bool:
        return self.args.rmo and self.model.training

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._mutation_inputs = inputs
        self._mutated = torch.zeros(len(inputs), dtype=torch.bool)
        output = super()._generate_and_score_completions(inputs)
        if self.model.training:
            self._finish_advantages(output)
        if self._rmo_active:
            output["mutated"] = self._mutated.to(output["advantages"].device)
            grouped = self._total_rewards().view(-1, self.num_generations)
            self._metrics["train"]["rmo/reward_std_after"].append(grouped.std(dim=1).mean().item())
        self._mutation_inputs = []
        return output

    def _total_rewards(self) -> torch.Tensor:
        """Total rewards of the global generation batch, `[n]`."""
        return (self._last_rewards * self.reward_weights.to(self._last_rewards.device)).nansum(dim=1)

    def _finish_advantages(self, output: dict[str, Any]) -> None:
        exact_zero = self.args.exact_zero_advantages and self.multi_objective_aggregation == "sum_then_normalize"
        if not exact_zero and self.args.advantage_cap is None:
            return
        advantages = self.accelerator.gather(output["advantages"])
        if exact_zero:
            advantages = zero_tied_advantages(advantages, self._total_rewards(), self.num_generations)
        if self.args.advantage_cap is not None:
            advantages = advantages.clamp(-self.args.advantage_cap, self.args.advantage_cap)
        local = len(output["advantages"])
        start = self.accelerator.process_index * local
        output["advantages"] = advantages[start : start + local]
        logged: Any = self._logs["advantages"]  # the table shows what is used
        for position, advantage in enumerate(reversed(advantages.tolist()[-len(logged) :]), start=1):
            logged[-position] = advantage

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        self._last_rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        return self._last_rewards

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        completion_ids, logprobs = super()._generate_single_turn(
            prompt_ids, images, multimodal_fields, num_generations, has_tool_images
        )
        if self._rmo_active:
            completion_ids, logprobs = self._mutate(completion_ids, logprobs)
        if self.args.rmo:  # in evaluation too: the table's columns must stay in step
            self._log_completion_extra("mutated", self._mutated.tolist())
        return completion_ids, logprobs

    def _mutate(
        self, completion_ids: list[list[int]], logprobs: list[list[float]] | None
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        """Rewrite this process's share of the responses chosen over the global generation batch."""
        inputs, group_size = self._mutation_inputs, self.num_generations
        texts = self.processing_class.batch_decode(completion_ids, skip_special_tokens=True)
        conversational = isinstance(inputs[0]["prompt"], list)
        completions = [[{"role": "assistant", "content": text}] for text in texts] if conversational else texts
        prompts = [row["prompt"] for row in inputs]
        rewards = self._calculate_rewards(inputs, prompts, completions, completion_ids).cpu().double().numpy()
        self._pending_extra_logs.clear()  # what reward functions logged here is logged again when TRL scores
        self._pending_metrics.clear()

        reward_weights = self.reward_weights.tolist()
        chosen = self._choose(rewards, reward_weights)
        offset = self.accelerator.process_index * len(inputs)
        completion_ids, logprobs = list(completion_ids), None if logprobs is None else list(logprobs)
        skipped = 0
        for row in chosen[(chosen >= offset) & (chosen < offset + len(inputs))] - offset:
            ids = self._mutated_ids(inputs[row], completion_ids[row], texts[row])
            if len(ids) > self.max_completion_length:
                skipped += 1
                continue
            completion_ids[row] = ids
            self._mutated[row] = True
            if logprobs is not None:
                logprobs[row] = [float("nan")] * len(ids)  # not sampled: TRL applies no correction where it sees NaN

        counts = torch.tensor([int(self._mutated.sum()), skipped], device=self.accelerator.device)
        mutated, skipped = self.accelerator.gather(counts).view(-1, 2).sum(dim=0).tolist()
        groups = rewards.reshape(-1, group_size, rewards.shape[1])
        totals = total_rewards(rewards, reward_weights).reshape(-1, group_size)
        stagnant = [
            is_stagnant(total, attainable_maximum(group, reward_weights), self.args.rmo_ceiling)
            for total, group in zip(totals, groups, strict=True)
        ]
        metrics = self._metrics["train"]
        metrics["rmo/stagnant_fraction"].append(float(np.mean(stagnant)))
        metrics["rmo/reward_std_before"].append(float(totals.std(axis=1, ddof=1).mean()))
        metrics["rmo/mutated"].append(float(mutated))
        metrics["rmo/skipped"].append(float(skipped))
        return completion_ids, logprobs

    def _choose(self, rewards: np.ndarray, reward_weights: Sequence[float]) -> np.ndarray:
        """Global row indices to replace. The number of the generation batch is the run's micro-step, which a resumed
        run continues: TRL counts `_step` from 0 again, but both start at an optimiser step."""
        accumulation = self.args.gradient_accumulation_steps
        step = self.state.global_step * accumulation + self._step % accumulation
        groups = rewards.reshape(-1, self.num_generations, rewards.shape[1])
        rows = [
            choose_mutated(group, reward_weights, self._mutation_settings, step, index) + index * self.num_generations
            for index, group in enumerate(groups)
        ]
        return np.concatenate(rows)

    def _mutated_ids(self, row: dict[str, Any], ids: list[int], text: str) -> list[int]:
        if self.args.rmo_source == "reference":
            reference = row["reference"]
        else:
            reference = build_completion(row["values"], get_task(row["task"]))
        start, tail = reference_text(text, reference, len(row["values"]), self.args.rmo_keep_reasoning)
        tokenizer = self._tokenizer
        decode: Callable[[list[int]], str] = lambda ids: tokenizer.decode(ids, skip_special_tokens=True)  # noqa: E731
        encode: Callable[[str], list[int]] = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
        return rewrite_ids(ids, start, tail, decode, encode, tokenizer.eos_token_id)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self.args.rmo_importance == "luffy":
            self._last_logps = result[0]  # of the loss's own forward pass, with its graph
        return result

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        mutated = inputs.get("mutated")
        if mutated is None or self.args.rmo_importance == "on_policy":
            return super()._compute_loss(model, inputs)
        # The KL and entropy terms of mutated rows stay TRL's; their policy term is replaced.
        advantages = inputs["advantages"]
        loss = super()._compute_loss(model, {**inputs, "advantages": advantages.masked_fill(mutated, 0.0)})
        probability = self._last_logps.exp()
        shaped = probability / (probability + self.args.rmo_luffy_gamma)
        per_token = -shaped * (advantages * mutated).unsqueeze(1)
        return loss + self._normalize(per_token, inputs["completion_mask"], inputs["num_items_in_batch"])

    def _normalize(self, per_token: torch.Tensor, mask: torch.Tensor, num_items: torch.Tensor) -> torch.Tensor:
        """Sum of a per-token loss `[b, t]`, divided as TRL divides the policy loss of this `loss_type`."""
        accumulation = self.current_gradient_accumulation_steps if self.model.training else 1
        total = per_token * mask
        if self.loss_type == "grpo":
            return (total.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean() / accumulation
        if self.loss_type == "bnpo":
            return total.sum() / mask.sum().clamp(min=1) / accumulation
        if self.loss_type == "dr_grpo":
            return total.sum() / (total.size(0) * self.max_completion_length) / accumulation
        normalizer = num_items.clamp(min=1) / self.accelerator.num_processes
        return total.sum() / (normalizer * accumulation / self.args.steps_per_generation)


def _check_columns(column_names: list[str] | None, args: RARLConfig) -> None:
    needed = ["values", "task"] + (["reference"] if args.rmo_source == "reference" else [])
    missing = [name for name in needed if column_names is not None and name not in column_names]
    if args.rmo and missing:
        raise ValueError(
            f"RMO needs the columns {', '.join(needed)}, the training data lacks {', '.join(missing)}; it has "
            f"{', '.join(column_names or [])}."
        )


def _check_number(train_dataset: Any, args: RARLConfig) -> None:
    wanted = (args.generation_batch_size or 0) // (args.num_generations or 1)
    if isinstance(train_dataset, Dataset) and len(train_dataset) < wanted:
        raise ValueError(
            f"The training data has {len(train_dataset)} prompts, but one generation batch takes {wanted} "
            f"(generation_batch_size={args.generation_batch_size}, num_generations={args.num_generations}): give more, "
            "or lower per_device_train_batch_size or gradient_accumulation_steps."
        )
