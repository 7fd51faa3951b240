"""Expected errors of numbers, against every legal number written out and scored by the plain model."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance
from trl import SFTConfig

from gor_head import CoDiVocabulary
from gor_head.vlm import attach
from rarl import tiny
from rarl.datasets import load_source, make_dataset
from rarl.inputs import batch_inputs
from rarl.number_trie import NumberTrie
from rarl.prompt import build_completion, list_reasoning, number_contexts
from rarl.task import OrdinalTask, get_task
from rarl.trainer import ExpectedErrorTrainer
from rarl.trainer.expected import expected_errors, parted

COUNT = get_task("count")
TENS = OrdinalTask("count", "number of objects", 0, 24, tolerance=3, integer=True)  # numbers of one and of two digits
CODED = {
    "digits": TENS,
    "a token each": COUNT.with_vocabulary(CoDiVocabulary.for_language_model(range(11))),
    "tags": TENS.with_vocabulary(CoDiVocabulary([1, 2, 3, 4, 5, 10, 20], tolerance=0)),
}


OURS = ("labels", "num_images", "number_places", "numbers")


def model_of(task: OrdinalTask) -> tuple[Any, Any]:
    torch.manual_seed(0)
    processor = tiny.build_processor()
    model: Any = tiny.build_model(processor, width=64, layers=2, vision_layers=1)
    if task.vocabulary is not None:
        attach(model, processor, task.codi_vocabulary, number_contexts(task))
    return model, processor


def rows_of(task: OrdinalTask, number: int, mix: dict[int, float]) -> Any:
    source = load_source("builtin", task, size=40)
    return make_dataset(source, np.arange(40), number, mix=mix, seed=1, with_completion=True)


def trainer_of(task: OrdinalTask, folder: Path, rows: Any = None, **settings: Any) -> Any:
    model, processor = model_of(task)
    own = {name: settings.pop(name) for name in list(settings) if name in ("expected_error", "number_weight")}
    own |= {name: settings.pop(name) for name in ("number_scale",) if name in settings}
    config: dict[str, Any] = {"per_device_train_batch_size": 4, "max_length": None, "learning_rate": 1e-3, "seed": 0}
    config |= {"use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no", "logging_steps": 1}
    config |= {"disable_tqdm": True, "activation_checkpointing": False, "gradient_checkpointing": False} | settings
    return ExpectedErrorTrainer(
        model,
        SFTConfig(str(folder), **config),
        train_dataset=rows_of(task, 4, {1: 1.0, 2: 1.0}) if rows is None else rows,
        processing_class=processor,
        trie=NumberTrie.of(processor, task),
        **own,
    )


def test_errors_by_hand() -> None:
    numbers, true = torch.tensor([0.0, 2.0, 10.0]), torch.tensor([2.0, 0.0])
    log_probs = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.5, 0.5]], dtype=torch.float64).log()
    assert expected_errors(log_probs, numbers.double(), true.double(), "absolute").tolist() == [3.0, 6.0]
    assert expected_errors(log_probs, numbers.double(), true.double(), "squared").tolist() == [0.5, 18.0]


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=9), st.integers(0, 8))
def test_errors_are_distances_of_distributions(logits: list[float], place: int) -> None:
    """scipy's Wasserstein distance from the truth; 0 for a perfect answer, and never more than the farthest number."""
    log_probs = torch.tensor(logits, dtype=torch.float64).log_softmax(0)
    numbers = torch.arange(len(logits), dtype=torch.float64) ** 2
    true = numbers[place % len(logits)]
    [absolute] = expected_errors(log_probs[None], numbers, true[None], "absolute").tolist()
    [squared] = expected_errors(log_probs[None], numbers, true[None], "squared").tolist()
    assert absolute == pytest.approx(wasserstein_distance(numbers, [float(true)], log_probs.exp()), abs=1e-9)
    assert squared <= 0.5 * float((numbers - true).abs().max()) ** 2 + 1e-9
    assert (2 * squared) ** 0.5 <= absolute + 1e-9  # the mean is no farther off than numbers are in the mean
    perfect = torch.full((1, len(logits)), -torch.inf)
    perfect[0, place % len(logits)] = 0.0
    for kind in ("absolute", "squared"):
        assert float(expected_errors(perfect, numbers, true[None], kind)) == 0.0  # type: ignore[arg-type]


