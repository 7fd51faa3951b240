"""Ordinal tasks: what is asked about an image or a text, in which range, and how an answer is scored.

A task is the one object that prompts, rewards, data sources and evaluation share. Register your own with
[`register_task`][rarl.task.register_task] and refer to it by name in data rows and on the command line.
"""

import json
import math
import re
import zlib
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, get_args

from gor_head.metrics import METRICS
from gor_head.numbers import write_number
from gor_head.text import write_value
from gor_head.vocabulary import CoDiVocabulary
from rarl.answer_format import Kind

_WORD = re.compile(r"""[^\s\d<>,:."'+\\/-]+""")
"""What can stand between "Image 1: " and a number, and be told from it."""


@dataclass(frozen=True)
class OrdinalTask:
    """An ordinal quantity that can be read off an image or a text.

    Args:
        name: Key under which the task is registered.
        rule: Phrase that completes "sort them in ascending order of ..." (`[Rule]` in Table 1 of the RARL paper).
        minimum: Smallest value that a label may have.
        maximum: Largest value that a label may have.
        tolerance: δ of the regression reward, in the units of the label; must be positive.
        integer: Whether labels are whole numbers.
        metric: Metric for one-image prompts, of those in [`METRICS`][gor_head.metrics.METRICS] that tasks may name:
            `"mae"`, `"accuracy"` (share of exactly right values) or `"srcc"` (Spearman's rank correlation).
        vocabulary: Value tokens in which answers write numbers, as `CoDiVocabulary.to_dict()` gives them; None for
            digits. See [`OrdinalTask.with_vocabulary`][rarl.task.OrdinalTask.with_vocabulary].
        kind: `"image"` or `"text"`: what is judged.
        shots: Solved examples that every prompt shows first, each a text and its value; of texts only.
        words: Words of a verbal rating scale, lowest first, each for an equal part of the range. If there are any, the
            reasoning says that of a value before it, as in "Text 1: positive 7.3", so that a model can say what it
            knows before it says how much.

    Raises:
        ValueError: If the kind is unknown, there are examples of images or with values out of range, the range is
            empty, not finite, or of whole numbers that floats cannot hold, or the tolerance is not positive; if the
            words are not at least two different ones without blanks, digits and signs; or if the vocabulary has another
            resolution, an offset, or no codes up to the maximum.

    Example:

    ```python
    >>> from rarl.task import OrdinalTask, register_task
    >>> rust = register_task(OrdinalTask("rust", "rusted area in percent", 0, 100, tolerance=8))
    >>> rust.format_value(12.5)
    '12.5'
    ```
    """

    name: str
    rule: str
    minimum: float
    maximum: float
    tolerance: float
    integer: bool = False
    metric: str = "mae"
    vocabulary: dict[str, Any] | None = field(default=None, repr=False, hash=False)
    kind: Kind = "image"
    shots: tuple[tuple[str, float], ...] = field(default=(), repr=False)
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name or not self.rule:
            raise ValueError(f"An ordinal task needs a name and a rule, got name={self.name!r}, rule={self.rule!r}.")
        if self.kind not in get_args(Kind):
            raise ValueError(f"Task {self.name!r}: kind must be {' or '.join(get_args(Kind))}, got {self.kind!r}.")
        if not (math.isfinite(self.minimum) and math.isfinite(self.maximum) and self.minimum < self.maximum):
            raise ValueError(
                f"Task {self.name!r}: the range must be finite with minimum < maximum, "
                f"got minimum={self.minimum}, maximum={self.maximum}."
            )
        if self.integer and max(-self.minimum, self.maximum) >= 2**53:
            raise ValueError(
                f"Task {self.name!r}: whole numbers are exact below 2**53, got minimum={self.minimum}, "
                f"maximum={self.maximum}."
            )
        if not (math.isfinite(self.tolerance) and self.tolerance > 0):
            raise ValueError(f"Task {self.name!r}: tolerance must be a positive number, got {self.tolerance}.")
        metrics = [repr(metric.name) for metric in METRICS.values() if metric.of_tasks]
        if repr(self.metric) not in metrics:
            wanted = f"{', '.join(metrics[:-1])} or {metrics[-1]}"
            raise ValueError(f"Task {self.name!r}: metric must be {wanted}, got {self.metric!r}.")
        if self.vocabulary is not None:
            self._check_vocabulary(self.codi_vocabulary)
        if self.shots and self.kind != "text":
            raise ValueError(f"Task {self.name!r}: shots: solved examples are texts, but it judges {self.kind}s.")
        shots = tuple((str(text), self.check_value(value, f"Task {self.name!r}, shots")) for text, value in self.shots)
        object.__setattr__(self, "shots", shots)  # JSON has lists
        object.__setattr__(self, "words", (self.words,) if isinstance(self.words, str) else tuple(self.words or ()))
        wrong = [word for word in self.words if not (isinstance(word, str) and _WORD.fullmatch(word))]
        if wrong or len(set(self.words)) == 1 or len(set(self.words)) < len(self.words):
            raise ValueError(
                f"Task {self.name!r}: words: wanted none, or at least 2 different ones, each without blanks, digits "
                f"and signs, got {', '.join(map(repr, self.words))}."
            )

    def with_vocabulary(self, vocabulary: "CoDiVocabulary") -> "OrdinalTask":
        """The same task, its numbers written in the value tokens of a vocabulary."""
        return replace(self, vocabulary=vocabulary.to_dict())

    @cached_property
    def codi_vocabulary(self) -> "CoDiVocabulary":
        """The vocabulary.

        Raises:
            ValueError: If there is none, or it was changed since it was made.
        """
        if self.vocabulary is None:
            raise ValueError(f"Task {self.name!r} writes numbers in digits; wanted one with a vocabulary.")
        return CoDiVocabulary.from_dict(self.vocabulary, f"Task {self.name!r}: vocabulary")

    @property
    def digest(self) -> str:
        """The name, and a checksum of all that the task says: what prompts and answers look like depends on it."""
        return f"{self.name}@{zlib.crc32(json.dumps(asdict(self), sort_keys=True).encode()):08x}"

    def _check_vocabulary(self, codes: "CoDiVocabulary") -> None:
        resolution = codes.grid.resolution
        if self.integer != float(resolution).is_integer():
            wanted = "whole numbers" if self.integer else "fractions"
            raise ValueError(
                f"Task {self.name!r}: values are {wanted}, but the vocabulary has a resolution of "
                f"{write_number(resolution)}."
            )
        if codes.offset or self.minimum < 0:
            raise ValueError(
                f"Task {self.name!r}: value tokens are sums from 0; wanted a minimum of 0 or more and no offset, got "
                f"minimum={write_number(self.minimum)}, offset={write_number(codes.offset)}."
            )
        if codes.largest < self.maximum:
            raise ValueError(
                f"Task {self.name!r}: the vocabulary has codes up to {write_number(codes.largest)}, wanted "
                f"{write_number(self.maximum)}."
            )

    @property
    def value_range(self) -> str:
        """`[Value_Range]` of the prompt, e.g. `"integer from 0 to 116"`."""
        kind = "integer" if self.integer else "number"
        return f"{kind} from {write_number(self.minimum)} to {write_number(self.maximum)}"

    def format_value(self, value: float) -> str:
        """A label as it is written in an answer: in value tokens if the task has a vocabulary; else in digits, without
        a decimal point for integer tasks, in the shortest form that reads back as the same number otherwise."""
        if self.vocabulary is not None:
            return write_value(self.codi_vocabulary, value)
        if self.integer:
            return str(int(round(value)))
        return write_number(value)

    def word(self, value: float) -> str:
        """The word of a value, that of the part of the range in which it lies; an end of two parts is in the higher.

        Raises:
            ValueError: If the task has no words.
        """
        if not self.words:
            raise ValueError(f"Task {self.name!r} has no words.")
        share = (min(max(value, self.minimum), self.maximum) - self.minimum) / (self.maximum - self.minimum)
        # Rounded, so that an end such as 2.8 of 1 to 10 is one.
        return self.words[min(int(round(share * len(self.words), 9)), len(self.words) - 1)]

    def check_value(self, value: float, where: str = "value") -> float:
        """Return `value` as a float.

        Raises:
            ValueError: If it is not finite, outside the range, or fractional for an integer task; the message starts
                with `where` so that it names the file or sample.
        """
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{where}: value {value!r} is not finite; task {self.name!r} wants: {self.value_range}.")
        if not self.minimum <= number <= self.maximum:
            raise ValueError(
                f"{where}: value {write_number(number)} is outside the range of task {self.name!r}, "
                f"which is {write_number(self.minimum)} to {write_number(self.maximum)}."
            )
        if self.integer and number != int(number):
            raise ValueError(
                f"{where}: value {write_number(number)} is not an integer, which task {self.name!r} wants."
            )
        return number


