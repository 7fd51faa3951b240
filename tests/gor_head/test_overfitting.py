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
from gor_head.training.data import Rows, SmoothedRows
from gor_head.training.temperature import fit_temperature
from gor_head.vocabulary import PAD
from tests.gor_head.estimator.problems import X, Y, direct, held_out, quick
from tests.gor_head.tiny_models import memory_of, tiny

AGES = CoDiVocabulary.fit(np.arange(100.0))


def test_drawn_neighbours_are_normal_around_the_label() -> None:
    torch.manual_seed(0)
    labels = torch.cat([torch.full((4000,), 50.0), torch.tensor([0.0, 99.0])]).double()
    rows = SmoothedRows({"labels": labels, "codes": AGES.encode(labels)}, AGES, 5.0)
    batch = rows.__getitems__(range(4000))
    drawn = AGES.decode(batch["codes"])
    assert torch.equal(batch["labels"], drawn)  # both terms of the loss have the same target
    spread = np.random.default_rng(0).uniform(-0.5, 0.5, 4000)  # what rounding took
    assert kstest((drawn.numpy() + spread - 50) / 5, "norm").pvalue > 1e-3
    assert not torch.equal(batch["codes"], rows.__getitems__(range(4000))["codes"])
    ends = torch.cat([rows.__getitems__([4000, 4001])["labels"] for _ in range(50)])
    assert ends.min() >= 0 and ends.max() <= 99 and AGES.clipped == 0


def surprise(log_probs: torch.Tensor, codes: torch.Tensor, temperature: float, weight: torch.Tensor) -> float:
    """Mean negative log-likelihood under a temperature, token by token."""
    total = 0.0
    for row, code, share in zip(log_probs, codes, weight / weight.sum(), strict=True):
        for step, token in zip(row / temperature, code, strict=True):
            total += 0.0 if token == PAD else float(share * (step.logsumexp(dim=0) - step[token]))
    return total


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 50), st.floats(0.3, 4.0), st.booleans())
def test_the_temperature_is_the_best_of_a_grid(seed: int, spread: float, weighted: bool) -> None:
    model, memory = tiny(AGES, seed=seed, spread=spread), memory_of(20, seed=seed)
    generator = np.random.default_rng(seed)
    codes = torch.from_numpy(AGES.encode(generator.integers(0, 100, 20).astype(float))).long()
    weight = torch.from_numpy(generator.random(20)) if weighted else torch.ones(20)
    with torch.no_grad():
        log_probs = model.log_probs(memory, codes)
    best = fit_temperature(log_probs, codes, weight if weighted else None)
    found = surprise(log_probs, codes, best, weight)
    assert found <= min(surprise(log_probs, codes, grid, weight) for grid in np.geomspace(0.06, 19, 20)) + 1e-6


def test_logits_three_times_as_large_have_three_times_the_temperature() -> None:
    memory, labels = memory_of(60), np.random.default_rng(0).integers(0, 100, 60).astype(float)
    codes = torch.from_numpy(AGES.encode(labels)).long()
    model, temperatures = tiny(AGES, spread=2.0), []
    for temperature in (1.0, 1 / 3):
        model.config.logit_temperature = temperature
        with torch.no_grad():
            temperatures.append(fit_temperature(model.log_probs(memory, codes), codes))
    assert temperatures[1] == pytest.approx(3 * temperatures[0], rel=1e-2)
    with pytest.raises(ValueError, match="logit_temperature: wanted a positive number, got 0"):
        tiny(AGES, logit_temperature=0)


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
        learning = {"max_steps": 60, "learning_rate": 1e-2, "random_state": 0}
        before, smoothed, decayed = (
            quick(**learning, **more).fit(X, Y) for more in ({}, {"smoothing": 1.0}, {"weight_decay": 10.0})
        )
        directs = [direct(max_steps=20, random_state=0, weight_decay=decay).fit(X, Y) for decay in (0.0, 10.0)]
    # Smoothed targets leave a broader distribution behind.
    widths = [np.ptp(model.predict_interval(X), axis=1).mean() for model in (before, smoothed)]
    assert widths[1] > widths[0]
    assert float(decayed.model_.output.weight.norm()) < float(before.model_.output.weight.norm())
    norms = [sum(float(each.norm()) for each in model.model_.parameters()) for model in directs]
    assert norms[1] < norms[0]


def test_what_training_and_calibration_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Rows] = []
    weights: list[torch.Tensor | None] = []
    train = GoRRegressor._train

    def spy(self: GoRRegressor, rows: Rows, *rest: Any) -> Any:
        seen.append(rows)
        return train(self, rows, *rest)

    def fitted(log_probs: torch.Tensor, codes: torch.Tensor, weight: torch.Tensor | None) -> float:
        assert len(log_probs) == len(codes) == 5  # of the 12 rows held out
        weights.append(weight)
        return 1.5

    monkeypatch.setattr(GoRRegressor, "_train", spy)
    monkeypatch.setattr("gor_head.estimator.gor.fit_temperature", fitted)
    monkeypatch.setattr("gor_head.estimator.gor.CALIBRATED", 5)
    settings_ = {"smoothing": 0.5, "calibrate": True, "finetune": "grpo", "finetune_steps": 2, "predict_batch_size": 2}
    model = quick(**settings_).fit(X, Y, sample_weight=np.linspace(0.5, 2, 60))
    assert [type(rows) for rows in seen] == [SmoothedRows, Rows]
    assert seen[0].deviation == pytest.approx(0.5 * seen[0].columns["labels"].numpy().std())  # type: ignore[attr-defined]
    assert model.model_.config.logit_temperature == 1.5
    held = np.linspace(0.5, 2, 60)[held_out()] / np.delete(np.linspace(0.5, 2, 60), held_out()).mean()
    [weight] = weights
    assert weight is not None
    np.testing.assert_allclose(weight, held[np.linspace(0, 11, 5).astype(int)])
