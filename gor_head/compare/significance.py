"""Which of several methods are level with the best one: a paired bootstrap of their errors, corrected after Holm."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
LEVEL = 0.05
MARGIN = 0.01
"""A method is level with the best one if its MAE is within this share of the best MAE."""

CHUNK = 1 << 21
"""Draws held in memory at a time."""


@dataclass(frozen=True)
class Standing:
    """Where a method stands among those measured on the same samples.

    Attributes:
        mae: Mean absolute error, in units of the label.
        p_value: P-value of the difference from the best method, corrected after Holm; 1 for the best method itself.
        best: It has the lowest MAE (methods that share it are all best).
        tied: It is best, or its MAE is within 1 % of the best, or `p_value` is at least 0.05.
    """

    mae: float
    p_value: float
    best: bool
    tied: bool


def standings(
    errors: Mapping[str, Any], samples: Any, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Standing]:
    """Compare every method with the best one.

    The best method is the one that these very errors favour, so that p-values are those of a test against a chosen
    winner; and they speak of other test rows, not of other trainings.

    Args:
        errors: Method → absolute errors, `[n]`; position i is the same prediction task for all methods (the same row of
            the same split).
        samples: What row each error is of, `[n]`. Several splits test the same row more than once; its errors are no
            independent evidence, and are resampled together.
        resamples: Bootstrap resamples.
        seed: Seed of the resamples.

    Raises:
        ValueError: If there is no method, or errors are not finite numbers from 0 on of the same length as `samples`.
    """
    if not errors:
        raise ValueError("errors: wanted at least one method, got none.")
    rows = np.asarray(samples)
    columns = {name: np.asarray(column, dtype=np.float64) for name, column in errors.items()}
    for name, column in columns.items():
        if column.shape != rows.shape or column.ndim != 1 or not column.size:
            raise ValueError(f"errors of {name}: wanted shape ({len(rows)},), at least 1, got {column.shape}.")
        if not (np.isfinite(column).all() and column.min() >= 0):
            raise ValueError(f"errors of {name}: wanted finite numbers from 0 on.")
    mae = {name: float(column.mean()) for name, column in columns.items()}
    winner = min(mae, key=lambda name: mae[name])
    others = [name for name in columns if name != winner]
    differences = np.stack([columns[name] - columns[winner] for name in others], axis=1) if others else None
    raw: Any = [] if differences is None else bootstrap_p_values(differences, rows, resamples=resamples, seed=seed)
    p_values = dict(zip(others, holm(raw), strict=True)) | {winner: 1.0}
    lowest = mae[winner]
    return {
        name: Standing(
            mae=mae[name],
            p_value=float(p_values[name]),
            best=mae[name] == lowest,
            tied=bool(mae[name] <= lowest * (1 + MARGIN) or p_values[name] >= LEVEL),
        )
        for name in columns
    }


def bootstrap_p_values(
    differences: Any, samples: Any, *, resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """Two-sided p-values of the hypothesis that paired differences have mean 0.

    Samples are drawn with replacement, each with all its differences. p is the share of resamples whose mean lies as
    far from the observed mean as that lies from 0, with one added to both counts, so that it is never 0.

    Args:
        differences: Paired differences, `[n, k]`: k comparisons on the same resamples.
        samples: Sample that each difference belongs to, `[n]`.
        resamples: Bootstrap resamples.
        seed: Seed of the resamples.

    Returns:
        p-values, `[k]`, in (0, 1].
    """
    differences = np.asarray(differences, dtype=np.float64)
    observed = differences.mean(axis=0)
    _, index, sizes = np.unique(samples, return_inverse=True, return_counts=True)
    # Σ over drawn samples of (difference − observed mean), over the number of drawn differences, is how far the
    # resample's mean lies from the observed one.
    totals = np.stack([np.bincount(index, column) for column in (differences - observed).T] + [sizes], axis=1)
    n = len(sizes)
    generator = np.random.default_rng(seed)
    # Rounding must not part resamples that equal the observed data from it.
    reach = np.abs(observed) - 1e-12 * np.abs(differences).max(axis=0)
    extreme = np.zeros(len(observed), dtype=np.int64)
    step = max(1, CHUNK // n)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = generator.integers(0, n, size=(count, n)) + np.arange(count)[:, None] * n
        times = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)
        sums = times @ totals
        extreme += (np.abs(sums[:, :-1] / sums[:, -1:]) >= reach).sum(axis=0)
    return (extreme + 1) / (resamples + 1)


def holm(p_values: Any) -> NDArray[np.float64]:
    """p-values corrected for their number after Holm (1979), in the order given, `[k]` → `[k]`.

    The i-th smallest of k is multiplied by k − i + 1, and is at least the corrected one before it and at most 1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    result = np.empty_like(corrected)
    result[order] = corrected
    return result
