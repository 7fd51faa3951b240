from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, root_mean_squared_error
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, TrainingArguments

from gor_head import EOS, PAD, CoDiVocabulary
from gor_head.decoding import quantile
from gor_head.heads import HEADS
from gor_head.model import DirectConfig, DirectModel, GoRConfig, GoRModel
from gor_head.training.base import Strategy
from gor_head.training.curriculum import Curriculum
from gor_head.training.data import Rows, collate
from gor_head.training.dpo import DPO, preference_rows
from gor_head.training.trainer import OrdinalTrainer

COINS = CoDiVocabulary([1, 3, 10], tolerance=0, max_length=3)
ENCODER = {"kind": "ffn", "numeric": 2, "width": 16, "depth": 1, "dropout": 0.0}


def gor(**settings: Any) -> GoRModel:
    torch.manual_seed(0)
    defaults = {"encoder": ENCODER, "width": 8, "layers": 1, "heads": 2}
    return GoRModel(GoRConfig(COINS.to_dict(), **(defaults | settings)))


def rows(n: int = 24) -> Rows:
    generator = torch.Generator().manual_seed(0)
    numeric = torch.rand(n, 2, generator=generator)
    labels = (20 * numeric[:, 0]).round().double()
    return Rows({"numeric": numeric, "labels": labels, "codes": COINS.encode(labels).short()})


def median(model: GoRModel, memory: Tensor) -> Tensor:
    return model.vocabulary.decode(quantile(model, memory, torch.tensor([0.5]))[:, 0])


def trainer(model: Any, directory: Path, *, steps: int, read: Any = median, **settings: Any) -> OrdinalTrainer:
    names = ("eval_dataset", "callbacks", "train_dataset")
    others = {name: settings.pop(name) for name in names if name in settings}
    arguments = TrainingArguments(
        output_dir=str(directory),
        max_steps=steps,
        per_device_train_batch_size=8,
        learning_rate=0.01,
        lr_scheduler_type="constant",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        **({"save_strategy": "no"} | settings),
    )
    return OrdinalTrainer(model=model, args=arguments, read=read, **({"train_dataset": rows()} | others))


def test_rows_and_collate() -> None:
    table = rows(6)
    assert len(table) == 6
    whole = table.columns
    taken = table.__getitems__([4, 1])
    one_by_one = collate([table[4], table[1]])
    assert set(taken) == {"numeric", "labels", "codes"}
    for name, column in whole.items():
        assert torch.equal(taken[name], column[[4, 1]])
        assert torch.equal(one_by_one[name], collate(taken)[name])
    batches = list(DataLoader(table, batch_size=4, collate_fn=collate))
    assert [len(batch["labels"]) for batch in batches] == [4, 2]
    assert torch.equal(torch.cat([batch["numeric"] for batch in batches]), whole["numeric"])


def test_codes_are_cut_to_the_longest_of_the_batch() -> None:
    codes = torch.tensor([[5, 5, 4, EOS], [EOS, PAD, PAD, PAD], [3, EOS, PAD, PAD]]).short()
    for chosen, longest in (([0, 1], 4), ([1, 2], 2), ([1], 1)):
        cut = collate({"codes": codes[chosen]})["codes"]
        assert cut.dtype == torch.int64 and torch.equal(cut, codes[chosen, :longest].long())
    labels = {"labels": torch.zeros(2)}
    assert collate(labels) == labels


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"wanted equal lengths, got \{'numeric': 3, 'labels': 2\}"):
        Rows({"numeric": torch.zeros(3, 2), "labels": torch.zeros(2)})


def test_training_learns_and_a_checkpoint_is_the_model(tmp_path: Path) -> None:
    model = gor(huber_weight=0.1)
    trained = trainer(model, tmp_path, steps=90, save_strategy="steps", save_steps=90)
    before = trained.evaluate(rows())["eval_mae"]
    trained.train()
    assert trained.evaluate(rows())["eval_mae"] < 0.5 * before
    loaded = GoRModel.from_pretrained(tmp_path / "checkpoint-90")
    numeric = rows().columns["numeric"]
    numbers = [median(each.eval(), each.encoder(numeric=numeric)) for each in (model, loaded)]
    assert torch.equal(*numbers)


@pytest.mark.parametrize("remove", [True, False])
def test_columns_are_used_whatever_the_arguments_say(remove: bool, tmp_path: Path) -> None:
    """True is the default of TrainingArguments."""
    model = gor()
    before = model.output.weight.clone()
    run = trainer(model, tmp_path, steps=2, remove_unused_columns=remove, eval_dataset=rows(5))
    run.train()
    assert not torch.equal(before, model.output.weight) and run.evaluate()["eval_mae"] >= 0


def test_metrics_are_of_the_numbers_read(tmp_path: Path) -> None:
    model, table = gor().eval(), rows(21)
    evaluation = trainer(model, tmp_path, steps=1, per_device_eval_batch_size=8)
    truth = table.columns["labels"].numpy()
    numbers = median(model, model.encoder(numeric=table.columns["numeric"])).numpy()
    metrics = evaluation.evaluate(table)
    assert metrics["eval_mae"] == pytest.approx(mean_absolute_error(truth, numbers))
    assert metrics["eval_rmse"] == pytest.approx(root_mean_squared_error(truth, numbers))
    predicted = evaluation.predict(table)
    np.testing.assert_array_equal(predicted.predictions, numbers)
    np.testing.assert_array_equal(predicted.label_ids, truth)


