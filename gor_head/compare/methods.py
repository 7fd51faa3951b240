"""The methods that `gor compare` knows: GoR, its predecessor and the direct heads, all on one encoder and trainer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gor_head.estimator import DirectRegressor, GoRRegressor, OrdinalRegressor
from gor_head.heads import HEADS


@dataclass(frozen=True)
class Method:
    """A way to predict numbers.

    Args:
        name: Name of the method on the command line.
        make: (random_state, **training settings) → an estimator that is not fitted.
        reads: Row of the table → arguments of `predict`: one training may be read in several ways.
    """

    name: str
    make: Callable[..., OrdinalRegressor]
    reads: dict[str, dict[str, Any]] = field(default_factory=dict)


def _direct(head: str, row: str) -> Method:
    return Method(head, partial(DirectRegressor, head), {row: {}})


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "gor",
            GoRRegressor,
            {f"GoR ({decode})": {"decode": decode} for decode in ("quantile", "greedy")},
        ),
        # As the paper reports it: its strategies and its λ.
        Method(
            "gor_paper",
            partial(GoRRegressor, strategy="paper", huber_weight=10.0, huber_scale=1.0),
            {"GoR paper (greedy)": {"decode": "greedy"}, "GoR paper (quantile)": {"decode": "quantile"}},
        ),
        # The predecessor: no pruning, λ's weight on the likelihood, expectations in a window of ids.
        Method(
            "gr",
            partial(
                GoRRegressor,
                {"beta": 1.0},
                strategy="curriculum",
                nll_weight=10.0,
                huber_weight=1.0,
                huber_scale=1.0,
                huber_of="window",
                decode="window",
            ),
            {"GR (window)": {"decode": "window"}},
        ),
        _direct("quantile", "quantile head"),
        _direct("l1", "L1"),
        _direct("mse", "MSE (VR)"),
        _direct("cross_entropy_median", "bins, median"),
        _direct("cross_entropy_mean", "bins, mean"),
        _direct("or_cnn", "OR-CNN"),
        _direct("corn", "CORN"),
        _direct("sord", "SORD"),
        _direct("dldl", "DLDL"),
        _direct("mean_variance", "mean-variance"),
        _direct("ziln", "ZILN"),
    )
}
# Heads without a row of another name stand under their own.
METHODS |= {name: _direct(name, name) for name in HEADS if name not in METHODS}
