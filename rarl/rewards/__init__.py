"""Rewards for ordinal regression and ranking, one a file, as plain TRL reward functions.

Each takes the columns of a batch, `f(completions, values, task, **kwargs)`, and returns one number per completion, or
`None` where it does not apply, so it works in TRL's own `GRPOTrainer`:

```python
GRPOTrainer(..., reward_funcs=list(REWARDS.values()), args=GRPOConfig(..., reward_weights=weights()))
```
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rarl.rewards.accuracy import accuracy_reward
from rarl.rewards.consistency import consistency_reward
from rarl.rewards.format import format_reward
from rarl.rewards.length import graded_length_reward, length_reward
from rarl.rewards.regression import regression_reward
from rarl.rewards.scoring import Rewards

__all__ = [
    "REGISTRY",
    "REWARDS",
    "Reward",
    "accuracy_reward",
    "consistency_reward",
    "format_reward",
    "get_reward",
    "graded_length_reward",
    "length_reward",
    "regression_reward",
    "weights",
]

Term = Literal["regression", "ranking", "format"]


@dataclass(frozen=True)
class Reward:
    """An entry of the [`REGISTRY`][rarl.rewards.REGISTRY].

    Args:
        function: The reward function.
        term: Which weight weighs it: α of `"regression"`, β of `"ranking"` or γ of `"format"` (RARL, equations 7 and
            8); on the command line of a recipe `weight_regression`, `weight_ranking` or `weight_format`.
        in_total: Whether it is one of the five terms of the paper's total, which `REWARDS` and `weights` have.
    """

    function: Callable[..., Rewards]
    term: Term
    in_total: bool = False


REGISTRY: dict[str, Reward] = {
    "regression": Reward(regression_reward, "regression", in_total=True),
    "length": Reward(length_reward, "ranking", in_total=True),
    "consistency": Reward(consistency_reward, "ranking", in_total=True),
    "accuracy": Reward(accuracy_reward, "ranking", in_total=True),
    "format": Reward(format_reward, "format", in_total=True),
    "graded_length": Reward(graded_length_reward, "ranking"),
}
"""All rewards by name: the one place in which a new one is entered."""

REWARDS: dict[str, Callable[..., Rewards]] = {
    name: reward.function for name, reward in REGISTRY.items() if reward.in_total
}
"""The reward functions of the paper's total, by name."""


def weights(regression: float = 1.0, ranking: float = 1.0, format: float = 0.5) -> list[float]:
    """Weights of the rewards in the order of [`REWARDS`][rarl.rewards.REWARDS], for TRL's `reward_weights` (RARL,
    equations 7 and 8).

    `ranking` is the weight of length, consistency and accuracy each. The total is then at most
    `regression + 3 * ranking + format`, and `regression + format` for one image.
    """
    weight_of: dict[Term, float] = {"regression": regression, "ranking": ranking, "format": format}
    return [weight_of[REGISTRY[name].term] for name in REWARDS]


def get_reward(name: str) -> Callable[..., Rewards]:
    """The reward function of a name in the [`REGISTRY`][rarl.rewards.REGISTRY].

    Raises:
        ValueError: If there is no reward of that name.
    """
    try:
        return REGISTRY[name].function
    except KeyError:
        raise ValueError(f"Unknown reward {name!r}; known rewards: {', '.join(REGISTRY)}.") from None
