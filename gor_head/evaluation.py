"""What `gor evaluate` reports of predictions: every metric, and the errors by range of the labels."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from gor_head.metrics import METRICS, RangeRow, cumulative_metric, get_metric, mae_by_range

RANGES = 5
"""Into how many ranges the labels are parted by default, as equal in rows as they allow."""


@dataclass(frozen=True)
class Evaluation:
    """Report on predictions for labelled rows.

    Attributes:
        metrics: Name of a metric (see [`get_metric`][gor_head.metrics.get_metric]) → its value, `None` where it is
            undefined.
        ranges: Errors by range of the true labels.
        whole: Errors over all rows, as one range.
    """

    metrics: dict[str, float | None]
    ranges: list[RangeRow]
    whole: RangeRow

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: the metrics by name, `ranges` and `whole`; an infinite end of a range is `null`."""
        return {**self.metrics, "ranges": [_row_to_json(row) for row in self.ranges], "whole": _row_to_json(self.whole)}

    @classmethod
    def from_json(cls, content: Any, where: str = "evaluation") -> "Evaluation":
        """What [`Evaluation.to_json`][gor_head.evaluation.Evaluation.to_json] gave.

        Args:
            content: Plain JSON.
            where: What it was read from, for messages.

        Raises:
            ValueError: If it is none; the message names the key.
        """
        if not isinstance(content, Mapping) or not isinstance(content.get("ranges"), list) or "whole" not in content:
            raise ValueError(f"{where} has no ranges and whole; what `gor evaluate --json` prints is wanted.")
        metrics = {name: value for name, value in content.items() if name not in ("ranges", "whole")}
        for name, value in metrics.items():
            try:
                get_metric(name)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            if value is not None and not _is_number(value):
                raise ValueError(f"{where}: {name}: wanted a finite number or null, got {value!r}.")
        ranges = [_row_from_json(row, f"{where}: ranges[{index}]") for index, row in enumerate(content["ranges"])]
        return cls(metrics, ranges, _row_from_json(content["whole"], f"{where}: whole"))


def evaluate_predictions(
    truth: Any, prediction: Any, *, edges: list[float] | None = None, within: float = 5.0
) -> Evaluation:
    """Report on predictions.

    Args:
        truth: True labels, `[n]`.
        prediction: Predictions, `[n]`.
        edges: Ends of the label ranges, as [`mae_by_range`][gor_head.metrics.mae_by_range] takes them; by default
            fifths of the labels.
        within: L of CS@L, in units of the label.

    Raises:
        ValueError: As the metrics do.
    """
    if edges is None:
        edges = np.unique(np.quantile(truth, np.linspace(0, 1, RANGES + 1), method="higher")).tolist()
        if len(edges) < 2:
            edges = [-math.inf, math.inf]
    metrics = [metric for metric in METRICS.values() if metric.of_labels] + [cumulative_metric(within)]
    return Evaluation(
        metrics={metric.name: metric(truth, prediction) for metric in metrics},
        ranges=mae_by_range(truth, prediction, edges),
        whole=mae_by_range(truth, prediction, [-math.inf, math.inf])[0],
    )


def _row_to_json(row: RangeRow) -> dict[str, Any]:
    """An infinite end of a range becomes None: JSON has no infinity."""
    return {
        name: None if isinstance(value, float) and math.isinf(value) else value for name, value in asdict(row).items()
    }


def _row_from_json(content: Any, where: str) -> RangeRow:
    names = [field.name for field in fields(RangeRow)]
    if not isinstance(content, Mapping) or list(content) != names:
        raise ValueError(f"{where}: wanted a range with {', '.join(names)}, got {content!r}.")
    for name, value in content.items():
        may_be_null = name != "count"
        if not (_is_number(value) or (value is None and may_be_null)):
            wanted = "finite number or null" if may_be_null else "number"
            raise ValueError(f"{where}: {name}: wanted a {wanted}, got {value!r}.")
    ends = {name: end for name, end in (("low", -math.inf), ("high", math.inf)) if content[name] is None}
    return RangeRow(**{**content, **ends})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
