"""RARLTrainer in TRL's training loop, on a tiny random model that has not learned to answer."""

import copy
import logging
import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from trl import GRPOConfig, GRPOTrainer

from rarl.answer import REASONS, parse_answer
from rarl.datasets import load_source, make_dataset
from rarl.prompt import build_completion
from rarl.rewards import REWARDS, format_reward, regression_reward, weights
from rarl.task import get_task
from rarl.trainer import RARLConfig, RARLTrainer, SharedPrefixTrainer
from rarl.trainer.config import NORMALIZED_LOSSES
from rarl.vision_tokens import vision_token_ids
from tests.rarl.trainer.small import GROUP, settings_in

LENGTH = 24
PLAIN: dict[str, Any] = {
    "rmo": False,
    "suppress_vision_tokens": False,
    "exact_zero_advantages": False,
    "shared_prefix": "off",
}
BEST: dict[str, Any] = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 3}
Make = Callable[..., RARLTrainer]


def make_rows(num_prompts: int = 8, num_images: int = 1) -> Dataset:
    source = load_source("builtin", size=16)
    return make_dataset(source, np.arange(16), num_prompts, mix={num_images: 1.0})


def config(cls: type[GRPOConfig], folder: Path, **overrides: Any) -> Any:
    settings = settings_in(folder) | {"max_completion_length": LENGTH, "learning_rate": 1e-3, "seed": 3}
    settings["lr_scheduler_type"] = "constant"
    return cls(**{**settings, **overrides})


@pytest.fixture
def make(random_model: Any, processor: Any, tmp_path: Path) -> Make:
    """Builds a trainer on a fresh copy of the random model, with stage 1's two rewards."""

    def build(cls: Any = RARLTrainer, rows: Any = None, model: Any = None, init: Any = None, **overrides: Any) -> Any:
        return cls(
            model=copy.deepcopy(model or random_model),
            reward_funcs=[regression_reward, format_reward],
            args=config(GRPOConfig if cls is GRPOTrainer else RARLConfig, tmp_path, **overrides),
            train_dataset=make_rows() if rows is None else rows,
            processing_class=processor,
            **(init or {}),
        )

    return build


def steps(trainer: GRPOTrainer) -> list[dict[str, Any]]:
    return [entry for entry in trainer.state.log_history if "grad_norm" in entry]


