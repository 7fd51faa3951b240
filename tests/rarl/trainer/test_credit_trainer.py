"""Credit for items and expected numbers in TRL's training loop, against plain definitions."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer
from trl import GRPOConfig

from gor_head import CoDiVocabulary
from gor_head.vlm import attach
from rarl import tiny
from rarl.answer_format import write_completion, write_list
from rarl.credit import CreditedAnswer, Worth
from rarl.datasets import load_source, make_dataset
from rarl.expectation import ExpectedNumbers
from rarl.inputs import batch_inputs
from rarl.prompt import build_completion, number_contexts
from rarl.rewards import REWARDS, accuracy_reward, format_reward, regression_reward, weights
from rarl.task import OrdinalTask, get_task
from rarl.trainer import RARLConfig, RARLTrainer, SharedPrefixTrainer
from tests.paths import DATA
from tests.rarl.trainer.small import GROUP, trainer_of

QWEN = DATA / "qwen2_5_vl_tokenizer"
TASK = get_task("count")


def rows_of(num_images: int, num_prompts: int = 2, task: str | OrdinalTask = "count") -> Any:
    return make_dataset(load_source("builtin", task, size=16), np.arange(16), num_prompts, mix={num_images: 1.0})


def answer_with(trainer: RARLTrainer, monkeypatch: pytest.MonkeyPatch, texts: list[str]) -> tuple[Any, dict[str, Any]]:
    """The first rows, and what the trainer makes of them if these answers are sampled."""
    tokenizer: Any = trainer.processing_class.tokenizer
    ids = [[*tokenizer.encode(text), tokenizer.eos_token_id] for text in texts]
    monkeypatch.setattr(SharedPrefixTrainer, "_generate_single_turn", lambda *_, **__: (ids, None))
    trainer.model.train()
    rows = next(iter(trainer.get_train_dataloader()))
    return rows, trainer._generate_and_score_completions(rows)


@pytest.mark.parametrize("words", [(), ("few", "many")])
def test_advantages_of_tokens_are_totals_less_promises(
    words: tuple[str, ...], random_model: Any, processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each token against the definition: (total − promise), less the mean of the others at the same stage."""
    trainer = trainer_of(
        random_model,
        processor,
        tmp_path,
        rows=rows_of(2, task=replace(TASK, words=words)),
        rewards=list(REWARDS.values()),
        credit="item",
        reward_weights=weights(),
    )
    rng = np.random.default_rng(0)
    texts = [build_completion(rng.integers(0, 11, 2).tolist(), replace(TASK, words=words)) for _ in range(2 * GROUP)]
    rows, output = answer_with(trainer, monkeypatch, texts)
    totals = trainer._total_rewards().double().numpy()
    variances = totals.reshape(2, GROUP).var(axis=1, ddof=1)
    deviations = np.sqrt(((GROUP - 1) * variances + variances.mean()) / GROUP)
    tokenizer = processor.tokenizer
    for group in range(2):
        to_go = []
        for row in range(group * GROUP, (group + 1) * GROUP):
            worth = Worth(rows[row]["values"], TASK.tolerance, 1.0, 1.0)
            ids = [*tokenizer.encode(texts[row]), tokenizer.eos_token_id]
            decode = lambda ids: tokenizer.decode(ids, skip_special_tokens=True)  # noqa: E731
            answer = CreditedAnswer.of(ids, 2, worth, decode=decode, most=2, words=words)
            to_go.append(totals[row] - answer.promises)
            assert len(answer.promises) == 5  # two numbers thought, two listed
            stages = answer.stages
            assert (output["advantages"][row, len(stages) :] == 0).all()
        table = np.stack(to_go)
        for number, row in enumerate(range(group * GROUP, (group + 1) * GROUP)):
            others = np.delete(table, number, axis=0).mean(axis=0)
            ids = [*tokenizer.encode(texts[row]), tokenizer.eos_token_id]
            worth = Worth(rows[row]["values"], TASK.tolerance, 1.0, 1.0)
            stages = CreditedAnswer.of(ids, 2, worth, decode=decode, most=2, words=words).stages
            wanted = ((table[number] - others) / deviations[group])[stages]
            np.testing.assert_allclose(output["advantages"][row, : len(stages)].numpy(), wanted, atol=1e-5)


