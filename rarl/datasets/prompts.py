"""Groups of items become rows: `prompt`, `images`, `values`, `task`, and `completion` for supervised training.

A row is stored as a few numbers; the prompt is built and the images are opened when the row is read. That goes through
TRL as it is: `GRPOTrainer` and `SFTTrainer` (which prepares vision data on the fly) read rows, never Arrow columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset

from rarl.datasets.sampling import sample_groups
from rarl.datasets.source import ItemSource
from rarl.prompt import build_completion, build_prompt, build_text_prompt
from rarl.task import task_cell


@dataclass(frozen=True)
class RowTransform:
    """Stored columns to rows.

    Each column stands alone, since trainers may drop the ones they do not know: `prompt` and `images` are stored as
    indices into the source, `completion` as the values in prompt order, `chosen` and `rejected` as texts, `task` as
    its name; `values` as they are. The task of a row is the source's own, as [`task_cell`][rarl.task.task_cell] has it,
    so that prompts, rewards and mutation have the same one, whether it is registered or not.
    """

    source: ItemSource

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = dict(batch)
        task = self.source.task
        if "prompt" in batch:
            rows["prompt"] = [self._prompt(group) for group in batch["prompt"]]
        if "task" in batch:
            rows["task"] = [task_cell(task)] * len(batch["task"])
        if "images" in batch:
            # GRPO asks for every row G times in one batch: each image is opened once.
            loaded = {i: self.source.load(i) for i in dict.fromkeys(i for group in batch["images"] for i in group)}
            rows["images"] = [[loaded[i] for i in group] for group in batch["images"]]
        if "completion" in batch:
            rows["completion"] = [self.completion(build_completion(values, task)) for values in batch["completion"]]
        for name in ("chosen", "rejected"):
            if name in batch:
                rows[name] = [self.completion(text) for text in batch[name]]
        return rows

    def _prompt(self, group: Sequence[int]) -> list[dict[str, Any]]:
        task = self.source.task
        if task.kind == "image":
            return build_prompt(task, len(group))
        return build_text_prompt(task, [self.source.load(i) for i in group])

    def completion(self, text: str) -> list[dict[str, Any]]:
        """A completion of one assistant message, its content as that of the prompt is."""
        if self.source.kind == "image":
            return text_completion(text)
        return [{"role": "assistant", "content": text}]


def text_completion(text: str) -> list[dict[str, Any]]:
    """A completion of one assistant message."""
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


def _stored_row(source: ItemSource, group: np.ndarray, with_completion: bool) -> dict[str, Any]:
    values = source.values[group].tolist()
    row: dict[str, Any] = {"prompt": group.tolist()}
    row |= {"images": group.tolist()} if source.kind == "image" else {}
    row |= {"values": values, "task": source.task.name}
    return row | {"completion": values} if with_completion else row


def make_dataset(
    source: ItemSource,
    indices: np.ndarray,
    num_prompts: int,
    mix: dict[int, float],
    *,
    min_gap: float = 0.0,
    seed: int = 0,
    with_completion: bool = False,
) -> Dataset:
    """Prompts over some items of a source, lazy: items are opened when a row is read.

    Args:
        source: The items.
        indices: Which of them, int [n], such as one split of
            [`split_by_content`][rarl.datasets.sampling.split_by_content].
        num_prompts: Number of rows.
        mix: Weight of each number of images in a prompt; see [`sample_groups`][rarl.datasets.sampling.sample_groups].
        min_gap: Least difference between any two values of a prompt.
        seed: Seed of the groups.
        with_completion: Whether to add the perfect answer as `completion`, for `SFTTrainer`. Give it
            `SFTConfig(max_length=None)`, whose default cuts image tokens off long prompts.

    Returns:
        Rows with `prompt` (messages), `images` (PIL, prompt order; none of texts), `values` (floats, prompt order),
        `task` (of the source, see [`task_cell`][rarl.task.task_cell]).

    Raises:
        ValueError: If the groups are impossible; see [`sample_groups`][rarl.datasets.sampling.sample_groups].

    Example:

    ```python
    >>> import numpy as np
    >>> from rarl.datasets import load_source, make_dataset
    >>> source = load_source("builtin", size=20)
    >>> dataset = make_dataset(source, np.arange(20), num_prompts=3, mix={2: 1.0})
    >>> dataset.column_names
    ['prompt', 'images', 'values', 'task']
    >>> len(dataset[0]["images"])
    2
    ```
    """
    indices = np.asarray(indices, dtype=np.int64)
    groups = sample_groups(source.values[indices], num_prompts, mix, min_gap=min_gap, seed=seed)
    rows = [_stored_row(source, indices[group], with_completion) for group in groups]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return Dataset.from_dict(columns).with_transform(RowTransform(source))


def written_out(dataset: Dataset) -> Dataset:
    """Rows of texts as they are read, for trainers of TRL that tokenise text beforehand and so refuse lazy rows; rows
    with images, which they process as they come, stay lazy.

    Args:
        dataset: Rows of [`make_dataset`][rarl.datasets.prompts.make_dataset] or
            [`preference_dataset`][rarl.datasets.prompts.preference_dataset].
    """
    return dataset if "images" in dataset.column_names else Dataset.from_list(list(dataset))


def preference_dataset(source: ItemSource, stored: Dataset, pairs: Sequence[tuple[int, str, str]]) -> Dataset:
    """Rows `prompt`, `images`, `chosen` and `rejected` for TRL's `DPOTrainer`, lazy as those of
    [`make_dataset`][rarl.datasets.prompts.make_dataset].

    Args:
        source: The images.
        stored: Rows of [`make_dataset`][rarl.datasets.prompts.make_dataset] without their transform.
        pairs: Row, chosen text and rejected text of each pair.
    """
    kept = [name for name in ("prompt", "images") if name in stored.column_names]
    columns: dict[str, list[Any]] = {
        **{name: [stored[row][name] for row, _, _ in pairs] for name in kept},
        "chosen": [chosen for _, chosen, _ in pairs],
        "rejected": [rejected for _, _, rejected in pairs],
    }
    return Dataset.from_dict(columns).with_transform(RowTransform(source))


@dataclass(frozen=True)
class _RowStream:
    """What `IterableDataset` calls for its rows; one object, so that it pickles into data-loading workers."""

    transform: RowTransform
    indices: np.ndarray
    num_prompts: int | None
    mix: dict[int, float]
    min_gap: float
    seed: int
    with_completion: bool

    def groups(self) -> Iterator[np.ndarray]:
        values = self.transform.source.values[self.indices]
        return sample_groups(values, self.num_prompts, self.mix, min_gap=self.min_gap, seed=self.seed)

    def __call__(self) -> Iterator[dict[str, Any]]:
        for group in self.groups():
            stored = _stored_row(self.transform.source, self.indices[group], self.with_completion)
            batch = self.transform({name: [value] for name, value in stored.items()})
            yield {name: column[0] for name, column in batch.items()}


def stream_dataset(
    source: ItemSource,
    indices: np.ndarray,
    mix: dict[int, float],
    *,
    num_prompts: int | None = None,
    min_gap: float = 0.0,
    seed: int = 0,
    with_completion: bool = False,
) -> IterableDataset:
    """The rows of [`make_dataset`][rarl.datasets.prompts.make_dataset] as a stream, made one by one; without end if
    `num_prompts` is `None`.

    Arguments and errors are those of [`make_dataset`][rarl.datasets.prompts.make_dataset]. Same arguments, same rows.
    Nothing grows with the number of rows. A trainer needs `max_steps` with it.
    """
    stream = _RowStream(
        RowTransform(source), np.asarray(indices, dtype=np.int64), num_prompts, mix, min_gap, seed, with_completion
    )
    stream.groups()  # Raises now what would otherwise be raised at the first row.
    return IterableDataset.from_generator(stream)