def one_batch(trainer: RARLTrainer, training: bool = True) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of the first generation batch and what the trainer makes of them."""
    trainer.model.train(training)
    rows = next(iter(trainer.get_train_dataloader()))
    return rows, trainer._generate_and_score_completions(rows)


def replay(monkeypatch: pytest.MonkeyPatch, completions: list[list[int]], logprobs: list[list[float]] | None) -> None:
    """Let the rollout return given completions; all that follows is TRL's and ours."""

    def rollout(self: Any, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        return [list(ids) for ids in completions], logprobs and [list(row) for row in logprobs]

    monkeypatch.setattr(SharedPrefixTrainer, "_generate_single_turn", rollout)


def encode(processor: Any, text: str) -> list[int]:
    return [*processor.tokenizer.encode(text, add_special_tokens=False), processor.tokenizer.eos_token_id]


def label(values: list[float]) -> str:
    return build_completion(values, get_task("count"))


def test_everything_off_is_trl_bit_for_bit(make: Make) -> None:
    rewards = {"generation_kwargs": {}, "max_steps": 5, "beta": 0.04, "steps_per_generation": 2}
    runs = []
    for cls, settings in ((GRPOTrainer, rewards), (RARLTrainer, {**rewards, **PLAIN})):
        trainer = make(cls, **settings)
        # Random text earns nothing, so a reward that varies is needed for the parameters to move.
        trainer.reward_funcs[0] = lambda completion_ids, **_: [sum(ids) % 7 / 7 for ids in completion_ids]
        start = [parameter.detach().clone() for parameter in trainer.model.parameters()]
        trainer.train()
        runs.append((trainer, start))
    (stock, start), (ours, _) = runs
    timing = {"step_time"}
    assert len(steps(stock)) == 5
    for expected, found in zip(steps(stock), steps(ours), strict=True):
        found = {name: value for name, value in found.items() if not name.startswith("answers/")}
        assert expected.keys() == found.keys()
        for key in expected.keys() - timing:
            assert expected[key] == found[key], key
    moved = 0
    for before, expected, found in zip(start, stock.model.parameters(), ours.model.parameters(), strict=True):
        assert torch.equal(expected, found)
        moved += not torch.equal(before, expected)
    assert moved > 5


@pytest.fixture(scope="module")
def wrong_model(random_model: Any, processor: Any) -> Any:
    """A copy fitted to answer 9, well formatted, whatever the prompt."""
    model = copy.deepcopy(random_model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    row = make_rows(1)[0]
    text = processor.apply_chat_template(row["prompt"], add_generation_prompt=True)
    answer = encode(processor, label([9.0]))
    batch = processor(text=[text], images=[row["images"]], return_tensors="pt")
    ids = torch.cat([batch["input_ids"], torch.tensor([answer])], dim=1)
    batch |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "mm_token_type_ids" in batch:
        batch["mm_token_type_ids"] = torch.nn.functional.pad(batch["mm_token_type_ids"], (0, len(answer)))
    labels = ids.clone()
    labels[:, : -len(answer)] = -100
    for _ in range(60):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.01, "the fixture did not learn its answer"
    return model


@pytest.mark.parametrize("rmo", [False, True])
def test_equally_wrong_group_learns_only_with_rmo(make: Make, wrong_model: Any, rmo: bool) -> None:
    # Every image shows 3, every response says 9, two tolerances off: half a point, for the format.
    rows = Dataset.from_list([{**make_rows(1)[0], "values": [3.0]}] * 4)
    trainer = make(
        model=wrong_model,
        rows=rows,
        rmo=rmo,
        rmo_probability=1.0,
        rmo_keep_reasoning=False,
        max_steps=60,  # with 30, one seed of five is still on its way
        learning_rate=3e-3,
        temperature=0.5,
        reward_weights=[1.0, 0.5],
    )
    start = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    logged = steps(trainer)
    if rmo:
        assert logged[0]["grad_norm"] > 0
        assert logged[0]["rmo/stagnant_fraction"] == 1.0
        assert logged[0]["rmo/mutated"] == 2  # one in each of the batch's two groups
        assert logged[0]["rmo/skipped"] == 0
        assert logged[0]["rmo/reward_std_before"] == 0
        assert logged[0]["rmo/reward_std_after"] == pytest.approx(1 / math.sqrt(GROUP))  # (1.5, 0.5, 0.5, 0.5)
        assert logged[-1]["rmo/mutated"] == 0, "nothing is left to mutate once the group is right"
        # Of the sampled responses themselves: evaluation mode mutates nothing. Most are right; how many, is a matter of
        # how a processor rounds.
        assert sampled_reward(trainer) > 1.2
    else:
        assert all(entry["grad_norm"] == 0.0 for entry in logged)
        for before, after in zip(start, trainer.model.parameters(), strict=True):
            assert torch.equal(before, after)
        assert sampled_reward(trainer) == 0.5


def sampled_reward(trainer: RARLTrainer) -> float:
    torch.manual_seed(0)
    one_batch(trainer, training=False)
    return trainer._total_rewards().mean().item()


def test_unreadable_group_gets_a_gradient_only_with_rmo(make: Make) -> None:
    for rmo in (False, True):
        trainer = make(rmo=rmo, rmo_probability=1.0)
        trainer.train()
        assert (steps(trainer)[0]["grad_norm"] > 0) is rmo
        assert steps(trainer)[0]["reward"] == (0.5 if rmo else 0.0)  # one of four earns 2


def test_mutated_response_replaces_the_sampled_one_everywhere(make: Make, processor: Any) -> None:
    # Generating for two optimiser steps makes TRL store old log-probabilities; beta makes it store reference ones.
    trainer = make(rmo_probability=1.0, steps_per_generation=2, beta=0.1, scale_rewards="none")
    rows, output = one_batch(trainer)
    assert output["mutated"].view(-1, GROUP).sum(dim=1).tolist() == [1] * (len(rows) // GROUP)
    lengths = output["completion_mask"].sum(dim=1)
    logged = trainer._logs
    assert list(logged["extra"]["mutated"]) == output["mutated"].tolist()
    for index in output["mutated"].nonzero().flatten().tolist():
        ids = output["completion_ids"][index, : lengths[index]].tolist()
        assert ids == encode(processor, label(rows[index]["values"]))
        assert logged["completion"][index][0]["content"] == label(rows[index]["values"])
        assert [rewards[index] for rewards in logged["rewards"].values()] == [1.0, 1.0]
    assert output["num_items_in_batch"] == lengths.sum()
    metrics = trainer._metrics["train"]
    assert metrics["completions/mean_length"] == [pytest.approx(lengths.float().mean().item())]

    names = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
    with torch.no_grad():
        expected, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1),
            torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1),
            output["completion_ids"].size(1),
            **{name: output[name] for name in names if name in output},
        )
    mask = output["completion_mask"].bool()
    for name in ("old_per_token_logps", "ref_per_token_logps"):
        torch.testing.assert_close(output[name][mask], expected[mask], rtol=1e-4, atol=1e-4)


