"""Reports: what one says, as a file and back, and several runs in one."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gor_head.metrics import METRICS

CONSTANT = "constant"
WANTED = "a report written by `rarl evaluate` is wanted."


@dataclass(frozen=True)
class Scores:
    """Metrics over one reading of the answers.

    Attributes:
        metrics: Name of a one-image metric of [`METRICS`][gor_head.metrics.METRICS] → its value, `None` where it is
            undefined: MAE, and the task's own.
        tau: Number of images → mean Kendall τ, `None` where no prompt has an order. Prompts whose true values are all
            tied have none.
    """

    metrics: dict[str, float | None]
    tau: dict[int, float | None]

    def to_json(self) -> dict[str, Any]:
        """The metrics by name, and `tau`."""
        return {**self.metrics, "tau": _by_number(self.tau)}


@dataclass(frozen=True)
class Constant:
    """A constant prediction to compare with.

    Attributes:
        value: The prediction.
        mae: Mean absolute error of the prediction over the one-image prompts, `None` of no prompts.
    """

    value: float
    mae: float | None

    def to_json(self) -> dict[str, Any]:
        """`value` and `mae`."""
        return {"value": self.value, "mae": self.mae}

    @classmethod
    def from_json(cls, content: Any, where: str) -> "Constant":
        """What [`Constant.to_json`][rarl.evaluation.reports.Constant.to_json] gave.

        Raises:
            ValueError: If it is none; the message names the key.
        """
        content = _object(content, where, ("value", "mae"))
        return cls(_number(content["value"], f"{where}: value"), _number_or_null(content["mae"], f"{where}: mae"))


@dataclass(frozen=True)
class IntervalScores:
    """What intervals of one-image prompts are worth.

    Attributes:
        interval: Share of the distribution that they are meant to hold.
        coverage: Share of intervals that hold the true value, `None` of none.
        width: Mean width of the intervals in units of the label, `None` of none.
        unreadable: Number of prompts that are left out, as an end cannot be read.
    """

    interval: float
    coverage: float | None
    width: float | None
    unreadable: int

    def to_json(self) -> dict[str, Any]:
        """The attributes by name."""
        return {
            "interval": self.interval,
            "coverage": self.coverage,
            "width": self.width,
            "unreadable": self.unreadable,
        }

    @classmethod
    def from_json(cls, content: Any, where: str) -> "IntervalScores":
        """What [`IntervalScores.to_json`][rarl.evaluation.reports.IntervalScores.to_json] gave.

        Raises:
            ValueError: If it is none; the message names the key.
        """
        content = _object(content, where, ("interval", "coverage", "width", "unreadable"))
        return cls(
            interval=_number(content["interval"], f"{where}: interval"),
            coverage=_number_or_null(content["coverage"], f"{where}: coverage"),
            width=_number_or_null(content["width"], f"{where}: width"),
            unreadable=_count(content["unreadable"], f"{where}: unreadable"),
        )


@dataclass(frozen=True)
class Report:
    """How well a model's answers to held-out prompts do; what `report.json` holds.

    Numbers of images are whole numbers here, and strings in JSON. Parts that are `None` are left out of JSON: they were
    not asked for, or are not known of a report of an earlier version.

    Attributes:
        task: Name of the task.
        readable: Metrics over the readable answers; in JSON they stand at the top.
        failure_rate: Share of unreadable answers over all prompts, `None` of no prompts.
        strict: Metrics over all answers, an unreadable one scoring the worst value there is (`tau` −1).
        num_prompts: Number of images → number of prompts.
        failures: Number of images → number of unreadable answers.
        reasons: Why answers are not well-formed, by the number of images: reason (see
            [`REASONS`][rarl.answer.REASONS]) → number of answers. Of a list with one bad item the rest is read all the
            same, so there may be more than `failures`.
        tied: Number of images → number of prompts whose true values are all tied, which have no order.
        constant: A constant prediction to compare with.
        tokens_per_answer: Number of images → mean tokens of an answer, its end included.
        interval: What intervals of one-image prompts are worth.
        unreadable_samples: Number of images → number of sampled answers that could not be read, of answers that are
            medians of samples.
        decode: How numbers were read; see [`evaluate`][rarl.evaluation.protocol.evaluate].
    """

    task: str
    readable: Scores
    failure_rate: float | None
    strict: Scores | None = None
    num_prompts: dict[int, int] | None = None
    failures: dict[int, int] | None = None
    reasons: dict[int, dict[str, int]] | None = None
    tied: dict[int, int] | None = None
    constant: Constant | None = None
    tokens_per_answer: dict[int, float | None] | None = None
    interval: IntervalScores | None = None
    unreadable_samples: dict[int, int] | None = None
    decode: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The content of `report.json`, plain JSON."""
        content = {"task": self.task, **self.readable.to_json(), "failure_rate": self.failure_rate}
        parts = {
            "strict": None if self.strict is None else self.strict.to_json(),
            "num_prompts": _by_number(self.num_prompts),
            "failures": _by_number(self.failures),
            "reasons": _by_number(self.reasons),
            "tied": _by_number(self.tied),
            CONSTANT: None if self.constant is None else self.constant.to_json(),
            "tokens_per_answer": _by_number(self.tokens_per_answer),
            "interval": None if self.interval is None else self.interval.to_json(),
            "unreadable_samples": _by_number(self.unreadable_samples),
            "decode": self.decode,
        }
        return content | {name: part for name, part in parts.items() if part is not None}

    @classmethod
    def from_json(cls, content: Any, where: str = "report") -> "Report":
        """What [`Report.to_json`][rarl.evaluation.reports.Report.to_json] gave, also in an earlier version, which had
        fewer parts.

        Args:
            content: Plain JSON.
            where: What it was read from, for messages.

        Raises:
            ValueError: If it is no report; the message names the key, what is there and what is wanted.
        """
        if not isinstance(content, dict) or "task" not in content or "tau" not in content:
            raise ValueError(f"{where} has no task and tau; {WANTED}")
        rest = dict(content)
        task, failure_rate = rest.pop("task"), rest.pop("failure_rate", None)
        if not isinstance(task, str):
            raise ValueError(f"{where}: task: wanted the name of a task, got {task!r}.")

        def part(name: str, read: Callable[[Any, str], Any]) -> Any:
            found = rest.pop(name, None)
            return None if found is None else read(found, f"{where}: {name}")

        parts = {
            "strict": part("strict", _read_scores),
            "num_prompts": part("num_prompts", _reader(_count)),
            "failures": part("failures", _reader(_count)),
            "reasons": part("reasons", _reader(_read_reasons)),
            "tied": part("tied", _reader(_count)),
            CONSTANT: part(CONSTANT, Constant.from_json),
            "tokens_per_answer": part("tokens_per_answer", _reader(_number_or_null)),
            "interval": part("interval", IntervalScores.from_json),
            "unreadable_samples": part("unreadable_samples", _reader(_count)),
            "decode": part("decode", _word),
        }
        rate = _number_or_null(failure_rate, f"{where}: failure_rate")
        return cls(task, _read_scores(rest, where), rate, **parts)


