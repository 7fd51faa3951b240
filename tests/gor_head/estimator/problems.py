"""Small problems and quick estimators of these tests."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from gor_head.estimator import DirectRegressor, GoRRegressor

Array = NDArray[np.float64]

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(60, 4))
Y = np.round(np.abs(10 * X[:, 0] + GENERATOR.normal(size=60)))
IMAGES = GENERATOR.random((12, 3, 16, 16), dtype=np.float32)
CONV = {"kind": "conv", "channels": [4, 8]}
FRAME = pd.DataFrame(
    {"a": X[:, 0], "town": np.where(X[:, 1] > 0, "x", "y"), "size": pd.Categorical(np.sign(X[:, 2]).astype(int))}
)


def quick(**settings: Any) -> GoRRegressor:
    return GoRRegressor(**{"max_steps": 4, "width": 16, "layers": 1, "random_state": 0} | settings)


def direct(head: str = "l1", **settings: Any) -> DirectRegressor:
    return DirectRegressor(head, **{"max_steps": 4, "random_state": 0} | settings)


EACH = pytest.mark.parametrize("make", [quick, direct], ids=["gor", "direct"])


def problem(label: Callable[[Array, Array], Array]) -> tuple[Array, Array, Array, Array]:
    """Training and test rows of a label made of the first of three features and of noise."""
    generator = np.random.default_rng(1)
    features, noise = generator.normal(size=(2400, 3)), generator.normal(size=2400)
    labels = np.round(label(features[:, 0], noise))
    return features[:1200], labels[:1200], features[1200:], labels[1200:]


def held_out(share: float = 0.2) -> NDArray[np.int64]:
    """Rows of 60 that an estimator with seed 0 holds out."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return np.sort(torch.randperm(60).numpy()[: int(60 * share)])


LEARNING: dict[str, Any] = {
    "max_steps": 150,
    "width": 32,
    "layers": 1,
    "learning_rate": 5e-3,
    "batch_size": 256,
    "strategy": "teacher_forcing",
    "huber_weight": 0.0,
    "random_state": 0,
}
