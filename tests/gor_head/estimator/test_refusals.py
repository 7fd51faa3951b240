"""What the estimators refuse, before they train."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gor_head import CoDiVocabulary
from gor_head.estimator import OrdinalRegressor
from tests.gor_head.estimator.problems import CONV, EACH, FRAME, IMAGES, Array, X, Y, direct, quick


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.where(Y > 9, np.nan, Y), "y contains NaN"),
        (np.where(Y > 9, np.inf, Y), "y contains infinity"),
        ([None, *Y[1:]], "y contains NaN|y: wanted finite numbers, got 1 NaN"),
        (pd.array([None, *Y[1:]], dtype="Int64"), "y contains NaN"),
        (Y.astype(str), r"y: wanted numbers, got text in row 0: '\d+\.0'"),
        ([*Y[1:], "many"], "y: wanted numbers, got text in row 59: 'many'"),
        (np.full(60, "2020-01-01", dtype="M8[D]"), "y: wanted numbers, got dtype datetime64"),
        (np.stack([Y, Y], axis=1), r"1d array, got an array of shape \(60, 2\)"),
        (Y[:-1], r"inconsistent numbers of samples: \[60, 59\]"),
        (None, "requires y to be passed"),
    ],
)
@pytest.mark.parametrize("features", [X, FRAME], ids=["numbers", "mixed"])
@EACH
def test_labels_that_are_none(make: Callable[..., OrdinalRegressor], features: Any, y: Any, message: str) -> None:
    model = make()
    with pytest.raises(ValueError, match=message):
        model.fit(features, y)
    assert not hasattr(model, "model_")


@EACH
def test_features_in_text_are_none(make: Callable[..., OrdinalRegressor]) -> None:
    """`float` would read 1_0 as 10, and digits of other scripts."""
    text = X.astype(str)
    text[5, 2] = "1_0"
    for features in (text, text.astype(object), text.tolist()):
        with pytest.raises(ValueError, match=r"X: wanted numbers, got text in row 0: '-?\d"):
            make().fit(features, Y)
    model = make().fit(X, Y)
    some = X.astype(object)
    some[5, 2] = "1_0"
    for use in (model.predict, lambda features: make().fit(features, Y)):
        with pytest.raises(ValueError, match="X: wanted numbers, got text in row 5: '1_0'"):
            use(some)
    np.testing.assert_array_equal(model.predict(X.astype(object)), model.predict(X))


def test_negative_labels_are_counted_over_all_rows_and_the_way_out_is_named() -> None:
    for vocabulary in (None, {"beta": 0.5}, CoDiVocabulary([1, 2])):
        with pytest.raises(ValueError) as error:
            quick(vocabulary=vocabulary).fit(X, np.where(Y > 15, -2.5, Y))
        assert f"got {(Y > 15).sum()} negative of 60 (smallest -2.5); vocabulary={{'offset': 'min'}}" in str(
            error.value
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decode": "mode"}, "decode: wanted one of greedy, beam, quantile, mean, sample, window, got 'mode'"),
        ({"strategy": "luck"}, "strategy: wanted one of teacher_forcing, .*, got 'luck'"),
        ({"decoder": "mlp"}, "decoder: wanted one of rnn, gru, lstm, transformer, got 'mlp'"),
        ({"finetune": "ppo"}, "finetune: wanted one of None, dpo, grpo, got 'ppo'"),
        ({"huber_of": "median"}, "huber_of: wanted one of expectation, window, exact, got 'median'"),
        ({"vocabulary": "min"}, "vocabulary: wanted a CoDiVocabulary, .* got 'min'"),
        ({"vocabulary": {"beta": 2}}, "beta: wanted a number from 0 to 1, got 2"),
        ({"width": 10}, "width that is a multiple of 4 heads, got 10"),
        ({"finetune_steps": 0}, "finetune_steps: wanted a whole number from 1, got 0"),
        ({"layers": 0}, "layers: wanted a whole number from 1, got 0"),
        ({"decode": [1]}, r"decode: wanted one of greedy, .*, got \[1\]"),
        ({"decoder": {}}, "decoder: wanted one of rnn, .*, got {}"),
        ({"nll_weight": -1}, "nll_weight: wanted a number from 0 on, got -1"),
        ({"nll_weight": "1"}, "nll_weight: wanted a number from 0 on, got '1'"),
        ({"huber_weight": np.inf}, "huber_weight: wanted a number from 0 on, got inf"),
        ({"huber_weight": True}, "huber_weight: wanted a number from 0 on, got True"),
        ({"huber_delta": 0}, "huber_delta: wanted a positive number, got 0"),
        ({"huber_delta": None}, "huber_delta: wanted a positive number, got None"),
        ({"huber_scale": True}, "huber_scale: wanted 'std' or a positive number, got True"),
        ({"huber_scale": [1.0]}, r"huber_scale: wanted 'std' or a positive number, got \[1.0\]"),
        ({"vocabulary": {"betta": 0.5}}, "vocabulary: wanted arguments among initializer, q, .*, got 'betta'"),
        ({"vocabulary": {"labels": [1]}}, "vocabulary: wanted arguments among initializer, q, .*, got 'labels'"),
        ({"vocabulary": {"max_length": "a"}}, "max_length: wanted a whole number from 1, got 'a'"),
    ],
)
def test_settings_of_gor_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick(**settings).fit(X, Y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_fraction": 1.0}, "validation_fraction: wanted a number from 0 to below 1, got 1.0"),
        ({"validation_fraction": -0.1}, "validation_fraction: .* got -0.1"),
        ({"validation_fraction": np.nan}, "validation_fraction: .* got nan"),
        ({"validation_fraction": None}, "validation_fraction: .* got None"),
        ({"batch_size": 0}, "batch_size: wanted a whole number from 1, got 0"),
        ({"max_steps": 2.5}, "max_steps: wanted a whole number from 1, got 2.5"),
        ({"patience": -1}, "patience: wanted a whole number from 1, got -1"),
        ({"predict_batch_size": True}, "predict_batch_size: wanted a whole number from 1, got True"),
        ({"eval_steps": 0}, "eval_steps: wanted a whole number from 1, got 0"),
        ({"learning_rate": 0}, "learning_rate: wanted a positive number, got 0"),
        ({"learning_rate": "fast"}, "learning_rate: wanted a positive number, got 'fast'"),
        ({"weight_decay": -1}, "weight_decay: wanted a number from 0 on, got -1"),
        ({"encoder": "conv"}, "encoder: wanted a dict of arguments, or None, got 'conv'"),
        (
            {"encoder": {"kind": "rnn"}},
            r"encoder\['kind'\]: wanted one of ffn, conv, torchvision, timm, transformers, got 'rnn'",
        ),
        ({"random_state": "lucky"}, "'lucky' cannot be used to seed"),
        ({"dropout": 1}, "dropout: wanted a number from 0 to below 1, got 1"),
        ({"dropout": "0.1"}, "dropout: wanted a number from 0 to below 1, got '0.1'"),
        ({"dropout": False}, "dropout: wanted a number from 0 to below 1, got False"),
        ({"encoder": {"kind": ["conv"]}}, r"encoder\['kind'\]: wanted one of .*, got \['conv'\]"),
        ({"encoder": {"depht": 2}}, "encoder: wanted arguments among width, depth, dropout, got 'depht'"),
        ({"encoder": {"numeric": 4}}, "encoder: wanted arguments among width, depth, dropout, got 'numeric'"),
        ({"encoder": {"kind": "torchvision"}}, "encoder: wanted 'name' too, got no argument"),
    ],
)
@EACH
def test_settings_that_cannot_be(make: Callable[..., OrdinalRegressor], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings).fit(X, Y)


def test_an_unknown_head() -> None:
    with pytest.raises(ValueError, match="head: wanted one of mse, l1, .*, got 'l2'"):
        direct("l2").fit(X, Y)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (-np.ones(60), "Negative values in data passed to `sample_weight`"),
        (np.zeros(60), "Sample weights must contain at least one non-zero number"),
        (np.full(60, np.nan), "sample_weight contains NaN"),
        (np.ones(59), r"sample_weight.shape == \(59,\), expected \(60,\)"),
    ],
)
def test_weights_that_weigh_nothing(weight: Array, message: str) -> None:
    for features in (X, FRAME):
        with pytest.raises(ValueError, match=message):
            quick().fit(features, Y, sample_weight=weight)


@pytest.mark.parametrize("frame", [FRAME, FRAME[["a"]].assign(b=X[:, 1], c=X[:, 2])], ids=["mixed", "numbers"])
@EACH
def test_other_columns_at_prediction(make: Callable[..., OrdinalRegressor], frame: pd.DataFrame) -> None:
    model = make().fit(frame, Y)
    assert model.feature_names_in_.tolist() == list(frame.columns) and model.n_features_in_ == 3
    for other, message in (
        (frame.drop(columns="a"), "Feature names seen at fit time, yet now missing"),
        (frame.assign(more=1.0), "Feature names unseen at fit time:\n- more"),
        (frame[frame.columns[::-1]], "Feature names must be in the same order"),
        (frame.iloc[:0], "0 sample|wanted one or more rows, got none"),
        (frame.assign(a=frame["a"].astype(str)), "column 'a|column '0': wanted numbers, as in training, got '"),
    ):
        with pytest.raises(ValueError, match=message):
            model.predict(other)


def test_missing_and_unseen_categories() -> None:
    model = quick(max_steps=30, learning_rate=1e-2).fit(FRAME, Y)
    with pytest.raises(ValueError, match="column 'town' has 60 missing values"):
        model.predict(FRAME.assign(town=None))
    with pytest.raises(ValueError, match="column 'size' has 1 missing values .* row 3"):
        model.predict(FRAME.assign(size=FRAME["size"].where(np.arange(60) != 3)))
    with pytest.raises(ValueError, match="column 'town' has 60 missing values"):
        quick().fit(FRAME.assign(town=None), Y)
    # Two categories that training did not have are the same to the model.
    strange = [model.predict_quantiles(FRAME.assign(town=town), [0.3, 0.6]) for town in ("?", "!")]
    np.testing.assert_array_equal(*strange)
    assert model.features_ is not None
    assert (model.features_.transform(FRAME.assign(town="?"))["categorical"][:, 0] == 0).all()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ((255 * IMAGES).astype(np.uint8), r"wanted floats of shape \(n, 3, height, width\), .*, got torch.uint8"),
        (IMAGES[:, :1], r"got torch.float32 of \(12, 1, 16, 16\)"),
        (IMAGES[0], r"got torch.float32 of \(3, 16, 16\)"),
        (IMAGES[:0], r"got torch.float32 of \(0, 3, 16, 16\)"),
        (np.where(np.arange(12)[:, None, None, None] == 7, np.nan, IMAGES), "image 7 holds NaN"),
        (FRAME[:12], "wanted floats of shape .* got a table of 3 columns; the encoder of tables is 'ffn'"),
        ([["a"]] * 12, "wanted floats of shape .* got list"),
    ],
)
def test_what_is_no_image(images: Any, message: str) -> None:
    model = quick(encoder=CONV)
    with pytest.raises(ValueError, match=message):
        model.fit(images, Y[:12])
    with pytest.raises(ValueError, match=message):
        model.fit(IMAGES, Y[:12]).predict(images)
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[12, 11\]"):
        model.fit(IMAGES, Y[:11])


def test_what_predict_is_asked_for() -> None:
    model = quick().fit(X, Y)
    with pytest.raises(ValueError, match="decode: wanted one of greedy, .*, got 'mode'"):
        model.predict(X, decode="mode")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="decode: wanted one of greedy, quantile, got 'beam'"):
        model.explain(X, decode="beam")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="levels: wanted one or more numbers from 0 to 1"):
        model.predict_quantiles(X, [1.5])
    for low, high in ((0.9, 0.1), (-0.1, 0.5), (0.5, 1.5), (np.nan, 0.5)):
        with pytest.raises(ValueError, match="low, high: wanted levels with 0 ≤ low ≤ high ≤ 1, got"):
            model.predict_interval(X, low, high)
    middle = model.predict_interval(X, 0.5, 0.5)
    np.testing.assert_array_equal(middle[:, 0], middle[:, 1])


@EACH
def test_training_that_diverges_says_so(make: Callable[..., OrdinalRegressor]) -> None:
    with pytest.raises(ValueError, match=r"diverged to NaN: wanted a learning_rate below 1e\+30"):
        make(learning_rate=1e30).fit(X, Y)
    with pytest.raises(ValueError, match=r"diverged to NaN: wanted a learning_rate below 1e\+30"):
        make(learning_rate=1e30, validation_fraction=0).fit(X, Y).predict(X)
