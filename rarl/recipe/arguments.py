"""The arguments of a training run: what they are, and how they come from `--config` and flags."""

import argparse
import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
from trl import ModelConfig

from gor_head.metrics import METRICS
from gor_head.output import check_output_folder, replace_unprintable
from gor_head.vlm.hub import ADAPTER_FILES
from rarl.datasets import SOURCES
from rarl.models import trained_task
from rarl.recipe.effects import LORA, check_effects
from rarl.recipe.reading import PlainParser, init_names, read_config
from rarl.recipe.settings import check_settings
from rarl.recipe.values import check_json, check_numbers, check_words
from rarl.rewards import REGISTRY, get_reward
from rarl.task import TASKS, OrdinalTask, get_task, register_task


@dataclass
class RecipeArguments:
    """Data, task, starting point and evaluation of a training run."""

    source: str = field(default="builtin", metadata={"help": f"Data source: {', '.join(SOURCES)}."})
    folder: str | None = field(default=None, metadata={"help": "Folder of images, of sources that read one."})
    csv: str | None = field(
        default=None, metadata={"help": "CSV with the header file,value (or votes), of sources that read one."}
    )
    table: str | None = field(
        default=None,
        metadata={"help": "CSV, Parquet or JSONL file or data set of texts, of sources that read one."},
    )
    table_split: str | None = field(default=None, metadata={"help": "Split of a data set that has several."})
    text_column: str | None = field(default=None, metadata={"help": "Column of the texts; 'text' if not given."})
    value_column: str | None = field(default=None, metadata={"help": "Column of the values; 'value' if not given."})
    votes_column: str | None = field(default=None, metadata={"help": "Column of votes, lists, instead of values."})
    std_column: str | None = field(default=None, metadata={"help": "Column of a vote's deviation, for raters."})
    shots: int = field(default=0, metadata={"help": "Solved examples that every prompt shows first; texts only."})
    size: int = field(default=2000, metadata={"help": "Number of images of a source that makes them."})
    split_seed: int = field(default=0, metadata={"help": "Seed of the builtin images, of votes and of the split."})
    rater_noise: float | None = field(
        default=None,
        metadata={"help": "σ of a rater's vote in units of the task: noise of training labels, tests have the truth."},
    )
    raters: int | None = field(
        default=None,
        metadata={"help": "Votes that a training label is the mean of, of the builtin images or of a CSV with votes."},
    )
    min_pixels: int | None = field(default=None, metadata={"help": "Least height times width of a loaded image."})
    max_pixels: int | None = field(default=None, metadata={"help": "Largest height times width of a loaded image."})
    task: str | None = field(default=None, metadata={"help": "Name of the task; a new one needs task_rule."})
    task_rule: str | None = field(default=None, metadata={"help": "What is judged, e.g. 'rusted area in percent'."})
    task_minimum: float | None = field(default=None, metadata={"help": "Smallest value."})
    task_maximum: float | None = field(default=None, metadata={"help": "Largest value."})
    task_tolerance: float | None = field(default=None, metadata={"help": "δ of the regression reward."})
    task_integer: bool | None = field(default=None, metadata={"help": "Whether values are whole numbers."})
    task_metric: str | None = field(
        default=None,
        metadata={
            "help": f"One-image metric: {', '.join(name for name, metric in METRICS.items() if metric.of_tasks)}."
        },
    )
    task_words: list[str] | None = field(
        default=None,
        metadata={"help": "Words of a verbal scale, lowest first; the reasoning says one before each value."},
    )
    num_images: list[int] = field(
        default_factory=lambda: [1], metadata={"help": "Numbers of images or texts in a prompt."}
    )
    num_images_weights: list[float] | None = field(
        default=None, metadata={"help": "Weight of each number of images; equal if not given."}
    )
    num_prompts: int = field(default=2000, metadata={"help": "Prompts in the training data."})
    min_gap: float = field(default=0.0, metadata={"help": "Least difference between two values of a prompt."})
    gor_vocabulary: str | None = field(
        default=None,
        metadata={
            "help": "Write numbers in value tokens: 'fit' (short codes for the training labels), 'codi' (the paper's "
            "choice for them), or the folder of a vocabulary."
        },
    )
    gor_constrained: bool = field(
        default=False,
        metadata={"help": "RARL samples legal codes only, and scores them as such; else answers are unconstrained."},
    )
    adapter: str | None = field(default=None, metadata={"help": "LoRA adapter to start from."})
    rewards: list[str] | None = field(
        default=None,
        metadata={"help": f"Rewards by name: {', '.join(REGISTRY)}."},
    )
    weight_regression: float = field(default=1.0, metadata={"help": "α, weight of the regression reward."})
    weight_ranking: float = field(default=1.0, metadata={"help": "β, weight of each ranking reward."})
    weight_format: float = field(default=0.5, metadata={"help": "γ, weight of the format reward."})
    eval_prompts: list[int] = field(
        default_factory=lambda: [200],
        metadata={"help": "Test prompts: one number for all, or one each of eval_num_images; 0 skips the evaluation."},
    )
    eval_num_images: list[int] = field(
        default_factory=lambda: [1, 2, 4, 8], metadata={"help": "Numbers of images or texts in a test prompt."}
    )
    eval_batch_size: int = field(default=8, metadata={"help": "Test prompts in a batch."})
    eval_max_new_tokens: int = field(default=1024, metadata={"help": "Longest test answer in tokens."})
    eval_interval: float | None = field(
        default=None,
        metadata={
            "help": "Also report intervals that hold this share, such as 0.8, of one-image prompts; value tokens."
        },
    )
    given: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    """What the user gave, whatever it belongs to; empty where no command line was read."""

    def mix(self) -> dict[int, float]:
        """Weight of each number of images.

        Raises:
            ValueError: If there are not as many weights as numbers, or a number comes twice.
        """
        shares = self.num_images_weights or [1.0] * len(self.num_images)
        if len(shares) != len(self.num_images):
            raise ValueError(f"num_images has {len(self.num_images)} numbers, num_images_weights {len(shares)}.")
        if len(set(self.num_images)) < len(self.num_images):
            raise ValueError(f"num_images wants each number once, with num_images_weights; got {self.num_images}.")
        return dict(zip(self.num_images, shares, strict=True))

    def test_prompts(self) -> dict[int, int]:
        """Number of images or texts → number of test prompts; empty if there is no evaluation.

        Raises:
            ValueError: If there are neither one number nor as many as numbers of images.
        """
        numbers, wanted = self.eval_num_images, self.eval_prompts
        if len(wanted) not in (1, len(numbers)):
            raise ValueError(
                f"eval_prompts: wanted one number, or one each of eval_num_images {numbers}, got {wanted}."
            )
        each = wanted * len(numbers) if len(wanted) == 1 else wanted
        return {number: prompts for number, prompts in zip(numbers, each, strict=True) if prompts}

    def reward_functions(
        self, default: Sequence[str], reward_weights: Sequence[float] | None = None
    ) -> tuple[list[Callable[..., Any]], list[float]]:
        """The rewards, `default` if none are given, and their weights, as TRL takes them.

        Args:
            default: Names of the rewards that the recipe has by itself.
            reward_weights: One for each reward, in their order, instead of `weight_…`.

        Raises:
            ValueError: If a reward is unknown, `reward_weights` are not as many, or a weight would weigh nothing.
        """
        names = self.rewards or list(default)
        functions = [get_reward(name) for name in names]
        arguments = [f"weight_{REGISTRY[name].term}" for name in names]
        for argument in ("weight_regression", "weight_ranking", "weight_format"):
            if argument not in self.given:
                continue
            if reward_weights is not None:
                raise ValueError(f"{argument} and reward_weights are both given; wanted one of them.")
            if argument not in arguments:
                raise ValueError(f"{argument}: none of the rewards {', '.join(names)} is weighted by it.")
        if reward_weights is None:
            return functions, [getattr(self, argument) for argument in arguments]
        if len(reward_weights) != len(names):
            raise ValueError(
                f"reward_weights: wanted {len(names)} numbers, for {', '.join(names)}, got {list(reward_weights)}."
            )
        return functions, list(reward_weights)

    def build_task(self) -> str | None:
        """Name of the task, defined or changed first if any of the `task_…` arguments is given.

        The task of `adapter` is known by its name, and is the task if the user names none.

        Raises:
            ValueError: If the task is not known, and its definition not given or not whole.
        """
        trained = None if self.adapter is None else trained_task(self.adapter)
        if trained is not None:
            register_task(trained)
        name = self.task
        # The recipe's own configuration names that of the built-in images: what the adapter judges goes over it.
        if trained is not None and (name is None or (self.given and "task" not in self.given)):
            name = trained.name
        kind = SOURCES[self.source].kind if self.source in SOURCES else "image"
        is_known = self.source in SOURCES and name in TASKS
        if is_known and TASKS[str(name)].kind != kind and self.given and "task" not in self.given:
            name = SOURCES[self.source].task
        changes = {
            key: value
            for key in ("rule", "minimum", "maximum", "tolerance", "integer", "metric", "words")
            if (value := getattr(self, f"task_{key}")) is not None
        }
        if not changes:
            try:
                return name if name is None else get_task(name).name
            except ValueError as error:
                raise ValueError(
                    f"{error} A new one wants task_rule, task_minimum, task_maximum, task_tolerance."
                ) from None
        if name is None:
            raise ValueError(f"task_{next(iter(changes))} is given without task, the name of the task.")
        if name in TASKS:
            return register_task(dataclasses.replace(TASKS[name], **changes)).name
        missing = [key for key in ("rule", "minimum", "maximum", "tolerance") if key not in changes]
        if missing:
            raise ValueError(f"The new task {name!r} also needs {', '.join(f'task_{key}' for key in missing)}.")
        return register_task(OrdinalTask(name=name, **changes, kind=kind)).name


