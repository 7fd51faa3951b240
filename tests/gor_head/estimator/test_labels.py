"""Labels of all kinds: equal, few, negative, not whole."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest

from gor_head.estimator import GoRRegressor, OrdinalRegressor
from tests.gor_head.estimator.problems import EACH, FRAME, X, Y, held_out, quick


def test_equal_labels_whose_computed_spread_is_rounding() -> None:
    """The standard deviation of thirty times 0.1 is 3e-17, in units of which any error is huge."""
    labels = np.full(30, 0.1)
    assert 0 < labels.std() < 1e-15
    model = quick(max_steps=40, learning_rate=1e-2, validation_fraction=0).fit(X[:30], labels)
    assert model.model_.config.huber_scale == 1
    np.testing.assert_allclose(model.predict(X), 0.1, rtol=1e-12)
    assert max(entry.get("loss", 0) for entry in model.log_history_) < 100


@pytest.mark.parametrize("value", [0.0, 7.0, 0.1, 1e15])
@EACH
def test_equal_labels(make: Callable[..., OrdinalRegressor], value: float) -> None:
    model = make(max_steps=40, learning_rate=1e-2).fit(X, np.full(60, value))
    if isinstance(model, GoRRegressor):
        np.testing.assert_allclose(model.predict(X), value, rtol=1e-12)
        np.testing.assert_allclose(model.predict_quantiles(X, [0.4, 0.6]), value, rtol=1e-12)
    else:
        np.testing.assert_allclose(model.predict(X), value, rtol=0.05, atol=0.5)


def test_few_positive_labels() -> None:
    labels = np.where(np.arange(60) % 15 == 0, 50.0 + np.arange(60), 0)
    with pytest.warns(UserWarning, match="Only .* labels are positive"):
        model = quick(max_steps=60, learning_rate=1e-2).fit(X, labels)
    assert len(model.vocabulary_.tokens) > 0
    # Of four in sixty, the median knows nothing, the highest percentile does.
    assert np.median(model.predict(X)) == 0 and model.predict_quantiles(X, [0.99]).max() > 40


def test_negative_labels_with_an_offset() -> None:
    labels = np.round(20 * X[:, 0])
    model = quick(vocabulary={"offset": "min"}, max_steps=60, learning_rate=1e-2).fit(X, labels)
    predictions = model.predict(X)
    assert predictions.min() < 0 < predictions.max() and np.corrcoef(predictions, labels)[0, 1] > 0.5


def test_labels_in_float32_keep_their_decimals() -> None:
    labels = (np.arange(60) / 10).astype(np.float32)
    assert quick().fit(X, labels).vocabulary_.grid.resolution == 0.1
    assert quick().fit(FRAME, labels).vocabulary_.grid.resolution == 0.1
    assert set(quick().fit(X, Y > 5).predict(X)) <= {0.0, 1.0}


def test_labels_without_a_code_among_the_validation_rows_are_none_of_the_vocabularys() -> None:
    """Whether there are any hangs on the seed; their errors count all the same."""
    held = held_out()
    labels = np.arange(60) % 5.0
    labels[held[:2]] = 1e6, 1e100
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = quick(eval_steps=1).fit(X, labels)
    assert model.vocabulary_.largest < 1e6 and model.vocabulary_.clipped == 0
    assert min(entry.get("eval_mae", np.inf) for entry in model.log_history_) > 1e98


@pytest.mark.parametrize("n", [1, 2, 3, 9, 10])
@EACH
def test_few_rows(make: Callable[..., OrdinalRegressor], n: int) -> None:
    model = make().fit(X[:n], Y[:n])
    looks = [entry for entry in model.log_history_ if "eval_mae" in entry]
    assert bool(looks) == (n >= 10)
    assert np.isfinite(model.predict(X[:n])).all()
