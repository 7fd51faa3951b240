"""Virtual rewards, dynamic sampling and leave-one-out advantages in TRL's training loop."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rarl.advantages import leave_one_out, virtual_advantages
from rarl.datasets import load_source, make_dataset
from rarl.prompt import build_completion
from rarl.rewards import format_reward, regression_reward
from rarl.task import get_task
from rarl.trainer import RARLConfig, RARLTrainer, SharedPrefixTrainer
from tests.rarl.trainer.small import GROUP, trainer_of

TASK = get_task("count")


def rivals(model: Any, processor: Any, folder: Path, **overrides: Any) -> RARLTrainer:
    rows = make_dataset(load_source("builtin", size=16), np.arange(16), 2, mix={1: 1.0})
    rewards = [regression_reward, format_reward]
    settings = {"max_completion_length": 24, **overrides}
    return trainer_of(model, processor, folder, rows=rows, rewards=rewards, **settings)


class Answers:
    """Stands in for sampling: what each call gives, and the prompts that it was called with."""

    def __init__(self, processor: Any, calls: list[list[str]]) -> None:
        self.tokenizer, self.calls = processor.tokenizer, calls
        self.prompts: list[Any] = []
        self.images: list[Any] = []

    def __call__(self, prompt_ids: Any, images: Any, fields: Any, *_: Any) -> tuple[list[list[int]], None]:
        self.prompts.append(prompt_ids)
        self.images.append(images)
        assert len(fields["image_grid_thw"]) == len(prompt_ids), "one image a prompt"
        return [[*self.tokenizer.encode(text), self.tokenizer.eos_token_id] for text in self.calls.pop(0)], None


def batch(trainer: RARLTrainer, monkeypatch: pytest.MonkeyPatch, answers: Answers) -> tuple[Any, dict[str, Any]]:
    monkeypatch.setattr(
        SharedPrefixTrainer, "_generate_single_turn", lambda self, *args, **kwargs: answers(*args, **kwargs)
    )
    trainer.model.train()
    rows = next(iter(trainer.get_train_dataloader()))
    return rows, trainer._generate_and_score_completions(rows)


def wrong(row: Any) -> str:
    """A well-formatted answer that earns nothing but its format."""
    return build_completion([(row["values"][0] + 6) % 11], TASK)


def test_virtual_rewards_push_an_equally_wrong_group_down(
    random_model: Any, processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first group is tied at 0.5 of 1.5, half of the groups: two of at most four virtual rewards."""
    trainer = rivals(random_model, processor, tmp_path, virtual_rewards=4)
    first, second = next(iter(trainer.get_train_dataloader()))[::GROUP]
    mixed = [wrong(second)] * 3 + [build_completion(second["values"], TASK)]
    _, output = batch(trainer, monkeypatch, Answers(processor, [[wrong(first)] * GROUP + mixed]))
    found = output["advantages"].numpy()
    np.testing.assert_allclose(found[:GROUP], virtual_advantages(np.full(GROUP, 0.5), 1.5, 2), rtol=1e-5)
    drawn = np.array([0.5, 0.5, 0.5, 1.5])
    np.testing.assert_allclose(found[GROUP:], (drawn - drawn.mean()) / (drawn.std(ddof=1) + 1e-4), rtol=1e-5)


