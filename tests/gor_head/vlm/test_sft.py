from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig

from gor_head import CoDiVocabulary
from gor_head.intervals import legal_ids
from gor_head.vlm import ValueTokens, attach, write_value
from gor_head.vlm.rows import row_parameters
from gor_head.vlm.sft import CodeSteps, GoRSFTTrainer
from gor_head.vocabulary import EOS
from tests.gor_head.vlm.models import qwen3_vl, text_model

AGES = CoDiVocabulary([1, 2, 5, 10, 50], tolerance=0)
TOKENS = ValueTokens(AGES, 40, 41, (42, 43, 44, 45, 46))
TEXT = -100
OPTIONS = ("number_loss", "number_annealed", "row_learning_rate", "grounding_steps")


def test_numbers_by_hand() -> None:
    # <gor> +50 +5 </gor> text <gor> </gor>, and in a second row a prompt that is no label, then <gor> +2 </gor>.
    labels = torch.tensor([[40, 46, 44, 41, 7, 40, 41], [TEXT, TEXT, 40, 43, 41, 8, TEXT]])
    logits = torch.randn(2, 7, 50, dtype=torch.float64)
    steps = CodeSteps.of(logits, labels, TOKENS)
    assert steps.true().tolist() == [55, 0, 2]
    values = torch.tensor([0.0, 1, 2, 5, 10, 50], dtype=torch.float64)

    def legal(row: int, place: int, columns: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return logits[row, place, 41:47][columns].softmax(-1), values[columns]

    # After 50 all may follow, after 50 + 5 what is smaller than 5, after 2 another 2 (4 = 2 + 2).
    taken = [[(0, 1, range(6)), (0, 2, range(6)), (0, 3, [0, 1, 2])], [(0, 6, range(6))],
             [(1, 3, range(6)), (1, 4, [0, 1, 2])]]  # fmt: skip
    truths = [[50, 5, 0], [0], [2, 0]]
    parts = [[legal(row, place, list(columns)) for row, place, columns in code] for code in taken]
    assert steps.expected().tolist() == pytest.approx([sum(float(p @ v) for p, v in code) for code in parts])
    assert steps.distance().tolist() == pytest.approx(
        [
            sum(float(p @ (v - truth).abs()) for (p, v), truth in zip(code, true, strict=True))
            for code, true in zip(parts, truths, strict=True)
        ]
    )


@pytest.mark.parametrize("vocabulary", [AGES, CoDiVocabulary([1, 3, 7], tolerance=0.2, max_length=3)])
def test_expectations_are_over_what_is_legal(vocabulary: CoDiVocabulary) -> None:
    tokens = ValueTokens(vocabulary, 40, 41, tuple(range(42, 42 + len(vocabulary.tokens))))
    codes = [vocabulary.encode(value) for value in range(0, 22)]
    columns = [[tokens.columns[token - EOS] for token in code] for code in codes]
    labels = torch.tensor([sum(([40, *code] for code in columns), [])])
    logits = torch.randn(1, labels.shape[1], 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    steps = CodeSteps.of(logits, labels, tokens)
    assert steps.true().tolist() == [vocabulary.decode(code) for code in codes]
    place, wanted = 0, []
    for code in codes:
        total, place = 0.0, place + 1
        for length in range(len(code)):
            legal = legal_ids(vocabulary, code[:length])
            share = logits[0, place, [tokens.columns[token - EOS] for token in legal]].softmax(0)
            total += float(share @ torch.from_numpy(vocabulary.values[legal]))
            place += 1
        wanted.append(total)
    assert steps.expected().tolist() == pytest.approx(wanted)


def test_perfect_logits_give_the_true_numbers() -> None:
    labels = torch.tensor([[40, 46, 44, 41]])
    steps = CodeSteps.of(torch.nn.functional.one_hot(labels, 50).double() * 1000, labels, TOKENS)
    assert steps.expected().tolist() == steps.true().tolist() == [55] and steps.distance().tolist() == [0]


def test_codes_that_break_off_are_no_numbers() -> None:
    for labels in ([[1, 2, TEXT]], [[40, 46, 44]], [[40, 46, TEXT]]):
        steps = CodeSteps.of(torch.randn(1, 3, 50), torch.tensor(labels), TOKENS)
        assert len(steps.expected()) == len(steps.true()) == len(steps.distance()) == 0
    steps = CodeSteps.of(torch.randn(1, 5, 50), torch.tensor([[40, 41, 40, 46, 44]]), TOKENS)
    assert steps.true().tolist() == [0]


def make(folder: Path, weight: float, steps: int, qwen3: bool = False, **settings: Any) -> Any:
    options = {name: settings.pop(name) for name in OPTIONS if name in settings}
    model, processor = qwen3_vl() if qwen3 else text_model(tied=False)
    tokenizer = getattr(processor, "tokenizer", processor)
    tokens = attach(model, tokenizer, AGES)
    rows = [{"prompt": f"{value}:", "completion": f" {write_value(AGES, value)}"} for value in range(0, 60, 4)]
    config = SFTConfig(str(folder), max_steps=steps, per_device_train_batch_size=15, learning_rate=1e-2, use_cpu=True,
                       bf16=False, activation_checkpointing=False, report_to=[], logging_steps=1, save_strategy="no",
                       disable_tqdm=True)  # fmt: skip
    settings = {"target_modules": ["q_proj", "v_proj", "down_proj"], **settings, **tokens.lora_settings(model)}
    lora = LoraConfig(r=4, **settings)
    torch.manual_seed(0)
    trainer = GoRSFTTrainer(
        model,
        config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora,
        tokens=tokens,
        number_weight=weight,
        number_scale=10.0,
        **options,
    )
    return trainer


def train(folder: Path, weight: float, steps: int, qwen3: bool = False, **settings: Any) -> tuple[Any, list[float]]:
    trainer = make(folder, weight, steps, qwen3, **settings)
    trainer.train()
    return trainer, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("qwen3", [False, True], ids=["text-only", "qwen3_vl"])
def test_numbers_are_learnt_with_the_rows(qwen3: bool, tmp_path: Path) -> None:
    trainer, losses = train(tmp_path, 1.0, 40, qwen3)
    assert losses[-1] < 0.6 * losses[0]
    rows = [p for name, p in trainer.model.named_parameters() if "trainable_tokens_delta" in name]
    assert len(rows) == 2 and all(parameter.requires_grad for parameter in rows)


@pytest.mark.parametrize("loss", ["huber", "squared", "wasserstein"])
def test_first_loss_is_trls_plus_that_of_the_numbers(loss: str, tmp_path: Path) -> None:
    with_huber, losses = train(tmp_path, 2.0, 1, number_loss=loss)
    _, plain = train(tmp_path, 0.0, 1)
    batch = with_huber._prepare_inputs(next(iter(with_huber.get_train_dataloader())))
    assert losses[0] > plain[0]
    model, tokenizer = text_model(tied=False)
    tokens = attach(model, tokenizer, AGES)
    logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits[:, :-1]
    steps = CodeSteps.of(logits, batch["labels"][:, 1:], tokens)
    predicted, true = (part.detach() / 10 for part in (steps.expected(), steps.true()))
    wanted = {
        "huber": torch.nn.functional.huber_loss(predicted, true),
        "squared": torch.nn.functional.mse_loss(predicted, true) / 2,
        "wasserstein": steps.distance().detach().mean() / 10,
    }[loss]
    assert losses[0] - plain[0] == pytest.approx(2 * float(wanted), rel=1e-2)


@pytest.mark.parametrize(
    "settings", [{"modules_to_save": ["lm_head"]}, {"target_modules": ["embed_tokens"]}], ids=["saved", "adapted"]
)
def test_rows_are_trained_in_one_way_only(settings: dict[str, Any], tmp_path: Path) -> None:
    setting, [name] = next(iter(settings.items()))
    with pytest.raises(ValueError, match=rf"^{setting}: (model\.)?{name} holds the rows of value tokens"):
        train(tmp_path, 1.0, 1, **settings)


def test_weight_falls_to_nothing(tmp_path: Path) -> None:
    trainer = make(tmp_path, 2.0, 4, number_annealed=True)
    weights = []
    compute = trainer.compute_loss

    def note(*args: Any, **kwargs: Any) -> Any:
        weights.append(trainer._weight())
        return compute(*args, **kwargs)

    trainer.compute_loss = note
    trainer.train()
    assert weights == pytest.approx([2.0, 1.5, 1.0, 0.5])


def test_rows_learn_first_and_at_their_own_rate(tmp_path: Path) -> None:
    """A step of Adam moves every weight by its learning rate at first, and nothing by 0."""
    trainer = make(tmp_path, 1.0, 3, row_learning_rate=3e-2, grounding_steps=2)
    trainer.args.lr_scheduler_type = "constant"
    rows, others = row_parameters(trainer.model), {
        name: each for name, each in trainer.model.named_parameters() if each.requires_grad and "lora_" in name
    }  # fmt: skip
    before = {name: each.detach().clone() for name, each in {**rows, **others}.items()}
    seen: list[dict[str, float]] = []

    class Note(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            now = {**rows, **others}
            seen.append({name: float((now[name].detach() - was).abs().max()) for name, was in before.items()})

    trainer.add_callback(Note())
    trainer.train()
    for moved in seen[:2]:
        assert all(moved[name] == 0 for name in others) and all(moved[name] > 0 for name in rows)
    assert all(seen[0][name] == pytest.approx(3e-2, rel=1e-2) for name in rows)
    assert any(seen[2][name] > 0 for name in others)
    assert sorted({group["initial_lr"] for group in trainer.optimizer.param_groups}) == [1e-2, 3e-2]
    known = [id(each) for group in trainer.optimizer.param_groups for each in group["params"]]
    assert len(known) == len(set(known)) == len(rows) + len(others)


def test_rows_that_stay_end_the_run(tmp_path: Path) -> None:
    trainer = make(tmp_path, 1.0, 4)
    others = [each for name, each in trainer.model.named_parameters() if "lora_" in name]
    trainer.optimizer = torch.optim.SGD(others, lr=1e-2)
    with pytest.raises(RuntimeError, match=r"value tokens: after 2 steps .*embed_tokens.* is what it was; wanted rows"):
        trainer.train()
    assert trainer.state.global_step < 4


@pytest.mark.parametrize(("steps", "warmup"), [(1, 5), (2, 1), (3, 3)])
def test_a_rate_of_nothing_is_no_fault(steps: int, warmup: int, tmp_path: Path) -> None:
    """The first step of a warm-up has a learning rate of 0; a run may end before rows can have moved."""
    trainer = make(tmp_path, 1.0, steps)
    trainer.args.warmup_steps = warmup
    trainer.train()
    assert trainer.state.global_step == steps


def test_rates_are_logged(tmp_path: Path) -> None:
    trainer = make(tmp_path, 1.0, 3, row_learning_rate=3e-2, grounding_steps=2)
    trainer.args.lr_scheduler_type = "constant"
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "learning_rate" in entry]
    assert [entry["row_learning_rate"] for entry in logs] == [3e-2] * 3
    assert [entry["learning_rate"] for entry in logs] == [0, 0, 1e-2]


def test_settings_of_rows_want_rows(tmp_path: Path) -> None:
    model, tokenizer = text_model(tied=False)
    tokens = attach(model, tokenizer, AGES)
    rows = Dataset.from_list([{"prompt": "1:", "completion": f" {write_value(AGES, 1)}"}])
    config = SFTConfig(str(tmp_path), use_cpu=True, bf16=False, report_to=[], activation_checkpointing=False)
    for name, value in (("row_learning_rate", 1e-3), ("grounding_steps", 2)):
        with pytest.raises(ValueError, match=f"{name}: wanted an adapter that trains the rows of value tokens"):
            GoRSFTTrainer(model, config, train_dataset=rows, processing_class=tokenizer, tokens=tokens, **{name: value})
    with pytest.raises(ValueError, match=r"row_learning_rate: wanted a number above 0, got 0\.0"):
        make(tmp_path, 1.0, 1, row_learning_rate=0.0)
    with pytest.raises(ValueError, match="grounding_steps: wanted fewer than the 3 steps of training, got 3"):
        train(tmp_path, 1.0, 3, grounding_steps=3)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_loss_is_trls_on_every_number_of_processes(
    processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens are counted over all processes, and gradients averaged: each one's part is multiplied by their number."""
    losses = []
    for weight in (0.0, 1e-12):
        trainer = make(tmp_path, weight, 1)
        monkeypatch.setattr(type(trainer.accelerator), "num_processes", processes)
        trainer.current_gradient_accumulation_steps = 1
        batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
        items = torch.tensor(processes * int((batch["labels"][:, 1:] != -100).sum()))
        losses.append(float(trainer.compute_loss(trainer.model, batch, num_items_in_batch=items).detach()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_unknown_loss_and_schedule_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="number_loss: wanted one of huber, squared, wasserstein, got 'l1'"):
        make(tmp_path, 1.0, 1, number_loss="l1")
    trainer = make(tmp_path, 1.0, 2, grounding_steps=1)
    trainer.args.lr_scheduler_type = "reduce_lr_on_plateau"
    with pytest.raises(ValueError, match="grounding_steps: wanted a schedule such as linear, .* got"):
        trainer.create_optimizer_and_scheduler(2)
