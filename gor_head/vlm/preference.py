"""Preferences among a model's own answers: pairs for DPO, row by row, resumable, with statistics and a card."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gor_head.numbers import show_number

PAIRS_FILE = "pairs.jsonl"
CARD_FILE = "README.md"
HISTOGRAM_BINS = 10


@dataclass(frozen=True)
class Candidate:
    """An answer that the model proposed.

    Args:
        text: The completion.
        error: How far off it is, ≥ 0; infinite where nothing can be read.
        key: What it says: candidates that say the same are one. For instance its numbers.
    """

    text: str
    error: float
    key: Any


def choose_pair(
    candidates: Sequence[Candidate], gap: float = 0.0, perfect: Candidate | None = None
) -> tuple[int, int] | None:
    """Chosen and rejected among candidates, likeliest first or as they were sampled, as positions in `[*candidates,
    perfect]`.

    Chosen is the least error, or `perfect` (the true answer) if it is given; rejected is the first candidate whose
    error is larger by more than `gap`. Of candidates that say the same the first stands for all.

    Returns:
        None for a tie: no candidate is worse by more than the gap.
    """
    first: dict[Any, int] = {}
    for index, one in enumerate(candidates):
        first.setdefault(one.key, index)
    distinct = list(first.values())
    if perfect is not None:
        chosen, least = len(candidates), perfect.error
    else:
        chosen = min(distinct, key=lambda index: candidates[index].error)
        least = candidates[chosen].error
    if math.isinf(least):
        return None
    worse = [index for index in distinct if candidates[index].error > least + gap]
    return (chosen, worse[0]) if worse else None


def choose_number(
    candidates: Sequence[Sequence[float | None]], values: Sequence[float], gap: float = 0.0
) -> tuple[int, float] | None:
    """The number that a pair is about: the first wrong one of the first candidate that has one.

    Not the farthest off: of several images that would be a number that a model seldom states.

    Args:
        candidates: What each candidate states of the images, in order of likelihood or as they were sampled; `None`
            where it states nothing.
        values: True values.
        gap: Numbers that are off by no more than this count as right.

    Returns:
        Position of the image and the rejected number; None if all candidates are right.
    """
    for stated in candidates:
        for image, (number, value) in enumerate(zip(stated, values, strict=True)):
            if number is not None and abs(number - value) > gap:
                return image, number
    return None


@dataclass(frozen=True)
class PreferenceStatistics:
    """What became of the rows.

    Args:
        rows: Rows that were looked at.
        pairs: Rows that gave a pair.
        ties: Rows that gave none.
        unreadable: Pairs whose rejected answer cannot be read.
        gaps: Difference of the errors of each readable pair.
    """

    rows: int
    pairs: int
    ties: int
    unreadable: int
    gaps: list[float]

    def histogram(self) -> list[tuple[float, float, int]]:
        """Lower end, upper end and number of the gaps, in at most ten equal bins."""
        if not self.gaps:
            return []
        counts, edges = np.histogram(self.gaps, bins=min(HISTOGRAM_BINS, len(set(self.gaps))))
        return [(float(a), float(b), int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)]


class PreferenceFile:
    """Pairs in a folder, one line per row of the prompts; a later run goes on after the last line.

    Args:
        folder: The folder, which is made if it is absent.
        settings: All that the pairs depend on, as plain JSON: model, prompts, candidates, gap.

    Raises:
        ValueError: If the folder holds pairs made with other settings.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self.path = self.folder / PAIRS_FILE
        self.settings = json.loads(json.dumps(settings))
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            self._append({"settings": self.settings})
        self.lines = self._read()

    def __len__(self) -> int:
        return len(self.lines)

    def add(self, row: int, pair: tuple[Candidate, Candidate] | None) -> None:
        """Keep what became of a row: a pair (chosen, rejected), or None for a tie."""
        line: dict[str, Any] = {"row": row}
        if pair is not None:
            names = ("chosen", "rejected")
            line |= {name: asdict(one) for name, one in zip(names, pair, strict=True)}
            for name in names:
                del line[name]["key"]
                if math.isinf(line[name]["error"]):
                    line[name]["error"] = None  # JSON knows no infinity
        self._append(line)
        self.lines.append(line)

    def pairs(self) -> list[tuple[int, str, str]]:
        """Row, chosen text and rejected text of each pair."""
        return [
            (line["row"], line["chosen"]["text"], line["rejected"]["text"]) for line in self.lines if "chosen" in line
        ]

    def statistics(self) -> PreferenceStatistics:
        """Counts over the rows so far."""
        pairs = [line for line in self.lines if "chosen" in line]
        readable = [line for line in pairs if line["rejected"]["error"] is not None]
        gaps = [line["rejected"]["error"] - line["chosen"]["error"] for line in readable]
        return PreferenceStatistics(
            len(self.lines), len(pairs), len(self.lines) - len(pairs), len(pairs) - len(readable), gaps
        )

    def write_card(self, title: str, text: str) -> Path:
        """A dataset card with a title and a paragraph, the share of ties and the histogram of the error gaps."""
        found = self.statistics()
        share = found.ties / found.rows if found.rows else 0.0
        lines = [
            "---",
            "tags: [preference, dpo, ordinal-regression]",
            "---",
            f"# {title}",
            "",
            text,
            "",
            f"- prompts: {found.rows}; pairs: {found.pairs}; ties skipped: {found.ties} ({share:.1%})",
            f"- rejected answers that cannot be read: {found.unreadable}",
            *(f"- {name}: {value}" for name, value in self.settings.items()),
            "",
            "| difference of the errors | pairs |",
            "|---|---|",
            *(f"| {show_number(low)} to {show_number(high)} | {count} |" for low, high, count in found.histogram()),
            "",
        ]
        path = self.folder / CARD_FILE
        path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
        return path

    def _append(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")  # in ASCII: a path may hold what UTF-8 cannot

    def _read(self) -> list[dict[str, Any]]:
        text = self.path.read_text(encoding="utf-8")
        whole = text.endswith("\n")
        raw = text.splitlines()
        if not whole:  # a run that was stopped in the middle of a line
            raw = raw[:-1]
            self.path.write_text("".join(f"{line}\n" for line in raw), encoding="utf-8")
        head, *lines = map(json.loads, raw)
        seen = head.get("settings")
        if seen != self.settings:
            raise ValueError(f"{self.path}: made with {seen}, wanted {self.settings}; remove it or use another folder.")
        return lines
