"""The benchmark of shared prompts as it is started, shortened. No assertion about speed."""

import json
import math
import sys

import pytest
import torch

from benchmarks import learner_step
from benchmarks.learner_step import largest_relative_difference


def test_json_holds_every_figure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["learner_step", "--json", "--images", "1", "--repeats", "1"])
    learner_step.main()
    results = json.loads(capsys.readouterr().out)["results"]  # one object and nothing else
    assert [(row["mode"], row["images"], row["num_generations"]) for row in results] == [("full", 1, 8), ("lora", 1, 8)]
    for row in results:
        assert row["speedup"] == pytest.approx(row["stock_ms"] / row["shared_ms"], rel=1e-2)
        assert row["peak_memory_ratio"] == pytest.approx(row["shared_peak_mb"] / row["stock_peak_mb"], rel=1e-2)
        assert 0 < row["peak_memory_ratio"] < 1, "allocations of a CPU are the same in every run"
        assert 0 < row["max_rel_grad_diff"] < 1e-4
        assert row["max_abs_log_prob_diff"] < 1e-5


def test_largest_relative_difference() -> None:
    one = {"a": torch.tensor([2.0, -4.0]), "b": torch.tensor([1e-3])}
    assert largest_relative_difference(one, one) == 0
    assert largest_relative_difference(one, {**one, "a": torch.tensor([2.0, -3.0])}) == 0.25
    assert largest_relative_difference(one, {**one, "b": torch.tensor([2e-3])}) == pytest.approx(1)
    assert math.isnan(largest_relative_difference(one, {**one, "a": torch.tensor([math.nan, 0.0])}))
    with pytest.raises(ValueError, match="Parameters with a gradient differ: \\['b'\\]"):
        largest_relative_difference(one, {"a": one["a"]})
