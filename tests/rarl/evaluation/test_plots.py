"""Reward curves from log histories."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rarl.evaluation.plots import curve, plot_curves, reward_terms, running_mean, term_title
from tests.markup import NAMES

TERMS = ["regression_reward", "length_reward", "consistency_reward", "accuracy_reward", "format_reward"]


def history(terms: list[str], steps: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    entries: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        entry: dict[str, Any] = {"step": step, "loss": 0.0}
        for number, term in enumerate(terms):
            level = 0.3 + 0.5 * (1 - np.exp(-step / (20 + 10 * number)))
            entry[f"rewards/{term}/mean"] = float(level + rng.normal(0, 0.06))
            entry[f"rewards/{term}/std"] = 0.1
        entry["reward"] = sum(entry[f"rewards/{term}/mean"] for term in terms)
        entries.append(entry)
    return [*entries, {"step": steps, "train_runtime": 1.0}]


def test_terms_and_curve_of_a_log() -> None:
    log = history(TERMS[:2], 3, seed=0)
    assert reward_terms(log) == ["rewards/regression_reward/mean", "rewards/length_reward/mean", "reward"]
    steps, values = curve(log, "reward")
    assert steps == [1, 2, 3] and values == [entry["reward"] for entry in log[:3]]
    assert [term_title(term) for term in reward_terms(log)] == ["regression", "length", "total"]


def test_running_mean_by_hand() -> None:
    assert running_mean([1.0, 2.0, 6.0, 4.0], 2) == [1.0, 1.5, 4.0, 5.0]
    assert running_mean([1.0, 2.0], 1) == [1.0, 2.0]
    assert running_mean([], 3) == []


def test_figure_has_a_panel_per_term_and_a_colour_per_run(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    plot_curves({"stage 1": history([TERMS[0], TERMS[4]], 120, 0), "stage 2": history(TERMS, 200, 1)}, path)
    wide = np.asarray(Image.open(path).convert("RGB")).astype(int)
    plot_curves({"stage 1": history([TERMS[0]], 120, 0)}, path)
    narrow = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert wide.shape[0] > 1.5 * narrow.shape[0] and wide.shape[1] > 1.2 * narrow.shape[1]
    orange = np.array([255, 127, 14])
    assert (np.abs(wide - orange).sum(-1) < 10).any()
    assert not (np.abs(narrow - orange).sum(-1) < 10).any()


def test_a_log_without_rewards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sft"):
        plot_curves({"sft": [{"step": 1, "loss": 1.0}]}, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_names_of_runs_are_no_formulas(tmp_path: Path) -> None:
    log = history(["format_reward"], 3, 0)
    plot_curves({name: log for name in NAMES}, tmp_path / "curves.png")
    term = [{"step": 1, r"rewards/$\nonsense$/mean": 0.5}]
    plot_curves({"a": term}, tmp_path / "term.png")
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("curves.png", "term.png"))
