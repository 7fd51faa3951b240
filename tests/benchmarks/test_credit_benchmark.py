"""The benchmark of credit as it is started, shortened. No assertion about speed."""

import json
import sys

import pytest
import torch

from benchmarks import credit


def test_json_holds_every_figure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["credit", "--json", "--repeats", "2"])
    monkeypatch.setattr(credit, "PROMPTS", 1)
    credit.main()
    results = json.loads(capsys.readouterr().out)["results"]
    assert [row["credit"] for row in results] == ["completion", "item", "exact"]
    assert all(row["variance"] > 0 and row["learning_ms"] > 0 for row in results)
    monkeypatch.setattr(sys, "argv", ["credit", "--repeats", "1"])
    with pytest.raises(SystemExit, match="--repeats: wanted at least 2, got 1"):
        credit.main()


def test_noise_written_out() -> None:
    """Gradients (1, 0) and (3, 2): variances 2 and 2, mean (2, 1)."""
    variance, signal = credit.noise(torch.tensor([[1.0, 0.0], [3.0, 2.0]]))
    assert variance == 4 and signal == 5 - 4 / 2