CODES = {
    "a token each": CoDiVocabulary.for_language_model(range(11)),
    "tags": CoDiVocabulary([1, 2, 5], tolerance=0, max_length=4),
}


@pytest.mark.parametrize("task, codes", [("count", None), ("brightness", None), *(("count", each) for each in CODES)])
def test_gradient_of_a_tied_group_is_that_of_the_expected_reward(
    random_model: Any,
    processor: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    codes: str | None,
) -> None:
    """All answers alike: nothing is left of the sampled part, and a number's own distribution still teaches.

    The oracle writes every legal number out behind the prefix, takes its probability from the plain model, node by
    node, and differentiates the mean regression reward.
    """
    judged = get_task(task)
    if codes is not None:
        judged = judged.with_vocabulary(CODES[codes])
        random_model, processor = copy.deepcopy(random_model), copy.deepcopy(processor)
        attach(random_model, processor, CODES[codes], number_contexts(judged))
    trainer = trainer_of(
        random_model,
        processor,
        tmp_path,
        rows=rows_of(1, task=judged),
        rewards=[regression_reward, format_reward],
        credit="exact",
        loss_type="dr_grpo",
        temperature=0.7,
    )
    text = write_completion("so", write_list([(1, judged.format_value(judged.maximum / 2))]))
    rows, output = answer_with(trainer, monkeypatch, [text] * 2 * GROUP)
    assert (output["advantages"] == 0).all() and (output["number_places"] >= 0).sum() == 2 * GROUP
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(trainer.model, output)
    loss.backward()
    found = {name: each.grad for name, each in trainer.model.named_parameters() if each.grad is not None}

    model = copy.deepcopy(random_model).train()
    expected = ExpectedNumbers.of(processor, judged)
    tokenizer, trie = processor.tokenizer, expected.trie
    ids = tokenizer.encode(text)
    start = trie.find([*ids, tokenizer.eos_token_id])[0].start
    oracle: Any = 0.0
    for row in (rows[0], rows[GROUP]):
        nodes = []
        for prefix in trie.prefixes:
            plain = batch_inputs(processor, [row])
            tail = torch.tensor([[*ids[:start], *prefix]])
            plain["input_ids"] = torch.cat([plain["input_ids"], tail], dim=1)
            plain["attention_mask"] = torch.ones_like(plain["input_ids"])
            plain["mm_token_type_ids"] = torch.nn.functional.pad(plain["mm_token_type_ids"], (0, tail.shape[1]))
            nodes.append(model(**plain).logits[0, -1] / 0.7)
        chances = trie.log_probs(torch.stack(nodes)).exp()
        closeness = [
            max(0.0, 1 - ((float(number) - row["values"][0]) / judged.tolerance) ** 2) for number in trie.numbers
        ]
        oracle = oracle - (chances * torch.tensor(closeness)).sum() * GROUP
    # The groups do not vary, so gains are not scaled.
    oracle = oracle / (2 * GROUP * trainer.args.max_completion_length)
    oracle.backward()
    assert float(loss.detach()) == pytest.approx(float(oracle.detach()), rel=1e-4)
    compared = 0
    for name, each in model.named_parameters():
        if each.grad is not None and each.grad.abs().max() > 1e-9:
            torch.testing.assert_close(found[name], each.grad, rtol=2e-3, atol=1e-7)
            compared += 1
    assert compared > 10


@pytest.mark.parametrize("credit", ["item", "exact"])
@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "bnpo", "cispo"])
def test_training_moves_the_model(
    random_model: Any, processor: Any, tmp_path: Path, credit: str, loss_type: str
) -> None:
    trainer = trainer_of(
        random_model,
        processor,
        tmp_path,
        rows=rows_of(2, 4),
        rewards=list(REWARDS.values()),
        credit=credit,
        loss_type=loss_type,
        rmo=True,
        rmo_probability=1.0,
        max_steps=2,
        gradient_accumulation_steps=2,
    )
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    moved = [name for name, each in trainer.model.state_dict().items() if not torch.equal(each, before[name])]
    assert moved
    assert all(np.isfinite(entry["grad_norm"]) for entry in trainer.state.log_history if "grad_norm" in entry)


