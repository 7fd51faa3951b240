import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gor_head import EOS, CoDiVocabulary
from gor_head.decoding import beam, posterior, sample
from gor_head.model import GoRModel
from gor_head.training.data import Rows, collate
from gor_head.training.dpo import DPO, preference_rows
from gor_head.training.grpo import GRPO, group_advantage
from tests.gor_head.tiny_models import memory_of, stripped, tiny

COINS = CoDiVocabulary([1, 3, 10], tolerance=0, max_length=3)
ONE_COIN = CoDiVocabulary([1, 3], tolerance=0, max_length=1)


def rows_of(vocabulary: CoDiVocabulary, labels: list[float], seed: int = 0, **columns: Tensor) -> Rows:
    numbers = torch.tensor(labels).double()
    codes = vocabulary.encode(numbers).short()
    return Rows({"memory": memory_of(len(labels), seed=seed), "labels": numbers, "codes": codes, **columns})


def constant(logits: list[float]) -> GoRModel:
    """A model of `ONE_COIN` with these logits of 0, 1 and 3, whatever the input."""
    model = tiny(ONE_COIN)
    with torch.no_grad():
        model.output.weight.zero_()
        model.output.bias.copy_(torch.tensor([0.0, 0.0, *logits]))
    return model


@pytest.mark.parametrize("gap", [0.0, 1.0, 6.5])
@pytest.mark.parametrize("own_code", [False, True])
@pytest.mark.parametrize("batch_size", [7, 1024])
def test_pairs_equal_a_search_by_hand(gap: float, own_code: bool, batch_size: int) -> None:
    torch.manual_seed(0)
    model = tiny(COINS, "transformer", seed=2)
    labels = (torch.rand(40) * 30).round(decimals=1).tolist()
    weights = torch.rand(40)
    rows = rows_of(COINS, labels, sample_weight=weights)
    found, statistics = preference_rows(model, rows, width=4, gap=gap, own_code=own_code, batch_size=batch_size)
    wanted: list[dict[str, Any]] = []
    for row in range(40):
        memory = rows.columns["memory"][row : row + 1]
        candidates = stripped(beam(model, memory, 4)[0][0])
        error = {code: abs(COINS.decode(list(code)) - labels[row]) for code in candidates}
        chosen = min(candidates, key=lambda code: error[code])
        if own_code:
            chosen = tuple(COINS.encode(labels[row]))
            error[chosen] = abs(COINS.decode(list(chosen)) - labels[row])
        worse = [code for code in candidates if error[code] > error[chosen] + gap]
        if worse:
            pair = {"row": row, "chosen": chosen, "rejected": worse[0], "gap": error[worse[0]] - error[chosen]}
            wanted.append(pair)
    assert stripped(found.columns["codes"]) == [pair["chosen"] for pair in wanted]
    assert stripped(found.columns["rejected"]) == [pair["rejected"] for pair in wanted]
    kept = [pair["row"] for pair in wanted]
    assert torch.equal(found.columns["labels"], rows.columns["labels"][kept])
    assert torch.equal(found.columns["memory"], rows.columns["memory"][kept])
    assert torch.equal(found.columns["sample_weight"], weights[kept])
    margin = log_prob_margin(model, found)
    torch.testing.assert_close(found.columns["reference_margin"], margin)
    assert (statistics.rows, statistics.pairs, statistics.ties) == (40, len(wanted), 40 - len(wanted))
    assert statistics.mean_gap == pytest.approx(sum(pair["gap"] for pair in wanted) / len(wanted))
    assert (statistics.ties > 0) == (gap > 6)


def log_prob_margin(model: GoRModel, pairs: Rows) -> Tensor:
    with torch.no_grad():
        chosen, rejected = (
            model.code_log_probs(pairs.columns["memory"], pairs.columns[name]) for name in ("codes", "rejected")
        )
    return chosen - rejected


