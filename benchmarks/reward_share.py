"""Time that rewards and the Response Mutation Operation (RMO) take of a training step, beside TRL's GRPOTrainer.

Every run is stage 2 on the tiny model as its recipe does it (prompts of 1, 2, 4 and 8 built-in images, the same in each
run), on the CPU. Part of `python -m benchmarks.rewards`.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, ModelConfig, TrlParser

from rarl import tiny
from rarl.models import resolve_model
from rarl.recipe import RecipeArguments, load_policy, load_processor, prepare_data
from rarl.rewards import REWARDS
from rarl.trainer import RARLConfig, RARLTrainer

CONFIG = Path(__file__).parents[1] / "recipes/configs/rarl_stage2_tiny.yaml"
OPTIONS_OFF = "--rmo false --suppress_vision_tokens false --exact_zero_advantages false --shared_prefix off".split()
EVERY_GROUP = ("--rmo_trigger", "low_reward", "--rmo_threshold", "inf", "--rmo_probability", "1")
WARM_UP = 1
ROUNDS = 2


class StepClock(TrainerCallback):
    """Wall time of each whole step, from the end of the one before, and how much of it passes in some methods.

    A timed method that is called by another counts to the other: the mutation step scores responses itself.
    """

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._start = 0.0
        self._spent: dict[str, float] = {}
        self._inside = False

    def watch(self, owner: Any, method: str) -> None:
        """Time all calls of `owner.method` from now on."""
        inner = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return inner(*args, **kwargs)
            self._inside, start = True, time.perf_counter()
            result = inner(*args, **kwargs)
            self._spent[method] = self._spent.get(method, 0.0) + time.perf_counter() - start
            self._inside = False
            return result

        setattr(owner, method, timed)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._start, self._spent = time.perf_counter(), {}

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        self.steps.append({"step": now - self._start, **self._spent})
        self._start, self._spent = now, {}


@dataclass
class Run:
    """What a training run leaves: its clock, what it logged at each step, and its parameters afterwards."""

    clock: StepClock
    logged: list[dict[str, float]]
    parameters: dict[str, torch.Tensor]


def train(trainer_class: type[GRPOTrainer], steps: int, *flags: str) -> Run:
    """Stage 2 for `steps` steps after the warm-up; `flags` override the recipe's configuration."""
    config_class = RARLConfig if issubclass(trainer_class, RARLTrainer) else GRPOConfig
    parser = TrlParser((config_class, RecipeArguments, ModelConfig))  # type: ignore[arg-type]  # a tuple of types
    with tempfile.TemporaryDirectory() as folder:
        given = ["--config", str(CONFIG), "--output_dir", folder, "--adapter", tiny.adapter_path(), "--size", "400"]
        given += ["--eval_prompts", "0", "--max_steps", str(WARM_UP + steps), "--logging_steps", "1"]
        given += ["--use_cpu", "true", "--disable_tqdm", "true", *flags]
        args, recipe, model_args = parser.parse_args_and_config(given)
        rewards, args.reward_weights = recipe.reward_functions(list(REWARDS))
        path = resolve_model(model_args.model_name_or_path)
        data = prepare_data(recipe)
        processor = load_processor(path, data.source.task, recipe.adapter)
        model, _ = load_policy(
            path, model_args, args, processor=processor, task=data.source.task, adapter=recipe.adapter
        )
        trainer = trainer_class(model, rewards, args, data.train, processing_class=processor)
        clock = StepClock()
        clock.watch(trainer, "_calculate_rewards")
        if isinstance(trainer, RARLTrainer):
            clock.watch(trainer, "_mutate")
        trainer.add_callback(clock)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    return Run(clock, logged, {name: parameter.detach() for name, parameter in model.named_parameters()})


def fastest_steps(*runs: Run) -> list[dict[str, float]]:
    """The timed steps, each from the run that was fastest there: repetitions do the same work, other load adds time."""
    timed = [run.clock.steps[WARM_UP:] for run in runs]
    return [min(same, key=lambda step: step["step"]) for same in zip(*timed, strict=True)]


def mean_ms(steps: list[dict[str, float]], name: str) -> float:
    """Milliseconds per step of a watched method, or of the whole `"step"`."""
    return 1e3 * sum(step.get(name, 0.0) for step in steps) / len(steps)


def largest_difference(first: Run, second: Run) -> float:
    """Largest absolute difference of a parameter after two runs, or of a loss, gradient norm or reward during them."""
    if first.parameters.keys() != second.parameters.keys():
        raise ValueError("The runs have parameters of different names; runs of the same model are wanted.")
    pairs = [(value, second.parameters[name]) for name, value in first.parameters.items()]
    for one, other in zip(first.logged, second.logged, strict=True):
        pairs += [(torch.tensor(one[key]), torch.tensor(other[key])) for key in ("loss", "grad_norm", "reward")]
    return torch.stack([(one - other).abs().max() for one, other in pairs]).max().item()


def measure_step(steps: int, *flags: str) -> dict[str, float | int]:
    """All figures; times in milliseconds per step, on average over `steps` steps after one to warm up.

    TRL's trainer and ours take turns, twice, and of each step the faster repetition counts.

    Args:
        steps: Timed steps of each run, at least 1.
        flags: What to change in the configuration of all runs, as its recipe takes it.

    Returns:
        `rewards_ms_per_step` is TRL's scoring of the responses, gathering included; `rmo_ms_per_step` the mutation step
        with its own scoring; `share` both over `step_ms`, a whole step. `rmo_every_group_ms_per_step` is the mutation
        step when each group has a response rewritten, instead of the `mutated_per_step` responses of the run itself.
        `step_ratio` is TRL's step over ours, and `max_abs_difference_options_off` is
        [`largest_difference`][benchmarks.reward_share.largest_difference] between TRL and our trainer with all of its
        options off.
    """
    pairs = [(train(GRPOTrainer, steps, *flags), train(RARLTrainer, steps, *flags)) for _ in range(ROUNDS)]
    stock, ours = (fastest_steps(*runs) for runs in zip(*pairs, strict=True))
    every_group = fastest_steps(train(RARLTrainer, steps, *flags, *EVERY_GROUP))
    off = train(RARLTrainer, steps, *flags, *OPTIONS_OFF)
    step_ms, stock_step_ms = mean_ms(ours, "step"), mean_ms(stock, "step")
    rewards_ms, rmo_ms = mean_ms(ours, "_calculate_rewards"), mean_ms(ours, "_mutate")
    mutated = [entry.get("rmo/mutated", 0.0) for entry in pairs[0][1].logged[WARM_UP:]]
    return {
        "steps": steps,
        "rewards_ms_per_step": round(rewards_ms, 3),
        "rmo_ms_per_step": round(rmo_ms, 3),
        "step_ms": round(step_ms, 1),
        "share": round((rewards_ms + rmo_ms) / step_ms, 6),
        "mutated_per_step": sum(mutated) / steps,
        "rmo_every_group_ms_per_step": round(mean_ms(every_group, "_mutate"), 3),
        "stock_step_ms": round(stock_step_ms, 1),
        "step_ratio": round(stock_step_ms / step_ms, 3),
        "max_abs_difference_options_off": largest_difference(pairs[0][0], off),
    }