def written_out(model: Any, processor: Any, row: Any, task: OrdinalTask) -> list[Any]:
    """Log-probabilities of all legal numbers of each image of a row: each number's tokens are appended to the answer
    before it, and scored by the plain model; what may follow is renormalised at each token."""
    tokenizer, trie = processor.tokenizer, NumberTrie.of(processor, task)
    found = []
    for place in range(len(row["values"])):
        values = row["values"]
        reasoning = list_reasoning(values, task)
        at = [reasoning.index(f"Image {place + 1}:") + len(f"Image {place + 1}:")]
        ids = tokenizer.encode("<think>" + reasoning[: at[0]], add_special_tokens=False)
        nodes = []
        for prefix in trie.prefixes:
            plain = batch_inputs(processor, [row])
            tail = torch.tensor([[*ids, *prefix]])
            plain["input_ids"] = torch.cat([plain["input_ids"], tail], dim=1)
            plain["attention_mask"] = torch.ones_like(plain["input_ids"])
            plain["mm_token_type_ids"] = torch.nn.functional.pad(plain["mm_token_type_ids"], (0, tail.shape[1]))
            nodes.append(model(**plain).logits[0, -1])
        found.append(trie.log_probs(torch.stack(nodes)))
    return found


@pytest.mark.parametrize("name", CODED)
@pytest.mark.parametrize("kind", ["absolute", "squared"])
def test_loss_and_gradient_are_those_of_numbers_written_out(name: str, kind: Any, tmp_path: Path) -> None:
    task = CODED[name]
    trainer = trainer_of(task, tmp_path, expected_error=kind, number_weight=2.0, number_scale=5.0)
    rows = [trainer.train_dataset[index] for index in range(4)]
    batch = trainer.data_collator(copy.deepcopy(rows))
    assert batch["num_images"].tolist() == [len(row["images"]) for row in rows]
    assert batch["numbers"].tolist() == [value for row in rows for value in row["values"]]
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    found = {key: each.grad.clone() for key, each in trainer.model.named_parameters() if each.grad is not None}

    model, processor = model_of(task)
    fields = {key: value for key, value in batch.items() if key not in OURS}
    plain = model(**fields).logits[:, :-1].flatten(0, 1)
    nll = torch.nn.functional.cross_entropy(plain, batch["labels"][:, 1:].flatten(), ignore_index=-100)
    numbers = NumberTrie.of(processor, task).numbers
    errors = []
    for row in rows:
        for log_probs, value in zip(written_out(model, processor, row, task), row["values"], strict=True):
            chances = log_probs.double().exp()
            errors.append(
                (chances * (numbers - value).abs()).sum() / 5
                if kind == "absolute"
                else 0.5 * ((chances * numbers).sum() - value) ** 2 / 25
            )
    oracle = nll + 2.0 * torch.stack(errors).mean()
    assert len(errors) == sum(len(row["values"]) for row in rows) > 4
    assert loss.item() == pytest.approx(oracle.item(), rel=1e-5)
    oracle.backward()
    compared = 0
    for key, each in model.named_parameters():
        if each.grad is not None and each.grad.abs().max() > 1e-9:
            torch.testing.assert_close(found[key], each.grad, rtol=2e-3, atol=1e-6)
            compared += 1
    assert compared > 10


@pytest.mark.parametrize("name", CODED)
def test_numbers_are_learnt_and_logged(name: str, tmp_path: Path) -> None:
    rows = rows_of(CODED[name], 8, {1: 1.0, 2: 1.0})
    settings: dict[str, Any] = {"max_steps": 30, "per_device_train_batch_size": 8, "learning_rate": 5e-3}
    trainer = trainer_of(CODED[name], tmp_path, rows, number_weight=3.0, **settings)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "number_error" in entry]
    assert len(logged) == 30 and all(np.isfinite(entry["grad_norm"]) for entry in logged)
    assert logged[0]["numbers_per_answer"] == pytest.approx(np.mean([len(row["values"]) for row in rows]))
    assert logged[-1]["number_error"] < 0.7 * logged[0]["number_error"]


