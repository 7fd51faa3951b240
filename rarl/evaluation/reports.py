"""Report files: write one, read one, gather several runs in one."""

import json
from pathlib import Path

from rarl.evaluation import Report

CONSTANT = "constant"


def write_report(report: Report, path: str | Path) -> None:
    """Write a report as strict JSON (no NaN), making the folders on the way."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_report(path: str | Path) -> Report:
    """Read a report that `rarl evaluate` wrote; of a folder, its `report.json`.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the file is no report.
    """
    path = Path(path)
    path = path / "report.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a report written by `rarl evaluate` is wanted.")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); a report written by `rarl evaluate` is wanted.") from None
    if not isinstance(report, dict) or "task" not in report or "tau" not in report:
        raise ValueError(f"{path} has no task and tau; a report written by `rarl evaluate` is wanted.")
    return report


def gather(reports: dict[str, Report]) -> dict[str, Report]:
    """Reports of several runs on the same prompts as one: run name → report, and their common `constant` baseline.

    Raises:
        ValueError: If the runs were evaluated on different prompts or tasks, or one is named `constant`.
    """
    gathered: dict[str, Report] = {}
    first: tuple[str, Report] | None = None
    for name, report in reports.items():
        if name == CONSTANT:
            raise ValueError(f"No run may be named {CONSTANT!r}: that is the row of the constant baseline.")
        setting = {key: report.get(key) for key in ("task", "num_prompts", "tied", CONSTANT)}
        if first and setting != first[1]:
            raise ValueError(
                f"Runs {first[0]!r} and {name!r} were not evaluated alike, so they cannot be compared: "
                f"{first[1]} and {setting}."
            )
        first = first or (name, setting)
        gathered[name] = {key: value for key, value in report.items() if key != CONSTANT}
    if first and first[1][CONSTANT]:
        gathered[CONSTANT] = first[1][CONSTANT]
    return gathered