@dataclass(frozen=True)
class Runs:
    """Reports of several runs on the same prompts.

    Attributes:
        reports: Run → its report, without the constant.
        constant: The constant prediction that they have in common.
    """

    reports: dict[str, Report]
    constant: Constant | None = None

    def to_json(self) -> dict[str, Any]:
        """The reports by run, then `constant`."""
        runs = {name: report.to_json() for name, report in self.reports.items()}
        return runs if self.constant is None else {**runs, CONSTANT: self.constant.to_json()}

    @classmethod
    def from_json(cls, content: Any, where: str = "report") -> "Runs":
        """What [`Runs.to_json`][rarl.evaluation.reports.Runs.to_json] gave.

        Raises:
            ValueError: If it is none; the message names the run and the key.
        """
        runs = dict(_object(content, where))
        found = runs.pop(CONSTANT, None)
        constant = None if found is None else Constant.from_json(found, f"{where}: {CONSTANT}")
        return cls({name: Report.from_json(run, f"{where}: {name}") for name, run in runs.items()}, constant)


def write_report(report: Report | Runs, path: str | Path) -> None:
    """Write a report as strict JSON (no NaN), making the folders on the way."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_report(path: str | Path) -> Report:
    """Read a report that `rarl evaluate` wrote; of a folder, its `report.json`.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the file is no report.
    """
    path = Path(path)
    path = path / "report.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {WANTED}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); {WANTED}") from None
    return Report.from_json(content, str(path))


def gather(reports: Mapping[str, Report]) -> Runs:
    """Reports of several runs on the same prompts as one: run name → report, and their common `constant` baseline.

    Raises:
        ValueError: If the runs were evaluated on different prompts or tasks, or one is named `constant`.
    """
    first: tuple[str, dict[str, Any]] | None = None
    for name, report in reports.items():
        if name == CONSTANT:
            raise ValueError(f"No run may be named {CONSTANT!r}: that is the row of the constant baseline.")
        content = report.to_json()
        setting = {key: content.get(key) for key in ("task", "num_prompts", "tied", CONSTANT)}
        if first and setting != first[1]:
            raise ValueError(
                f"Runs {first[0]!r} and {name!r} were not evaluated alike, so they cannot be compared: "
                f"{first[1]} and {setting}."
            )
        first = first or (name, setting)
    constant = next((report.constant for report in reports.values()), None)
    return Runs({name: replace(report, constant=None) for name, report in reports.items()}, constant)


def _by_number(content: Mapping[int, Any] | None) -> dict[str, Any] | None:
    return None if content is None else {str(number): value for number, value in content.items()}


def _object(content: Any, where: str, names: tuple[str, ...] | None = None) -> dict[str, Any]:
    if not isinstance(content, dict) or (names is not None and sorted(content) != sorted(names)):
        wanted = "wanted an object" if names is None else f"wanted {', '.join(names)}"
        raise ValueError(f"{where}: {wanted}, got {content!r}.")
    return content


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where}: wanted a finite number, got {value!r}.")
    return value


def _word(found: Any, where: str) -> str:
    if not isinstance(found, str):
        raise ValueError(f"{where}: wanted a word, got {found!r}.")
    return found


def _number_or_null(value: Any, where: str) -> float | None:
    return None if value is None else _number(value, where)


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{where}: wanted a whole number from 0 on, got {value!r}.")
    return value


def _reader(read: Callable[[Any, str], Any]) -> Callable[[Any, str], dict[int, Any]]:
    """Reads what there is for each number of images."""

    def by_number(content: Any, where: str) -> dict[int, Any]:
        for number in _object(content, where):
            if not (number.isascii() and number.isdecimal() and number == str(int(number))):
                raise ValueError(f"{where}: wanted numbers of images, got {number!r}.")
        return {int(number): read(value, f"{where}: {number}") for number, value in content.items()}

    return by_number


def _read_reasons(content: Any, where: str) -> dict[str, int]:
    return {reason: _count(number, f"{where}: {reason}") for reason, number in _object(content, where).items()}


def _read_scores(content: Any, where: str) -> Scores:
    metrics = dict(_object(content, where))
    tau = _reader(_number_or_null)(metrics.pop("tau", {}), f"{where}: tau")
    for name, value in metrics.items():
        if name not in METRICS:
            raise ValueError(f"{where}: {name!r} is neither a part of a report nor a metric; {WANTED}")
        _number_or_null(value, f"{where}: {name}")
    return Scores(metrics, tau)
