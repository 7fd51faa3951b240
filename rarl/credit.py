"""Credit for the items of an answer: which tokens could still change which part of the reward.

GRPO gives every token of an answer the advantage of the whole. An answer about eight images states sixteen numbers, and
the error of the first says nothing of the tokens after it. Here an answer is cut at the numbers that it states, in the
reasoning (`Image 2: 7`) and in the list. What it is worth after each of them is its *promise*: the regression reward
of the values stated so far and the accuracy of the pairs among them, in the weights of the total,

```
promise = α/N · Σ_i (1 − ((stated_i − true_i) / δ)²)⁺ + β/pairs · Σ_{i<j} right(i, j)
```

A value in the list takes the place of that in the reasoning, and pairs of which both are listed go by their places
instead of their values. The reward to go of a token is the total less the promise before its number, so it has only
what this token and those after it can change; the baseline is the mean of the others of the group at the same number.
Both are functions of what was sampled before the token, or of other answers, so the estimator has the expectation of
the policy gradient, and less variance.

Everything here is a pure function of texts and numbers; the wiring is in
[`rarl.trainer.RARLTrainer`][rarl.trainer.rarl.RARLTrainer].
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gor_head.numbers import read_number
from gor_head.text import CODE_PATTERN, codes_to_numbers
from rarl.answer_format import ANSWER_CLOSE, ANSWER_OPEN, before_number

# In digits, without an exponent: that there is none would show two characters later only. Or in value tokens, which
# take the blank before them along.
_NUMBER = rf"(?: ([+-]?[0-9.]+)| ?({CODE_PATTERN}))"


class Statement(NamedTuple):
    """A number that an answer states of an image.

    Attributes:
        image: Number of the image in the prompt, from 1.
        value: The number.
        start: Its first character in the answer.
        end: The character after its last; the number is known to end when this one is there.
        listed: Whether it stands in the list.
    """

    image: int
    value: float
    start: int
    end: int
    listed: bool


def find_statements(text: str, num_images: int, words: Sequence[str] = ()) -> list[Statement]:
    """The numbers that an answer states, in their order: of each image the first in the reasoning, and the first in the
    list. Where a task has words, a number of the reasoning stands behind one.

    Whether a number is one of these shows in the text before it and the character after it, never later: what an answer
    goes on to say, or leaves unsaid, must not change what its tokens are credited with. So a list counts as far as it
    is written in the way of [`write_list`][rarl.answer_format.write_list], whether it will end well or not; one that is
    written otherwise has no statements, and its worth shows at its end.
    """
    found: list[Statement] = []
    seen: set[tuple[int, bool]] = set()
    for match in re.finditer(before_number(words) + _NUMBER, text):
        listed = match[2] is not None
        inside = text.rfind(ANSWER_OPEN, 0, match.start()) > text.rfind(ANSWER_CLOSE, 0, match.start())
        image = int(match[2] if listed else match[1])
        written = 3 if match[3] is not None else 4
        value = read_number(codes_to_numbers(match[written]))
        if value is None or listed != inside or not 1 <= image <= num_images or (image, listed) in seen:
            continue
        seen.add((image, listed))
        found.append(Statement(image, value, match.start(written), match.end(written), listed))
    return found


@dataclass(frozen=True)
class Worth:
    """What stated numbers are worth.

    Args:
        values: True value of each image, in prompt order.
        tolerance: δ of the task.
        regression: Weight of the regression reward.
        accuracy: Weight of the accuracy reward.
    """

    values: Sequence[float]
    tolerance: float
    regression: float
    accuracy: float

    def closeness(self, image: int, numbers: Any) -> Any:
        """Regression reward of values of one image, 0..1; of any shape."""
        distance = np.abs(np.asarray(numbers, dtype=np.float64) - self.values[image - 1]) / self.tolerance
        return np.where(distance <= 1, 1 - np.minimum(distance, 1) ** 2, 0.0)

    @property
    def pairs(self) -> int:
        """Pairs of images that differ in truth."""
        ordered = np.asarray(self.values)
        return int((ordered[:, None] != ordered[None, :]).sum()) // 2

    def gains(self, before: Sequence[Statement], image: int, numbers: Any, *, listed: bool) -> np.ndarray:
        """By how much the promise rises with one more number, `[k]`.

        Args:
            before: The statements before it.
            image: The image that it is about.
            numbers: Numbers that might be stated, `[k]`.
            listed: Whether it stands in the list.
        """
        numbers = np.asarray(numbers, dtype=np.float64)
        reasoned = {each.image: each.value for each in before if not each.listed}
        places = [each.image for each in before if each.listed]
        old = self.closeness(image, reasoned[image]) if listed and image in reasoned else 0.0
        gain = self.regression / len(self.values) * (self.closeness(image, numbers) - old)
        if not self.accuracy or not self.pairs:
            return gain
        truth = self.values[image - 1]
        score = np.zeros_like(numbers)
        if listed:
            for other in places:  # it stands behind them, whatever its value
                score += np.sign(truth - self.values[other - 1])
                if image in reasoned and other in reasoned:
                    promised = np.sign(reasoned[image] - reasoned[other])
                    score -= promised * np.sign(truth - self.values[other - 1])
        else:
            for other, value in reasoned.items():
                score += np.sign(numbers - value) * np.sign(truth - self.values[other - 1])
        return gain + self.accuracy / self.pairs * score

    def promises(self, statements: Sequence[Statement]) -> np.ndarray:
        """The promise before each statement and after the last, `[s + 1]`; 0 before the first."""
        gains = [
            self.gains(statements[:place], each.image, [each.value], listed=each.listed)[0]
            for place, each in enumerate(statements)
        ]
        return np.concatenate([[0.0], np.cumsum(gains)])


def token_ends(ids: Sequence[int], decode: Callable[[list[int]], str]) -> list[int]:
    """The number of characters up to the end of each token, `[t]`.

    Args:
        ids: Token ids of an answer.
        decode: Token ids → text.
    """
    parts = [decode([each]) for each in ids]
    if "".join(parts) == decode(list(ids)):
        return np.cumsum([len(part) for part in parts]).tolist() if parts else []
    # A character of several tokens: prefixes tell.
    return [len(decode(list(ids[: end + 1]))) for end in range(len(ids))]


def stages(statements: Sequence[Statement], ends: Sequence[int]) -> np.ndarray:
    """How many statements were complete before each token was drawn, `[t]`.

    A number is complete with the token that holds the character after it: until then another digit may follow.

    Args:
        statements: Those of the answer.
        ends: End of each token in characters, see [`token_ends`][rarl.credit.token_ends].
    """
    starts = np.concatenate([[0], np.asarray(ends[:-1], dtype=np.int64)]) if len(ends) else np.empty(0, np.int64)
    # The token that covers character `end` begins at or before it; tokens after it begin later.
    return np.array([sum(start > each.end for each in statements) for start in starts], dtype=np.int64)


def stage_keys(statements: Sequence[Statement], most: int) -> list[int]:
    """A number for each stage of an answer, `[s + 1]`, by which answers of a group are compared: ascending, below
    `2 * (most + 1)`.

    Args:
        statements: Those of the answer.
        most: The largest number of images of a prompt.
    """
    keys, reasoned, listed = [0], 0, 0
    for each in statements:
        listed, reasoned = listed + each.listed, reasoned + (not each.listed)
        keys.append(most + 1 + listed if listed else reasoned)
    return keys


@dataclass(frozen=True)
class CreditedAnswer:
    """A sampled answer, cut at the numbers that it states.

    Attributes:
        statements: The numbers.
        promises: Promise before each of them and after the last, `[s + 1]`.
        keys: A number for each of these stages, `[s + 1]`; see [`stage_keys`][rarl.credit.stage_keys].
        stages: Stage of each token, `[t]`.
        starts: Token with which each number begins, `[s]`.
    """

    statements: list[Statement]
    promises: np.ndarray
    keys: list[int]
    stages: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(
        cls,
        ids: Sequence[int],
        num_images: int,
        worth: Worth,
        *,
        decode: Callable[[list[int]], str],
        most: int,
        words: Sequence[str] = (),
    ) -> "CreditedAnswer":
        """Cut an answer.

        Args:
            ids: Its token ids, without padding.
            num_images: Number of images in the prompt.
            worth: What numbers are worth.
            decode: Token ids → text, without special tokens.
            most: The largest number of images of a prompt of the batch.
            words: Words of the task, one of which stands before each number of the reasoning.
        """
        statements, ends = find_statements(decode(list(ids)), num_images, words), token_ends(ids, decode)
        starts = np.searchsorted(ends, [each.start for each in statements], side="right")
        keys = stage_keys(statements, most)
        return cls(statements, worth.promises(statements), keys, stages(statements, ends), starts)


def rewards_to_go(totals: Any, promises: Sequence[np.ndarray], keys: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """Reward to go of each answer at each stage, `[n, width]`: its total less what it promised before.

    At a stage that an answer does not have it stands as at its stage before.

    Args:
        totals: Total rewards, `[n]`.
        promises: Promise at each stage of each answer.
        keys: Number of each of these stages.
        width: Number of stages that there can be.
    """
    table = np.empty((len(promises), width))
    for row, (promise, key) in enumerate(zip(promises, keys, strict=True)):
        last = np.zeros(width, dtype=np.int64)
        last[list(key)] = np.arange(len(key))  # of a stage that comes twice the later one
        table[row] = totals[row] - promise[np.maximum.accumulate(last)]
    return table


def deviations(totals: Any, group_size: int, scale: str = "group") -> np.ndarray:
    """What advantages of each group are divided by, `[n]` → `[n / group_size]`.

    `"none"`: 1. `"batch"`: the standard deviation of all totals. `"group"`: that of the group's totals. A tied group
    has none, and its answers may promise different things all the same; so each variance, of `group_size − 1` degrees
    of freedom, is shrunk by one degree towards the mean variance of all groups. 1 where nothing varies.

    Args:
        totals: Total rewards.
        group_size: Answers of a group.
        scale: TRL's `scale_rewards`.
    """
    grouped = np.asarray(totals, dtype=np.float64).reshape(-1, group_size)
    variances = grouped.var(axis=1, ddof=1)
    whole = variances.mean() if scale == "group" else grouped.var(ddof=1)
    if scale == "none" or whole <= 1e-12:
        return np.ones(len(grouped))
    if scale == "batch":
        return np.full(len(grouped), whole**0.5)
    return np.sqrt(((group_size - 1) * variances + whole) / group_size)
