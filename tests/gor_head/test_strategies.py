import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gor_head import EOS, PAD, SOS, CoDiVocabulary
from gor_head.decoding import greedy
from gor_head.model import GoRModel, shift_right
from gor_head.training import STRATEGIES, Curriculum, FreeRunning, NGram, Strategy, TeacherForcing
from gor_head.training.curriculum import truth_probability
from gor_head.training.free_running import mixed_pass
from tests.gor_head.tiny_models import DECODER_KINDS, Calls, memory_of, tiny

COINS = CoDiVocabulary([1, 3, 10], tolerance=0, max_length=3)
LABELS = torch.tensor([0.0, 4, 13, 26, 30, 7]).double()
CODES = COINS.encode(LABELS)
MEMORY = memory_of(len(LABELS), places=2)
SCHEDULES = ["linear", "sigmoid", "exponential"]


def always_ending() -> GoRModel:
    """A model whose own likeliest token is EOS, whatever came before."""
    model = tiny(COINS)
    with torch.no_grad():
        model.output.weight.zero_()
        model.output.bias.zero_()[EOS] = 5.0
    return model


@pytest.mark.parametrize(
    ("schedule", "halfway"),
    [("linear", 0.5), ("sigmoid", 0.5), ("exponential", (math.exp(-2.5) - math.exp(-5)) / (1 - math.exp(-5)))],
)
@pytest.mark.parametrize("floor", [0.0, 0.5, 1.0])
def test_schedules_by_hand(schedule: Any, halfway: float, floor: float) -> None:
    assert truth_probability(0.0, schedule, floor) == pytest.approx(1)
    assert truth_probability(0.5, schedule, floor) == pytest.approx(floor + (1 - floor) * halfway)
    assert truth_probability(1.0, schedule, floor) == pytest.approx(floor)
    assert truth_probability(-1, schedule, floor) == truth_probability(0, schedule, floor)
    assert truth_probability(2, schedule, floor) == truth_probability(1, schedule, floor)


def test_the_sigmoid_is_steep_in_the_middle() -> None:
    # σ(3) = 0.952574 and σ(−6) = 0.002473: 0.950101 of 0.995055.
    assert truth_probability(0.25, "sigmoid", 0.0) == pytest.approx(0.954823, abs=1e-5)
    assert truth_probability(0.75, "sigmoid", 0.0) == pytest.approx(1 - truth_probability(0.25, "sigmoid", 0.0))