TASKS: dict[str, OrdinalTask] = {}


def register_task(task: OrdinalTask) -> OrdinalTask:
    """Make `task` known under its name, replacing an earlier task of that name, and return it."""
    TASKS[task.name] = task
    return task


def get_task(task: str | OrdinalTask) -> OrdinalTask:
    """The task registered under a name, or that of a [`task_cell`][rarl.task.task_cell]; an
    [`OrdinalTask`][rarl.task.OrdinalTask] is returned as it is.

    Raises:
        ValueError: If no task of that name is registered.
    """
    if isinstance(task, OrdinalTask):
        return task
    if task.startswith("{"):
        return _defined(task)
    try:
        return TASKS[task]
    except KeyError:
        raise ValueError(f"Unknown task {task!r}; registered tasks: {', '.join(sorted(TASKS))}.") from None


def task_cell(task: OrdinalTask) -> str:
    """What stands for a task in the column `task` of data rows: its name, or its whole definition (JSON) where that
    name is not registered, or is that of another task. [`get_task`][rarl.task.get_task] reads either."""
    return task.name if TASKS.get(task.name) == task else json.dumps(asdict(task))


@lru_cache(maxsize=64)
def _defined(cell: str) -> OrdinalTask:
    try:
        return OrdinalTask(**json.loads(cell))
    except (TypeError, ValueError) as error:
        raise ValueError(f"Wanted the name of a task, or its definition, got {cell!r}: {error}") from None


