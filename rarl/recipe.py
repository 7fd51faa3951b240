"""What every training recipe shares: its arguments, its data, its policy, and what it leaves behind.

A recipe is a short script: parse, [`prepare_data`] and [`load_policy`] inside [`setting_up`], then [`train`] and
[`finish`].
"""

import argparse
import dataclasses
import gc
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.logging import get_logger
from peft import PeftModel
from rich.console import Console
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedModel,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint
from trl import ModelConfig, get_peft_config

from gor_head import CoDiVocabulary
from gor_head.output import check_output_folder, replace_unprintable
from gor_head.vlm import ValueTokens, add_tokens, attach
from rarl import models, options, tiny
from rarl.datasets import ImageSource, check_context, load_source, make_dataset, split_by_content, without_copies
from rarl.evaluation import Report
from rarl.evaluation.heldout import check_test_context, heldout_prompts
from rarl.evaluation.protocol import evaluate
from rarl.evaluation.reports import write_report
from rarl.evaluation.tables import report_table
from rarl.hub import ADAPTER_FILES, create_repository, push_adapter, write_model_card
from rarl.lora import language_lora_targets
from rarl.models import check_adapter, load_model, trained_task
from rarl.prompt import build_completion
from rarl.rewards import get_reward
from rarl.task import TASKS, OrdinalTask, get_task, register_task, save_task

logger = get_logger(__name__)


