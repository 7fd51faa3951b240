import math

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from torch import Tensor
from torch.nn import functional as F

from gor_head.losses import WINDOW, expected_sum, huber, nll, windowed_sum
from gor_head.vocabulary import EOS, PAD


def random_log_probs(*shape: int, seed: int = 0) -> Tensor:
    return (3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).double().log_softmax(-1)


def test_nll_by_hand() -> None:
    steps = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]]).log()
    codes = torch.tensor([[3, 2, PAD], [3, 3, 2]])
    wanted = [-math.log(0.125) - math.log(0.3), -math.log(0.125) - math.log(0.4) - math.log(0.1)]
    torch.testing.assert_close(nll(steps.expand(2, 3, 4), codes), torch.tensor(wanted))


def test_nll_equals_torch_and_sklearn() -> None:
    log_probs = random_log_probs(6, 4, 7)
    codes = torch.randint(1, 7, (6, 4), generator=torch.Generator().manual_seed(1))
    codes[:3, 2:] = PAD
    reference = F.nll_loss(log_probs.transpose(1, 2), codes, ignore_index=PAD, reduction="none").sum(dim=1)
    torch.testing.assert_close(nll(log_probs, codes), reference)
    used = (codes != PAD).numpy()
    total = log_loss(codes.numpy()[used], log_probs.exp().numpy()[used], labels=np.arange(7), normalize=False)
    assert nll(log_probs, codes).sum().item() == pytest.approx(total)


def test_expected_sum_by_hand_and_in_float64() -> None:
    # 16 777 217 is the first integer that float32 cannot hold.
    values = torch.tensor([0.0, 0.0, 0.0, 1.0, 16_777_217.0], dtype=torch.float64)
    steps = torch.tensor([[0, 0, 0.75, 0.25, 0], [0, 0, 0, 0, 1], [0, 0, 1, 0, 0]])
    log_probs = steps.log()[None]
    assert expected_sum(log_probs, torch.tensor([[4, 4, EOS]]), values).tolist() == [16_777_217.25]
    # What follows the true prefix counts, not which token goes on there; PAD does not.
    assert expected_sum(log_probs, torch.tensor([[4, PAD, PAD]]), values).tolist() == [0.25]


def test_sums_keep_their_digits_under_autocast() -> None:
    log_probs, values = random_log_probs(1, 1, 8).float(), 1000 + torch.arange(8).double()
    codes = torch.tensor([[EOS]])
    wanted = (log_probs[0, 0].double().exp() @ values).item()
    with torch.autocast("cpu", torch.bfloat16):
        for summed in (expected_sum, windowed_sum):
            assert summed(log_probs, codes, values).item() == pytest.approx(wanted, rel=1e-6)


def test_expected_sum_equals_a_loop() -> None:
    log_probs, codes = random_log_probs(5, 3, 6), torch.tensor([[3, 2, 0], [5, 5, 2], [2, 0, 0], [4, 2, 0], [4, 3, 2]])
    values = torch.tensor([0, 0, 0, 0.5, 2, 40]).double()
    wanted = [
        sum(
            math.exp(log_probs[row, t, v]) * values[v].item()
            for t in range(3)
            if codes[row, t] != PAD
            for v in range(6)
        )
        for row in range(5)
    ]
    torch.testing.assert_close(expected_sum(log_probs, codes, values), torch.tensor(wanted).double())


def test_the_window_is_ten_ids_to_either_side() -> None:
    size, top = 30, 14
    probabilities = torch.full((size,), 0.02).double()
    probabilities[top] = 1 - 0.02 * (size - 1)
    values = torch.zeros(size).double()
    log_probs = probabilities.log()[None, None]
    for token in range(3, size):
        values.zero_()[token] = 100.0
        inside = abs(token - top) <= WINDOW == 10
        wanted = 100 * probabilities[token].item() if inside else 0.0
        assert windowed_sum(log_probs, torch.tensor([[EOS]]), values).item() == pytest.approx(wanted)
    assert windowed_sum(log_probs, torch.tensor([[PAD]]), values).item() == 0.0


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(4, 30))
def test_windowed_sum_equals_a_loop_and_the_whole_where_it_holds_all(seed: int, size: int) -> None:
    log_probs = random_log_probs(3, 2, size, seed=seed)
    codes, values = torch.tensor([[3, 2], [2, 0], [3, 3]]), torch.arange(size).double() ** 2
    wanted = []
    for row in range(3):
        total = 0.0
        for t in range(2):
            top = int(log_probs[row, t].argmax())
            ids = range(max(0, top - 10), min(size, top + 11))
            if codes[row, t] != PAD:
                total += sum(math.exp(log_probs[row, t, i]) * i**2 for i in ids)
        wanted.append(total)
    torch.testing.assert_close(windowed_sum(log_probs, codes, values), torch.tensor(wanted).double())
    if size <= 11:
        torch.testing.assert_close(windowed_sum(log_probs, codes, values), expected_sum(log_probs, codes, values))


@pytest.mark.parametrize("delta", [0.5, 1.0, 10.0])
def test_huber_equals_scipy(delta: float) -> None:
    prediction, labels = torch.linspace(-20, 20, 41).double(), torch.linspace(3, -3, 41).double()
    wanted = scipy.special.huber(delta, (prediction - labels).numpy())
    np.testing.assert_allclose(huber(prediction, labels, delta).numpy(), wanted)


def test_huber_by_hand_with_labels_of_another_kind() -> None:
    loss = huber(torch.tensor([1.0, 5.0]), torch.tensor([1.5, 2.0], dtype=torch.float64))
    assert loss.dtype == torch.float32 and loss.tolist() == [0.125, 2.5]


def test_steps_at_pad_get_no_gradient() -> None:
    raw = torch.randn(1, 3, 6, dtype=torch.float64, requires_grad=True)
    codes, values = torch.tensor([[4, EOS, PAD]]), torch.arange(6).double()
    log_probs = raw.log_softmax(-1)
    total = nll(log_probs, codes) + expected_sum(log_probs, codes, values) + windowed_sum(log_probs, codes, values)
    (gradient,) = torch.autograd.grad(total.sum(), raw)
    assert torch.equal(gradient[0, 2], torch.zeros(6).double()) and (gradient[0, :2].abs().sum(dim=1) > 0).all()
