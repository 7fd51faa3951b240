"""What fit leaves behind: seeds, threads, files, devices."""

import contextlib
import io
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.utils import logging

from gor_head.estimator import OrdinalRegressor
from tests.gor_head.estimator.problems import EACH, X, Y, direct, quick
from tests.paths import ROOT


@EACH
def test_a_seed_decides_and_nothing_else_does(make: Callable[..., OrdinalRegressor]) -> None:
    def state() -> list[Any]:
        return [random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()]

    before = state()
    first = make().fit(X, Y).predict(X)
    assert state() == before
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    np.testing.assert_array_equal(make().fit(X, Y).predict(X), first)
    np.testing.assert_array_equal(make(random_state=np.int64(0)).fit(X, Y).predict(X), first)
    assert (direct(random_state=1).fit(X, Y).predict(X) != direct().fit(X, Y).predict(X)).all()
    before = state()
    for random_state in (None, np.random.RandomState(0), np.random.default_rng(0)):
        make(random_state=random_state, max_steps=1).fit(X[:5], Y[:5])
    with pytest.raises(ValueError, match="Seed must be between"):
        make(random_state=-1).fit(X, Y)
    assert state() == before


def test_fits_in_threads_do_not_disturb_each_other() -> None:
    expected = [direct(random_state=seed).fit(X, Y).predict(X) for seed in range(4)]
    before = random.getstate(), torch.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: direct(random_state=seed).fit(X, Y).predict(X), range(4)))
    np.testing.assert_array_equal(found, expected)
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])


def test_only_draws_take_from_the_random_state() -> None:
    generator = np.random.RandomState(0)
    model = quick().fit(X, Y).set_params(random_state=generator)
    state = generator.get_state()[2]
    for decode in ("quantile", "greedy", "beam", "window", "mean"):
        model.predict(X, decode=decode)
        assert generator.get_state()[2] == state
    model.predict(X, decode="sample")
    assert generator.get_state()[2] != state


def test_samples_are_those_of_the_seed() -> None:
    model = quick().fit(X, Y)
    drawn = model.predict(X, decode="sample")
    np.testing.assert_array_equal(model.predict(X, decode="sample"), drawn)
    assert (model.set_params(random_state=1).predict(X, decode="sample") != drawn).any()
    assert (model.predict(X, decode="quantile") == quick().fit(X, Y).predict(X)).all()


@EACH
def test_fit_is_silent_and_leaves_no_files(
    make: Callable[..., OrdinalRegressor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    shown = logging.is_progress_bar_enabled(), logging.get_verbosity()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("error")
        make(eval_steps=2).fit(X, Y)
    assert (out.getvalue(), err.getvalue()) == ("", "")
    assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == shown
    assert os.listdir(tmp_path) == ["scratch"] and os.listdir(scratch) == []


def test_fit_is_silent_in_a_process_of_its_own_and_shows_progress_if_asked(tmp_path: Path) -> None:
    code = """
import sys, numpy as np
from gor_head import GoRRegressor
X = np.random.default_rng(0).normal(size=(40, 2))
print("|", file=sys.stderr)
for verbose in (False, True):
    GoRRegressor(max_steps=4, eval_steps=2, random_state=0, verbose=verbose).fit(X, np.arange(40))
    print("|", file=sys.stderr)
"""
    here = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": here},
        capture_output=True,
        text=True,
        check=True,
    )
    _, silent, loud, _ = (part.strip() for part in done.stderr.split("|\n"))
    assert silent == "" and "4/4" in loud and "eval_mae" in done.stdout
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("validation_fraction", [0.0, 0.2])
@EACH
def test_checkpoints_stay_where_they_are_wanted(
    make: Callable[..., OrdinalRegressor], validation_fraction: float, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    make(output_dir=str(folder), validation_fraction=validation_fraction).fit(X, Y)
    checkpoints = list(folder.glob("checkpoint-*"))
    assert checkpoints and (checkpoints[0] / "model.safetensors").is_file()


def test_bars_that_the_caller_switched_off_stay_off() -> None:
    logging.disable_progress_bar()
    try:
        quick().fit(X, Y)
        assert not logging.is_progress_bar_enabled()
    finally:
        logging.enable_progress_bar()


@EACH
def test_the_trained_model_rests_on_the_cpu(make: Callable[..., OrdinalRegressor]) -> None:
    model = make().fit(X, Y)
    assert model.model_.device.type == "cpu" and not model.model_.training


@pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a GPU")
@EACH
def test_predictions_follow_the_model_to_the_gpu(make: Callable[..., OrdinalRegressor]) -> None:
    model = make().fit(X, Y)
    here = model.predict(X)
    model.model_.to("cuda")
    np.testing.assert_allclose(model.predict(X), here, rtol=1e-3, atol=1)