def test_resumed_run_mutates_as_the_whole_run_does(make: Make, tmp_path: Path) -> None:
    # Nothing is learned, so that every group stays without a signal and the draws alone decide.
    options = {"max_steps": 8, "learning_rate": 0.0, "gradient_accumulation_steps": 2, "steps_per_generation": 1}
    options |= {"save_strategy": "steps", "save_steps": 4, "save_only_model": False}
    whole, resumed = make(**options), make(**options)
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    expected = [entry["rmo/mutated"] for entry in steps(whole)]
    assert len(set(expected)) > 1
    assert [entry["rmo/mutated"] for entry in steps(resumed)] == expected
    assert resumed._logs["extra"]["mutated"] == whole._logs["extra"]["mutated"]


def test_mutation_keeps_the_sampled_reasoning(make: Make, processor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = encode(processor, '<think>é 汉</think><answer>[{"image_id": 1, "value": 99}]</answer>')
    replay(monkeypatch, [wrong] * 2 * GROUP, None)
    for keep in (True, False):
        trainer = make(rmo_probability=1.0, max_completion_length=64, rmo_keep_reasoning=keep)
        rows, output = one_batch(trainer)
        for index, mutated in enumerate(output["mutated"].tolist()):
            text = trainer._logs["completion"][index][0]["content"]
            assert ("é 汉" in text) is (keep or not mutated)
            assert (parse_answer(text, 1).values() == rows[index]["values"]) is mutated


def test_reference_column_is_the_source_of_the_mutation(make: Make) -> None:
    rows = [{**row, "reference": label([row["values"][0] + 1])} for row in make_rows()]
    trainer = make(rows=Dataset.from_list(rows), rmo_probability=1.0, rmo_source="reference")
    batch, output = one_batch(trainer)
    for index in output["mutated"].nonzero().flatten().tolist():
        assert trainer._logs["completion"][index][0]["content"] == batch[index]["reference"]


def test_reference_that_does_not_fit_is_skipped_and_counted(make: Make, processor: Any) -> None:
    fits = len(encode(processor, label([3.0])))
    trainer = make(rmo_probability=1.0, max_completion_length=fits - 3)
    _, output = one_batch(trainer)
    assert not output["mutated"].any()
    assert trainer._metrics["train"]["rmo/skipped"] == [2.0]
    assert trainer._metrics["train"]["rmo/mutated"] == [0.0]
    assert output["completion_mask"].sum(dim=1).max() <= fits - 3


def test_what_rewards_log_is_logged_once(make: Make) -> None:
    trainer = make(rmo_probability=1.0)

    def noting(completions: list[Any], log_extra: Any, log_metric: Any, **_: Any) -> list[float]:
        log_extra("note", [completion[0]["content"] for completion in completions])
        nonlocal calls
        calls += 1
        log_metric("calls", calls)
        return [0.0] * len(completions)

    calls = 0
    trainer.reward_funcs[1] = noting
    one_batch(trainer)
    notes = trainer._logs["extra"]["note"]
    assert list(notes) == [completion[0]["content"] for completion in trainer._logs["completion"]]
    assert trainer._metrics["train"]["calls"] == [2.0], "the mean of the scoring that counts, not of both"


def test_no_mutation_in_evaluation(make: Make) -> None:
    trainer = make(rmo_probability=1.0, init={"eval_dataset": make_rows(4)}, per_device_eval_batch_size=GROUP)
    metrics = trainer.evaluate()
    assert metrics["eval_reward"] == 0.0
    assert not any("rmo" in key for key in metrics)
    assert not any(trainer._logs["extra"]["mutated"])
    assert len(trainer._logs["extra"]["mutated"]) == len(trainer._logs["prompt"])


def test_sampling_logprobs_of_a_replaced_response_are_nan(
    make: Make, processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = processor.tokenizer
    completions = [encode(processor, "no" * (1 + index)) for index in range(2 * GROUP)]
    logprobs = [[-0.5 - index] * len(ids) for index, ids in enumerate(completions)]
    replay(monkeypatch, completions, logprobs)
    trainer = make(rmo_probability=1.0)
    rows, output = one_batch(trainer)
    assert output["mutated"].sum() == 2
    for index, mutated in enumerate(output["mutated"].tolist()):
        length = int(output["completion_mask"][index].sum())
        found = output["sampling_per_token_logps"][index, :length]
        if mutated:
            assert length == len(encode(processor, label(rows[index]["values"])))
            assert found.isnan().all()
        else:
            assert output["completion_ids"][index, :length].tolist() == completions[index]
            assert found.tolist() == logprobs[index]
    assert tokenizer.eos_token_id == output["completion_ids"][0, int(output["completion_mask"][0].sum()) - 1]


@pytest.mark.parametrize("given", [None, [7, 9]])
def test_vision_tokens_are_suppressed(make: Make, processor: Any, given: list[int] | None) -> None:
    trainer = make(generation_kwargs=given and {"suppress_tokens": given})
    banned = {*vision_token_ids(processor), *(given or [])}
    assert set(trainer.generation_config.suppress_tokens) == banned
    # A model that wants nothing but vision tokens does not get them.
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight[list(banned)] *= 50
    _, output = one_batch(trainer)
    assert not set(output["completion_ids"][~output["mutated"]].flatten().tolist()) & banned


def set_rewards(monkeypatch: pytest.MonkeyPatch, trainer: RARLTrainer, totals: list[float]) -> None:
    trainer.reward_funcs[0] = lambda completions, **_: totals
    trainer.reward_funcs[1] = lambda completions, **_: [None] * len(completions)


def test_tied_groups_get_advantages_of_exactly_zero(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    totals = [0.1, 0.1, 0.1 + 3e-8, 0.1, 0.0, 0.4, 0.2, 0.1]
    noisy, exact = (make(rmo=False, exact_zero_advantages=switch) for switch in (False, True))
    for trainer in (noisy, exact):
        set_rewards(monkeypatch, trainer, totals)
    _, with_noise = one_batch(noisy)
    _, without = one_batch(exact)
    assert with_noise["advantages"][:GROUP].any(), "nothing to remove"
    assert without["advantages"][:GROUP].tolist() == [0.0] * GROUP
    assert torch.equal(without["advantages"][GROUP:], with_noise["advantages"][GROUP:])
    assert list(exact._logs["advantages"]) == without["advantages"].tolist()


@pytest.mark.parametrize("cap", [None, 1.5])
def test_one_replaced_response_of_eight(make: Make, cap: float | None) -> None:
    trainer = make(rmo_probability=1.0, num_generations=8, per_device_train_batch_size=8, advantage_cap=cap)
    _, output = one_batch(trainer)
    assert output["mutated"].sum() == 1
    high, low = 7 / math.sqrt(8), -1 / math.sqrt(8)
    assert (round(high, 2), round(low, 2)) == (2.47, -0.35)
    expected = torch.where(output["mutated"], min(high, cap or high), low)
    torch.testing.assert_close(output["advantages"], expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_luffy_loss(make: Make, loss_type: str) -> None:
    trainer = make(rmo_probability=1.0, rmo_importance="luffy", rmo_luffy_gamma=0.2, loss_type=loss_type)
    trainer.current_gradient_accumulation_steps = 1
    _, output = one_batch(trainer)
    loss = trainer._compute_loss(trainer.model, output)
    loss.backward()
    found = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])

    trainer.model.zero_grad()
    names = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
    logps, _, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model,
        torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1),
        torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1),
        output["completion_ids"].size(1),
        **{name: output[name] for name in names if name in output},
    )
    sums, lengths = [], []
    for row, mutated, advantage, mask in zip(
        logps, output["mutated"].tolist(), output["advantages"].tolist(), output["completion_mask"], strict=True
    ):
        row = row[: int(mask.sum())]
        weight = row.exp() / (row.exp() + 0.2) if mutated else (row - row.detach()).exp()
        sums.append(-advantage * weight.sum())
        lengths.append(len(row))
    expected = {
        "grpo": sum(total / length for total, length in zip(sums, lengths, strict=True)) / len(sums),
        "bnpo": sum(sums) / sum(lengths),
        "dr_grpo": sum(sums) / (len(sums) * LENGTH),
        "dapo": sum(sums) / sum(lengths),
    }[loss_type]
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    expected.backward()
    gradient = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])
    torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("loss_type", NORMALIZED_LOSSES)
