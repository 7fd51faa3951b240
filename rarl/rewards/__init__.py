"""Rewards for ordinal regression and ranking, one a file, as plain TRL reward functions.

Each takes the columns of a batch, `f(completions, values, task, **kwargs)`, and returns one number per completion, or
`None` where it does not apply, so it works in TRL's own `GRPOTrainer`:

```python
GRPOTrainer(..., reward_funcs=list(REWARDS.values()), args=GRPOConfig(..., reward_weights=weights()))
```
"""

from collections.abc import Callable

from rarl.rewards.accuracy import accuracy_reward
from rarl.rewards.consistency import consistency_reward
from rarl.rewards.format import format_reward
from rarl.rewards.length import graded_length_reward, length_reward
from rarl.rewards.regression import regression_reward
from rarl.rewards.scoring import Rewards

__all__ = [
    "REWARDS",
    "accuracy_reward",
    "consistency_reward",
    "format_reward",
    "get_reward",
    "graded_length_reward",
    "length_reward",
    "regression_reward",
    "weights",
]

REWARDS: dict[str, Callable[..., Rewards]] = {
    "regression": regression_reward,
    "length": length_reward,
    "consistency": consistency_reward,
    "accuracy": accuracy_reward,
    "format": format_reward,
}


def weights(regression: float = 1.0, ranking: float = 1.0, format: float = 0.5) -> list[float]:
    """Weights of the five rewards in the order of [`REWARDS`], for TRL's `reward_weights` (RARL, equations 7 and 8).

    `ranking` is the weight of length, consistency and accuracy each. The total is then at most
    `regression + 3 * ranking + format`, and `regression + format` for one image.
    """
    return [regression, ranking, ranking, ranking, format]


def get_reward(name: str) -> Callable[..., Rewards]:
    """The reward function of a name: one of [`REWARDS`], or `"graded_length"`.

    Raises:
        ValueError: If there is no reward of that name.
    """
    known = {**REWARDS, "graded_length": graded_length_reward}
    try:
        return known[name]
    except KeyError:
        raise ValueError(f"Unknown reward {name!r}; known rewards: {', '.join(known)}.") from None
