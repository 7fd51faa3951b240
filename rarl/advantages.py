"""Other ways than mutation to make groups teach, and another baseline, as pure functions.

Where all responses of a group earn the same, GRPO's `(reward − mean) / std` is 0. The Response Mutation Operation
([`rarl.mutation`][rarl.mutation]) changes the responses; virtual rewards change the statistics; dynamic sampling (in
[`RARLTrainer`][rarl.trainer.rarl.RARLTrainer]) draws the group again. See docs/mutation.md.
"""

import math

import numpy as np

EPSILON = 1e-4
"""What TRL adds to the deviation."""


def leave_one_out(rewards: np.ndarray, group_size: int) -> np.ndarray:
    """Each reward less the mean of the others of its group, of any number of columns, `[n, …]` → `[n, …]`.

    ```
    advantage_i = reward_i − mean of reward_j over j ≠ i
    ```

    Not divided by the deviation, so the estimator has the expectation of the policy gradient, which GRPO's has not: its
    mean and deviation hold the response's own reward.

    Args:
        rewards: Rewards of n responses, those of a group in a row.
        group_size: Responses of a group, at least two.

    Reference: RLOO (arXiv:2402.14740), equation 4.

    Example:

    ```python
    >>> import numpy as np
    >>> from rarl.advantages import leave_one_out
    >>> leave_one_out(np.array([1.0, 0.0, 0.0]), group_size=3).tolist()
    [1.0, -0.5, -0.5]
    ```
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    grouped = rewards.reshape(-1, group_size, *rewards.shape[1:])
    others = (grouped.sum(axis=1, keepdims=True) - grouped) / (group_size - 1)
    return (grouped - others).reshape(rewards.shape)


def num_virtual(most: int, collapsed: float) -> int:
    """How many virtual rewards a collapsed group gets: `most` where all groups are collapsed, fewer with fewer of them,
    at least one.

    Args:
        most: The largest number.
        collapsed: Share of collapsed groups in the batch, the advantage collapse rate of AVSPO, in 0..1.
    """
    return max(1, math.ceil(most * collapsed))


def virtual_advantages(totals: np.ndarray, best: float, number: int) -> np.ndarray:
    """Advantages of an equally wrong group whose mean and deviation count some responses that were not sampled.

    ```
    mean, std over reward_1 … reward_G and `number` times `best`
    advantage_i = (reward_i − mean) / (std + 1e-4)
    ```

    The virtual rewards enter the statistics only; nothing is learned from them. All responses of the group are below
    the mean alike: the policy is told what not to do, and not what else.

    The published abstract of AVSPO gives this much; that virtual rewards are the attainable maximum, that solved groups
    get none, and how their number follows the collapse rate ([`num_virtual`][rarl.advantages.num_virtual]) is our
    reading.

    Args:
        totals: Total rewards of the group, `[g]`.
        best: The virtual reward: the attainable maximum.
        number: How many there are.

    Reference: AVSPO (arXiv:2605.21125).

    Example:

    ```python
    >>> import numpy as np
    >>> from rarl.advantages import virtual_advantages
    >>> virtual_advantages(np.zeros(8), best=1.0, number=1).round(3).tolist()  # mean 1/9, deviation 1/3
    [-0.333, -0.333, -0.333, -0.333, -0.333, -0.333, -0.333, -0.333]
    ```
    """
    totals = np.asarray(totals, dtype=np.float64)
    whole = np.concatenate([totals, np.full(number, best)])
    return (totals - whole.mean()) / (whole.std(ddof=1) + EPSILON)