def test_ties_by_hand() -> None:
    # Beams of two: 1 and 3. Errors: 0 and 2; 1 and 1; 1.25 and 0.75; 2 and 0.
    model, rows = constant([-9.0, 2.0, 1.0]), rows_of(ONE_COIN, [1, 2, 2.25, 3])
    found, statistics = preference_rows(model, rows, width=2)
    assert found.columns["labels"].tolist() == [1, 2.25, 3]
    assert stripped(found.columns["codes"]) == [(3, EOS), (4, EOS), (4, EOS)]
    assert stripped(found.columns["rejected"]) == [(4, EOS), (3, EOS), (3, EOS)]
    assert found.columns["reference_margin"].tolist() == pytest.approx([1.0, -1.0, -1.0])
    assert (statistics.rows, statistics.pairs, statistics.ties) == (4, 3, 1)
    assert statistics.mean_gap == pytest.approx((2 + 0.5 + 2) / 3)
    # "By more than": a difference equal to the gap is a tie.
    assert preference_rows(model, rows, width=2, gap=0.5)[0].columns["labels"].tolist() == [1, 3]
    with pytest.raises(ValueError, match="none of 4 rows has two candidates whose errors differ by over 2"):
        preference_rows(model, rows, width=2, gap=2.0)


def test_the_own_code_need_not_be_a_beam() -> None:
    model = constant([-9.0, 2.0, 1.0])
    rows = rows_of(ONE_COIN, [0.0, 3.0])
    found, statistics = preference_rows(model, rows, width=2, own_code=True)
    # Of two errors above 0 the likelier code is rejected: 1 for both labels.
    assert stripped(found.columns["codes"]) == [(EOS,), (4, EOS)]
    assert stripped(found.columns["rejected"]) == [(3, EOS), (3, EOS)]
    assert found.columns["reference_margin"].tolist() == pytest.approx([-11.0, -1.0])
    assert statistics.mean_gap == pytest.approx((1 + 2) / 2)


def test_more_beams_than_codes_are_no_candidates() -> None:
    model, rows = constant([0.0, -1.0, -2.0]), rows_of(ONE_COIN, [0.0, 3.0])
    found, _ = preference_rows(model, rows, width=9)
    assert stripped(found.columns["codes"]) == [(EOS,), (4, EOS)]
    assert stripped(found.columns["rejected"]) == [(3, EOS), (EOS,)]


def pairs_of(model: GoRModel) -> Rows:
    labels = torch.arange(0, 30).double().tolist()
    return preference_rows(model, rows_of(COINS, labels))[0]


def test_the_loss_is_log_2_before_the_first_step() -> None:
    model = tiny(COINS, "transformer", dropout=0.1)
    pairs = pairs_of(model)
    model.strategy = DPO()
    losses = model.row_losses(progress=0.0, **collate([pairs[i] for i in range(len(pairs))]))
    torch.testing.assert_close(losses, torch.full_like(losses, math.log(2)))


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_the_loss_by_hand(beta: float) -> None:
    model, memory = tiny(COINS), memory_of(2)
    chosen, rejected = torch.tensor([[5, EOS, 0], [4, 3, EOS]]), torch.tensor([[EOS, 0], [3, EOS]])
    reference = torch.tensor([0.7, -1.5]).double()
    found = DPO(beta)(
        model,
        memory,
        codes=chosen,
        rejected=rejected,
        reference_margin=reference,
        labels=torch.zeros(2),
        progress=0.0,
    )
    for row in range(2):
        better, worse = (
            model.code_log_probs(memory[row : row + 1], codes[row : row + 1]).item() for codes in (chosen, rejected)
        )
        difference = better - worse - reference[row].item()
        assert found[row].item() == pytest.approx(-math.log(1 / (1 + math.exp(-beta * difference))))


def test_training_on_pairs_raises_their_margin_and_lowers_the_loss() -> None:
    model = tiny(COINS, "transformer", dropout=0.1)
    pairs = pairs_of(model)
    model.strategy = DPO()
    batch = collate([pairs[i] for i in range(len(pairs))])
    before = log_prob_margin(model, pairs)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(20):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    model.eval()
    assert (log_prob_margin(model, pairs) - before).mean() > 1
    assert model(**batch).loss.item() < 0.95 * math.log(2)


def test_group_advantage_by_hand() -> None:
    rewards = torch.tensor([[-1.0, -3.0], [-5.0, -5.0], [0.0, -4.0]]).double()
    # Standard deviations √2, 0 and 2√2.
    first, third = 1 / (math.sqrt(2) + 1e-4), 2 / (2 * math.sqrt(2) + 1e-4)
    wanted = torch.tensor([[first, -first], [0, 0], [third, -third]], dtype=torch.float64)
    torch.testing.assert_close(group_advantage(rewards), wanted, rtol=1e-12, atol=0)
    three = group_advantage(torch.tensor([[0.0, -3.0, -6.0]]).double())
    torch.testing.assert_close(three, torch.tensor([[1.0, 0, -1]]).double() * 3 / 3.0001)


