"""Arguments of [`RARLTrainer`][rarl.trainer.rarl.RARLTrainer]."""

import copy
import math
from dataclasses import dataclass, field, fields
from typing import Any

from transformers.trainer_utils import SaveStrategy
from trl import GRPOConfig

from rarl.mutation import MutationSettings
from rarl.shared_prefix.config import SharedPrefixConfig


@dataclass
class RARLConfig(SharedPrefixConfig):
    r"""Arguments of [`RARLTrainer`][rarl.trainer.rarl.RARLTrainer]: those of
    [`SharedPrefixConfig`][rarl.shared_prefix.config.SharedPrefixConfig] and the ones below.

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
    virtual_rewards: int = field(
        default=0,
        metadata={"help": "Virtual rewards in the statistics of an equally wrong group (AVSPO), at most; 0 for none."},
    )
    dynamic_sampling: int = field(
        default=0,
        metadata={"help": "Times that an equally wrong group is sampled again (after DAPO); 0 for never."},
    )
    advantage_baseline: str = field(
        default="group",
        metadata={
            "help": "'group' (GRPO's mean and deviation) or 'leave_one_out' (mean of the others, without a deviation)."
        },
    )
    credit: str = field(
        default="completion",
        metadata={
            "help": "What a token's advantage counts: 'completion' (the total reward, as GRPO), 'item' (what numbers "
            "stated before it have not settled), 'exact' (as 'item', and of each number the expected reward under the "
            "model's own distribution instead of that of the sampled one)."
        },
    )
    suppress_vision_tokens: bool = field(
        default=True,
        metadata={"help": "Never sample vision tokens: one image pad in an answer ends the run."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        mutation_settings(self)  # raises before a model is loaded
        for name, value, known in (
            ("rmo_source", self.rmo_source, ("ground_truth", "reference")),
            ("rmo_importance", self.rmo_importance, ("on_policy", "luffy")),
            ("credit", self.credit, ("completion", "item", "exact")),
            ("advantage_baseline", self.advantage_baseline, ("group", "leave_one_out")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
        if self.rmo_importance == "luffy" and self.loss_type not in NORMALIZED_LOSSES:
            raise ValueError(
                f"rmo_importance='luffy' works with loss_type {', '.join(NORMALIZED_LOSSES)}, got {self.loss_type!r}."
            )
        if self.advantage_cap is not None and self.advantage_cap <= 0:
            raise ValueError(f"advantage_cap must be positive, got {self.advantage_cap}.")
        check_advantages(self)
        check_credit(self)
        check_best_model(self)


def check_advantages(args: Any) -> None:
    """Refuse ways to make advantages that do not go together.

    Raises:
        ValueError: Names the settings and their values.
    """
    for name in ("virtual_rewards", "dynamic_sampling"):
        if getattr(args, name) < 0:
            raise ValueError(f"{name} must be 0 or more, got {getattr(args, name)}.")
    if args.virtual_rewards and args.scale_rewards != "group":
        raise ValueError(
            "virtual_rewards enter the deviation of their group; wanted scale_rewards 'group', got "
            f"{args.scale_rewards!r}."
        )
    defaults = {"advantage_baseline": "group", "virtual_rewards": 0, "credit": "completion"}
    defaults |= {"multi_objective_aggregation": "sum_then_normalize"}
    given = [f"{name}={getattr(args, name)!r}" for name, value in defaults.items() if getattr(args, name) != value]
    if len(given) > 1:
        raise ValueError(f"Each of these makes the advantages; wanted one of them, got {', '.join(given)}.")


PER_TOKEN_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo")
"""Losses in which the advantage of a token weighs that token alone."""


def check_credit(args: Any) -> None:
    """Refuse settings under which a token's own advantage would not be its own.

    Raises:
        ValueError: Names `credit` and the setting.
    """
    if args.credit == "completion":
        return
    for name, wanted in (
        ("loss_type", PER_TOKEN_LOSSES),
        ("importance_sampling_level", ("token",)),
        ("use_liger_kernel", (False,)),
    ):
        if getattr(args, name) not in wanted:
            raise ValueError(
                f"credit={args.credit!r} gives each token its own advantage, and works with {name} "
                f"{', '.join(map(str, wanted))}, got {getattr(args, name)!r}."
            )
    if args.credit != "exact":
        return
    if generation_window(args) > 1:
        raise ValueError(
            "credit='exact' differentiates expectations without ratio and clip, so answers serve one optimiser step: "
            f"wanted num_iterations 1 and steps_per_generation up to gradient_accumulation_steps, got "
            f"{args.num_iterations} and {args.steps_per_generation}."
        )
    for name, neutral in (("advantage_cap", None), ("top_entropy_quantile", 1.0), ("off_policy_mask_threshold", None)):
        if getattr(args, name) != neutral:
            raise ValueError(f"credit='exact' pays no heed to {name}; wanted {neutral}, got {getattr(args, name)!r}.")


def check_best_model(args: GRPOConfig) -> None:
    """Refuse to load the best model at the end where its checkpoint would have to wait for completions in use.

    Raises:
        ValueError: Names both settings, and what would do.
    """
    window = generation_window(args)
    if window == 1 or not args.load_best_model_at_end or args.save_strategy == "no":
        return
    if args.save_strategy != "steps" or args.save_steps < 1 or args.save_steps % window:
        raise ValueError(
            "load_best_model_at_end needs a checkpoint at each evaluation, and a checkpoint must not part the "
            f"{window} steps that use the same completions: got save_strategy "
            f"{SaveStrategy(args.save_strategy).value!r} and save_steps {args.save_steps:g}; wanted 'steps' and a "
            f"multiple of {window}."
        )


def generation_window(args: GRPOConfig) -> int:
    """Optimiser steps after which generation and optimisation begin together again; 1 if they do at every step.

    Completions are buffered in between. A checkpoint does not hold them.
    """
    accumulation = args.gradient_accumulation_steps
    return math.lcm((args.steps_per_generation or accumulation) * args.num_iterations, accumulation) // accumulation


def mutation_settings(args: Any) -> MutationSettings:
    """The settings of RMO as [`rarl.mutation`][rarl.mutation] takes them."""
    return MutationSettings(
        trigger=args.rmo_trigger,
        probability=args.rmo_probability,
        num_replaced=args.rmo_num_replaced,
        ceiling=args.rmo_ceiling,
        threshold=args.rmo_threshold,
        seed=args.seed,
        aggregation=args.multi_objective_aggregation,
    )


def with_defaults(args: GRPOConfig) -> Any:
    """A copy of a plain `GRPOConfig`, or of another subclass, with [`RARLConfig`][rarl.trainer.config.RARLConfig]'s
    defaults where it has no value.

    Raises:
        ValueError: See [`check_best_model`][rarl.trainer.config.check_best_model] and
            [`check_credit`][rarl.trainer.config.check_credit] and
            [`check_advantages`][rarl.trainer.config.check_advantages].
    """
    whole: Any = copy.copy(args)
    for each in fields(RARLConfig):
        if not hasattr(whole, each.name):
            setattr(whole, each.name, each.default)
    check_advantages(whole)
    check_credit(whole)
    check_best_model(whole)
    return whole


NORMALIZED_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo")
