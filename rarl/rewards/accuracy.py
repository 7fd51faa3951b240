"""Accuracy reward: whether the listed order is the true one."""

from collections.abc import Sequence
from typing import Any

from rarl.answer import Answer
from rarl.rewards.scoring import Rewards, TaskColumn, Values, concordance, read_answers


def accuracy(answer: Answer, values: Sequence[float]) -> float | None:
    """Kendall τ between the listed order and the true `values`, in −1..1; `None` where these have no order."""
    pairs = concordance(values)[1]
    if pairs == 0:
        return None
    if len(answer.items) < 2:
        return -1.0
    return concordance([values[item.image_id - 1] for item in answer.items])[0] / pairs


def accuracy_reward(
    completions: Sequence[Any], values: Values, task: TaskColumn | None = None, **kwargs: Any
) -> Rewards:
    """Kendall τ between the listed order and the true values, over the pairs that differ in truth.

    ```
    reward = (pairs in the right order - pairs in the wrong order) / pairs of different true values
    ```

    A pair with a missing image is neither right nor wrong, and counts in the denominator. Images of equal true value
    may stand in any order, so a perfect order is exactly 1; without ties this is the ordinary τ. Fewer than two valid
    items (an unreadable answer among them) score −1. One image, or equal values throughout, has no order: not
    applicable.

    Inputs:

    | column | per completion |
    |---|---|
    | completions | text, or messages |
    | values | true value of each image, in prompt order |
    | task | not used |

    Returns:
        One reward in −1..1 per completion, `None` for one image or where all true values are equal.

    Raises:
        ValueError: If the columns differ in length.

    Reference: RARL, equation 6; evaluation on several images reports its mean.

    Example:

    ```python
    >>> from rarl.rewards import accuracy_reward
    >>> text = '<answer>[{"image_id": 2, "value": 4}, {"image_id": 1, "value": 25}]</answer>'
    >>> accuracy_reward([text], values=[[30, 4]])
    [1.0]
    ```
    """
    return [accuracy(answer, truth) for answer, truth in zip(read_answers(completions, values), values, strict=True)]