TASK_FILE = "task.json"
"""File beside a trained adapter or model that says what it judges."""


def save_task(task: OrdinalTask, folder: str | Path) -> None:
    """Write a task as `task.json` into an existing folder, and its vocabulary, if any, as `vocabulary.json`."""
    content = asdict(task)
    if task.vocabulary is not None:
        content["vocabulary"] = task.codi_vocabulary.save_pretrained(folder).name
    (Path(folder) / TASK_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_task(folder: str | Path) -> OrdinalTask:
    """The task that [`save_task`][rarl.task.save_task] wrote; it is not registered.

    Raises:
        ValueError: If `task.json` holds no task.
        FileNotFoundError: If the folder holds no `task.json`, or not the vocabulary that it names.
    """
    path = Path(folder) / TASK_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("vocabulary") is not None:
            content["vocabulary"] = CoDiVocabulary.from_pretrained(folder).to_dict()
        return OrdinalTask(**content)
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} holds no ordinal task: {error}") from None


register_task(OrdinalTask("age", "age in years", 0, 116, tolerance=10, integer=True, metric="mae"))
register_task(OrdinalTask("count", "number of objects", 0, 10, tolerance=3, integer=True, metric="accuracy"))
register_task(OrdinalTask("aesthetics", "aesthetic quality", 1, 10, tolerance=1.5, metric="srcc"))
register_task(OrdinalTask("brightness", "brightness of the disc", 0, 1, tolerance=0.2, metric="mae"))
register_task(OrdinalTask("area", "area of the disc in pixels", 4, 2000, tolerance=400, integer=True, metric="mae"))
register_task(OrdinalTask("sentiment", "positive sentiment", 0, 10, tolerance=2, metric="srcc", kind="text"))
