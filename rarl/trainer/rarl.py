"""TRL's GRPOTrainer with RARL's Response Mutation Operation: wiring only; the arithmetic lives in
[`rarl.mutation`][rarl.mutation]."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.logging import get_logger
from datasets import Dataset
from trl import GRPOConfig

from rarl.advantages import leave_one_out, num_virtual, virtual_advantages
from rarl.answer import REASONS, parse_answer
from rarl.credit import CreditedAnswer, Worth, deviations, rewards_to_go
from rarl.expectation import ExpectedNumbers
from rarl.mutation import (
    attainable_maximum,
    choose_mutated,
    is_stagnant,
    reference_text,
    rewrite_ids,
    total_rewards,
    zero_tied_advantages,
)
from rarl.prompt import build_completion
from rarl.rewards import accuracy_reward, regression_reward
from rarl.task import get_task
from rarl.trainer.config import RARLConfig, generation_window, mutation_settings, with_defaults
from rarl.trainer.mixed import check_mixed
from rarl.trainer.saving import SaveBetweenWindows
from rarl.trainer.sharing import SharedPrefixTrainer
from rarl.vision_tokens import vision_token_ids

logger = get_logger(__name__)


class RARLTrainer(SharedPrefixTrainer):
    r"""Ranking-aware reinforcement learning on TRL's GRPOTrainer.

    Args are those of `GRPOTrainer`. Pass the rewards as `reward_funcs`, such as
    [`rarl.rewards.REWARDS`][rarl.rewards.REWARDS] with [`rarl.rewards.weights`][rarl.rewards.weights] as
    `reward_weights`. Rows hold `prompt`, `images`, `values` and `task`; with `rmo_source="reference"` also `reference`.
    A plain `GRPOConfig` gets [`RARLConfig`][rarl.trainer.config.RARLConfig]'s defaults, RMO where the data have these
    columns.

    Mutation happens between generation and scoring, so text, ids, end token, masks, old and reference
    log-probabilities, rewards, statistics, logged lengths and the loss's token count are all of the mutated response.
    A mutated response is treated as if the policy had sampled it, which biases the estimator towards imitation: that
    is the operation's purpose, and why it is applied with a probability and to groups that teach nothing otherwise.

    Logged beside TRL's metrics: `rmo/stagnant_fraction` (share of tied groups short of the ceiling), `rmo/mutated`
    (responses rewritten), `rmo/skipped` (rewrites that would not fit `max_completion_length`), `rmo/reward_std_before`
    and `rmo/reward_std_after` (mean standard deviation within a group). The completions table has a `mutated` column.
    `answers/well_formed` is the share of sampled answers that are, and `answers/no_answer` and so on why the others are
    not, in training and evaluation; see [`REASONS`][rarl.answer.REASONS].

    Raises:
        ValueError: On data in which rows with and without images meet in one generation batch, on a missing column,
            and on settings that RMO cannot work with (tools, environments, `rollout_func`).
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
        args: GRPOConfig | None = None,
        train_dataset: Any = None,
        **kwargs: Any,
    ) -> None:
        args = args if args is not None else RARLConfig("RARL")
        settings = args if isinstance(args, RARLConfig) else with_defaults(args)
        why_not = _why_no_mutation(settings, train_dataset, kwargs) if settings.rmo else None
        if why_not is not None and settings is args:
            raise ValueError(f"RMO {why_not}; set rmo=False.")
        if why_not is not None:
            logger.warning(f"Responses are not mutated: RMO {why_not}.")
            settings.rmo = False
        for name in ("tools", "rollout_func", "environment_factory"):
            if settings.dynamic_sampling and kwargs.get(name):
                raise ValueError(f"dynamic_sampling samples answers of a single turn again, and {name} is given.")
        columns = getattr(train_dataset, "column_names", None)
        missing = [name for name in ("values", "task") if columns is not None and name not in columns]
        if settings.credit != "completion" and missing:
            raise ValueError(
                f"credit={settings.credit!r} needs the columns values and task; the training data has "
                f"{', '.join(columns or [])}."
            )
        if train_dataset is not None:
            _check_number(train_dataset, settings)
        super().__init__(model, reward_funcs, settings, train_dataset, **kwargs)
        check_mixed(self)
        if (period := generation_window(settings)) > 1:
            self.add_callback(
                SaveBetweenWindows(lambda: self._step % (period * settings.gradient_accumulation_steps) > 0)
            )
        if settings.suppress_vision_tokens and self._is_vlm:
            config = self.accelerator.unwrap_model(self.model).config
            self._suppress(vision_token_ids(self.processing_class, config))
        self._credit_weights = self._weights_of(regression_reward, accuracy_reward)
        if settings.credit != "completion" and not any(self._credit_weights):
            raise ValueError(
                f"credit={settings.credit!r} shares out the regression and the accuracy reward; wanted one of them "
                f"among the rewards, got {', '.join(self.reward_func_names)}."
            )
        self._mutation_settings = mutation_settings(settings)
        self._expected = self._expected_numbers(train_dataset) if settings.credit == "exact" else None
        self._last_call: tuple[Any, ...] = ()
        self._rows: list[dict[str, Any]] = []
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

    def _expected_numbers(self, train_dataset: Any) -> ExpectedNumbers:
        if not self._shares_prefix or self._flex or self._code_mask is not None:
            raise ValueError(
                "credit='exact' lays numbers that were not sampled behind shared prompts: wanted shared_prefix, with "
                "shared_prefix_attention='sdpa' and without value_tokens, and a model that allows it."
            )
        if not isinstance(train_dataset, Dataset):
            raise ValueError(
                f"credit='exact' wants a Dataset, whose task it reads, got {type(train_dataset).__name__}."
            )
        return ExpectedNumbers.of(self.processing_class, get_task(train_dataset[0]["task"]))

    def _weights_of(self, *functions: Any) -> tuple[float, ...]:
        """Weights of reward functions, 0 of one that is not used."""
        weights = self.reward_weights.tolist()
        return tuple(
            sum(
                weight
                for used, weight in zip(self.reward_funcs, weights, strict=True)
                if getattr(used, "func", used) is function  # what a functools.partial calls
            )
            for function in functions
        )

    @property
    def _rmo_active(self) -> bool:
        return self.args.rmo and self.model.training

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        # TRL knows rows without images by empty lists; `None` would reach the processor.
        inputs = [row | {"images": row["images"] or []} if "images" in row else row for row in inputs]
        self._rows = inputs
        self._mutated = torch.zeros(len(inputs), dtype=torch.bool)
        output = super()._generate_and_score_completions(inputs)
        if self.model.training and self.args.credit == "completion":
            self._finish_advantages(output)
        elif self.model.training:
            self._credit_items(output)
        if self._rmo_active:
            output["mutated"] = self._mutated.to(output["advantages"].device)
            grouped = self._total_rewards().view(-1, self.num_generations)
            self._metrics["train"]["rmo/reward_std_after"].append(grouped.std(dim=1).mean().item())
        self._rows = []
        return output

    def _total_rewards(self) -> torch.Tensor:
        """Total rewards of the global generation batch, `[n]`."""
        return (self._last_rewards * self.reward_weights.to(self._last_rewards.device)).nansum(dim=1)

    def _finish_advantages(self, output: dict[str, Any]) -> None:
        args = self.args
        exact_zero = args.exact_zero_advantages and self.multi_objective_aggregation == "sum_then_normalize"
        apart = args.advantage_baseline == "leave_one_out"
        if not (exact_zero or apart or args.virtual_rewards) and args.advantage_cap is None:
            return
        advantages = self.accelerator.gather(output["advantages"])
        if apart:
            found = leave_one_out(self._total_rewards().cpu().numpy(), self.num_generations)
            advantages = torch.from_numpy(found).to(advantages)
        if exact_zero:
            advantages = zero_tied_advantages(advantages, self._total_rewards(), self.num_generations)
        if args.virtual_rewards:
            advantages = self._with_virtual_rewards(advantages)
        if args.advantage_cap is not None:
            advantages = advantages.clamp(-args.advantage_cap, args.advantage_cap)
        local = len(output["advantages"])
        start = self.accelerator.process_index * local
        output["advantages"] = advantages[start : start + local]
        logged: Any = self._logs["advantages"]  # the table shows what is used
        for position, advantage in enumerate(reversed(advantages.tolist()[-len(logged) :]), start=1):
            logged[-position] = advantage

    def _with_virtual_rewards(self, advantages: torch.Tensor) -> torch.Tensor:
        """Advantages `[n]` of the global batch, those of equally wrong groups by virtual rewards."""
        weights, rewards = self.reward_weights.tolist(), self._last_rewards.cpu().double().numpy()
        stagnant = self._stagnant(rewards)
        number = num_virtual(self.args.virtual_rewards, float(stagnant.mean()))
        grouped = advantages.clone().view(-1, self.num_generations)
        for place in np.flatnonzero(stagnant):
            group = self._grouped(rewards)[place]
            found = virtual_advantages(total_rewards(group, weights), attainable_maximum(group, weights), number)
            grouped[place] = torch.from_numpy(found).to(grouped)
        return grouped.view(-1)

    def _grouped(self, rewards: np.ndarray) -> np.ndarray:
        """Rewards of the global batch by group, `[n, f]` → `[n / g, g, f]`."""
        return rewards.reshape(-1, self.num_generations, rewards.shape[1])

    def _stagnant(self, rewards: np.ndarray) -> np.ndarray:
        """Which groups teach nothing and are short of the ceiling, `[n, f]` → bool `[n / g]`."""
        weights = self.reward_weights.tolist()
        return np.array([is_stagnant(group, weights, self._mutation_settings) for group in self._grouped(rewards)])

    def _credit_items(self, output: dict[str, Any]) -> None:
        """Put an advantage a token, `[b, t]`, in the place of that of the answer; see [`rarl.credit`][rarl.credit]."""
        rows, device = self._rows, output["advantages"].device
        totals = self._total_rewards().cpu().double().numpy()
        scales = deviations(totals, self.num_generations, self.scale_rewards).repeat(self.num_generations)
        start = self.accelerator.process_index * len(rows)
        most = self._largest_of_processes(max(len(row["values"]) for row in rows))
        decode: Callable[[list[int]], str] = lambda ids: self._tokenizer.decode(ids, skip_special_tokens=True)  # noqa: E731
        exact = self._expected if self.args.credit == "exact" else None
        answers: list[Any] = []
        for row, ids, mask in zip(rows, output["completion_ids"], output["completion_mask"], strict=True):
            tokens = ids[mask.bool()].tolist()
            task = get_task(row["task"])
            worth = Worth(row["values"], task.tolerance, *self._credit_weights)
            answer = CreditedAnswer.of(tokens, len(row["values"]), worth, decode=decode, most=most, words=task.words)
            answers.append(answer if exact is None else exact.take_over(answer, tokens, worth, task))
        if exact is not None:
            places, gains = exact.table(answers, scales[start : start + len(rows)])
            output["number_places"], output["number_gains"] = places.to(device), gains.to(device)
        table = rewards_to_go(
            totals[start : start + len(rows)],
            [answer.promises for answer in answers],
            [answer.keys for answer in answers],
            2 * (most + 1),
        )
        whole = self.accelerator.gather(torch.from_numpy(table).to(device)).cpu().numpy()
        centred = (leave_one_out(whole, self.num_generations) / scales[:, None])[start : start + len(rows)]
        advantages = output["advantages"].new_zeros(output["completion_ids"].shape)
        for place, answer in enumerate(answers):
            keys = np.asarray(answer.keys)[answer.stages]
            advantages[place, : len(keys)] = torch.from_numpy(centred[place, keys]).to(advantages)
        cap = self.args.advantage_cap
        output["advantages"] = advantages if cap is None else advantages.clamp(-cap, cap)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        self._last_rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        return self._last_rewards

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        completion_ids, logprobs = super()._generate_single_turn(
            prompt_ids, images, multimodal_fields, num_generations, has_tool_images
        )
        self._count_reasons(completion_ids)
        if self.args.dynamic_sampling and self.model.training:
            prompts = (prompt_ids, images, multimodal_fields)
            completion_ids, logprobs = self._redraw(completion_ids, logprobs, prompts, num_generations)
        if self._rmo_active:
            completion_ids, logprobs = self._mutate(completion_ids, logprobs)
        if self.args.rmo:  # in evaluation too: the table's columns must stay in step
            self._log_completion_extra("mutated", self._mutated.tolist())
        return completion_ids, logprobs

    def _count_reasons(self, completion_ids: list[list[int]]) -> None:
        """Log how many of the answers, as they were sampled, are well-formed, and why others are not."""
        inputs = self._rows
        if len(completion_ids) != len(inputs) or self.tools or "values" not in inputs[0]:
            return  # a turn of several, or data of another kind
        texts = self.processing_class.batch_decode(completion_ids, skip_special_tokens=True)
        answers = [parse_answer(text, max(1, len(row["values"]))) for text, row in zip(texts, inputs, strict=True)]
        reasons = [answer.reason for answer in answers]
        counts = torch.tensor([[reasons.count(reason) for reason in REASONS] + [len(reasons)]])
        *numbers, total = self.accelerator.gather(counts.to(self.accelerator.device)).sum(dim=0).tolist()
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["answers/well_formed"].append(1 - sum(numbers) / total)
        for reason, number in zip(REASONS, numbers, strict=True):
            metrics[f"answers/{reason}"].append(number / total)

    def _score(self, completion_ids: list[list[int]]) -> tuple[np.ndarray, list[str]]:
        """Rewards of the global batch if these are the answers of this process, `[n, f]`, and their texts."""
        inputs = self._rows
        texts = self.processing_class.batch_decode(completion_ids, skip_special_tokens=True)
        conversational = isinstance(inputs[0]["prompt"], list)
        completions = [[{"role": "assistant", "content": text}] for text in texts] if conversational else texts
        prompts = [row["prompt"] for row in inputs]
        rewards = self._calculate_rewards(inputs, prompts, completions, completion_ids).cpu().double().numpy()
        self._pending_extra_logs.clear()  # what reward functions logged here is logged again when TRL scores
        self._pending_metrics.clear()
        return rewards, texts

    def _redraw(
        self,
        completion_ids: list[list[int]],
        logprobs: list[list[float]] | None,
        prompts: tuple[Any, Any, Any],
        num_generations: int,
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        """Sample equally wrong groups again, until none is left or `dynamic_sampling` tries are over.

        DAPO (arXiv:2503.14476) draws other prompts in the place of such groups; here a batch has the prompts of its
        sampler, and they get other answers. Every process makes the same calls: one without such a group samples its
        first answer again, and drops it.
        """
        completion_ids, logprobs = list(completion_ids), None if logprobs is None else list(logprobs)
        rows = len(completion_ids)
        start = self.accelerator.process_index * rows
        redrawn = tries = 0
        while True:
            stagnant = self._stagnant(self._score(completion_ids)[0])
            if not stagnant.any() or tries == self.args.dynamic_sampling:
                break
            tries += 1
            redrawn += int(stagnant.sum()) * self.num_generations
            own = np.flatnonzero(stagnant.repeat(self.num_generations)[start : start + rows]).tolist()
            # vLLM's engine shares the rows of all processes out evenly, so each gives all of its own.
            asked = list(range(rows)) if self.use_vllm else own or [0]
            part = self._take_prompts(asked, *prompts)
            found, found_logprobs = super()._generate_single_turn(*part, num_generations)
            for place, row in enumerate(asked):
                if row not in own:
                    continue
                completion_ids[row] = found[place]
                if logprobs is not None and found_logprobs is not None:
                    logprobs[row] = found_logprobs[place]
        if stagnant.any():
            logger.warning_once("Dynamic sampling leaves groups equally wrong; dynamic_sampling/still_stagnant counts.")
        metrics = self._metrics["train"]
        metrics["dynamic_sampling/redrawn"].append(float(redrawn))
        metrics["dynamic_sampling/tries"].append(float(tries))
        metrics["dynamic_sampling/still_stagnant"].append(float(stagnant.mean()))
        return completion_ids, logprobs

    def _mutate(
        self, completion_ids: list[list[int]], logprobs: list[list[float]] | None
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        """Rewrite this process's share of the responses chosen over the global generation batch."""
        inputs = self._rows
        rewards, texts = self._score(completion_ids)
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
        totals = total_rewards(rewards, reward_weights).reshape(-1, self.num_generations)
        metrics = self._metrics["train"]
        metrics["rmo/stagnant_fraction"].append(float(self._stagnant(rewards).mean()))
        metrics["rmo/reward_std_before"].append(float(totals.std(axis=1, ddof=1).mean()))
        metrics["rmo/mutated"].append(float(mutated))
        metrics["rmo/skipped"].append(float(skipped))
        return completion_ids, logprobs

    def _choose(self, rewards: np.ndarray, reward_weights: Sequence[float]) -> np.ndarray:
        """Global row indices to replace. The number of the generation batch is the run's micro-step, which a resumed
        run continues: TRL counts `_step` from 0 again, but both start at an optimiser step."""
        accumulation = self.args.gradient_accumulation_steps
        step = self.state.global_step * accumulation + self._step % accumulation
        rows = [
            choose_mutated(group, reward_weights, self._mutation_settings, step=step, group=index)
            + index * self.num_generations
            for index, group in enumerate(self._grouped(rewards))
        ]
        return np.concatenate(rows)

    def _mutated_ids(self, row: dict[str, Any], ids: list[int], text: str) -> list[int]:
        if self.args.rmo_source == "reference":
            reference = row["reference"]
        else:
            reference = build_completion(row["values"], get_task(row["task"]))
        start, tail = reference_text(text, reference, len(row["values"]), keep_reasoning=self.args.rmo_keep_reasoning)
        tokenizer = self._tokenizer
        decode: Callable[[list[int]], str] = lambda ids: tokenizer.decode(ids, skip_special_tokens=True)  # noqa: E731
        encode: Callable[[str], list[int]] = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
        return rewrite_ids(ids, start, tail, decode=decode, encode=encode, eos_token_id=tokenizer.eos_token_id)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self.args.rmo_importance == "luffy":
            self._last_logps = result[0]  # of the loss's own forward pass, with its graph
        if self._expected is not None and self.model.training:
            self._last_call = (args, kwargs)
        return result

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        loss = self._sampled_loss(model, inputs)
        if self._expected is None or not self.model.training:
            return loss
        ((_, *args), kwargs), self._last_call = self._last_call, ()
        fields = {name: field for name, field in kwargs.items() if not name.startswith("compute_")}
        where = (inputs["number_places"] >= 0).nonzero()
        rows, columns = where[:, 0], inputs["number_places"][where[:, 0], where[:, 1]]
        places, tree = torch.stack([rows, columns], dim=1), self._expected.tree
        logits = self._branch_logits(model, *args, places=places, tree=tree, **fields)
        expected = self._expected.rewards(logits / self.temperature, inputs["number_gains"][where[:, 0], where[:, 1]])
        per_token = expected.new_zeros(inputs["completion_mask"].shape).index_put((rows, columns), -expected)
        return loss + self._normalize(per_token, inputs["completion_mask"], inputs["num_items_in_batch"])

    def _sampled_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        mutated = inputs.get("mutated")
        if mutated is None or self.args.rmo_importance == "on_policy":
            return super()._compute_loss(model, inputs)
        # The KL and entropy terms of mutated rows stay TRL's; their policy term is replaced.
        advantages, mutated = inputs["advantages"], mutated.unsqueeze(1)
        if advantages.dim() == 1:
            advantages = advantages.unsqueeze(1)
        loss = super()._compute_loss(model, {**inputs, "advantages": advantages.masked_fill(mutated, 0.0)})
        probability = self._last_logps.exp()
        shaped = probability / (probability + self.args.rmo_luffy_gamma)
        per_token = -shaped * advantages * mutated
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
        normalizer = num_items.clamp(min=1) / self.accelerator.num_processes  # dapo, cispo
        return total.sum() / (normalizer * accumulation / self.args.steps_per_generation)


def _why_no_mutation(args: Any, train_dataset: Any, kwargs: dict[str, Any]) -> str | None:
    """Why responses cannot be mutated, as the predicate of a sentence; `None` if they can."""
    for name in ("tools", "rollout_func", "environment_factory"):
        if kwargs.get(name):
            return f"rewrites responses of a single turn, and {name} is given"
    needed = ["values", "task"] + (["reference"] if args.rmo_source == "reference" else [])
    columns = getattr(train_dataset, "column_names", None)
    missing = [name for name in needed if columns is not None and name not in columns]
    if missing:
        return (
            f"needs the columns {', '.join(needed)}, the training data lacks {', '.join(missing)}; it has "
            f"{', '.join(columns or [])}"
        )
    return None


def _check_number(train_dataset: Any, args: Any) -> None:
    wanted = (args.generation_batch_size or 0) // (args.num_generations or 1)
    if isinstance(train_dataset, Dataset) and len(train_dataset) < wanted:
        raise ValueError(
            f"The training data has {len(train_dataset)} prompts, but one generation batch takes {wanted} "
            f"(generation_batch_size={args.generation_batch_size}, num_generations={args.num_generations}): give more, "
            "or lower per_device_train_batch_size or gradient_accumulation_steps."
        )