def test_what_replaces_the_policy_loss_is_divided_as_trl_divides_it(
    make: Make, loss_type: str, accumulation: int
) -> None:
    """A fresh policy has ratios of 1, so that TRL's own loss is the normalised sum of minus the advantages."""
    trainer = make(loss_type=loss_type, rmo_probability=1.0, gradient_accumulation_steps=accumulation, beta=0.0)
    trainer.current_gradient_accumulation_steps = accumulation
    trainer.model.train()
    batches = [trainer._prepare_inputs(rows) for rows in islice(trainer.get_train_dataloader(), 1)]
    for batch in (*batches, *trainer._buffered_inputs[1:]):
        mask = batch["completion_mask"]
        batch = batch | {"advantages": torch.linspace(-1, 2, len(mask))}
        expected = GRPOTrainer._compute_loss(trainer, trainer.model, batch)
        per_token = -batch["advantages"][:, None].expand(mask.shape)
        found = trainer._normalize(per_token, mask, batch["num_items_in_batch"])
        torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-7)


def test_reasons_of_unreadable_answers_are_logged(make: Make, processor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["So be it.", "<answer>[", "<answer>7</answer>", "<answer>[]</answer>"]
    texts += ['<answer>[{"image_id": 9, "value": 1}]</answer>', '<answer>[{"image_id": 1, "value": 1}]</answer>']
    twice = '<answer>[{"image_id": 1, "value": 1}, {"image_id": 1, "value": 2}]</answer>'
    texts += [twice, texts[-1]]
    replay(monkeypatch, [encode(processor, text) for text in texts], None)
    trainer = make(rmo_probability=1.0, max_completion_length=64)
    one_batch(trainer)
    logged = {name: values[-1] for name, values in trainer._metrics["train"].items() if name.startswith("answers/")}
    assert logged == {"answers/well_formed": 2 / 8} | {f"answers/{reason}": 1 / 8 for reason in REASONS}
    one_batch(trainer, training=False)
    assert trainer._metrics["eval"]["answers/cut_off"] == [1 / 8]


def test_equal_totals_of_unlike_parts_are_mutated_only_where_they_teach_nothing(make: Make) -> None:
    rewards = [
        lambda completions, **_: [0.5 * (row % 2 == 0) for row in range(len(completions))],
        lambda completions, **_: [float(row % 2 == 1) for row in range(len(completions))],
    ]
    for aggregation, mutated in (("sum_then_normalize", 2), ("normalize_then_sum", 0)):
        trainer = make(rmo_probability=1.0, reward_weights=[1.0, 0.5], multi_objective_aggregation=aggregation)
        trainer.reward_funcs = rewards
        _, output = one_batch(trainer)
        assert output["mutated"].sum() == mutated
        assert trainer._metrics["train"]["rmo/stagnant_fraction"] == [mutated / 2]
        assert (output["advantages"].abs().max() > 0.5) == (mutated == 0)


def test_luffy_trains(make: Make) -> None:
    trainer = make(rmo_probability=1.0, rmo_importance="luffy", max_steps=2, gradient_accumulation_steps=2)
    trainer.train()
    assert all(entry["grad_norm"] > 0 for entry in steps(trainer))


def test_stage_two_defaults(random_model: Any, processor: Any, tmp_path: Path) -> None:
    """All five rewards, in a batch that mixes one and two images, with low_reward as the trigger."""
    source = load_source("builtin", size=16)
    trainer = RARLTrainer(
        model=copy.deepcopy(random_model),
        reward_funcs=list(REWARDS.values()),
        args=config(
            RARLConfig,
            tmp_path,
            reward_weights=weights(),
            max_completion_length=48,
            rmo_trigger="low_reward",
            rmo_num_replaced=2,
            rmo_probability=1.0,
            log_completions=True,
            num_completions_to_print=0,
        ),
        train_dataset=make_dataset(source, np.arange(16), 8, mix={1: 1.0, 2: 1.0}, min_gap=1),
        processing_class=processor,
    )
    assert trainer.reward_weights.tolist() == [1, 1, 1, 1, 0.5]
    trainer.model.train()
    rows = next(iter(trainer.get_train_dataloader()))
    output = trainer._generate_and_score_completions(rows)
    totals = trainer._total_rewards()
    for index, row in enumerate(rows):
        best = 1.5 if len(row["values"]) == 1 else 4.5
        # τ of an unreadable answer is -1, which only prompts of several images have: 0 is not below 0.
        assert bool(output["mutated"][index]) == (totals[index].item() == pytest.approx(best))
    trainer.train()
    assert (tmp_path / "completions").is_dir()


def test_stream_of_rows(make: Make) -> None:
    rows = list(make_rows(4))

    def generate() -> Any:
        yield from rows

    trainer = make(rows=IterableDataset.from_generator(generate), rmo_probability=1.0)
    trainer.train()
    assert steps(trainer)[0]["rmo/mutated"] == 2


def mixed_rows(kinds: list[bool], nothing: Any = ()) -> Dataset:
    """Rows of one image, and rows of none, in this order."""
    rows = [dict(row) for row in make_rows(len(kinds))]
    for row, shown in zip(rows, kinds, strict=True):
        if not shown:
            row["images"], row["values"] = nothing if nothing is None else [], []
            row["prompt"] = [{"role": "user", "content": [{"type": "text", "text": "Nothing is shown."}]}]
    return Dataset.from_list(rows)


@pytest.mark.parametrize("nothing", [(), None])
def test_rows_of_two_kinds_train_where_a_batch_holds_one(make: Make, nothing: Any) -> None:
    """Four rows to a generation batch of two prompts: two with images, then two without."""
    rows = mixed_rows([True, True, False, False], nothing)
    settings = {"max_steps": 2, "shuffle_dataset": False, "rmo": False, "shared_prefix": "on"}
    trainer = make(rows=rows, per_device_train_batch_size=2 * GROUP, **settings)
    trainer.reward_funcs = [lambda completion_ids, **_: [sum(ids) % 7 / 7 for ids in completion_ids]] * 2
    trainer.train()
    assert [entry["grad_norm"] > 0 for entry in steps(trainer)] == [True, True]


def test_rows_of_two_kinds_that_meet_are_refused_before_training(make: Make) -> None:
    rows = mixed_rows([True, False, True, False])
    settings = {"per_device_train_batch_size": 2 * GROUP, "shuffle_dataset": False, "max_steps": 2}
    with pytest.raises(ValueError, match=r"train_dataset: row 0 has images and row 1 has none.* \(2 of 4 rows"):
        make(rows=rows, **settings)
    make(rows=mixed_rows([True, True, False, True]), **settings | {"max_steps": 1})  # the second batch is not reached
    with pytest.raises(ValueError, match=r"row 3 has images and row 2 has none"):
        make(rows=mixed_rows([True, True, False, True]), **settings)


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_order_of_every_epoch_is_looked_at(make: Make, epochs: int) -> None:
    """Each epoch is shuffled anew, by one generator."""
    kinds, refused, expected = [True, True, False, False], [], []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(4, generator=generator).view(2, 2).tolist() for _ in range(epochs)]
        expected.append(any(kinds[first] != kinds[second] for order in orders for first, second in order))
        try:
            make(rows=mixed_rows(kinds), seed=seed, max_steps=-1, num_train_epochs=epochs)
            refused.append(False)
        except ValueError:
            refused.append(True)
    assert refused == expected and (epochs == 2 or len(set(expected)) == 2)


