import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from gor_head import EOS, PAD, SOS, CoDiVocabulary
from gor_head.decoding import beam, greedy, mean, posterior, quantile, sample, window
from gor_head.heads import HEADS
from gor_head.intervals import legal_ids
from gor_head.model import DirectConfig, DirectModel, GoRConfig, GoRModel, shift_right
from tests.gor_head.tiny_models import (
    DECODER_KINDS,
    Calls,
    GivenMemory,
    every_code,
    greedy_code,
    memory_of,
    padded,
    tiny,
    vocabularies,
)

COINS = CoDiVocabulary([1, 3, 10], tolerance=0, max_length=3)
FFN = {"kind": "ffn", "numeric": 3, "width": 6, "depth": 1}


def gor(vocabulary: CoDiVocabulary = COINS, **settings: Any) -> GoRModel:
    torch.manual_seed(0)
    defaults = {"encoder": FFN, "width": 8, "layers": 1, "heads": 2}
    return GoRModel(GoRConfig(vocabulary.to_dict(), **(defaults | settings))).eval()


@pytest.mark.filterwarnings("ignore::UserWarning")
@hypothesis_settings(max_examples=40, deadline=None)
@given(vocabulary=vocabularies(), kind=st.sampled_from(DECODER_KINDS), seed=st.integers(0, 99))
def test_probabilities_of_all_codes_add_up_to_one(vocabulary: CoDiVocabulary, kind: str, seed: int) -> None:
    model, codes = tiny(vocabulary, kind, seed=seed), every_code(vocabulary)
    memory = memory_of(1, seed=seed).expand(len(codes), -1, -1)
    ids = padded(codes)
    log_probs = model.log_probs(memory, ids)
    assert model.code_log_probs(memory, ids).exp().sum().item() == pytest.approx(1, abs=1e-9)
    for code, steps in zip(codes, log_probs.exp(), strict=True):
        for t in range(len(code)):
            legal = legal_ids(vocabulary, list(code[:t]))
            illegal = [token for token in range(len(vocabulary)) if token not in legal]
            assert not steps[t, illegal].any() and (steps[t, legal] > 0).all()
            assert steps[t].sum().item() == pytest.approx(1)


@pytest.mark.filterwarnings("ignore::UserWarning")
@hypothesis_settings(max_examples=40, deadline=None)
@given(vocabulary=vocabularies(), seed=st.integers(0, 99))
def test_codes_of_labels_are_legal_so_their_loss_is_finite(vocabulary: CoDiVocabulary, seed: int) -> None:
    # Labels anywhere, on the grid or off it, beyond the largest code too.
    span = max(1.0, vocabulary.largest - vocabulary.offset)
    labels = vocabulary.offset + 1.5 * span * np.random.default_rng(seed).random(20)
    labels = np.append(labels[labels >= 0] if vocabulary.offset == 0 else labels, vocabulary.offset)
    codes = torch.from_numpy(vocabulary.encode(labels)).long()
    model = tiny(vocabulary, seed=seed)
    output = model(memory=memory_of(len(labels)), labels=torch.from_numpy(labels), codes=codes)
    log_probs = model.code_log_probs(memory_of(len(labels)), codes)
    assert output.loss.isfinite() and (log_probs > -1e6).all() and (log_probs <= 0).all()


def test_logits_become_log_probabilities_by_hand() -> None:
    model, memory = tiny(COINS), memory_of(2)
    codes = torch.tensor([[5, 4, EOS], [3, EOS, PAD]])
    tokens = model.embedding(torch.tensor([[SOS, 5, 4], [SOS, 3, EOS]]))
    logits = model.output(model.decoder(tokens, model.decoder.start(memory))[0])
    # After 10 anything; after 13 only 3s and less up to three tokens; after 1 nothing; after EOS, PAD.
    legal = [[[2, 3, 4, 5], [2, 3, 4, 5], [2, 3, 4]], [[2, 3, 4, 5], [2, 3], [0]]]
    log_probs = model.log_probs(memory, codes)
    for row in range(2):
        for t in range(3):
            ids = legal[row][t]
            torch.testing.assert_close(log_probs[row, t, ids], logits[row, t, ids].log_softmax(0))
            others = [token for token in range(6) if token not in ids]
            assert (log_probs[row, t, others] <= -1e8).all() and log_probs[row, t, others].isfinite().all()
    wanted = [log_probs[0, 0, 5] + log_probs[0, 1, 4] + log_probs[0, 2, EOS], log_probs[1, 0, 3] + log_probs[1, 1, EOS]]
    torch.testing.assert_close(model.code_log_probs(memory, codes), torch.stack(wanted))


