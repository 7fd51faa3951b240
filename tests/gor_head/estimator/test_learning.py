"""What the estimators learn, and how decoding, weights and fine-tuning change it."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error

from gor_head.estimator import DECODES, GoRRegressor
from gor_head.vocabulary import FIRST_VALUE
from tests.gor_head.estimator.problems import GENERATOR, LEARNING, Array, X, Y, direct, held_out, problem, quick


@pytest.fixture(scope="module")
def ages() -> tuple[GoRRegressor, Array, Array, Array]:
    """Normal labels of known spread 5: model, training labels, test rows and labels."""
    train, labels, test, truth = problem(lambda x, noise: np.clip(40 + 10 * x + 5 * noise, 0, None))
    return GoRRegressor(**LEARNING).fit(train, labels), labels, test, truth


@pytest.fixture(scope="module")
def views() -> tuple[GoRRegressor, Array, Array, Array]:
    """Log-normal labels: model, training labels, test rows and labels."""
    train, labels, test, truth = problem(lambda x, noise: np.exp(1.5 + 0.6 * x + 0.8 * noise))
    return GoRRegressor(decoder="gru", **LEARNING).fit(train, labels), labels, test, truth


def test_it_learns_and_knows_how_sure_it_is(ages: tuple[GoRRegressor, Array, Array, Array]) -> None:
    model, train, test, truth = ages
    constant = mean_absolute_error(truth, np.full_like(truth, np.median(train)))
    # Noise of spread 5 costs 5·√(2/π) = 4.0 at best; a constant costs 8.9.
    assert mean_absolute_error(truth, model.predict(test)) < 0.55 * constant
    for low, high, least, most in ((0.05, 0.95, 0.85, 0.95), (0.25, 0.75, 0.43, 0.6)):
        ends = model.predict_interval(test, low, high)
        assert ends.shape == (1200, 2) and (ends[:, 0] <= ends[:, 1]).all()
        assert least < ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean() < most


def test_of_skewed_labels_the_median_errs_less_than_the_greedy_code(
    views: tuple[GoRRegressor, Array, Array, Array],
) -> None:
    model, train, test, truth = views
    errors = {decode: mean_absolute_error(truth, model.predict(test, decode=decode)) for decode in DECODES}
    assert errors["quantile"] <= errors["greedy"] and errors["quantile"] == min(errors.values())
    assert errors["quantile"] < 0.92 * mean_absolute_error(truth, np.full_like(truth, np.median(train)))


def test_quantiles_ascend_and_the_middle_one_is_the_prediction(ages: tuple[GoRRegressor, Array, Array, Array]) -> None:
    model, _, test, _ = ages
    levels = [0.01, 0.05, 0.3, 0.5, 0.7, 0.95, 0.99]
    quantiles = model.predict_quantiles(test[:200], levels)
    assert quantiles.shape == (200, 7) and (np.diff(quantiles, axis=1) >= 0).all()
    np.testing.assert_array_equal(quantiles[:, 3], model.predict(test[:200], decode="quantile"))
    model.set_params(predict_batch_size=7)
    try:
        np.testing.assert_array_equal(model.predict_quantiles(test[:20], levels), quantiles[:20])
    finally:
        model.set_params(predict_batch_size=4096)


def test_every_decode_gives_numbers_within_reach(ages: tuple[GoRRegressor, Array, Array, Array]) -> None:
    model, _, test, _ = ages
    for decode in DECODES:
        numbers = model.predict(test[:50], decode=decode)
        assert numbers.shape == (50,) and numbers.dtype == np.float64
        assert (numbers >= 0).all() and (numbers <= model.vocabulary_.largest).all()
        if decode not in ("mean", "window"):
            np.testing.assert_array_equal(numbers, np.round(numbers))
    own = quick(decode="mean").fit(X, Y)
    np.testing.assert_array_equal(own.predict(X), own.predict(X, decode="mean"))


@pytest.mark.parametrize("shift", [0, 30])
@pytest.mark.parametrize("decode", ["greedy", "quantile"])
def test_explanations_add_up_to_the_prediction(decode: Any, shift: int) -> None:
    model = quick(vocabulary={"offset": "min"} if shift else None, max_steps=20).fit(X, Y - shift)
    steps = model.explain(X, decode=decode)
    np.testing.assert_allclose([sum(step) for step in steps], model.predict(X, decode=decode), atol=1e-9)
    values = set(model.vocabulary_.values[FIRST_VALUE:])
    for step in steps:
        if shift:
            assert step[0] == model.vocabulary_.offset
            step = step[1:]
        assert step == sorted(step, reverse=True) and values.issuperset(step)


def test_weights_pull_predictions_and_rows_of_weight_0_are_absent() -> None:
    labels = np.tile([0.0, 10.0], 30)
    settings = {"max_steps": 40, "learning_rate": 1e-2}
    for make in (quick, direct):
        low = make(**settings).fit(X, labels, np.where(labels == 0, 1.0, 0.02)).predict(X).mean()
        high = make(**settings).fit(X, labels, np.where(labels == 0, 0.02, 1.0)).predict(X).mean()
        assert low < 3 and high > 7
    some = labels.copy()
    some[40:] = 1e6
    weighted = quick().fit(X, some, np.arange(60) < 40)
    np.testing.assert_array_equal(weighted.predict(X), quick().fit(X[:40], labels[:40]).predict(X))


def test_weights_count_relative_to_their_mean_over_the_training_rows() -> None:
    weight = GENERATOR.random(60) + 0.1
    first, second = (direct().fit(X, Y, factor * weight).predict(X) for factor in (1, 1024))
    np.testing.assert_allclose(second, first, rtol=1e-5)
    held = held_out()
    losses = []
    for whole in (True, False):
        rows = np.setdiff1d(np.arange(60), held)
        model = direct(max_steps=1, learning_rate=1e-12, dropout=0.0, eval_steps=1)
        model.fit(X, Y, weight if whole else None)
        memory = model.model_.encoder(**model._read(X))
        error = model.model_.row_losses(memory, torch.from_numpy(Y), 1.0).detach().numpy()[rows]
        logged = next(entry["loss"] for entry in model.log_history_ if "loss" in entry)
        losses.append((logged, np.average(error, weights=weight[rows] if whole else None)))
    for logged, expected in losses:
        assert logged == pytest.approx(expected, rel=1e-3)


def test_early_stopping_looks_at_the_weighted_error() -> None:
    weight = np.where(np.arange(60) % 3 == 0, 5.0, 0.5)
    # Before the first step of a rate near 0 the model is as it began.
    model = direct(max_steps=1, learning_rate=1e-12, validation_fraction=0.5).fit(X, Y, weight)
    held = held_out(0.5)
    looks = [entry["eval_mae"] for entry in model.log_history_ if "eval_mae" in entry]
    expected = mean_absolute_error(Y[held], model.predict(X[held]), sample_weight=weight[held])
    assert looks == [pytest.approx(expected, rel=1e-5)]


def test_the_best_look_is_what_is_kept() -> None:
    model = direct(max_steps=60, eval_steps=5, learning_rate=0.1, patience=2).fit(X, Y)
    looks = [(entry["step"], entry["eval_mae"]) for entry in model.log_history_ if "eval_mae" in entry]
    assert model.n_steps_ < 60 and looks[-1][1] > min(mae for _, mae in looks)
    held = held_out()
    kept = mean_absolute_error(Y[held], model.predict(X[held]))
    assert kept == pytest.approx(min(mae for _, mae in looks), rel=1e-5)


@pytest.mark.parametrize("rate", [1e-2, 1.0])
@pytest.mark.parametrize("finetune", ["dpo", "grpo"])
def test_finetuning_never_raises_the_validation_error(finetune: Any, rate: float) -> None:
    settings = {"max_steps": 30, "eval_steps": 3, "learning_rate": rate}
    supervised = quick(**settings).fit(X, Y)
    tuned = quick(**settings, finetune=finetune, finetune_steps=6).fit(X, Y)
    held = held_out()
    before, after = (mean_absolute_error(Y[held], model.predict(X[held])) for model in (supervised, tuned))
    assert after <= before
    assert type(tuned.model_.strategy) is type(supervised.model_.strategy)
    assert tuned.n_steps_ == supervised.n_steps_
    if finetune == "dpo":
        assert tuned.preferences_.rows == 48 == tuned.preferences_.pairs + tuned.preferences_.ties


@pytest.mark.parametrize("finetune", ["dpo", "grpo"])
def test_finetuning_moves_the_model(finetune: Any) -> None:
    models = [
        quick(max_steps=30, learning_rate=1e-2, validation_fraction=0, finetune=how, finetune_steps=6).fit(X, Y)
        for how in (None, finetune)
    ]
    distributions = [model.predict_quantiles(X, np.linspace(0.1, 0.9, 9)) for model in models]
    assert (distributions[0] != distributions[1]).any()


def test_dpo_without_preferences_keeps_the_model() -> None:
    with pytest.warns(UserWarning, match="finetune: preferences: none of 48 rows .* The model stays as it was before"):
        model = quick(finetune="dpo", finetune_steps=2).fit(X, np.zeros(60))
    assert not hasattr(model, "preferences_")
    np.testing.assert_array_equal(model.predict(X), 0)
