"""Results of many runs as one table: means and spreads over seeds, and paired tests against one row."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import ttest_rel

from gor_head.compare.significance import holm
from gor_head.metrics import METRICS
from rarl.ablation.rows import ROWS, SETTINGS
from rarl.ablation.run import Result

COLUMNS: dict[str, str] = {
    "srcc": "SRCC ↑",
    "mae": "MAE ↓",
    "tau2": "τ2 ↑",
    "tau4": "τ4 ↑",
    "tau8": "τ8 ↑",
    "coverage": "in the interval",
    "failures": "unreadable ↓",
    "seconds": "seconds ↓",
}
"""Columns and their headings, those that a task has; its own metric comes before them."""

TESTED = ("srcc", "mae", "tau2", "tau4", "tau8")


@dataclass(frozen=True)
class Difference:
    """A row against the reference, over the seeds that both have.

    Attributes:
        column: What is compared.
        mean: Mean of reference minus row.
        p_value: Of a paired t-test over seeds, corrected after Holm over all rows and columns of the setting; `None` of
            fewer than two seeds, or where the differences do not vary.
        seeds: Number of seeds.
    """

    column: str
    mean: float
    p_value: float | None
    seeds: int


def settings_of(results: Sequence[Result]) -> list[str]:
    """The settings of results, those of the registry first and in its order."""
    found = dict.fromkeys(result.setting for result in results)
    return [*(name for name in SETTINGS if name in found), *(name for name in found if name not in SETTINGS)]


def label_of(setting: str) -> str:
    """What a setting is called."""
    return SETTINGS[setting].label if setting in SETTINGS else setting


def figures(result: Result) -> dict[str, float | None]:
    """The columns of one run. Metrics are the strict ones, in which an unreadable answer scores the worst value."""
    report = result.report
    scores: Mapping[str, Any] = report.get("strict") or report
    numbers: dict[str, float | None] = {name: scores[name] for name in METRICS if name in scores}
    for number, tau in scores["tau"].items():
        numbers[f"tau{number}"] = tau
    numbers["coverage"] = (report.get("interval") or {}).get("coverage")
    return numbers | {"failures": report["failure_rate"], "seconds": result.seconds}


def columns(results: Iterable[Result]) -> dict[str, str]:
    """Columns of a setting and their headings, the task's own metric first: reports have it beside the MAE."""
    found = figures(next(iter(results)))
    return {name: metric.heading for name, metric in METRICS.items() if name in found and name != "mae"} | COLUMNS


def by_row(results: Iterable[Result]) -> dict[str, dict[int, dict[str, float | None]]]:
    """Row → seed → its [`figures`][rarl.ablation.summary.figures], rows in the order of the registry."""
    found = list(results)
    rows = {name: {r.seed: figures(r) for r in found if r.row == name} for name in ROWS}
    return {name: seeds for name, seeds in rows.items() if seeds}


def spread(numbers: Sequence[float | None]) -> tuple[float, float, int] | None:
    """Mean, standard deviation (0 of one) and number of those that are known; `None` of none."""
    known = np.array([number for number in numbers if number is not None], dtype=np.float64)
    if not len(known):
        return None
    return float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else 0.0, len(known)


def differences(results: Iterable[Result], reference: str) -> dict[str, list[Difference]]:
    """Every row against the reference: row → a [`Difference`][rarl.ablation.summary.Difference] a tested column.

    Raises:
        ValueError: If the reference has no result.
    """
    rows = by_row(results)
    if reference not in rows:
        raise ValueError(f"reference: wanted a row with results ({', '.join(rows)}), got {reference!r}.")
    found: list[tuple[str, str, float, float, int]] = []
    for row, seeds in rows.items():
        for column in TESTED if row != reference else ():
            pairs = [
                (ours, theirs)
                for seed, numbers in seeds.items()
                if (ours := rows[reference].get(seed, {}).get(column)) is not None
                and (theirs := numbers.get(column)) is not None
            ]
            if pairs:
                gaps = np.array([ours - theirs for ours, theirs in pairs])
                p = (
                    float(ttest_rel(*zip(*pairs, strict=True)).pvalue)
                    if len(pairs) > 1 and np.ptp(gaps) > 0
                    else np.nan
                )
                found.append((row, column, float(gaps.mean()), p, len(pairs)))
    known = [p for *_, p, _ in found if not np.isnan(p)]
    corrected = iter(holm(known).tolist())
    table: dict[str, list[Difference]] = {}
    for row, column, mean, p, number in found:
        table.setdefault(row, []).append(Difference(column, mean, None if np.isnan(p) else next(corrected), number))
    return table


def markdown(results: Sequence[Result], reference: str) -> str:
    """All settings as tables in Markdown: mean ± standard deviation over seeds, then the paired differences."""
    parts = []
    for setting in settings_of(results):
        of_setting = [result for result in results if result.setting == setting]
        parts.append(_table(setting, of_setting))
        if any(result.row == reference for result in of_setting):
            parts.append(_tests(of_setting, reference))
    return "\n\n".join(parts) + "\n"


def _label(row: str) -> str:
    return ROWS[row].label


def _table(setting: str, results: Sequence[Result]) -> str:
    known, rows = columns(results), by_row(results)
    cells = {
        row: {name: spread([each.get(name) for each in seeds.values()]) for name in known}
        for row, seeds in rows.items()
    }
    heads = {name: head for name, head in known.items() if any(cells[row][name] is not None for row in cells)}
    lines = [
        f"**{label_of(setting)}**",
        "",
        "| | " + " | ".join(heads.values()) + " | seeds |",
        "|---" * (len(heads) + 2) + "|",
    ]
    best = {name: _best(name, each, cells) for name, each in heads.items()}
    for row, seeds in rows.items():
        texts = [_cell(name, cells[row][name], row in best[name]) for name in heads]
        lines.append(f"| {_label(row)} | " + " | ".join(texts) + f" | {len(seeds)} |")
    return "\n".join(lines)


def _best(name: str, head: str, cells: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Rows with the best mean of a column of metrics."""
    means = {row: found[name][0] for row, found in cells.items() if found[name] is not None}
    if name in ("coverage", "failures", "seconds") or not means:
        return set()
    best = min(means.values()) if head.endswith("↓") else max(means.values())
    return {row for row, mean in means.items() if mean == best}


def _cell(name: str, found: tuple[float, float, int] | None, best: bool) -> str:
    if found is None:
        return ""
    mean, deviation, seeds = found
    if name == "seconds":
        return f"{mean:.0f}"
    if name in ("coverage", "failures"):
        return f"{100 * mean:.1f} %"
    text = f"{mean:.3f}"
    return (f"**{text}**" if best else text) + (f" ± {deviation:.3f}" if seeds > 1 else "")


def _tests(results: Sequence[Result], reference: str) -> str:
    found = differences(results, reference)
    used = [name for name in TESTED if any(each.column == name for row in found.values() for each in row)]
    heads = " | ".join(COLUMNS[name].split()[0] for name in used)
    lines = [
        f"{_label(reference)} minus each row, mean over the seeds of both; in brackets p of a paired t-test, corrected "
        "after Holm:",
        "",
        f"| | {heads} |",
        "|---" * (len(used) + 1) + "|",
    ]
    for row, each in found.items():
        by_column = {difference.column: difference for difference in each}
        texts = [_difference(by_column.get(name)) for name in used]
        lines.append(f"| {_label(row)} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _difference(found: Difference | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:+.3f}" + (f" ({found.p_value:.2g})" if found.p_value is not None else "")