@given(st.sampled_from(SCHEDULES), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_schedules_fall_from_one_to_the_floor(schedule: Any, first: float, second: float, floor: float) -> None:
    early, late = sorted([first, second])
    before, after = truth_probability(early, schedule, floor), truth_probability(late, schedule, floor)
    assert floor - 1e-12 <= after <= before + 1e-12 <= 1 + 1e-9


@pytest.mark.parametrize("kind", DECODER_KINDS)
def test_a_pass_of_true_tokens_is_teacher_forcing(kind: str) -> None:
    model = tiny(COINS, kind)
    stepwise = mixed_pass(model, MEMORY, CODES, from_model=torch.zeros_like(CODES, dtype=torch.bool))
    torch.testing.assert_close(stepwise, model.log_probs(MEMORY, CODES), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", DECODER_KINDS)
def test_a_pass_of_own_tokens_follows_the_greedy_path(kind: str) -> None:
    model = tiny(COINS, kind, seed=4)
    with Calls(model.embedding) as fed:
        log_probs = mixed_pass(model, MEMORY, CODES, from_model=torch.ones_like(CODES, dtype=torch.bool))
    path = torch.nn.functional.pad(greedy(model, MEMORY), (0, CODES.shape[1]), value=PAD)[:, : CODES.shape[1]]
    assert len(set(map(tuple, path.tolist()))) > 1
    assert torch.equal(torch.cat(fed, dim=1), shift_right(path))
    # The targets, and the tokens that may stand there, are the true ones all the same.
    hidden = model.hidden(MEMORY, model.embedding(shift_right(path)))
    torch.testing.assert_close(log_probs, model.head(hidden, model.legal(CODES)), rtol=0, atol=1e-9)
    assert torch.equal(FreeRunning().passes(model, MEMORY, CODES, progress=0.3)[0][1], log_probs)


@pytest.mark.parametrize("kind", ["gru", "transformer"])
def test_a_mixed_pass_equals_a_naive_one(kind: str) -> None:
    model = tiny(COINS, kind, seed=5)
    own = torch.rand(CODES.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    found = mixed_pass(model, MEMORY, CODES, from_model=own)
    for row, code in enumerate(CODES.tolist()):
        fed: list[int] = []
        for t, token in enumerate(code):
            inputs = model.embedding(torch.tensor([[SOS, *fed]]))
            hidden = model.hidden(MEMORY[row : row + 1], inputs)[0, -1]
            true_prefix = torch.tensor([code[:t]], dtype=torch.int64)
            legal = model.intervals.legal_tokens(model.intervals.prefixes(true_prefix))[0]
            torch.testing.assert_close(found[row, t], model.head(hidden, legal), rtol=0, atol=1e-9)
            state = model.intervals.prefixes(torch.tensor([fed], dtype=torch.int64))
            choice = int(model.head(hidden, model.intervals.legal_tokens(state)[0]).argmax())
            fed.append(choice if own[row, t] else token)


def test_a_curriculum_begins_as_one_parallel_pass_and_ends_at_its_floor() -> None:
    model = tiny(COINS, "transformer")
    for schedule in ("linear", "sigmoid", "exponential"):
        with Calls(model.decoder) as calls:
            ((weight, log_probs),) = Curriculum(schedule).passes(model, MEMORY, CODES, progress=0.0)
        assert [tokens.shape[1] for tokens in calls] == [CODES.shape[1]] and weight == 1.0
        assert torch.equal(log_probs, model.log_probs(MEMORY, CODES))
        ((_, log_probs),) = Curriculum(schedule, floor=0.0).passes(model, MEMORY, CODES, progress=1.0)
        assert torch.equal(log_probs, FreeRunning().passes(model, MEMORY, CODES, progress=1.0)[0][1])
        ((_, log_probs),) = Curriculum(schedule, floor=1.0).passes(model, MEMORY, CODES, progress=1.0)
        assert torch.equal(log_probs, model.log_probs(MEMORY, CODES))


def test_coins_are_thrown_for_every_row_and_step() -> None:
    torch.manual_seed(0)
    model, rows = always_ending(), 4000
    codes = torch.tensor([[5, 5, 5, EOS]]).expand(rows, -1)
    with Calls(model.embedding) as fed:
        Curriculum(floor=0.4).passes(model, memory_of(rows), codes, progress=0.5)
    # The truth is fed with probability 0.7; its own token is EOS at first and PAD once EOS has been fed.
    first, second = (fed[t].squeeze(1) for t in (1, 2))
    assert set(first.tolist()) == {5, EOS}
    own_first, own_second = first != 5, second != 5
    for share in (own_first, own_second, own_second[own_first], own_second[~own_first]):
        assert share.double().mean().item() == pytest.approx(0.3, abs=0.05)
    assert set(second[own_first].tolist()) == {5, PAD} and set(second[~own_first].tolist()) == {5, EOS}


@pytest.mark.parametrize("first", [TeacherForcing(), FreeRunning()])
def test_one_pass_of_ngram_is_its_first(first: Strategy) -> None:
    model = tiny(COINS)
    with Calls(model.decoder) as calls:
        wanted = first(model, MEMORY, codes=CODES, labels=LABELS, progress=0.5)
    alone = len(calls)
    with Calls(model.decoder) as calls:
        found = NGram(n=1, first=first)(model, MEMORY, codes=CODES, labels=LABELS, progress=0.5)
    assert torch.equal(found, wanted) and len(calls) == alone


@pytest.mark.parametrize("kind", DECODER_KINDS)
def test_ngram_chains_expected_embeddings(kind: str) -> None:
    model = tiny(COINS, kind, huber_weight=3.0)
    strategy = NGram(n=3, discount=0.25)
    with Calls(model.decoder) as calls:
        passes = strategy.passes(model, MEMORY, CODES, progress=1.0)
    assert len(calls) == 3 and [weight for weight, _ in passes] == [1.0, 0.25, 0.0625]
    torch.testing.assert_close(passes[0][1], model.log_probs(MEMORY, CODES))
    table = model.embedding.weight
    for before, after in zip(passes, passes[1:], strict=False):
        inputs = [table[SOS].expand(len(CODES), -1)]
        for t in range(CODES.shape[1] - 1):
            inputs.append(sum(before[1][:, t, token].exp()[:, None] * table[token] for token in range(6)))
        hidden = model.hidden(MEMORY, torch.stack(inputs, dim=1))
        torch.testing.assert_close(after[1], model.head(hidden, model.legal(CODES)))
    total = sum(weight * model.objective(MEMORY, log_probs, CODES, labels=LABELS) for weight, log_probs in passes)
    torch.testing.assert_close(strategy(model, MEMORY, codes=CODES, labels=LABELS, progress=1.0), total)


@pytest.mark.parametrize("kind", DECODER_KINDS)
def test_gradients_flow_through_the_soft_inputs(kind: str) -> None:
    model = tiny(COINS, kind)
    (_, first), (_, second) = NGram().passes(model, MEMORY, CODES, progress=1.0)
    loss = -second.gather(2, CODES[..., None])[CODES != PAD].sum()
    (gradient,) = torch.autograd.grad(loss, first)
    assert gradient.isfinite().all()
    # Inputs before the last true token matter; the last step's output is nobody's input.
    long = (CODES != PAD).sum(dim=1) > 1
    assert gradient[long, 0].any(dim=1).all() and not gradient[:, -1].any()


def test_what_is_off_costs_nothing() -> None:
    model, length = tiny(COINS, strategy="teacher_forcing", huber_weight=0.0), CODES.shape[1]
    wanted = {"teacher_forcing": 1, "ngram": 2, "free_running": length, "curriculum": 1, "paper": 2}
    assert set(wanted) == set(STRATEGIES)
    for name, count in wanted.items():
        with Calls(model.decoder) as calls:
            STRATEGIES[name]()(model, MEMORY, codes=CODES, labels=LABELS, progress=0.0)
        assert len(calls) == count
    # Labels are needed by the Huber loss alone.
    loss = TeacherForcing()(model, MEMORY, codes=CODES, labels=torch.full_like(LABELS, math.nan), progress=0.0)
    torch.testing.assert_close(loss, -model.code_log_probs(MEMORY, CODES))


@pytest.mark.parametrize("name", list(STRATEGIES))
@pytest.mark.parametrize("kind", ["gru", "transformer"])
def test_every_strategy_learns(name: str, kind: str) -> None:
    torch.manual_seed(0)
    labels = torch.arange(0, 31, 2).double()
    codes = COINS.encode(labels)
    position = labels[:, None] / 30
    memory = torch.cat([torch.sin(3 * k * position) for k in range(1, 5)], dim=1)[:, None]
    model = tiny(COINS, kind, strategy=name, spread=1.0, dropout=0.1, huber_weight=0.1).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    before = nll_of(model, memory, codes)
    for step in range(40):
        optimizer.zero_grad()
        model(memory=memory, labels=labels, codes=codes, progress=step / 40).loss.backward()
        optimizer.step()
    assert nll_of(model, memory, codes) < 0.7 * before


def nll_of(model: GoRModel, memory: Tensor, codes: Tensor) -> float:
    training = model.training
    with torch.no_grad():
        nll = -model.eval().code_log_probs(memory, codes).mean().item()
    model.train(training)
    return nll


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Curriculum("cosine"), "schedule: wanted linear, sigmoid or exponential, got 'cosine'"),
        (lambda: Curriculum(floor=1.5), "floor: wanted a number from 0 to 1, got 1.5"),
        (lambda: NGram(n=0), "n: wanted 1 or more passes, got 0"),
        (lambda: NGram(discount=-1), "discount: wanted a number from 0 to 1, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
