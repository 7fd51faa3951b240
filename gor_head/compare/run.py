"""Every cell of a comparison, in several processes; what is there already is not made again."""

import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed, parallel_config

from gor_head.compare.cells import (
    Cell,
    Method,
    Result,
    cell_settings,
    check_settings,
    fingerprint,
    measure,
    read,
    slug,
    taken,
    write,
)
from gor_head.output import check_output_folder
from gor_head.tables import Table


@dataclass(frozen=True)
class Run:
    """Outcome of a comparison's cells.

    Attributes:
        results: What was measured, now or earlier.
        failures: Cell → the last line of what went wrong; the traceback lies beside the cell's file, in `….error.txt`.
    """

    results: dict[Cell, Result] = field(default_factory=dict)
    failures: dict[Cell, str] = field(default_factory=dict)


def run(
    tables: Sequence[Table],
    methods: Sequence[Method],
    seeds: Iterable[int],
    *,
    folder: str | Path,
    settings: Mapping[str, Any] | None = None,
    jobs: int = 1,
    progress: Callable[[int, int, Cell | None], None] | None = None,
) -> Run:
    """Train every method on every table with every seed, and keep each cell's predictions in `folder/cells`.

    The seed chooses the split (80 % training, 20 % test rows) and is the method's `random_state`. A cell that has a
    file is not trained again; a file made with other settings or other data is an error, before anything is trained.
    Each cell runs on one thread. A cell that fails does not stop the others.

    Args:
        tables: Data, with different names.
        methods: What is compared, with different names and rows.
        seeds: Seeds of the splits and of the trainings.
        folder: Output folder; made if absent.
        settings: Keyword arguments of `Method.make`; a method that does not take one is trained without it, which is
            warned of.
        jobs: Processes. More than one: methods must be picklable by cloudpickle.
        progress: Called with cells done, cells in all, and the cell just done (None at the start).

    Raises:
        ValueError: If names are not different, there is nothing to compare, no method takes a setting, or a cell's file
            was made otherwise or is damaged.
        OSError: If cells are to be trained, and their files cannot be written.
    """
    folder, settings, seeds = Path(folder), dict(settings or {}), list(seeds)
    _check_names("table", [table.name for table in tables])
    _check_names("method", [method.name for method in methods])
    _check_names("row", [row for method in methods for row in method.reads], files=False)
    _check_names("seed", [str(seed) for seed in seeds])
    if jobs < 1:
        raise ValueError(f"jobs: wanted at least 1, got {jobs}.")
    by_table = {table.name: table for table in tables}
    by_method = {method.name: method for method in methods}
    by_settings = _share(methods, settings)
    data = {table.name: fingerprint(table) for table in tables}
    # Long cells first: the last processes to finish then end close together.
    longest_first = sorted(tables, key=lambda table: -len(table.labels))
    cells = [Cell(table.name, method.name, seed) for table in longest_first for method in methods for seed in seeds]
    wanted = {
        cell: cell_settings(cell, by_method[cell.method], data[cell.table], settings=by_settings[cell.method])
        for cell in cells
    }

    outcome = Run()
    for cell in cells:
        if (path := cell.path(folder)).is_file():
            result, found = read(path)
            check_settings(path, found, wanted[cell])
            outcome.results[cell] = result
    missing = [cell for cell in cells if cell not in outcome.results]
    if missing:
        check_output_folder(folder / "cells")
    report = progress or (lambda done, total, cell: None)
    report(len(outcome.results), len(cells), None)
    tasks = (
        delayed(_run_cell)(
            cell, by_table[cell.table], by_method[cell.method], by_settings[cell.method], wanted[cell], folder
        )
        for cell in missing
    )
    try:
        with parallel_config(backend="loky", inner_max_num_threads=1):
            for cell, failure in Parallel(n_jobs=jobs, return_as="generator_unordered")(tasks):
                if failure is None:
                    outcome.results[cell] = read(cell.path(folder))[0]
                else:
                    outcome.failures[cell] = failure
                report(len(outcome.results) + len(outcome.failures), len(cells), cell)
    except BrokenProcessPool as error:  # the system ended a process, for want of memory for instance
        reason = f"a process died while cells were trained ({str(error).strip().splitlines()[0]})"
        for cell in missing:
            if cell.path(folder).is_file():
                outcome.results[cell] = read(cell.path(folder))[0]
            else:
                outcome.failures.setdefault(cell, reason)
    return outcome


def _share(methods: Sequence[Method], settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What of the settings each method takes; a warning names those that do without."""
    shared = {method.name: taken(method, settings) for method in methods}
    for name in settings:
        without = [method for method, used in shared.items() if name not in used]
        if len(without) == len(methods):
            raise ValueError(f"settings: no method takes {name!r}; the methods are {', '.join(without)}.")
        if without:
            warnings.warn(f"{name} is no setting of {', '.join(without)}: trained without it.", stacklevel=3)
    return shared


def _run_cell(
    cell: Cell, table: Table, method: Method, settings: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path
) -> tuple[Cell, str | None]:
    """Train one cell and write its file; None, or the last line of what went wrong."""
    path = cell.path(folder)
    errors = path.with_suffix(".error.txt")
    try:
        result, notes = measure(table, method, cell.seed, settings=settings)
        write(path, result, wanted, notes=notes)
    except Exception as error:  # any defect of any method must leave the other cells be
        errors.parent.mkdir(parents=True, exist_ok=True)
        errors.write_text(traceback.format_exc(), encoding="utf-8", errors="replace")
        return cell, f"{type(error).__name__}: {error}"
    errors.unlink(missing_ok=True)
    return cell, None


def _check_names(kind: str, names: Sequence[str], files: bool = True) -> None:
    if not names:
        raise ValueError(f"wanted at least one {kind}, got none.")
    seen: dict[str, str] = {}
    for name in names:
        known = slug(name).lower() if files else name
        if known in seen:
            raise ValueError(f"{kind}s need different names, got {seen[known]!r} and {name!r}.")
        seen[known] = name