def test_shift_right() -> None:
    assert shift_right(torch.tensor([[5, 4, 2], [2, 0, 0]])).tolist() == [[1, 5, 4], [1, 2, 0]]


@pytest.mark.parametrize("huber_of", ["expectation", "window", "exact"])
@pytest.mark.parametrize(("nll_weight", "huber_weight"), [(1.0, 0.0), (2.0, 0.5), (0.0, 10.0)])
def test_objective_by_hand(huber_of: str, nll_weight: float, huber_weight: float) -> None:
    vocabulary = CoDiVocabulary(range(1, 41, 3), offset=-5, resolution=0.5, tolerance=0, max_length=2)
    model = tiny(vocabulary, huber_of=huber_of, nll_weight=nll_weight, huber_weight=huber_weight, huber_delta=2.0)
    labels, memory = torch.tensor([0.5, 30.0, -2.5]).double(), memory_of(3)
    codes = vocabulary.encode(labels)
    log_probs = model.log_probs(memory, codes).detach()
    loss = model.objective(memory, log_probs, codes, labels=labels)
    every = every_code(vocabulary)
    numbers = np.array([sum(vocabulary.values[token] for token in code) - 2.5 for code in every])
    for row in range(3):
        code = [token for token in codes[row].tolist() if token != PAD]
        steps = log_probs[row, : len(code)].exp().numpy()
        if huber_of == "exact":
            repeated = memory[row : row + 1].expand(len(every), -1, -1)
            prediction = model.code_log_probs(repeated, padded(every)).detach().exp().numpy() @ numbers
        else:
            if huber_of == "window":
                steps = steps * (abs(np.arange(len(vocabulary)) - steps.argmax(1)[:, None]) <= 10)
            prediction = (steps @ vocabulary.values).sum() - 2.5
        error = abs(prediction - labels[row].item())
        huber = error**2 / 2 if error <= 2 else 2 * (error - 1)
        nll = -sum(log_probs[row, t, token].item() for t, token in enumerate(code))
        assert loss[row].item() == pytest.approx(nll_weight * nll + huber_weight * huber)


def test_numbers_far_from_zero_keep_their_digits_in_a_float32_model() -> None:
    # float32 tells numbers of this size apart by 128.
    vocabulary = CoDiVocabulary([1, 3, 10], offset=1_700_000_000, tolerance=0, max_length=3)
    losses, means = [], []
    for shifted in (vocabulary, COINS):
        model, memory = tiny(shifted, nll_weight=0.0, huber_weight=1.0).float(), memory_of(4).float()
        labels = shifted.offset + torch.tensor([3.0, 14, 0, 27]).double()
        losses.append(model(memory=memory, labels=labels, codes=shifted.encode(labels)).loss.item())
        means.append(posterior(model, memory).mean() - shifted.offset)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    torch.testing.assert_close(means[0], means[1], rtol=1e-6, atol=0)


def batch(rows: int = 5) -> dict[str, Tensor]:
    labels = torch.tensor([0.0, 4, 13, 26, 1])[:rows].double()
    return {"memory": memory_of(rows), "labels": labels, "codes": COINS.encode(labels)}


def test_weights_equal_repeated_rows_and_do_not_hang_on_the_batch() -> None:
    model, rows = tiny(COINS, huber_weight=10.0), batch()
    weights = torch.tensor([2.0, 0, 1, 3, 1])
    repeated = {name: column.repeat_interleave(weights.long(), dim=0) for name, column in rows.items()}
    weighted = model(**rows, sample_weight=weights).loss
    torch.testing.assert_close(5 * weighted, 7 * model(**repeated).loss)
    parts = [{name: column[part] for name, column in rows.items()} for part in (slice(2), slice(2, 5))]
    first, second = (
        model(**part, sample_weight=weight).loss for part, weight in zip(parts, weights.split([2, 3]), strict=True)
    )
    torch.testing.assert_close(2 * first + 3 * second, 5 * weighted)
    torch.testing.assert_close(model(**rows, sample_weight=torch.ones(5)).loss, model(**rows).loss)


def test_rows_of_weight_zero_teach_nothing() -> None:
    model, rows = tiny(COINS), batch()
    output = model(**rows, sample_weight=torch.zeros(5))
    output.loss.backward()
    assert output.loss.item() == 0
    assert all(not part.grad.any() for part in model.parameters() if part.grad is not None)


