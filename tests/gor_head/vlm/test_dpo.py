"""Preferences between single numbers: which tokens count, how far they are apart, the loss, and when it ends."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import TrainerControl, TrainerState
from trl import DPOConfig, DPOTrainer

from gor_head import CoDiVocabulary
from gor_head.vlm import ValueTokens, attach
from gor_head.vlm.dpo import FallenLikelihood, NumberDPOTrainer, differing_codes, number_gaps
from gor_head.vlm.preference import choose_number
from rarl import tiny
from rarl.datasets import load_source, make_dataset
from rarl.datasets.prompts import preference_dataset
from rarl.prompt import number_contexts
from rarl.recipe.preferences import number_pair
from rarl.task import get_task

TAGGED = ValueTokens(CoDiVocabulary([1, 5, 50], tolerance=0), 40, 41, (42, 43, 44))
TAGLESS = ValueTokens(CoDiVocabulary.for_language_model(range(6)), None, 40, (41, 42, 43, 44, 45))
FORMS = {
    "tagless": CoDiVocabulary.for_language_model(range(11)),
    "tagged": CoDiVocabulary([1, 3, 7], tolerance=0),
}


def masks(*rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids with two tokens of prompt, padded with 0 on the right, and the mask of completions."""
    longest = max(map(len, rows))
    ids = torch.tensor([[7, 8, *row, *[0] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[0, 0, *[1] * len(row), *[0] * (longest - len(row))] for row in rows])
    return ids, mask


def kept(ids: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
    return [row[on.bool()].tolist() for row, on in zip(ids, mask, strict=True)]


def test_differing_code_by_hand() -> None:
    # 56 and 51: from the first token that differs to the end of the code; the text after it is none of it.
    ids, mask = masks([3, 40, 44, 43, 42, 41, 9, 9], [3, 40, 44, 42, 41, 9, 9])
    narrowed = differing_codes(ids, mask, TAGGED)
    assert kept(ids, narrowed) == [[43, 42, 41], [42, 41]]
    assert number_gaps(ids, narrowed, TAGGED).tolist() == [5]
    # A code that is a part of the other: its end is what differs. And a number of nothing.
    ids, mask = masks([40, 44, 41, 9], [40, 41, 9], [40, 44, 43, 41, 9], [40, 44, 41, 9])
    narrowed = differing_codes(ids, mask, TAGGED)
    assert kept(ids, narrowed) == [[41], [41], [43, 41], [44, 41]]
    assert number_gaps(ids, narrowed, TAGGED).tolist() == [abs(50 - 55), abs(0 - 50)]


def test_differing_number_without_tags() -> None:
    ids, mask = masks([3, 45, 9, 45], [3, 40, 9, 45])
    narrowed = differing_codes(ids, mask, TAGLESS)
    assert kept(ids, narrowed) == [[45], [40]] and number_gaps(ids, narrowed, TAGLESS).tolist() == [5]


@pytest.mark.parametrize("rows", [([3, 45], [3, 45]), ([3, 45, 4], [4, 45, 4]), ([3, 45], [3, 9])])
def test_pairs_that_differ_in_no_number_are_refused(rows: tuple[list[int], list[int]]) -> None:
    ids, mask = masks(*rows)
    with pytest.raises(ValueError, match="preferences: wanted pairs that differ in one number"):
        differing_codes(ids, mask, TAGLESS)


def test_the_number_of_a_pair() -> None:
    truth = [3.0, 7.0]
    assert choose_number([[3, 7], [3, 5], [9, 7]], truth) == (1, 5)  # the likeliest candidate with a wrong one
    assert choose_number([[4, 2]], truth) == (0, 4)  # its first wrong number, not the farthest off
    assert choose_number([[3, 5], [9, 7]], truth, gap=2) == (0, 9)
    assert choose_number([[None, 7], [3, None]], truth) is None
    assert choose_number([], truth) is None


def test_rejected_numbers_of_sampled_answers_are_as_the_model_has_them() -> None:
    """Of four images with a skewed distribution each: wrong numbers come in the shares that they have."""
    rng = np.random.default_rng(0)
    values, shares = np.arange(3, 10), np.array([0.5, 0.2, 0.1, 0.08, 0.06, 0.04, 0.02])
    drawn = rng.choice(values, p=shares, size=(20_000, 1, 4))
    rejected = [found[1] for each in drawn.tolist() if (found := choose_number(each, [4, 4, 4, 4])) is not None]
    wrong = np.where(values == 4, 0, shares) / (1 - shares[1])
    counted = np.array([rejected.count(value) for value in values.tolist()]) / len(rejected)
    np.testing.assert_allclose(counted, wrong, atol=0.012)


@pytest.mark.parametrize("form", FORMS)
def test_pairs_differ_in_one_code_of_the_reasoning(form: str) -> None:
    task = get_task("count").with_vocabulary(FORMS[form])
    texts = ["nothing", number_text([3, 7], task), number_text([3, 5], task)]
    pair = number_pair(texts, [3, 7], task, 0.0)
    assert pair is not None
    chosen, rejected = pair
    assert chosen.text == number_text([3, 7], task) and (chosen.error, rejected.error) == (0, 2)
    assert rejected.text == chosen.text.replace(f"Image 2: {task.format_value(7)}", f"Image 2: {task.format_value(5)}")
    assert number_pair(texts[:2], [3, 7], task, 0.0) is None


@pytest.mark.parametrize("form", FORMS)
def test_numbers_without_a_code_are_no_pairs(form: str) -> None:
    """What a candidate writes in digits may lie outside the range, or between the numbers that have a code."""
    task = get_task("count").with_vocabulary(FORMS[form])
    digits = get_task("count")
    broken = [number_text([3, 7], digits).replace('"value": 7', f'"value": {each}') for each in ("-3", "150", "6.5")]
    assert number_pair(broken, [3, 7], task, 0.0) is None
    pair = number_pair([*broken, number_text([3, 5], digits)], [3, 7], task, 0.0)
    assert pair is not None and pair[1].error == 2 and pair[0].text != pair[1].text


def number_text(values: list[float], task: Any) -> str:
    from rarl.prompt import build_completion

    return build_completion(values, task)


def make_trainer(folder: Path, form: str, **settings: Any) -> tuple[NumberDPOTrainer, Any]:
    model, processor = tiny.load()
    task = get_task("count").with_vocabulary(FORMS[form])
    tokens = attach(model, processor, task.codi_vocabulary, number_contexts(task))
    source = load_source("builtin", "count", size=20).with_task(task)
    rows = make_dataset(source, np.arange(20), 4, mix={1: 1.0, 2: 1.0}, seed=0)
    stored, pairs = rows.with_format(None), []
    for index, row in enumerate(stored):
        wrong = [(value + 4) % 11 for value in row["values"]]
        chosen, rejected = number_pair([number_text(wrong, task)], row["values"], task, 0.0) or (None, None)
        assert chosen is not None and rejected is not None
        pairs.append((index, chosen.text, rejected.text))
    options = {name: settings.pop(name) for name in ("margin", "chosen_fall") if name in settings}
    settings = {"max_steps": 2, "learning_rate": 1e-3, "beta": 0.5, **settings}
    config = DPOConfig(str(folder), per_device_train_batch_size=4, use_cpu=True, bf16=False,
                       activation_checkpointing=False, report_to=[], logging_steps=1, save_strategy="no",
                       max_length=None, disable_tqdm=True, **settings)  # fmt: skip
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **tokens.lora_settings(model))
    torch.manual_seed(0)
    trainer = NumberDPOTrainer(
        model,
        args=config,
        train_dataset=preference_dataset(source, stored, pairs),
        processing_class=processor,
        peft_config=lora,
        tokens=tokens,
        margin_scale=2.0,
        **options,
    )
    return trainer, tokens


@pytest.mark.parametrize("margin", [0.0, 0.3])
@pytest.mark.parametrize("form", FORMS)
def test_loss_is_that_of_the_codes(form: str, margin: float, tmp_path: Path) -> None:
    """Against log-probabilities of the plain model: −log σ(β·Δ − m·gap), Δ over the differing codes alone."""
    trainer, tokens = make_trainer(tmp_path, form, margin=margin)
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    model = trainer.accelerator.unwrap_model(trainer.model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    inputs = {name: value for name, value in batch.items() if name != "completion_mask"}

    def scores() -> torch.Tensor:
        with torch.no_grad():
            logits = model(**inputs).logits[:, :-1].log_softmax(dim=-1)
        chosen = logits.gather(2, batch["input_ids"][:, 1:, None]).squeeze(2)
        return (chosen * batch["completion_mask"][:, 1:]).sum(dim=1)

    policy = scores()
    with model.disable_adapter():
        reference = scores()
    better, worse = (policy - reference).chunk(2)
    gaps = number_gaps(batch["input_ids"], batch["completion_mask"], tokens)
    assert set(gaps.tolist()) <= {4.0, 7.0}
    wanted = -torch.nn.functional.logsigmoid(0.5 * (better - worse) - margin * gaps / 2.0).mean()
    assert float(trainer._compute_loss(trainer.model, batch, False).detach()) == pytest.approx(float(wanted), abs=1e-5)


def test_without_a_margin_the_loss_is_trls(tmp_path: Path) -> None:
    trainer, _ = make_trainer(tmp_path, "tagless")
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    ours = trainer._compute_loss(trainer.model, dict(batch), False)
    theirs = DPOTrainer._compute_loss(trainer, trainer.model, dict(batch), False)
    assert torch.equal(ours, theirs) and float(ours.detach()) == pytest.approx(np.log(2))


@pytest.mark.parametrize(("loss", "margin"), [(["sigmoid", "sft"], 0.2), (["hinge"], 0.2), (["ipo"], 0.0)])
def test_the_true_number_becomes_likelier(loss: list[str], margin: float, tmp_path: Path) -> None:
    trainer, _ = make_trainer(tmp_path, "tagless", max_steps=8, loss_type=loss, margin=margin, learning_rate=5e-3)
    trainer.train()
    margins = [entry["rewards/margins"] for entry in trainer.state.log_history if "rewards/margins" in entry]
    assert margins[-1] > margins[0] + 0.1


@pytest.mark.parametrize("settings", [{"loss_type": ["ipo"]}, {"loss_type": ["sft"]}, {"beta": 0.0}])
def test_a_margin_wants_a_loss_that_has_one(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="margin: wanted a beta above 0 and a loss among sigmoid, hinge, robust"):
        make_trainer(tmp_path, "tagless", margin=0.1, **settings)


def test_a_falling_likelihood_ends_training(capsys: pytest.CaptureFixture[str]) -> None:
    guard, state, control = FallenLikelihood(0.5, beta=0.1), TrainerState(), TrainerControl()
    state.is_world_process_zero = True
    for reward, ends in ((0.2, False), (-0.04, False), (-0.06, True)):
        guard.on_log(None, state, control, logs={"rewards/chosen": reward})
        assert control.should_training_stop is ends
    guard.on_log(None, state, control, logs={"loss": 1.0})
    assert "less likely, by 0.60 nats in the mean; 0.5 were allowed" in capsys.readouterr().out


def test_a_run_is_ended_by_it(tmp_path: Path) -> None:
    trainer, _ = make_trainer(tmp_path, "tagless", max_steps=30, chosen_fall=-10.0)  # any rise of less is a fall
    trainer.train()
    assert trainer.state.global_step == 1
