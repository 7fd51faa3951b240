"""Rows for the trainer: columns of tensors, taken a batch at a time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gor_head.vocabulary import PAD, CoDiVocabulary


class Rows(Dataset[dict[str, Tensor]]):
    """Columns of equal length; a batch is one indexing of each.

    Args:
        columns: Tensors `[n, …]`: those of the encoder, `labels`, and perhaps `codes` and `sample_weight`.
    """

    def __init__(self, columns: dict[str, Tensor]) -> None:
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"columns: wanted equal lengths, got {lengths}.")
        self.columns = columns
        self.length = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {name: column[row] for name, column in self.columns.items()}

    def __getitems__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        index = torch.from_numpy(np.asarray(rows, dtype=np.int64))
        return {name: column[index] for name, column in self.columns.items()}


class SmoothedRows(Rows):
    """Rows whose labels and codes are those of a neighbour of the true label, drawn anew each time that a row is taken:
    of a normal distribution around it, within the range of all labels.

    The expectation of their likelihood is the cross entropy with that distribution: label smoothing in which near
    numbers have more weight than far ones, for any vocabulary.

    Args:
        columns: As for [`Rows`][gor_head.training.data.Rows], with `labels`.
        vocabulary: Makes the codes.
        deviation: Standard deviation of the distribution, in label units.
    """

    def __init__(self, columns: dict[str, Tensor], vocabulary: CoDiVocabulary, deviation: float) -> None:
        super().__init__(columns)
        self.vocabulary, self.deviation = vocabulary, deviation
        self.lowest, self.highest = (float(end) for end in columns["labels"].aminmax())

    def __getitems__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        batch = super().__getitems__(rows)
        labels = batch["labels"]
        drawn = labels + self.deviation * torch.randn(len(labels), dtype=torch.float64)
        codes = self.vocabulary.encode(drawn.clamp(self.lowest, self.highest))
        return batch | {"codes": codes, "labels": self.vocabulary.decode(codes)}


def collate(batch: Any) -> dict[str, Tensor]:
    """A batch as [`Rows`][gor_head.training.data.Rows] gives it, its codes cut to the batch's own longest and made
    int64."""
    if isinstance(batch, list):
        batch = {name: torch.stack([row[name] for row in batch]) for name in batch[0]}
    if "codes" not in batch:
        return batch
    codes = batch["codes"]
    longest = int((codes != PAD).sum(dim=1).max())
    return batch | {"codes": codes[:, :longest].long()}