def test_rows_of_two_kinds_for_evaluation(make: Make) -> None:
    mixed = mixed_rows([True, False])
    for given, name in ((mixed, "eval_dataset"), ({"held_out": mixed}, "eval_dataset held_out")):
        with pytest.raises(ValueError, match=rf"{name}: row 0 has images and row 1 has none"):
            make(init={"eval_dataset": given}, per_device_eval_batch_size=2 * GROUP)
        make(init={"eval_dataset": given}, per_device_eval_batch_size=GROUP)


@pytest.mark.parametrize("column", ["values", "task"])
def test_missing_column_is_named(make: Make, column: str) -> None:
    with pytest.raises(ValueError, match=rf"lacks {column}; it has .*prompt"):
        make(rows=make_rows().remove_columns(column))


def test_reference_column_is_wanted_only_where_used(make: Make) -> None:
    with pytest.raises(ValueError, match="lacks reference"):
        make(rmo_source="reference")


def test_tools_are_refused_with_rmo(make: Make) -> None:
    def look(image: int) -> str:
        """Look at an image.

        Args:
            image: Number of the image.
        """
        return str(image)

    with pytest.raises(ValueError, match="RMO rewrites responses of a single turn, and tools is given; set rmo=False"):
        make(init={"tools": [look]})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rmo_trigger": "always"}, "trigger must be 'stagnant' or 'low_reward', got 'always'"),
        ({"rmo_probability": 1.5}, r"probability must lie in 0\.\.1, got 1.5"),
        ({"rmo_num_replaced": 0}, "at least 1 response of a group, got 0"),
        ({"rmo_ceiling": -1}, r"ceiling must lie in 0\.\.1, got -1"),
        ({"rmo_source": "oracle"}, "rmo_source must be one of ground_truth, reference, got 'oracle'"),
        ({"rmo_importance": "off"}, "rmo_importance must be one of on_policy, luffy, got 'off'"),
        ({"rmo_importance": "luffy", "loss_type": "cispo"}, "works with loss_type .*, got 'cispo'"),
        ({"advantage_cap": 0.0}, "advantage_cap must be positive, got 0"),
        (
            {"save_strategy": "steps", "save_steps": 3, "steps_per_generation": 2, **BEST},
            "the 2 steps .* got save_strategy 'steps' and save_steps 3; wanted 'steps' and a multiple of 2",
        ),
        (
            {"save_strategy": "steps", "save_steps": 0.5, "steps_per_generation": 2, **BEST, "eval_steps": 0.5},
            "save_steps 0.5",
        ),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(RARLConfig, tmp_path, **settings)