@dataclass
class RecipeArguments:
    """Data, task, starting point and evaluation of a training run."""

    source: str = field(default="builtin", metadata={"help": "Data source: builtin, utkface or folder."})
    folder: str | None = field(default=None, metadata={"help": "Folder of images (utkface, folder)."})
    csv: str | None = field(default=None, metadata={"help": "CSV with the header file,value (folder)."})
    size: int = field(default=2000, metadata={"help": "Number of images of the builtin source."})
    split_seed: int = field(default=0, metadata={"help": "Seed of the builtin images and of the split."})
    min_pixels: int | None = field(default=None, metadata={"help": "Least height times width of a loaded image."})
    max_pixels: int | None = field(default=None, metadata={"help": "Largest height times width of a loaded image."})
    task: str | None = field(default=None, metadata={"help": "Name of the task; a new one needs task_rule."})
    task_rule: str | None = field(default=None, metadata={"help": "What is judged, e.g. 'rusted area in percent'."})
    task_minimum: float | None = field(default=None, metadata={"help": "Smallest value."})
    task_maximum: float | None = field(default=None, metadata={"help": "Largest value."})
    task_tolerance: float | None = field(default=None, metadata={"help": "δ of the regression reward."})
    task_integer: bool | None = field(default=None, metadata={"help": "Whether values are whole numbers."})
    task_metric: str | None = field(default=None, metadata={"help": "One-image metric: mae, accuracy or srcc."})
    num_images: list[int] = field(default_factory=lambda: [1], metadata={"help": "Numbers of images in a prompt."})
    num_images_weights: list[float] | None = field(
        default=None, metadata={"help": "Weight of each number of images; equal if not given."}
    )
    num_prompts: int = field(default=2000, metadata={"help": "Prompts in the training data."})
    min_gap: float = field(default=0.0, metadata={"help": "Least difference between two values of a prompt."})
    gor_vocabulary: str | None = field(
        default=None,
        metadata={
            "help": "Write numbers in value tokens: 'fit' (on the training labels), or the folder of a vocabulary."
        },
    )
    gor_constrained: bool = field(
        default=False,
        metadata={"help": "RARL samples legal codes only, and scores them as such; else answers are unconstrained."},
    )
    adapter: str | None = field(default=None, metadata={"help": "LoRA adapter to start from."})
    rewards: list[str] | None = field(
        default=None,
        metadata={"help": "Rewards by name: regression, length (or graded_length), consistency, accuracy, format."},
    )
    weight_regression: float = field(default=1.0, metadata={"help": "α, weight of the regression reward."})
    weight_ranking: float = field(default=1.0, metadata={"help": "β, weight of each ranking reward."})
    weight_format: float = field(default=0.5, metadata={"help": "γ, weight of the format reward."})
    eval_prompts: int = field(default=200, metadata={"help": "Test prompts of each number; 0 skips the evaluation."})
    eval_num_images: list[int] = field(
        default_factory=lambda: [1, 2, 4, 8], metadata={"help": "Numbers of images in a test prompt."}
    )
    eval_batch_size: int = field(default=8, metadata={"help": "Test prompts in a batch."})
    eval_max_new_tokens: int = field(default=1024, metadata={"help": "Longest test answer in tokens."})
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
        own = {"regression": "weight_regression", "format": "weight_format"}
        arguments = [own.get(name, "weight_ranking") for name in names]
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
        changes = {
            key: value
            for key in ("rule", "minimum", "maximum", "tolerance", "integer", "metric")
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
        return register_task(OrdinalTask(name=name, **changes)).name


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
    parser = options.PlainParser(types, allow_abbrev=False)
    parser.add_argument("--config", default=str(default_config), help="YAML of arguments; flags go over it.")
    names = {name for each in types for name in options.init_names(each)}
    words = [new for word in sys.argv[1:] for new in _renamed(word)]
    parser.parse_args(words)  # for --help, which shows defaults
    parser.set_defaults_with_config(**dict.fromkeys(names, argparse.SUPPRESS))
    flags = vars(parser.parse_args(words))
    path = flags.pop("config")
    config = options.read_config(path, types)
    whole = config | flags
    own = flags if Path(path) == default_config else whole
    if flags.get("use_peft") is False:  # turns off what the file says of LoRA
        own = {name: value for name, value in own.items() if name not in options.LORA or name in flags}
    options.check_numbers(whole)
    options.check_words(whole, config_type)
    options.check_json(whole)
    options.check_effects(own, whole, types)
    try:
        training_args, arguments, model_args = (
            each(**{name: value for name, value in whole.items() if name in options.init_names(each)}) for each in types
        )
    except TypeError as error:  # settings inside an argument, such as those of accelerator_config
        raise ValueError(str(error)) from error
    if str(model_args.lora_target_modules).isidentifier() and model_args.lora_target_modules is not None:
        # TRL makes a text of a list of one, which PEFT takes for a regular expression of whole names.
        model_args.lora_target_modules = [str(model_args.lora_target_modules)]
    arguments.given = own
    training_args.resume_from_checkpoint = resume_from(training_args)
    if PartialState().is_main_process:
        check_output_folder(str(training_args.output_dir), OUTPUT_FILES)
    if training_args.deepspeed_plugin is not None and training_args.use_cpu:
        # On GPUs accelerate has done it by now; on CPUs it would come with the trainer, and ZeRO-3 loads the model in
        # shards before.
        import deepspeed

        deepspeed.init_distributed(dist_backend=training_args.ddp_backend or "gloo", auto_mpi_discovery=False)
    options.check_settings(training_args, arguments.num_prompts, model_args.use_peft or arguments.adapter is not None)
    return training_args, arguments, model_args


@contextmanager
def setting_up() -> Iterator[None]:
    """Set up a run: an error inside, which the user can mend, is one line, without a traceback.

    Training, evaluation and what follows stand after the block: an error there is a defect, and has its traceback.
    """
    # TRL's own, in its configurations and at every step.
    warnings.filterwarnings("ignore", message=r"`(is_)?gradient_checkpointing\w*` is deprecated")
    try:
        yield
    except (ValueError, OSError, ImportError, NotImplementedError) as error:
        sys.exit("Error: " + " ".join(str(error).splitlines()))


class _NothingLeft(Exception):
    """A checkpoint that holds all steps of its run."""


class _StopIfDone(TrainerCallback):
    """Ends a resumed run that has no step left: transformers would take one more."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            raise _NothingLeft


def train(trainer: Any) -> None:
    """Train, from the checkpoint of `resume_from_checkpoint` if there is one, and not beyond `max_steps`."""
    checkpoint = trainer.args.resume_from_checkpoint
    if checkpoint is None:
        trainer.train()
        return
    trainer.add_callback(_StopIfDone())
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except _NothingLeft:
        state = trainer.state
        if trainer.is_world_process_zero():
            print(f"{checkpoint} has {state.global_step} of {state.max_steps} steps: nothing is left to train.")
        ended = Path(trainer.args.output_dir) / "trainer_state.json"
        if ended.is_file() and (whole := TrainerState.load_from_json(str(ended))).global_step == state.global_step:
            trainer.state = whole  # with the lines that are logged at the end


@dataclass
class Data:
    """The images of a run, its training rows and its test rows.

    Attributes:
        source: All images.
        train: Training rows; with `completion`, the perfect answer, for supervised training.
        test: Number of images → test rows, those that `rarl evaluate` builds from the same arguments.
        median: Median value of the training split: the constant prediction to beat.
        labels: Values of the training split, all that training may know of the values.
    """

    source: ImageSource
    train: Any
    test: dict[int, Any]
    median: float
    labels: list[float]

    @property
    def spread(self) -> float:
        """Standard deviation of the training labels, 1 if they are all equal: the unit that errors are counted in."""
        return float(np.std(self.labels)) or 1.0


def prepare_data(arguments: RecipeArguments, with_completion: bool = False) -> Data:
    """Load, verify and split the images; every error in them is raised here, before a model is loaded."""
    a = arguments
    if a.adapter is not None:
        check_adapter(a.adapter)
        options.check_lora_arguments(a.given, a.adapter)
    size = a.size if a.source == "builtin" else None
    source = load_source(a.source, a.build_task(), a.folder, a.csv, size, a.split_seed, a.min_pixels, a.max_pixels)
    numbers = a.eval_num_images if a.eval_prompts else []
    test, median = heldout_prompts(
        source, "test", numbers, num_prompts=a.eval_prompts, min_gap=a.min_gap, seed=a.split_seed
    )
    indices = without_copies(source, split_by_content(source, seed=a.split_seed)["train"])
    labels = [source.values[i] for i in indices]
    if a.gor_vocabulary is not None:
        task = value_token_task(a, source.task, labels)
        source = source.with_task(register_task(task))
    train = make_dataset(source, indices, a.num_prompts, a.mix(), a.min_gap, a.split_seed, with_completion)
    return Data(source, train, test, median, labels)


def value_token_task(arguments: RecipeArguments, task: OrdinalTask, labels: Sequence[float]) -> OrdinalTask:
    """The task with the vocabulary of `gor_vocabulary`, which is that of the adapter if there is one.

    Args:
        arguments: Their `gor_vocabulary` and `adapter`.
        task: The task.
        labels: Training labels; `"fit"` chooses the tokens from these.

    Raises:
        FileNotFoundError: If the folder holds no vocabulary.
        ValueError: If the adapter writes digits or has another vocabulary, or the vocabulary does not fit the task.
    """
    if arguments.gor_vocabulary == "fit" and task.vocabulary is not None:
        return task  # the adapter's
    if arguments.gor_vocabulary == "fit":
        # The end of the range too: a test image may have it.
        chosen = CoDiVocabulary.fit([*labels, task.maximum], exact=True, resolution=1.0 if task.integer else None)
    else:
        chosen = CoDiVocabulary.from_pretrained(str(arguments.gor_vocabulary))
    wanted = task.with_vocabulary(chosen)
    if arguments.adapter is not None and wanted != task:
        seen = "digits" if task.vocabulary is None else "value tokens of another vocabulary"
        raise ValueError(
            f"gor_vocabulary: the adapter {arguments.adapter} writes {seen}; start without an adapter, or leave "
            "gor_vocabulary out."
        )
    return wanted


def stage1_adapter(arguments: RecipeArguments, path: str) -> str:
    """The adapter that stage 2 starts from: the one given, else `outputs/rarl_stage1`, else the built-in one of the
    tiny model.

    Args:
        arguments: Their `adapter` goes first.
        path: The base model, as [`resolve_model`](rarl.models.resolve_model) gives it.

    Raises:
        FileNotFoundError: If there is none.
    """
    found = arguments.adapter
    if found is None and (Path("outputs/rarl_stage1") / "adapter_config.json").is_file():
        found = "outputs/rarl_stage1"
    if found is None and path == tiny.path():
        found = tiny.adapter_path()
    if found is None:
        raise FileNotFoundError("Stage 2 starts from the adapter of stage 1: give --adapter, or run stage 1 first.")
    if PartialState().is_main_process:
        print(f"Stage 2 starts from {found}.")
    return found


def check_lengths(data: Data, path: str, processor: Any, max_completion_length: int, eval_max_new_tokens: int) -> None:
    """Refuse prompts that do not fit the context of the model at `path` beside the longest completion.

    Args:
        data: Its training rows are checked, and its test rows: they may have more images.
        path: The base model.
        processor: Its processor.
        max_completion_length: Tokens of a completion in training.
        eval_max_new_tokens: Tokens of a test answer.

    Raises:
        ValueError: Names the row, its files, its tokens and the limit.
    """
    context = AutoConfig.from_pretrained(path).get_text_config().max_position_embeddings
    check_context(data.train, processor, context, max_completion_length)
    check_test_context(data.test, processor, context, max_new_tokens=eval_max_new_tokens)


def longest_reference(data: Data, processor: Any) -> int:
    """Tokens of the longest perfect answer in the training rows, end token included."""
    texts = {build_completion(values, data.source.task) for values in data.train.with_format(None)["values"]}
    return 1 + max(len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)


def load_processor(path: str, task: OrdinalTask, adapter: str | None = None) -> Any:
    """Processor of a model, with the task's value tokens if it has any, padding and truncating on the left as GRPO
    needs it."""
    processor = models.load_processor(path, adapter, padding_side="left", truncation_side="left")
    if task.vocabulary is not None:
        add_tokens(processor, task.codes)
    return processor


def load_policy(
    path: str,
    model_args: ModelConfig,
    training_args: Any,
    processor: Any,
    task: OrdinalTask,
    adapter: str | None = None,
) -> tuple[Any, Any]:
    """The model to train and its PEFT configuration (`None` for full training, or with an adapter to go on from).

    Where the task has value tokens, the model has rows for them, and LoRA trains these rows.

    Raises:
        ValueError: If LoRA is to train a matrix with the rows of value tokens in another way, too.
    """
    options.check_policy(path, training_args, model_args, adapter, task.vocabulary is not None)
    settings: dict[str, Any] = {"dtype": model_args.dtype or "auto"}
    if model_args.attn_implementation:
        settings["attn_implementation"] = model_args.attn_implementation
    model: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(path, **settings)
    if adapter is not None:
        plugin = training_args.deepspeed_plugin
        # ZeRO-3 gathers parameters of one type only: the adapter keeps the type of a bf16 model.
        autocast = plugin is None or plugin.zero_stage != 3
        models.make_room(model, processor)
        policy = PeftModel.from_pretrained(model, adapter, is_trainable=True, autocast_adapter_dtype=autocast)
        policy.peft_config["default"].base_model_name_or_path = path  # the base in use, wherever the adapter was made
        return policy, None
    if model_args.use_peft and model_args.lora_target_modules is None:
        model_args.lora_target_modules = language_lora_targets(model)  # type: ignore[assignment]  # a regular expression
    peft_config = get_peft_config(model_args)
    if task.vocabulary is not None:
        tokens = attach(model, processor, task.codes)
        if peft_config is not None:
            peft_config.trainable_token_indices = tokens.lora_settings(model)["trainable_token_indices"]  # type: ignore[attr-defined]
    return model, peft_config


def rollout_tokens(arguments: RecipeArguments, processor: Any, task: OrdinalTask) -> ValueTokens | None:
    """Value tokens that rollouts are constrained to with `gor_constrained`; `None` without.

    Raises:
        ValueError: If the task writes digits.
    """
    if not arguments.gor_constrained:
        return None
    if task.vocabulary is None:
        raise ValueError(
            f"gor_constrained: task {task.name!r} writes digits; wanted an adapter of recipes/gor_sft.py, or "
            "gor_vocabulary."
        )
    return ValueTokens.of(processor, task.codes)


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


def hub_repository(training_args: TrainingArguments, model_args: ModelConfig, arguments: RecipeArguments) -> str | None:
    """The repository of `--push_to_hub`, created if it is missing; `None` without that flag.

    The flag is taken off `training_args`: with it, a trainer pushes whole output folders, checkpoints and all, while
    [`finish`] pushes the adapter.

    Raises:
        ValueError: If no adapter is trained.
        OSError: If the Hub does not allow it or cannot be reached.
    """
    if not training_args.push_to_hub:
        return None
    training_args.push_to_hub = False
    if not model_args.use_peft and arguments.adapter is None:
        raise ValueError("push_to_hub pushes LoRA adapters, and use_peft is false; wanted use_peft, or no push_to_hub.")
    repository = training_args.hub_model_id or Path(str(training_args.output_dir)).name
    if not PartialState().is_main_process:
        return repository  # an error on the main process ends the others
    return create_repository(repository, training_args.hub_private_repo, training_args.hub_token)


def finish(
    trainer: Any,
    data: Data,
    arguments: RecipeArguments,
    path: str,
    stage: str,
    repository: str | None = None,
    judge: Callable[[Any, Any], Report] | None = None,
) -> None:
    """Save, evaluate and, if there is a `repository` on the Hub, push what was trained.

    `judge` makes the report of a model and its processor where that is not [`evaluate`]'s.

    The adapter (or model) lies directly in `output_dir`, with `trainer_state.json` and `report.json`. Evaluation loads
    it back from there on the main process, so that what is scored is what was saved.
    """
    args = trainer.args
    output_dir = Path(args.output_dir)
    trainer.save_model(str(output_dir))
    trainer.save_state()
    is_adapter = isinstance(trainer.accelerator.unwrap_model(trainer.model), PeftModel)
    trainer.accelerator.wait_for_everyone()
    main = trainer.accelerator.is_main_process
    # Make room for the evaluation: the recipe still holds the trainer and the model.
    if PartialState().distributed_type.name != "DEEPSPEED":
        trainer.accelerator.unwrap_model(trainer.model).to("cpu")
    trainer.accelerator.free_memory()
    trainer.accelerator.end_training()
    trainer.model = trainer.model_wrapped = trainer.optimizer = trainer.lr_scheduler = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if not main:
        return
    shutil.rmtree(output_dir / "ref", ignore_errors=True)  # the frozen reference; checkpoints keep theirs
    save_task(data.source.task, output_dir)
    report = None
    if data.test:
        if args.deepspeed is not None or PartialState().distributed_type.name == "DEEPSPEED":
            from transformers.integrations.deepspeed import unset_hf_deepspeed_config

            unset_hf_deepspeed_config()  # or ZeRO-3 would partition the model that is loaded now
        model, processor = load_model(*((path, str(output_dir)) if is_adapter else (str(output_dir), None)))
        if judge is not None:
            report = judge(model, processor)
        else:
            report = evaluate(
                model,
                processor,
                data.test,
                task=data.source.task,
                batch_size=arguments.eval_batch_size,
                max_new_tokens=arguments.eval_max_new_tokens,
                constant=data.median,
            )
        write_report(report, output_dir / "report.json")
    if is_adapter:
        write_model_card(output_dir, path, data.source.task, stage=stage, report=report)
        if repository is not None:
            push_adapter(output_dir, repository, private=args.hub_private_repo, token=args.hub_token)
    if report is not None:  # last: what is printed may be lost, what is done stays
        Console().print(report_table({stage: report}, title=data.source.task.name))