@pytest.mark.parametrize(("strategy", "dropout"), [("teacher_forcing", 0.0), ("paper", 0.1)])
def test_a_resumed_run_equals_an_uninterrupted_one(strategy: str, dropout: float, tmp_path: Path) -> None:
    finished = []
    for name, resume in (("whole", False), ("resumed", True)):
        model = gor(strategy=strategy, dropout=dropout)
        settings = {"save_strategy": "steps", "save_steps": 4, "seed": 1}
        checkpoint = str(tmp_path / "whole" / "checkpoint-4") if resume else None
        trained = trainer(model, tmp_path / name, steps=8, **settings)
        trained.train(resume_from_checkpoint=checkpoint)
        assert trained.state.global_step == 8
        finished.append(model.state_dict())
    start = gor(strategy=strategy, dropout=dropout).state_dict()
    for name, weight in finished[0].items():
        assert torch.equal(weight, finished[1][name]), name
    assert any(not torch.equal(weight, start[name]) for name, weight in finished[0].items())


def test_early_stopping_keeps_the_best_model(tmp_path: Path) -> None:
    looks: list[GoRModel] = []
    errors = [5.0, 3.0, 4.0, 3.5, 9.0]

    def read(model: GoRModel, memory: Tensor) -> Tensor:
        looks.append({name: weight.clone() for name, weight in model.state_dict().items()})
        return rows().columns["labels"] + errors[len(looks) - 1]

    model = gor()
    trained = trainer(
        model,
        tmp_path,
        steps=50,
        read=read,
        eval_dataset=rows(),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
        per_device_eval_batch_size=100,
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="best",
        load_best_model_at_end=True,
        metric_for_best_model="mae",
        greater_is_better=False,
    )
    trained.train()
    assert trained.state.global_step == 12 and len(looks) == 4
    assert trained.state.best_metric == pytest.approx(3.0)
    best, last = looks[1], looks[3]
    assert all(torch.equal(weight, best[name]) for name, weight in model.state_dict().items())
    assert any(not torch.equal(weight, last[name]) for name, weight in model.state_dict().items())


class Recording(Strategy):
    """Teacher forcing that writes the progress down."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def passes(self, model: GoRModel, memory: Tensor, codes: Tensor, progress: float) -> list[tuple[float, Tensor]]:
        self.seen.append(progress)
        return [(1.0, model.log_probs(memory, codes))]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_schedules_follow_the_global_step(accumulation: int, tmp_path: Path) -> None:
    model = gor()
    model.strategy = recording = Recording()
    trainer(model, tmp_path, steps=5, gradient_accumulation_steps=accumulation).train()
    steps = [share for share in (0, 0.2, 0.4, 0.6, 0.8) for _ in range(accumulation)]
    # An epoch has three batches: its last accumulates one alone.
    if accumulation == 2:
        steps = [0, 0, 0.2, 0.4, 0.4, 0.6, 0.8, 0.8]
    assert recording.seen == pytest.approx(steps)


def test_a_curriculum_under_the_trainer_is_parallel_at_the_first_step_alone(tmp_path: Path) -> None:
    model, calls = gor(), []
    model.strategy = Curriculum(floor=0.0)
    model.decoder.register_forward_pre_hook(lambda _, args: calls.append(args[0].shape[1]))
    trainer(model, tmp_path, steps=3).train()
    assert calls[0] > 1 and set(calls[1:]) == {1}


def test_preference_rows_are_trained_on_and_evaluated(tmp_path: Path) -> None:
    model = gor(dropout=0.0).eval()
    pairs, _ = preference_rows(model, rows())
    model.strategy = DPO()
    trained = trainer(model, tmp_path, steps=6, train_dataset=pairs, logging_steps=1)
    before = trained.evaluate(pairs)["eval_mae"]
    trained.train()
    losses = [entry["loss"] for entry in trained.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-4) and losses[-1] < losses[0]
    assert before == pytest.approx(mean_absolute_error(pairs.columns["labels"], read_all(gor(dropout=0.0), pairs)))


def read_all(model: GoRModel, table: Rows) -> Tensor:
    return median(model.eval(), model.encoder(numeric=table.columns["numeric"]))


def test_direct_heads_are_trained_by_the_same_trainer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    table = rows()
    labels = table.columns["labels"]
    model = DirectModel(DirectConfig(ENCODER, "l1", HEADS["l1"].settings(labels.numpy())))
    plain = Rows({"numeric": table.columns["numeric"], "labels": labels})

    def read(model: DirectModel, memory: Tensor) -> Tensor:
        return model.head.predict(model.outputs(memory))

    trained = trainer(model, tmp_path, steps=120, read=read, train_dataset=plain)
    before = trained.evaluate(plain)["eval_mae"]
    trained.train()
    assert trained.evaluate(plain)["eval_mae"] < 0.5 * before