@pytest.mark.parametrize(
    ("settings", "saved"),
    [
        ({"save_steps": 2, "steps_per_generation": 2}, [2, 4, 5]),
        ({"save_steps": 1, "steps_per_generation": 3}, [3, 5]),
        ({"save_steps": 0.2, "num_iterations": 2}, [2, 4, 5]),
        ({"save_steps": 3, "steps_per_generation": 2, "gradient_accumulation_steps": 2}, [3, 5]),
        ({"save_steps": 3, "num_iterations": 2}, [4, 5]),
        ({"save_strategy": "epoch", "num_iterations": 2, "max_steps": 3}, [2, 3]),
    ],
)
def test_checkpoints_are_put_off_until_completions_are_used_up(
    make: Make, tmp_path: Path, settings: dict[str, Any], saved: list[int]
) -> None:
    settings = {"save_strategy": "steps", "max_steps": 5, "save_only_model": False, **settings}
    make(rows=make_rows(2) if settings["save_strategy"] == "epoch" else None, **settings).train()
    assert sorted(int(folder.name.split("-")[1]) for folder in tmp_path.glob("checkpoint-*")) == saved


@pytest.mark.parametrize("accumulation", [1, 3, 8])
def test_defaults_refuse_nothing(tmp_path: Path, accumulation: int) -> None:
    for settings in ({}, {"num_iterations": 3}, {"steps_per_generation": 2 * accumulation}):
        args = RARLConfig(str(tmp_path), gradient_accumulation_steps=accumulation, use_cpu=True, bf16=False, **settings)
        assert args.save_steps == 500 and args.rmo


