"""Estimators leave and come back."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from gor_head import CoDiVocabulary
from gor_head.estimator import GoRRegressor, OrdinalRegressor
from tests.gor_head.estimator.problems import CONV, EACH, FRAME, IMAGES, X, Y, direct, quick


@pytest.mark.parametrize("features", [X, FRAME, pd.DataFrame(X, columns=list("abcd"))], ids=["array", "mixed", "named"])
@EACH
def test_saved_estimators_predict_the_same(
    make: Callable[..., OrdinalRegressor], features: Any, tmp_path: Path
) -> None:
    model = make(
        learning_rate=np.float32(1e-2),
        batch_size=np.int64(32),
        max_steps=np.int32(4),
        patience=np.int64(1),
        dropout=np.float32(0.25),
        encoder={"width": np.int64(16)},
        output_dir=tmp_path / "run",
        random_state=np.random.RandomState(0),
    ).fit(features, Y)
    expected = model.predict(features)
    joblib.dump(model, tmp_path / "model.joblib")
    saved = model.save_pretrained(tmp_path / "saved")
    assert not [path for path in saved.iterdir() if path.suffix in (".pkl", ".bin", ".pt")]
    content = json.loads((saved / "estimator.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["settings"]["random_state"] is None and content["settings"]["batch_size"] == 32
    loaded = type(model).from_pretrained(saved)
    for again in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model.joblib"), loaded):
        assert type(again) is type(model)
        np.testing.assert_array_equal(again.predict(features), expected)
        assert again.n_features_in_ == features.shape[1]
    if isinstance(features, pd.DataFrame):
        with pytest.raises(ValueError, match="must be in the same order"):
            loaded.predict(features[features.columns[::-1]])
    assert OrdinalRegressor.from_pretrained(saved).get_params() == loaded.get_params()
    clone(loaded).fit(features, Y)


def test_a_given_vocabulary_comes_back_as_a_setting(tmp_path: Path) -> None:
    given = CoDiVocabulary.fit(Y, beta=1)
    model = quick(vocabulary=given).fit(X, Y)
    loaded = GoRRegressor.from_pretrained(model.save_pretrained(tmp_path))
    assert isinstance(loaded.vocabulary, CoDiVocabulary)
    assert loaded.vocabulary.to_dict() == given.to_dict() == model.vocabulary_.to_dict()


def test_images_are_saved_too(tmp_path: Path) -> None:
    for make in (quick, direct):
        model = make(encoder=CONV).fit(IMAGES, Y[:12])
        expected = model.predict(IMAGES)
        assert expected.shape == (12,) and np.isfinite(expected).all()
        np.testing.assert_array_equal(model.predict(torch.from_numpy(IMAGES)), expected)
        loaded = OrdinalRegressor.from_pretrained(model.save_pretrained(tmp_path))
        np.testing.assert_array_equal(loaded.predict(IMAGES), expected)


def test_an_image_model_of_torchvision_trains() -> None:
    model = quick(encoder={"kind": "torchvision", "name": "shufflenet_v2_x0_5"}, max_steps=1).fit(IMAGES, Y[:12])
    assert np.isfinite(model.predict(IMAGES)).all()


@EACH
def test_tensors_lists_and_arrays_are_the_same_table(make: Callable[..., OrdinalRegressor]) -> None:
    expected = make().fit(X, Y).predict(X)
    for kind in (torch.from_numpy, np.ndarray.tolist, pd.DataFrame):
        np.testing.assert_array_equal(make().fit(kind(X), Y.tolist()).predict(kind(X)), expected)
    np.testing.assert_array_equal(make().fit(X, torch.from_numpy(Y)).predict(X), expected)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return quick(max_steps=1).fit(FRAME, Y).save_pretrained(tmp_path / "saved")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.safetensors", lambda content: content[:-100], "model.safetensors: damaged"),
        ("model.safetensors", lambda content: b"", "model.safetensors: damaged"),
        ("model.safetensors", None, "no file named model.safetensors"),
        ("config.json", lambda content: b"[]", "config.json: no model can be made of it"),
        ("config.json", lambda content: b"null", "config.json: no model can be made of it"),
        ("config.json", lambda content: content[:40], "config.json: no model can be made of it"),
        ("config.json", lambda content: content.replace(b'"width": 16', b'"width": "a"'), "config.json: no model"),
        ("config.json", None, "config.json: no such file"),
        ("estimator.json", lambda content: b"[]", "estimator.json: not written by save_pretrained"),
    ],
)
def test_damaged_files_are_named(saved: Path, name: str, damage: Callable[[bytes], bytes] | None, message: str) -> None:
    path = saved / name
    if damage is None:
        path.unlink()
    else:
        before = path.read_bytes()
        path.write_bytes(damage(before))
        assert path.read_bytes() != before
    with pytest.raises(ValueError, match=message):
        OrdinalRegressor.from_pretrained(saved)


@pytest.mark.parametrize(
    "changed",
    [
        {"features": None},
        {"features": "abc"},
        {"features": {"names": ["a", "town", 3]}},
        {"features": {"mean": "abc"}},
        {"features": {"mean": [0.0, None]}},
        {"features": {"mean": ["0", None, None]}},
        {"features": {"scale": [0.0, None, None]}},
        {"features": {"scale": [None, None, None]}},
        {"features": {"categories": [None, ["x", 3], ["1"]]}},
        {"features": {"categories": [None, None, None]}},
        {"n_features_in": 4},
        {"feature_names_in": ["a"]},
        {"settings": {"predict_batch_size": "many"}},
        {"settings": {"decode": ["greedy"]}},
    ],
)
def test_a_damaged_estimator_is_said_to_be_one(saved: Path, changed: dict[str, Any]) -> None:
    content = json.loads((saved / "estimator.json").read_text())
    for key, value in changed.items():
        content[key] = content[key] | value if isinstance(value, dict) else value
    (saved / "estimator.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="estimator.json: not written by save_pretrained"):
        OrdinalRegressor.from_pretrained(saved)


def test_a_directory_that_holds_something_else(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="estimator.json: no such file; a directory written by save_pretrained"):
        GoRRegressor.from_pretrained(tmp_path)
    with pytest.raises(NotFittedError):
        quick().save_pretrained(tmp_path)
    direct().fit(X, Y).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a DirectRegressor, wanted a GoRRegressor"):
        GoRRegressor.from_pretrained(tmp_path)
    content = json.loads((tmp_path / "estimator.json").read_text())
    for damaged in (
        "{",
        json.dumps(content | {"estimator": "Ridge"}),
        json.dumps(content | {"settings": {"alpha": 1}}),
    ):
        (tmp_path / "estimator.json").write_text(damaged)
        with pytest.raises(ValueError, match="estimator.json: not written by save_pretrained"):
            OrdinalRegressor.from_pretrained(tmp_path)