def test_micro_batches_add_up_to_a_step(tmp_path: Path) -> None:
    """The gradient of a step is that of its answers, however they are cut: those of more images have more numbers."""
    rows = rows_of(COUNT, 4, {1: 1.0, 4: 1.0})
    assert len({len(row["values"]) for row in rows}) == 2
    norms = []
    for size in (4, 2, 1):
        trainer = trainer_of(
            COUNT,
            tmp_path,
            rows,
            number_weight=5.0,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=4 // size,
            max_steps=1,
        )
        trainer.train()
        norms.append([entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry])
    assert norms[0] == pytest.approx(norms[1], rel=1e-3) and norms[0] == pytest.approx(norms[2], rel=1e-3)


def test_numbers_that_are_not_legal_have_their_likelihood_only(tmp_path: Path) -> None:
    trainer = trainer_of(COUNT, tmp_path)
    rows = [dict(trainer.train_dataset[index]) for index in range(2)]
    for row in rows:
        text = build_completion(row["values"], COUNT, reasoning="Image 1: about 3, Image 2: 12")
        row["completion"] = [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
    batch = trainer.data_collator(rows)
    loss = trainer.compute_loss(trainer.model, dict(batch))
    fields = {key: value for key, value in batch.items() if key not in OURS}
    plain = trainer.model(**fields).logits[:, :-1].flatten(0, 1)
    nll = torch.nn.functional.cross_entropy(plain, batch["labels"][:, 1:].flatten(), ignore_index=-100)
    assert loss.item() == pytest.approx(nll.item(), rel=1e-5)
    assert trainer._metrics["train"]["numbers_per_answer"] == [0.0]


def test_prompts_and_answers_apart() -> None:
    ids = torch.tensor([[1, 2, 3, 7, 8, 0], [4, 5, 9, 0, 0, 0]])
    labels = torch.tensor([[-100, -100, -100, 7, 8, -100], [-100, -100, 9, -100, -100, -100]])
    fields, width = parted({"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}, 50)
    assert width == 2 and set(fields) == {"input_ids", "attention_mask"}
    assert fields["input_ids"].tolist() == [[1, 2, 3, 7, 8], [50, 4, 5, 9, 50]]
    assert fields["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [0, 1, 1, 1, 0]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"expected_error": "huber"}, "expected_error: wanted absolute or squared, got 'huber'"),
        ({"number_weight": 0.0}, "number_weight: wanted a number above 0, got 0.0"),
        ({"number_scale": 0.0}, "number_scale: wanted a number above 0, got 0.0"),
        ({"loss_type": "dft"}, "loss_type: wanted nll beside the loss of numbers, got dft"),
        ({"max_length": 120}, "max_length: wanted None for expected errors, got 120"),
        ({"completion_only_loss": False}, "completion_only_loss: wanted True for expected errors, got False"),
    ],
)
def test_what_cannot_be_meant(settings: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        trainer_of(COUNT, tmp_path, **settings)


def test_numbers_with_too_many_prefixes_are_refused(tmp_path: Path) -> None:
    fine = OrdinalTask("count", "a share", 0, 10, tolerance=1)
    _, processor = model_of(COUNT)
    many = NumberTrie.of(processor, fine, 0.001)
    with pytest.raises(ValueError, match=r"trie: a number would have \d+ tokens behind it, for 10001 legal numbers"):
        ExpectedErrorTrainer(None, SFTConfig(str(tmp_path), use_cpu=True, bf16=False), trie=many)


def test_models_without_a_layout_of_their_own_are_refused(tmp_path: Path) -> None:
    model, processor = model_of(COUNT)
    model.config.get_text_config()._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match="model: expected errors lay numbers behind answers, but attention 'flex_att"):
        ExpectedErrorTrainer(
            model,
            SFTConfig(str(tmp_path), max_length=None, use_cpu=True, bf16=False, report_to=[]),
            train_dataset=rows_of(COUNT, 4, {1: 1.0}),
            processing_class=processor,
            trie=NumberTrie.of(processor, COUNT),
        )
