"""Advantages by other means than mutation: hand-computed, by enumeration, and their properties."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarl.advantages import EPSILON, leave_one_out, num_virtual, virtual_advantages

totals = st.lists(st.floats(-2, 5), min_size=2, max_size=9)


def test_virtual_rewards_written_out() -> None:
    """Eight times 0 and once 1: mean 1/9, variance (8/81 + 64/81) / 8 = 1/9. Four times 0.5 and twice 1.5."""
    np.testing.assert_allclose(virtual_advantages(np.zeros(8), 1.0, 1), -(1 / 9) / (1 / 3 + EPSILON))
    mean, deviation = 5 / 6, np.sqrt((4 * (1 / 3) ** 2 + 2 * (2 / 3) ** 2) / 5)
    np.testing.assert_allclose(virtual_advantages(np.full(4, 0.5), 1.5, 2), (0.5 - mean) / (deviation + EPSILON))


@given(totals, st.floats(5, 9), st.integers(1, 5))
def test_virtual_rewards_keep_the_order_and_push_down(rewards: list[float], best: float, number: int) -> None:
    found = virtual_advantages(np.array(rewards), best, number)
    assert found.shape == (len(rewards),) and (np.diff(found[np.argsort(rewards)]) >= 0).all()
    assert found.mean() <= 1e-9, "the mean that they are compared with is drawn towards the best"


@pytest.mark.parametrize(
    ("most", "collapsed", "wanted"), [(4, 1.0, 4), (4, 0.5, 2), (4, 0.3, 2), (4, 0.0, 1), (1, 0.1, 1)]
)
def test_number_of_virtual_rewards(most: int, collapsed: float, wanted: int) -> None:
    assert num_virtual(most, collapsed) == wanted


def test_leave_one_out_written_out() -> None:
    np.testing.assert_allclose(leave_one_out(np.array([3.0, 1.0, 2.0]), 3), [1.5, -1.5, 0.0])
    table = np.array([[3.0, 0.0], [1.0, 1.0], [5.0, 2.0], [5.0, 0.0]])
    assert leave_one_out(table, 2).tolist() == [[2, -1], [-2, 1], [0, 2], [0, -2]]


@given(totals)
def test_leave_one_out_is_the_centred_reward_scaled(rewards: list[float]) -> None:
    found, group = leave_one_out(np.array(rewards), len(rewards)), len(rewards)
    np.testing.assert_allclose(found, group / (group - 1) * (np.array(rewards) - np.mean(rewards)), atol=1e-9)
    assert abs(found.sum()) < 1e-8


@pytest.mark.parametrize("group", [2, 3])
def test_leave_one_out_has_the_expectation_of_the_policy_gradient(group: int) -> None:
    """All groups of a policy over three answers; GRPO's advantages have another expectation."""
    rewards, logits = np.array([1.0, 0.2, -0.5]), np.array([0.3, -0.2, 0.5])
    chance = np.exp(logits) / np.exp(logits).sum()
    scores = np.eye(3) - chance  # gradient of each log-probability
    exact = (chance * rewards) @ scores
    ours, grpo = np.zeros(3), np.zeros(3)
    for rows in itertools.product(range(3), repeat=group):
        picked = list(rows)
        weight, drawn = chance[picked].prod(), rewards[picked]
        ours += weight * leave_one_out(drawn, group) @ scores[picked] / group
        grpo += weight * (drawn - drawn.mean()) / (drawn.std(ddof=1) + EPSILON) @ scores[picked] / group
    np.testing.assert_allclose(ours, exact, atol=1e-12)
    assert np.abs(grpo - exact).max() > 0.02
