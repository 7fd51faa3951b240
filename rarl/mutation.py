"""Response Mutation Operation (RMO): give a group without a learning signal its variance back.

Reference: "Ranking-Aware Reinforcement Learning for Ordinal Ranking", section 3.2 and equation 9. GRPO's advantage is
`(reward - mean) / std` within a group, so a group whose responses are all equally wrong teaches nothing. RMO rewrites
its worst responses to reference answers, and advantages are computed on the rewritten group.

Everything here is a pure function of one group or one response; the wiring is in
[`rarl.trainer.RARLTrainer`][rarl.trainer.rarl.RARLTrainer].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rarl.answer import answer_span, is_formatted

Trigger = Literal["stagnant", "low_reward"]

TIE = 1e-6
"""Rewards of a group that lie within this of each other are equal: what is left is float rounding."""


@dataclass(frozen=True)
class MutationSettings:
    """When a group is mutated and how much of it.

    Args:
        trigger: `"stagnant"`: the group's advantages are all 0, as its total rewards are all equal, and their mean is
            below `ceiling` of the attainable maximum. `"low_reward"`: at least one response scores below `threshold`,
            and only such responses are replaced.
        probability: Chance that a triggered group is mutated, in 0..1.
        num_replaced: k, the number of lowest-reward responses replaced, at least 1.
        ceiling: Share of the attainable maximum from which a tied group counts as solved, in 0..1.
        threshold: Total reward below which `"low_reward"` triggers.
        seed: Seed of the draws.
        aggregation: How advantages are made of several rewards, TRL's `multi_objective_aggregation`; see
            [`learning_signal`][rarl.mutation.learning_signal].
    """

    trigger: Trigger = "stagnant"
    probability: float = 0.5
    num_replaced: int = 1
    ceiling: float = 0.9
    threshold: float = 0.0
    seed: int = 0
    aggregation: str = "sum_then_normalize"

    def __post_init__(self) -> None:
        if self.trigger not in ("stagnant", "low_reward"):
            raise ValueError(f"The RMO trigger must be 'stagnant' or 'low_reward', got {self.trigger!r}.")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"The RMO probability must lie in 0..1, got {self.probability}.")
        if not 0 <= self.ceiling <= 1:
            raise ValueError(f"The RMO ceiling must lie in 0..1, got {self.ceiling}.")
        if self.num_replaced < 1:
            raise ValueError(f"RMO must replace at least 1 response of a group, got {self.num_replaced}.")


def total_rewards(rewards: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Weighted sum over reward functions, `[n, f]` → `[n]`; a term that does not apply (NaN) counts as 0, as in TRL."""
    return np.nansum(np.asarray(rewards, dtype=np.float64) * np.asarray(weights, dtype=np.float64), axis=1)


def attainable_maximum(rewards: np.ndarray, weights: Sequence[float]) -> float:
    """Largest total reward of a group `[g, f]`: the weights of the terms that apply, each reward being at most 1.

    An upper bound: consistency is τ-b, which ties in the true values keep below 1 (0 if all are equal), so a perfect
    answer about two equal images earns 2.5 of 3.5 with the default weights. Such a group counts as stagnant below the
    ceiling; mutating it is harmless, as its replaced response earns the same and advantages stay 0.
    """
    applies = ~np.isnan(np.asarray(rewards, dtype=np.float64)).all(axis=0)
    return float(np.asarray(weights, dtype=np.float64)[applies].sum())


def learning_signal(rewards: np.ndarray, weights: Sequence[float], aggregation: str) -> np.ndarray:
    """What the advantages of a group are made of, `[g, f]` → `[g]`: where it is all equal, they are 0.

    Args:
        rewards: NaN where a reward function does not apply.
        weights: Weight of each reward function, `[f]`.
        aggregation: `"sum_then_normalize"`: the total rewards. `"normalize_then_sum"` (GDPO, arXiv:2601.05242): each
            reward less its mean over the group, over its standard deviation, and then the weighted sum, so that equal
            totals of unlike parts do teach something.
    """
    if aggregation == "sum_then_normalize":
        return total_rewards(rewards, weights)
    parts = np.zeros_like(rewards, dtype=np.float64)
    for number, column in enumerate(np.asarray(rewards, dtype=np.float64).T):
        known = ~np.isnan(column)
        if known.sum() > 1 and np.ptp(column[known]) > TIE:
            parts[known, number] = (column[known] - column[known].mean()) / (column[known].std(ddof=1) + 1e-4)
    return total_rewards(parts, weights)


