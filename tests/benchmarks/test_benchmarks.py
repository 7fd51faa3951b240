"""The benchmark as it is started, shortened, and what its figures rest on. No assertion about speed."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import reward_share, rewards
from benchmarks.reward_share import Run, StepClock, fastest_steps, largest_difference, mean_ms

SHORT = ["--repeats", "1", "--steps", "1", "--per_device_train_batch_size", "8", "--num_generations", "4"]
TIMES = ["five_rewards_ms", "per_answer_us", "stock_ms", "ratio", "rewards_ms_per_step", "rmo_ms_per_step"]
TIMES += ["rmo_every_group_ms_per_step", "step_ms", "stock_step_ms", "step_ratio"]


def test_json_holds_every_figure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["rewards", "--json", *SHORT])
    rewards.main()
    figures = json.loads(capsys.readouterr().out)  # one object and nothing else
    exact = {"answers": 1000, "images": 8, "repeats": 1, "steps": 1, "max_abs_difference_options_off": 0.0}
    assert {name: figures[name] for name in exact} == exact
    assert figures.keys() == {*exact, *TIMES, "max_abs_difference", "share", "mutated_per_step"}
    assert all(figures[name] > 0 for name in TIMES)
    assert figures["max_abs_difference"] < 1e-12
    assert 0 < figures["share"] < 1
    parts = figures["rewards_ms_per_step"] + figures["rmo_ms_per_step"]
    assert figures["share"] == pytest.approx(parts / figures["step_ms"], rel=1e-2)


@pytest.mark.parametrize("flag", ["--steps", "--repeats"])
def test_no_measurement_is_refused(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rewards", flag, "0"])
    with pytest.raises(SystemExit):
        rewards.main()
    assert f"{flag} must be at least 1, got 0" in capsys.readouterr().err


class Worker:
    """Whose methods take two and three seconds by its own watch."""

    now = 0.0

    def outer(self) -> str:
        self.now += 2
        return self.inner()

    def inner(self) -> str:
        self.now += 3
        return "done"


def test_clock_counts_a_nested_call_once(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, clock = Worker(), StepClock()
    monkeypatch.setattr(reward_share, "time", SimpleNamespace(perf_counter=lambda: worker.now))
    clock.watch(worker, "outer")
    clock.watch(worker, "inner")
    clock.on_train_begin()
    assert worker.outer() == "done"
    worker.now += 1
    clock.on_step_end()
    assert worker.inner() == "done"
    clock.on_step_end()
    assert clock.steps == [{"step": 6, "outer": 5}, {"step": 3, "inner": 3}]


def test_mean_is_over_the_faster_repetition_of_each_step_after_the_warm_up() -> None:
    runs = [run(), run()]
    runs[0].clock.steps = [{"step": 9.0}, {"step": 1.0, "part": 0.5}, {"step": 5.0, "part": 0.1}]
    runs[1].clock.steps = [{"step": 0.1}, {"step": 2.0, "part": 0.1}, {"step": 3.0}]
    steps = fastest_steps(*runs)
    assert mean_ms(steps, "step") == 2000
    assert mean_ms(steps, "part") == 250


def run(weight: float = 1.0, loss: float = 0.5) -> Run:
    logged = [{"loss": loss, "grad_norm": 2.0, "reward": 1.0}]
    return Run(StepClock(), logged, {"frozen": torch.zeros(2, 2), "weight": torch.tensor([1.0, weight])})


def test_difference_sees_parameters_and_losses() -> None:
    assert largest_difference(run(), run()) == 0.0
    assert largest_difference(run(), run(weight=0.75)) == 0.25
    assert largest_difference(run(), run(weight=0.75, loss=-0.5)) == 1.0
    assert largest_difference(run(), run(weight=float("nan"))) != 0.0
    with pytest.raises(ValueError, match="names"):
        largest_difference(run(), Run(StepClock(), [], {}))