def test_leave_one_out_has_no_deviation(
    random_model: Any, processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = rivals(random_model, processor, tmp_path, advantage_baseline="leave_one_out")
    first, second = next(iter(trainer.get_train_dataloader()))[::GROUP]
    mixed = [wrong(second)] * 3 + [build_completion(second["values"], TASK)]
    _, output = batch(trainer, monkeypatch, Answers(processor, [[wrong(first)] * GROUP + mixed]))
    found = output["advantages"].numpy()
    assert (found[:GROUP] == 0).all()
    np.testing.assert_allclose(found[GROUP:], leave_one_out(np.array([0.5, 0.5, 0.5, 1.5]), GROUP), rtol=1e-6)


@pytest.mark.parametrize("tries", [1, 3])
def test_dynamic_sampling_draws_equally_wrong_groups_again(
    random_model: Any,
    processor: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tries: int,
) -> None:
    """One group is equally wrong three times, then varies: it alone is drawn again, at most `tries` times."""
    trainer = rivals(random_model, processor, tmp_path, dynamic_sampling=tries)
    first, second = next(iter(trainer.get_train_dataloader()))[::GROUP]
    varied = [wrong(second)] * 3 + [build_completion(second["values"], TASK)]
    again = [[wrong(second)] * GROUP, [wrong(second)] * GROUP, varied]
    sampled = [wrong(first)] * 3 + [build_completion(first["values"], TASK)]
    answers = Answers(processor, [sampled + [wrong(second)] * GROUP, *again])
    with caplog.at_level(logging.WARNING):
        _, output = batch(trainer, monkeypatch, answers)
    assert [len(prompts) for prompts in answers.prompts] == [2 * GROUP, *[GROUP] * tries]
    assert all(prompts == answers.prompts[0][GROUP:] for prompts in answers.prompts[1:])
    assert all(images == answers.images[0][GROUP:] for images in answers.images[1:])
    metrics = trainer._metrics["train"]
    assert metrics["dynamic_sampling/redrawn"] == [tries * GROUP] and metrics["dynamic_sampling/tries"] == [tries]
    assert metrics["dynamic_sampling/still_stagnant"] == [0.5 if tries == 1 else 0.0]
    assert ("Dynamic sampling leaves groups" in caplog.text) == (tries == 1)
    texts = processor.batch_decode(output["completion_ids"], skip_special_tokens=True)
    assert texts == sampled + (again[0] if tries == 1 else varied)
    assert bool((output["advantages"][GROUP:] != 0).any()) == (tries == 3)


def test_what_is_still_wrong_after_dynamic_sampling_is_mutated(
    random_model: Any, processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = rivals(random_model, processor, tmp_path, dynamic_sampling=1, rmo=True, rmo_probability=1.0)
    first, second = next(iter(trainer.get_train_dataloader()))[::GROUP]
    both = [wrong(first)] * GROUP + [wrong(second)] * GROUP
    _, output = batch(trainer, monkeypatch, Answers(processor, [both, both]))
    assert int(output["mutated"].sum()) == 2


@pytest.mark.parametrize(
    "settings", [{"dynamic_sampling": 2}, {"virtual_rewards": 2}, {"advantage_baseline": "leave_one_out"}]
)
def test_training_with_real_samples(random_model: Any, processor: Any, tmp_path: Path, settings: Any) -> None:
    trainer = rivals(random_model, processor, tmp_path, max_steps=2, **settings)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    assert len(logged) == 2 and all(np.isfinite(entry["grad_norm"]) for entry in logged)
    if "dynamic_sampling" in settings:  # a random model answers nothing, however often it is asked
        assert all(entry["dynamic_sampling/redrawn"] == 2 * 2 * GROUP for entry in logged)
        assert all(entry["dynamic_sampling/still_stagnant"] == 1 for entry in logged)
    if "virtual_rewards" in settings:
        assert all(entry["grad_norm"] > 0 for entry in logged)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"virtual_rewards": -1}, "virtual_rewards must be 0 or more, got -1"),
        ({"dynamic_sampling": -2}, "dynamic_sampling must be 0 or more, got -2"),
        ({"advantage_baseline": "mean"}, "advantage_baseline must be one of group, leave_one_out, got 'mean'"),
        (
            {"virtual_rewards": 1, "advantage_baseline": "leave_one_out"},
            "wanted one of them, got advantage_baseline='leave_one_out', virtual_rewards=1",
        ),
        ({"virtual_rewards": 1, "credit": "item"}, "wanted one of them, got virtual_rewards=1, credit='item'"),
        (
            {"advantage_baseline": "leave_one_out", "multi_objective_aggregation": "normalize_then_sum"},
            "wanted one of them, got advantage_baseline='leave_one_out', multi_objective_aggregation",
        ),
    ],
)
def test_settings_that_do_not_go_together(tmp_path: Path, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RARLConfig(str(tmp_path), use_cpu=True, bf16=False, **settings)
