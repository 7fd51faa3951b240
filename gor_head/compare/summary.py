"""Cells of a comparison → MAE, SRCC and standing of each row on each table, and over all tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from gor_head.compare.cells import Cell, Method, Result
from gor_head.compare.significance import Standing, standings
from gor_head.metrics import srcc


@dataclass(frozen=True)
class Entry:
    """A row on one table.

    Attributes:
        standing: MAE over the test rows of all seeds, and how it compares with the best row.
        srcc: Mean over seeds of Spearman's correlation; where it is undefined, all predictions being equal, it is 0.
        relative: MAE over the best MAE of the table, from 1 on.
        rank: Rank of the MAE among the rows of the table, 1 the best, equal ones sharing the mean of their ranks.
        fit_seconds: Mean time of a training.
        predict_seconds: Mean time of predicting the test rows.
    """

    standing: Standing
    srcc: float
    relative: float
    rank: float
    fit_seconds: float
    predict_seconds: float


@dataclass(frozen=True)
class Overall:
    """A row over the tables on which no cell of it is missing.

    Attributes:
        tables: Number of these tables.
        tied: On how many of them the row is best or tied with the best.
        share: `tied` over `tables`.
        rank: Mean rank.
        relative: Mean of the MAE over the table's best MAE.
    """

    tables: int
    tied: int
    share: float
    rank: float
    relative: float


@dataclass(frozen=True)
class Comparison:
    """A comparison summed up.

    Attributes:
        entries: Table → row → entry; None where a seed of the row is missing.
        rows: Row → what it is over all tables; None for a row that is whole on none.
    """

    entries: dict[str, dict[str, Entry | None]]
    rows: dict[str, Overall | None]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, None for an infinite one: `{"tables": {table: {row: …}}, "rows": {row: …}}`."""
        tables = {
            table: {row: None if entry is None else _flat(entry) for row, entry in entries.items()}
            for table, entries in self.entries.items()
        }
        rows = {row: None if overall is None else _finite(asdict(overall)) for row, overall in self.rows.items()}
        return {"tables": tables, "rows": rows}


def summarize(
    results: Mapping[Cell, Result], tables: Sequence[str], methods: Sequence[Method], *, seeds: Sequence[int]
) -> Comparison:
    """Sum up cells.

    On each table the rows that have every seed are compared with the best of them, see
    [`gor_head.compare.significance.standings`][gor_head.compare.significance.standings]; errors of the same row of the
    table in the same seed's test split are paired.

    Args:
        results: Cells that were measured.
        tables: Names of tables.
        methods: Methods.
        seeds: Seeds of the splits and of the trainings.
    """
    entries = {table: _table_entries(results, table, methods, seeds) for table in tables}
    rows = [row for method in methods for row in method.reads]
    return Comparison(entries, {row: _overall([entries[table][row] for table in tables]) for row in rows})


def _table_entries(
    results: Mapping[Cell, Result], table: str, methods: Sequence[Method], seeds: Sequence[int]
) -> dict[str, Entry | None]:
    entries: dict[str, Entry | None] = {row: None for method in methods for row in method.reads}
    whole: dict[str, list[Result]] = {}
    for method in methods:
        cells = [Cell(table, method.name, seed) for seed in seeds]
        if all(cell in results for cell in cells):
            whole |= {row: [results[cell] for cell in cells] for row in method.reads}
    if not whole:
        return entries
    samples = np.concatenate([result.samples for result in next(iter(whole.values()))])
    errors = {
        row: np.concatenate([np.abs(result.predictions[row] - result.truth) for result in of_row])
        for row, of_row in whole.items()
    }
    standing_of = standings(errors, samples)
    best = min(standing.mae for standing in standing_of.values())
    ranks = rankdata([standing.mae for standing in standing_of.values()])
    for (row, standing), rank in zip(standing_of.items(), ranks, strict=True):
        of_row = whole[row]
        entries[row] = Entry(
            standing=standing,
            srcc=float(np.mean([srcc(result.truth, result.predictions[row]) for result in of_row])),
            relative=1.0 if standing.best else standing.mae / best if best else math.inf,
            rank=float(rank),
            fit_seconds=float(np.mean([result.fit_seconds for result in of_row])),
            predict_seconds=float(np.mean([result.predict_seconds[row] for result in of_row])),
        )
    return entries


def _overall(entries: Sequence[Entry | None]) -> Overall | None:
    whole = [entry for entry in entries if entry is not None]
    if not whole:
        return None
    tied = sum(entry.standing.tied for entry in whole)
    return Overall(
        tables=len(whole),
        tied=tied,
        share=tied / len(whole),
        rank=float(np.mean([entry.rank for entry in whole])),
        relative=float(np.mean([entry.relative for entry in whole])),
    )


def _flat(entry: Entry) -> dict[str, Any]:
    content = asdict(entry)
    return _finite(content.pop("standing") | content)


def _finite(content: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in content.items()
    }
