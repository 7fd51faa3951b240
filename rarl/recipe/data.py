"""The data of a training run: every error in them is raised here, before a model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import AutoConfig

from gor_head import CoDiVocabulary
from rarl.datasets import (
    ItemSource,
    check_context,
    load_source,
    make_dataset,
    split_by_content,
    takes,
    with_shots,
    without_copies,
    without_shots,
)
from rarl.evaluation.heldout import check_test_context, heldout_prompts
from rarl.inputs import tokenizer_of
from rarl.models import check_adapter
from rarl.prompt import build_completion
from rarl.recipe.arguments import RecipeArguments
from rarl.recipe.effects import check_lora_arguments
from rarl.task import OrdinalTask, register_task


@dataclass
class Data:
    """The items of a run, its training rows and its test rows.

    Attributes:
        source: All items, with their true values.
        train: Training rows; with `completion`, the perfect answer, for supervised training.
        test: Number of images → test rows, those that `rarl evaluate` builds from the same arguments.
        median: Median value of the training split: the constant prediction to beat.
        labels: Labels of the training split, all that training may know of the values: those of raters if there are
            any.
    """

    source: ItemSource
    train: Any
    test: dict[int, Any]
    median: float
    labels: list[float]

    @property
    def spread(self) -> float:
        """Standard deviation of the training labels, 1 if they are all equal: the unit that errors are counted in."""
        return float(np.std(self.labels)) or 1.0


def prepare_data(arguments: RecipeArguments, with_completion: bool = False) -> Data:
    """Load, verify and split the items; every error in them is raised here, before a model is loaded."""
    a = arguments
    if a.adapter is not None:
        check_adapter(a.adapter)
        check_lora_arguments(a.given, a.adapter)
    size = a.size if takes(a.source, "size") else None
    source = load_source(
        a.source,
        a.build_task(),
        folder=a.folder,
        csv=a.csv,
        size=size,
        seed=a.split_seed,
        min_pixels=a.min_pixels,
        max_pixels=a.max_pixels,
        rater_noise=a.rater_noise,
        raters=a.raters,
        table=a.table,
        text_column=a.text_column,
        value_column=a.value_column,
        votes_column=a.votes_column,
        std_column=a.std_column,
        table_split=a.table_split,
    )
    source = with_shots(source, a.shots, a.split_seed)
    numbers = a.test_prompts()
    test, median = heldout_prompts(
        source, "test", list(numbers), num_prompts=numbers, min_gap=a.min_gap, seed=a.split_seed
    )
    indices = without_shots(source, without_copies(source, split_by_content(source, seed=a.split_seed)["train"]))
    labels = [source.labels[i] for i in indices]
    if a.gor_vocabulary is not None:
        task = value_token_task(a, source.task, labels)
        source = source.with_task(register_task(task))
    check_interval(a.eval_interval, source.task, list(numbers))
    train = make_dataset(
        source.rated(),
        indices,
        a.num_prompts,
        mix=a.mix(),
        min_gap=a.min_gap,
        seed=a.split_seed,
        with_completion=with_completion,
    )
    return Data(source, train, test, median, labels)


def check_interval(interval: float | None, task: OrdinalTask, num_images: Sequence[int]) -> None:
    """Refuse intervals that the evaluation would not have.

    Raises:
        ValueError: If the share is not between 0 and 1, the task writes digits, or no test prompt has one image.
    """
    if interval is None:
        return
    if not 0 < interval < 1:
        raise ValueError(f"eval_interval: wanted a share between 0 and 1, such as 0.8, got {interval}.")
    if task.vocabulary is None:
        raise ValueError(f"eval_interval: wanted value tokens, but task {task.name!r} writes digits, got {interval}.")
    if 1 not in num_images:
        raise ValueError(f"eval_interval: wanted test prompts of one image, got {list(num_images)} images.")


def value_token_task(arguments: RecipeArguments, task: OrdinalTask, labels: Sequence[float]) -> OrdinalTask:
    """The task with the vocabulary of `gor_vocabulary`, which is that of the adapter if there is one.

    Args:
        arguments: The run's arguments, of which `gor_vocabulary` and `adapter` are read.
        task: The task.
        labels: Training labels; `"fit"` and `"codi"` choose the tokens from these.

    Raises:
        FileNotFoundError: If the folder holds no vocabulary.
        ValueError: If the adapter writes digits or has another vocabulary, or the vocabulary does not fit the task.
    """
    if arguments.gor_vocabulary in ("fit", "codi") and task.vocabulary is not None:
        return task  # the adapter's
    resolution = 1.0 if task.integer else None
    # The end of the range too: a test image may have it.
    if arguments.gor_vocabulary == "fit":
        chosen = CoDiVocabulary.for_language_model(labels, maximum=task.maximum, resolution=resolution)
    elif arguments.gor_vocabulary == "codi":
        chosen = CoDiVocabulary.fit([*labels, task.maximum], exact=True, resolution=resolution)
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


def check_lengths(
    data: Data, path: str, processor: Any, *, max_completion_length: int, eval_max_new_tokens: int
) -> None:
    """Refuse prompts that do not fit the context of the model at `path` beside the longest completion.

    Args:
        data: The data of the run; test rows are checked, too, since they may have more images.
        path: The base model.
        processor: The processor of the model.
        max_completion_length: Tokens of a completion in training.
        eval_max_new_tokens: Tokens of a test answer.

    Raises:
        ValueError: Names the row, its files, its tokens and the limit.
    """
    context = AutoConfig.from_pretrained(path).get_text_config().max_position_embeddings
    check_context(data.train, processor, context, max_completion_length=max_completion_length)
    check_test_context(data.test, processor, context, max_new_tokens=eval_max_new_tokens)


def longest_reference(data: Data, processor: Any) -> int:
    """Tokens of the longest perfect answer in the training rows, end token included."""
    texts = {build_completion(values, data.source.task) for values in data.train.with_format(None)["values"]}
    return 1 + max(len(tokenizer_of(processor)(text, add_special_tokens=False)["input_ids"]) for text in texts)
