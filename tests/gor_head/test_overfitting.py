"""What is there against overfitting: neighbours of labels as targets, a temperature, weight decay."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from gor_head import CoDiVocabulary, GoRRegressor
from gor_head.losses import nll
from gor_head.training.data import SmoothedRows
from gor_head.training.temperature import fit_temperature
from tests.gor_head.estimator.problems import X, Y, direct, quick
from tests.gor_head.tiny_models import memory_of, tiny

AGES = CoDiVocabulary.fit(np.arange(100.0))


def test_drawn_neighbours_are_normal_around_the_label() -> None:
    torch.manual_seed(0)
    labels = torch.cat([torch.full((4000,), 50.0), torch.tensor([0.0, 99.0])]).double()
    rows = SmoothedRows({"labels": labels, "codes": torch.from_numpy(AGES.encode(labels.numpy()))}, AGES.encode, 5.0)
    batch = rows.__getitems__(range(4000))
    assert torch.equal(batch["labels"], labels[:4000])  # errors are still counted from the truth
    drawn = AGES.decode(batch["codes"].numpy())
    assert kstest((drawn + np.random.default_rng(0).uniform(-0.5, 0.5, 4000) - 50) / 5, "norm").pvalue > 1e-3
    assert not torch.equal(batch["codes"], rows.__getitems__(range(4000))["codes"])
    ends = [AGES.decode(rows.__getitems__([4000, 4001])["codes"].numpy()) for _ in range(50)]
    assert np.min(ends) >= 0 and np.max(ends) <= 99


def surprise(model: Any, memory: torch.Tensor, codes: torch.Tensor, temperature: float) -> float:
    """Mean negative log-likelihood under a temperature, by the model itself."""
    model.config.logit_temperature = temperature
    with torch.no_grad():
        return float(nll(model.log_probs(memory, codes), codes).mean())


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 50), st.floats(0.3, 4.0))
def test_the_temperature_is_the_best_of_a_grid(seed: int, spread: float) -> None:
    model, memory = tiny(AGES, seed=seed, spread=spread), memory_of(40, seed=seed)
    labels = np.random.default_rng(seed).integers(0, 100, 40).astype(float)
    codes = torch.from_numpy(AGES.encode(labels)).long()
    best = fit_temperature(model, memory, codes)
    assert model.config.logit_temperature == best
    found = surprise(model, memory, codes, best)
    assert found <= min(surprise(model, memory, codes, grid) for grid in np.geomspace(0.06, 19, 60)) + 1e-6


def test_logits_three_times_as_large_have_three_times_the_temperature() -> None:
    memory, labels = memory_of(60), np.random.default_rng(0).integers(0, 100, 60).astype(float)
    codes = torch.from_numpy(AGES.encode(labels)).long()
    temperatures = []
    for factor in (1.0, 3.0):
        model = tiny(AGES, spread=2.0)
        with torch.no_grad():
            model.output.weight.mul_(factor)
            model.output.bias.mul_(factor)
        temperatures.append(fit_temperature(model, memory, codes))
    assert temperatures[1] == pytest.approx(3 * temperatures[0], rel=1e-2)


def test_all_decoders_follow_the_temperature(tmp_path: Path) -> None:
    model = quick(max_steps=30, random_state=0).fit(X, Y)
    assert np.ptp(model.predict_interval(X), axis=1).min() > 0
    greedy = model.predict(X, decode="greedy")
    model.model_.config.logit_temperature = 1e-3  # one code is left
    for level in (0.05, 0.95):
        np.testing.assert_array_equal(model.predict_quantiles(X, [level])[:, 0], greedy)
    for decode in ("quantile", "mean", "sample"):
        np.testing.assert_allclose(model.predict(X, decode=decode), greedy)
    read = GoRRegressor.from_pretrained(model.save_pretrained(tmp_path))
    assert read.model_.config.logit_temperature == 1e-3  # type: ignore[attr-defined]
    np.testing.assert_array_equal(read.predict(X), model.predict(X))


def test_calibration_takes_the_rows_held_out() -> None:
    plain = quick(max_steps=60, learning_rate=1e-2, random_state=0).fit(X, Y)
    fitted = quick(max_steps=60, learning_rate=1e-2, random_state=0, calibrate=True).fit(X, Y)
    assert plain.model_.config.logit_temperature == 1.0 != fitted.model_.config.logit_temperature
    for one, other in zip(plain.model_.parameters(), fitted.model_.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="calibrate: a temperature is fitted on rows held out"):
        quick(calibrate=True, validation_fraction=0).fit(X, Y)
    for settings_, message in (
        ({"calibrate": 1}, "calibrate: wanted true or false, got 1"),
        ({"smoothing": -0.1}, "smoothing: wanted a number from 0 on, got -0.1"),
    ):
        with pytest.raises(ValueError, match=message):
            quick(**settings_).fit(X, Y)
    with pytest.warns(UserWarning, match="too few rows to hold some out"):
        quick(max_steps=2, calibrate=True).fit(X[:9], Y[:9])


def test_smoothing_and_decay_act() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = quick(max_steps=20, random_state=0).fit(X, Y)
        smoothed = quick(max_steps=20, random_state=0, smoothing=0.2).fit(X, Y)
        decayed = quick(max_steps=20, random_state=0, weight_decay=10.0).fit(X, Y)
        directs = [direct(max_steps=20, random_state=0, weight_decay=decay).fit(X, Y) for decay in (0.0, 10.0)]
    assert not torch.equal(before.model_.output.weight, smoothed.model_.output.weight)
    assert float(decayed.model_.output.weight.norm()) < float(before.model_.output.weight.norm())
    norms = [sum(float(each.norm()) for each in model.model_.parameters()) for model in directs]
    assert norms[1] < norms[0]
    assert before.vocabulary_.clipped == smoothed.vocabulary_.clipped == 0