def test_settings_that_exact_pays_no_heed_to_are_refused(tmp_path: Path) -> None:
    settings: dict[str, Any]
    for settings, message in (
        ({"num_iterations": 2}, "answers serve one optimiser step: wanted num_iterations 1"),
        ({"advantage_cap": 1.0}, "credit='exact' pays no heed to advantage_cap; wanted None, got 1.0"),
        ({"top_entropy_quantile": 0.5}, "pays no heed to top_entropy_quantile; wanted 1.0, got 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            RARLConfig(str(tmp_path), credit="exact", use_cpu=True, bf16=False, **settings)
    fine = OrdinalTask("fine", "a share", 0, 100, tolerance=1)
    with pytest.raises(ValueError, match=r"a number of task 'fine' would have \d+ tokens behind it, for 10001 legal"):
        ExpectedNumbers.of(tiny.build_processor(), fine)


def test_a_number_left_to_the_expectation_is_settled_for_its_own_tokens(processor: Any) -> None:
    """Its digits and the token that ends it have the stage after it, all other tokens that of before."""
    tokenizer = processor.tokenizer
    expected = ExpectedNumbers.of(processor, TASK)
    text = build_completion([7, 10], TASK).replace("Image 2: 10", "Image 2: 12")  # there is no 12
    ids = [*tokenizer.encode(text), tokenizer.eos_token_id]
    worth = Worth([7, 9], TASK.tolerance, 1.0, 1.0)
    before = CreditedAnswer.of(ids, 2, worth, decode=tokenizer.decode, most=2)
    after = expected.take_over(before, ids, worth, TASK)
    wanted = before.stages.copy()
    for place, start in enumerate(before.starts.tolist()):
        if place != 1:  # 12 is left to the sampled part
            digits = 2 if place == 3 else 1
            wanted[start : start + digits + 1] = place + 1
    assert after.stages.tolist() == wanted.tolist() and len(after.places) == 3
    np.testing.assert_allclose(after.gains[0], worth.gains([], 1, np.arange(11), listed=False))


def test_blanks_before_numbers_are_tokens_of_their_own(processor: Any) -> None:
    """Below 0 a tokenizer may part the blank from the digits; the number then begins with the blank."""
    if not QWEN.is_dir():
        pytest.skip("the tokenizer of Qwen2.5-VL is not here")
    tokenizer = AutoTokenizer.from_pretrained(QWEN)
    below = OrdinalTask("below", "degrees", -3, 3, tolerance=2, integer=True)
    expected = ExpectedNumbers.of(tokenizer, below)
    ids = tokenizer.encode(build_completion([-2, 3], below))
    worth = Worth([-2, 3], 2, 1.0, 1.0)
    answer = CreditedAnswer.of(ids, 2, worth, decode=tokenizer.decode, most=2)
    found = expected.take_over(answer, ids, worth, below)
    assert found.places.tolist() == [each.start for each in expected.trie.find(ids)] and len(found.places) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"loss_type": "luspo"},
            "credit='item' gives each token its own advantage, and works with loss_type grpo",
        ),
        ({"importance_sampling_level": "sequence"}, "works with importance_sampling_level token, got 'sequence'"),
        (
            {"multi_objective_aggregation": "normalize_then_sum"},
            "wanted one of them, got credit='item', multi",
        ),
    ],
)
def test_losses_without_advantages_of_tokens_are_refused(tmp_path: Path, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RARLConfig(str(tmp_path), credit="item", use_cpu=True, bf16=False, **settings)
    with pytest.raises(ValueError, match="credit must be one of completion, item, exact, got 'token'"):
        RARLConfig(str(tmp_path), credit="token", use_cpu=True, bf16=False)
    assert GRPOConfig(str(tmp_path), use_cpu=True, bf16=False, **settings)  # TRL's own takes them


def test_what_credit_wants(random_model: Any, processor: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shares out the regression and the accuracy reward; wanted one of them"):
        trainer_of(random_model, processor, tmp_path, rows=rows_of(1), rewards=[format_reward], credit="item")
    with pytest.raises(ValueError, match="lays numbers that were not sampled behind shared prompts"):
        trainer_of(
            random_model,
            processor,
            tmp_path,
            rows=rows_of(1),
            rewards=[regression_reward],
            credit="exact",
            shared_prefix="off",
        )
    trainer = trainer_of(random_model, processor, tmp_path, rows=rows_of(1), rewards=[accuracy_reward], credit="exact")
    assert trainer._credit_weights == (0.0, 1.0)