@pytest.mark.parametrize("kind", DECODER_KINDS)
def test_labels_that_are_all_zero(kind: str) -> None:
    vocabulary = CoDiVocabulary.fit([0, 0, 0])
    assert len(vocabulary) == 3
    model, memory = tiny(vocabulary, kind, strategy="paper", huber_of="exact"), memory_of(4)
    codes = vocabulary.encode(torch.zeros(4))
    assert codes.tolist() == [[EOS]] * 4
    assert model(memory=memory, labels=torch.zeros(4).double(), codes=codes).loss.item() == 0
    for decoded in (greedy(model, memory), sample(model, memory), quantile(model, memory, torch.tensor([0.5]))[:, 0]):
        assert decoded.tolist() == [[EOS]] * 4
    assert mean(model, memory)[0].tolist() == window(model, memory).tolist() == [0.0] * 4
    survivors, scores = beam(model, memory, 2)
    assert survivors.tolist() == [[[EOS], [PAD]]] * 4 and scores.tolist() == [[0.0, -math.inf]] * 4


def test_half_precision_is_normalised_in_float32() -> None:
    model = tiny(COINS, "transformer").bfloat16()
    log_probs = model.log_probs(memory_of(3).bfloat16(), torch.tensor([[5, 4, EOS]] * 3))
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.exp().sum(dim=2), torch.ones(3, 3))


@pytest.mark.parametrize("kind", DECODER_KINDS)
def test_a_saved_model_predicts_as_before(kind: str, tmp_path: Path) -> None:
    vocabulary = CoDiVocabulary.fit([-3.5, 0, 1.5, 20, 20, 31], offset="min", beta=1)
    model, numeric = gor(vocabulary, decoder=kind), torch.randn(6, 3)
    model.save_pretrained(tmp_path)
    loaded = GoRModel.from_pretrained(tmp_path)
    assert not loaded.training and loaded.vocabulary.to_dict() == vocabulary.to_dict()
    assert type(loaded.strategy) is type(model.strategy)
    codes = vocabulary.encode(torch.tensor([-3.5, 0, 1.5, 20, 31, 7]).double())
    memories = [each.encoder(numeric=numeric) for each in (model, loaded)]
    assert torch.equal(model.log_probs(memories[0], codes), loaded.log_probs(memories[1], codes))
    for decode in (greedy, window):
        assert torch.equal(decode(model, memories[0]), decode(loaded, memories[1]))