def _renamed(flag: str) -> list[str]:
    """A flag under its new name in transformers, which pays no heed to the old one where a YAML has the new."""
    if flag in ("--no_gradient_checkpointing", "--no-gradient-checkpointing"):
        return ["--activation_checkpointing", "false"]
    return [re.sub(r"^--gradient[_-]checkpointing", "--activation_checkpointing", flag)]


OUTPUT_FILES = (*ADAPTER_FILES, "config.json", "model.safetensors", "trainer_state.json", "training_args.bin")
"""What a run writes directly into its `output_dir`."""


def parse(config_type: type[TrainingArguments], default_config: Path) -> tuple[Any, RecipeArguments, ModelConfig]:
    """Training arguments, recipe arguments and model arguments from `--config` (YAML) and flags.

    Without `--config`, `default_config` is used, so that a recipe runs as it stands; what it says and the user does
    not may give way. An argument acts or is refused here, by its name.

    Raises:
        FileNotFoundError: If the YAML is not there.
        ValueError: If an argument is unknown, cannot work here or would do nothing, or `resume_from_checkpoint` is no
            checkpoint that a run can go on from.
        OSError: If `output_dir` cannot be written.
    """
    replace_unprintable()
    types: tuple[Any, ...] = (config_type, RecipeArguments, ModelConfig)
    parser = PlainParser(types, allow_abbrev=False)
    parser.add_argument("--config", default=str(default_config), help="YAML of arguments; flags go over it.")
    names = {name for each in types for name in init_names(each)}
    words = [new for word in sys.argv[1:] for new in _renamed(word)]
    parser.parse_args(words)  # for --help, which shows defaults
    parser.set_defaults_with_config(**dict.fromkeys(names, argparse.SUPPRESS))
    flags = vars(parser.parse_args(words))
    path = flags.pop("config")
    config = read_config(path, types)
    whole = config | flags
    given = flags if Path(path) == default_config else whole
    if flags.get("use_peft") is False:  # turns off what the file says of LoRA
        given = {name: value for name, value in given.items() if name not in LORA or name in flags}
    check_numbers(whole)
    check_words(whole, config_type)
    check_json(whole)
    check_effects(given, whole, types)
    try:
        training_args, arguments, model_args = (
            each(**{name: value for name, value in whole.items() if name in init_names(each)}) for each in types
        )
    except TypeError as error:  # settings inside an argument, such as those of accelerator_config
        raise ValueError(str(error)) from error
    if str(model_args.lora_target_modules).isidentifier() and model_args.lora_target_modules is not None:
        # TRL makes a text of a list of one, which PEFT takes for a regular expression of whole names.
        model_args.lora_target_modules = [str(model_args.lora_target_modules)]
    arguments.given = given
    training_args.resume_from_checkpoint = resume_from(training_args)
    if PartialState().is_main_process:
        check_output_folder(str(training_args.output_dir), OUTPUT_FILES)
    if training_args.deepspeed_plugin is not None and training_args.use_cpu:
        # On GPUs accelerate has done it by now; on CPUs it would come with the trainer, and ZeRO-3 loads the model in
        # shards before.
        import deepspeed

        deepspeed.init_distributed(dist_backend=training_args.ddp_backend or "gloo", auto_mpi_discovery=False)
    check_settings(training_args, arguments.num_prompts, model_args.use_peft or arguments.adapter is not None)
    return training_args, arguments, model_args


def resume_from(training_args: TrainingArguments) -> str | None:
    """Folder of the checkpoint of `resume_from_checkpoint`: its own, or with `true` the newest in `output_dir`,
    with `false` none.

    Raises:
        ValueError: If there is none, or it holds weights only (`save_only_model`): a trainer would go on from it with
            a new optimiser, and say nothing.
    """
    value = training_args.resume_from_checkpoint
    if value is None or str(value).lower() in ("false", "none"):
        return None
    output_dir = Path(str(training_args.output_dir))
    if str(value).lower() in ("true", "last"):
        value = get_last_checkpoint(str(output_dir)) if output_dir.is_dir() else None
        if value is None:
            raise ValueError(f"resume_from_checkpoint: {output_dir} holds no checkpoint-...; wanted at least one.")
    if not (Path(value) / "trainer_state.json").is_file() or not any(Path(value).glob("rng_state*.pth")):
        raise ValueError(
            f"resume_from_checkpoint: {value} holds no trainer_state.json and rng_state*.pth; wanted a whole "
            "checkpoint, saved without save_only_model."
        )
    return value