def test_no_reward_is_an_error_of_trl(make: Make, random_model: Any, processor: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No reward source provided"):
        RARLTrainer(random_model, None, config(RARLConfig, tmp_path), make_rows(), processing_class=processor)


def test_a_plain_config_gets_the_defaults(
    random_model: Any, processor: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """RMO where the data have its columns; else one line, and TRL's training."""
    given = config(GRPOConfig, tmp_path, logging_steps=1)
    rewards = [regression_reward, format_reward]
    trainer = RARLTrainer(copy.deepcopy(random_model), rewards, given, make_rows(), processing_class=processor)
    assert trainer.args.rmo and trainer.args.rmo_probability == 0.5 and trainer._shares_prefix
    assert not hasattr(given, "rmo")  # the caller's own stays as it was
    parted = config(GRPOConfig, tmp_path, save_strategy="steps", save_steps=3, steps_per_generation=2, **BEST)
    with pytest.raises(ValueError, match="load_best_model_at_end needs a checkpoint"):
        RARLTrainer(copy.deepcopy(random_model), rewards, parted, make_rows(), processing_class=processor)
    with caplog.at_level(logging.WARNING):
        rows = make_rows().remove_columns(["task", "values"])
        lengths = [lambda completion_ids, **_: [sum(ids) % 7 / 7 for ids in completion_ids]]
        trainer = RARLTrainer(copy.deepcopy(random_model), lengths, given, rows, processing_class=processor)
    assert "Responses are not mutated: RMO needs the columns values, task" in caplog.text
    trainer.train()
    assert trainer.state.global_step == 1 and not any("rmo/mutated" in entry for entry in trainer.state.log_history)


def test_fewer_prompts_than_a_step_takes_are_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="1 prompts, but one generation batch takes 2"):
        make(rows=make_rows(num_prompts=1))