def test_the_policy_gradient_by_hand() -> None:
    # With constant logits, log π(code) has the gradient one-hot(code) − probabilities.
    model = constant([0.3, 0.1, -0.4])
    memory, label = memory_of(1), torch.tensor([1.0]).double()
    model.zero_grad()
    torch.manual_seed(3)
    loss = GRPO(group=4)(model, memory, codes=torch.tensor([[3, EOS]]), labels=label, progress=0.0)
    loss.sum().backward()
    torch.manual_seed(3)
    drawn = sample(model, memory.expand(4, -1, -1))
    numbers = COINS.decode(drawn)
    assert len(set(numbers.tolist())) > 1
    advantage = group_advantage(-(numbers - 1).abs()[None])[0]
    probabilities = torch.tensor([0.3, 0.1, -0.4]).double().softmax(0)
    one_hot = (drawn[:, :1] == torch.tensor([[EOS, 3, 4]])).double()
    wanted = -(advantage[:, None] * (one_hot - probabilities)).mean(dim=0)
    # After a coin only EOS may follow, whose log-probability is 0 and constant.
    torch.testing.assert_close(model.output.bias.grad[2:], wanted)


def test_equal_rewards_give_no_gradient() -> None:
    # 1 and 3 are equally far from 2, and 0 is never drawn.
    model = constant([-60.0, 0.0, 0.5])
    loss = GRPO()(
        model, memory_of(20), codes=torch.zeros(20, 1), labels=torch.full((20,), 2.0).double(), progress=0.0
    ).sum()
    loss.backward()
    assert all(part.grad is None or not part.grad.any() for part in model.parameters())


def test_the_expected_gradient_favours_the_nearer_codes() -> None:
    torch.manual_seed(0)
    model = constant([0.0, 0.0, 0.0])
    memory, labels = memory_of(2000), torch.full((2000,), 3.0).double()
    GRPO()(model, memory, codes=torch.zeros(2000, 1), labels=labels, progress=0.0).mean().backward()
    zero, one, three = model.output.bias.grad[2:].tolist()
    # Errors 3, 2 and 0 under equal probabilities: a step down the gradient helps 3 and harms 0 most.
    assert three < -0.1 < 0 < one < zero and abs(zero + one + three) < 1e-9


def test_training_lowers_the_expected_error() -> None:
    torch.manual_seed(0)
    model = tiny(COINS, "gru", spread=1.0, dropout=0.1).train()
    memory, labels = memory_of(16), torch.linspace(0, 30, 16).double()
    model.strategy = GRPO()
    before = expected_error(model, memory, labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        model(memory=memory, labels=labels, codes=COINS.encode(labels)).loss.backward()
        optimizer.step()
    assert expected_error(model, memory, labels) < 0.6 * before


def expected_error(model: GoRModel, memory: Tensor, labels: Tensor) -> float:
    training = model.training
    with torch.no_grad():
        whole = posterior(model.eval(), memory)
    model.train(training)
    return (whole.log_probs.exp() * (whole.values - labels[:, None]).abs()).sum(dim=1).mean().item()


@pytest.mark.parametrize("training", [True, False])
def test_codes_are_drawn_without_dropout_and_scored_as_in_training(training: bool) -> None:
    model, modes = tiny(COINS).train(training), []
    handle = model.decoder.register_forward_pre_hook(lambda module, args: modes.append((module.training, len(args[0]))))
    GRPO(group=3)(model, memory_of(5), codes=torch.zeros(5, 1), labels=torch.zeros(5).double(), progress=0.0)
    handle.remove()
    assert all(not mode for mode, _ in modes[:-1]) and modes[0][1] == 15
    assert modes[-1] == (training, 15) and model.training is training


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DPO(beta=0.0), "beta: wanted a positive number, got 0.0"),
        (lambda: GRPO(group=1), "group: wanted 2 or more codes per row, got 1"),
    ],
)
def test_settings_out_of_range_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
