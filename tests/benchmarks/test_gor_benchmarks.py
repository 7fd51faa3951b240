"""The benchmarks of GoR as they are started, shortened. No assertion about speed."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks import gor_ablations, gor_decode, gor_images, gor_train
from gor_head.tables import read_table


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gor_decode, "STEPS", 5)


def test_decode_prints_one_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--json", "--repeats", "1", "--batch", "1", "16", "--decoder", "gru"]
    monkeypatch.setattr(sys, "argv", ["gor_decode", *flags])
    gor_decode.main()
    figures = json.loads(capsys.readouterr().out)
    assert [row["batch"] for row in figures["results"]] == [1, 16]
    for row in figures["results"]:
        assert row["greedy_equals_naive"]
        assert all(value > 0 for value in row["rows_per_second"].values())
        speeds = row["rows_per_second"]
        assert row["greedy_over_naive_speed"] == pytest.approx(speeds["greedy"] / speeds["naive"], rel=0.05)


def test_naive_loop_has_the_codes_of_greedy_decoding() -> None:
    figures = gor_decode.measure("transformer", [32], 1)
    assert figures["results"][0]["greedy_equals_naive"]


def test_every_strategy_is_timed_and_options_off_change_nothing() -> None:
    figures = gor_train.measure("gru", 32, 1)
    names = [row["strategy"] for row in figures["results"]]
    assert names == ["teacher_forcing", "free_running", "curriculum", "ngram", "paper", "dpo", "grpo"]
    assert figures["results"][0]["time_over_teacher_forcing"] == 1
    assert figures["max_loss_difference_off"] == 0


def test_ablations_are_kept_and_summed_up(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    table = pd.DataFrame(generator.normal(size=(60, 2)), columns=["a", "b"])
    table["y"] = np.round(20 + 5 * table["a"])
    table.to_csv(tmp_path / "data.csv", index=False)
    data = read_table(tmp_path / "data.csv", "y", [])
    settings: dict[str, Any] = {"max_steps": 2, "width": 8}
    figures = gor_ablations.measure(data, ["decoder"], 2, tmp_path / "out", settings, 1)
    assert figures["failures"] == {}
    assert list(figures["results"]["decoder"]) == ["RNN", "GRU", "LSTM", "default"]
    for variant in figures["results"]["decoder"].values():
        assert variant["quantile"]["mae"] > 0 and variant["greedy"]["mae"] > 0
    assert len(list((tmp_path / "out" / "cells").glob("*.npz"))) == 8
    again = gor_ablations.measure(data, ["decoder"], 2, tmp_path / "out", settings, 1)
    assert again == figures  # nothing is trained anew, not even timed


def test_variants_are_settings_of_the_estimator() -> None:
    for method in gor_ablations.variants(list(gor_ablations.ABLATIONS)).values():
        model = method.make(random_state=0, max_steps=1)
        assert model.get_params()["max_steps"] == 1
        assert model.get_params().keys() == type(model)().get_params().keys()


def test_images_are_read_and_compared(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = []
    for place in range(24):
        Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(tmp_path / f"{place}.png")
        rows.append({"file": f"{place}.png", "age": 20 + place % 5})
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
    figures = gor_images.measure(tmp_path / "labels.csv", "age", 16, 1, {"max_steps": 1}, overfitting=True)
    named = {row["row"]: row for row in figures["results"]}
    assert {"GoR (quantile)", "GoR (greedy)", "L1", "training median"} <= named.keys()
    assert 0 <= named["L1"]["cs5"] <= 1 and named["L1"]["mae"] > 0
    pd.DataFrame({"file": ["none.png"], "age": [3]}).to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(ValueError, match="line 2: none.png: no readable image"):
        gor_images.read_images(tmp_path / "labels.csv", "age", 16)
    with pytest.raises(ValueError, match="wanted the column 'weight', got 'file', 'age'"):
        gor_images.read_images(tmp_path / "labels.csv", "weight", 16)