@pytest.mark.parametrize("head", list(HEADS))
def test_a_saved_direct_model_predicts_as_before(head: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = HEADS[head].settings(np.array([0.0, 1, 1, 5, 9, 30]))
    model, numeric = DirectModel(DirectConfig(FFN, head, settings)).eval(), torch.randn(5, 3)
    model.save_pretrained(tmp_path)
    loaded = DirectModel.from_pretrained(tmp_path)
    labels = torch.tensor([0.0, 1, 5, 9, 30]).double()
    before, after = (each.outputs(each.encoder(numeric=numeric)) for each in (model, loaded))
    assert torch.equal(before, after) and torch.equal(model.head.predict(before), loaded.head.predict(after))
    assert torch.equal(model(numeric=numeric, labels=labels).loss, loaded(numeric=numeric, labels=labels).loss)


def test_direct_heads_see_the_mean_memory() -> None:
    model = DirectModel(DirectConfig(head="l1", head_settings=HEADS["l1"].settings(np.arange(5.0))), GivenMemory())
    memory = memory_of(3, places=4).float()
    torch.testing.assert_close(model.outputs(memory), model.head(memory.mean(1)))
    labels = torch.tensor([1.0, 2, 3]).double()
    wanted = model.head.loss(model.outputs(memory), labels).mean()
    torch.testing.assert_close(model(memory=memory, labels=labels).loss, wanted)


class Doubling(torch.nn.Module):
    width = 4

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.layer(x)[:, None]


def test_an_encoder_of_ones_own_is_saved_and_loaded_with_its_weights(tmp_path: Path) -> None:
    model, x = gor_with(Doubling()), torch.randn(3, 4)
    model.save_pretrained(tmp_path)
    loaded = GoRModel.from_pretrained(tmp_path, encoder=Doubling())
    assert torch.equal(loaded.encoder(x=x), model.encoder(x=x))
    assert torch.equal(greedy(loaded, loaded.encoder(x=x)), greedy(model, model.encoder(x=x)))
    with pytest.raises(ValueError, match="wanted a module, or the settings of one in config.encoder, got neither"):
        GoRModel.from_pretrained(tmp_path)


def gor_with(encoder: torch.nn.Module) -> GoRModel:
    return GoRModel(GoRConfig(COINS.to_dict(), width=8, layers=1, heads=2), encoder).eval()


def change(directory: Path, **settings: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_a_changed_vocabulary_is_refused(tmp_path: Path) -> None:
    gor().save_pretrained(tmp_path)
    change(tmp_path, vocabulary=COINS.to_dict() | {"tokens": [1, 3, 11]})
    with pytest.raises(ValueError, match=r"config\.vocabulary: hash .* it was changed"):
        GoRModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"vocabulary": CoDiVocabulary([1, 3, 10, 20], tolerance=0, max_length=3).to_dict()},
            r"output.weight is \[6, 8\] in the file and \[7, 8\] by config.json",
        ),
        (
            {"vocabulary": CoDiVocabulary([1, 3, 10], tolerance=0, max_length=5).to_dict()},
            r"decoder.positions.weight is \[4, 8\] in the file and \[6, 8\] by config.json",
        ),
        ({"layers": 2}, "20 differ, among them decoder.layers.1.feed.0.bias is not in the file"),
        ({"layers": 0}, "20 differ, among them decoder.layers.0.feed.0.bias is in the file only"),
        ({"decoder": "gru"}, "decoder.cells.bias_hh_l0 is not in the file"),
    ],
)
def test_weights_of_another_model_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    gor().save_pretrained(tmp_path)
    change(tmp_path, **settings)
    with pytest.raises(ValueError, match=message):
        GoRModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"encoder": {"kind": "cnn"}},
            r"config\.encoder: wanted a kind of ffn, conv, torchvision, timm, transformers, got 'cnn'",
        ),
        ({"encoder": {"numeric": 3}}, r"config\.encoder: .* got None"),
        ({"encoder": None}, "got neither"),
        ({"decoder": "mamba"}, r"config\.decoder: wanted one of rnn, gru, lstm, transformer, got 'mamba'"),
        ({"strategy": "forcing"}, r"config\.strategy: wanted one of teacher_forcing, .*, got 'forcing'"),
        ({"huber_of": "median"}, r"config\.huber_of: wanted one of expectation, window, exact, got 'median'"),
        ({"heads": 3}, "multiple of 3 heads, got 8"),
    ],
)
def test_unknown_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gor(**settings)


def test_models_without_what_they_need() -> None:
    with pytest.raises(ValueError, match=r"config\.head: wanted one of .*, got 'softmax'"):
        DirectModel(DirectConfig(FFN, "softmax"))
    with pytest.raises(ValueError, match=r"config\.vocabulary: not a saved vocabulary"):
        GoRModel(GoRConfig(encoder=FFN))
    rows = batch()
    for missing in ("labels", "codes"):
        with pytest.raises(ValueError, match="wanted labels and codes"):
            tiny(COINS)(**{name: column for name, column in rows.items() if name != missing})
    with pytest.raises(ValueError, match="wanted labels"):
        DirectModel(DirectConfig(FFN, "l1", HEADS["l1"].settings(np.arange(5.0))))(numeric=torch.zeros(2, 3))


def test_an_exact_huber_loss_on_too_many_codes_is_refused_at_once() -> None:
    many = CoDiVocabulary([1, 10, 100, 1000], tolerance=0, max_length=16)
    with pytest.raises(ValueError, match=r"huber_of: 'exact' wanted a vocabulary of up to 4096 codes"):
        tiny(many, huber_of="exact")
    # Without the Huber loss nothing is enumerated, so nothing is refused.
    model = tiny(many, huber_of="exact", huber_weight=0.0)
    labels = torch.tensor([123.0, 4000.0]).double()
    with Calls(model.decoder) as calls:
        loss = model(memory=memory_of(2), labels=labels, codes=many.encode(labels)).loss
    assert len(calls) == 1
    torch.testing.assert_close(loss, -model.code_log_probs(memory_of(2), many.encode(labels)).mean())


def test_codes_by_hand_are_those_of_the_vocabulary() -> None:
    for y in range(31):
        assert tuple(COINS.encode(y)) == greedy_code(y, [1, 3, 10], 0.0, 3)