def is_stagnant(rewards: np.ndarray, weights: Sequence[float], settings: MutationSettings) -> bool:
    """Whether a group `[g, f]` teaches nothing, and its mean total reward is short of the ceiling."""
    signal = learning_signal(rewards, weights, settings.aggregation)
    short = total_rewards(rewards, weights).mean() < settings.ceiling * attainable_maximum(rewards, weights)
    return bool(np.ptp(signal) <= TIE and short)


def choose_mutated(
    rewards: np.ndarray, weights: Sequence[float], settings: MutationSettings, *, step: int, group: int
) -> np.ndarray:
    """Indices of the responses of one group that are to be replaced, ascending; empty when it is left alone.

    A pure function of its arguments, so every process decides alike, and a resumed run decides as before.

    Args:
        rewards: Rewards of the group's responses, `[g, f]`, NaN where a reward function does not apply.
        weights: The trainer's reward weights, `[f]`.
        settings: The operation's settings.
        step: Number of the generation batch in the run.
        group: Number of the group in the (global) generation batch.
    """
    none = np.empty(0, dtype=np.int64)
    totals = total_rewards(rewards, weights)
    if settings.trigger == "stagnant":
        if not is_stagnant(rewards, weights, settings):
            return none
        candidates = np.arange(len(totals))
    else:
        candidates = np.flatnonzero(totals < settings.threshold)
        if candidates.size == 0:
            return none
    rng = np.random.default_rng([settings.seed, step, group])
    if rng.random() >= settings.probability:
        return none
    draw = rng.permutation(len(totals))  # breaks ties between equal rewards
    # Rounding first, or the last bit of a float sum would decide between responses that are in truth tied.
    ranked = candidates[np.lexsort((draw[candidates], np.round(totals[candidates], 6)))]
    return np.sort(ranked[: settings.num_replaced])


def reference_text(completion: str, reference: str, num_images: int, *, keep_reasoning: bool) -> tuple[int, str]:
    """How a completion is rewritten: `(start, tail)`, so that the mutated response is `completion[:start] + tail`.

    With `keep_reasoning`, only the answer block is replaced, provided that the result is well formatted; an unreadable
    completion is replaced whole by `reference`.

    Args:
        completion: The sampled response, without special tokens.
        reference: A whole response: one think block, then one answer block.
        num_images: N, the number of images in the prompt.
        keep_reasoning: Whether the sampled think block stays.
    """
    source, target = answer_span(completion), answer_span(reference)
    if keep_reasoning and source is not None and target is not None:
        start, tail = source[0], reference[target[0] : target[1]]
        if is_formatted(completion[:start] + tail, num_images):
            return start, tail
    return 0, reference


def rewrite_ids(
    ids: Sequence[int],
    start: int,
    tail: str,
    *,
    decode: Callable[[list[int]], str],
    encode: Callable[[str], list[int]],
    eos_token_id: int,
) -> list[int]:
    """Token ids of a mutated response: sampled ids up to character `start`, then `tail` re-encoded, then EOS.

    Tokens straddle the border of the answer block, so the sampled ids are kept up to the last token that ends before
    it, and what lies between is encoded anew together with the tail.

    Args:
        ids: Sampled token ids.
        start: Characters of the decoded response that stay.
        tail: Text that follows them.
        decode: Token ids → text, dropping special tokens.
        encode: Text → token ids, adding none.
        eos_token_id: Token that ends the response.
    """
    text = decode(list(ids))
    shared, low, high = 0, 0, len(ids)
    while low <= high and start > 0:  # the longest prefix of whole tokens that ends at or before `start`
        middle = (low + high) // 2
        if len(decode(list(ids[:middle]))) <= start:
            shared, low = middle, middle + 1
        else:
            high = middle - 1
    # A prefix may end inside a character of several bytes; step back until it decodes to a prefix of the text.
    while shared > 0 and not text[:start].startswith(decode(list(ids[:shared]))):
        shared -= 1
    prefix = decode(list(ids[:shared])) if shared else ""
    return [*ids[:shared], *encode(text[len(prefix) : start] + tail), eos_token_id]


def zero_tied_advantages(advantages: Any, totals: Any, num_generations: int) -> Any:
    """Advantages `[n]` with every tied group's set to exactly 0 (torch tensors, groups of `num_generations` rows).

    The float sum of equal rewards can differ in the last bit, and TRL divides the difference by `std + 1e-4`: about
    1e-3 of noise where the paper's equation 2 has 0.
    """
    grouped = totals.view(-1, num_generations)
    tied = (grouped.amax(dim=1) - grouped.amin(dim=1)) <= TIE
    return advantages.masked_fill(tied.repeat_interleave(num_generations), 0.0)
