"""Consistency reward: whether the list is in the order of its own values."""

import math
from collections.abc import Sequence
from typing import Any

from rarl.answer import Answer
from rarl.rewards.scoring import Rewards, TaskColumn, Values, concordance, read_answers


def consistency(answer: Answer) -> float | None:
    """Kendall τ-b between place in the list and predicted value, in −1..1; `None` for one image."""
    if answer.num_images == 1:
        return None
    count = len(answer.items)
    if count < 2:
        return -1.0
    score, untied = concordance([item.value for item in answer.items])
    # Places are never tied, so only the values' ties enter τ-b's denominator.
    return score / math.sqrt(count * (count - 1) // 2 * untied) if untied else 0.0


def consistency_reward(
    completions: Sequence[Any], values: Values, task: TaskColumn | None = None, **kwargs: Any
) -> Rewards:
    """Kendall τ-b between an item's place in the list and its predicted value, over the valid items.

    ```
    reward = (ascending pairs - descending pairs) / sqrt(pairs * pairs of different values)
    ```

    The truth plays no part. If all predicted values are equal the reward is 0; some equal values keep it under 1, even
    if they are true. Fewer than two valid items (an unreadable answer among them) score −1. One image has no order:
    not applicable.

    Inputs:

    | column | per completion |
    |---|---|
    | completions | text, or messages |
    | values | true value of each image, in prompt order; only their number counts |
    | task | not used |

    Returns:
        One reward in −1..1 per completion, `None` for one image.

    Raises:
        ValueError: If the columns differ in length.

    Reference: RARL, equation 5.

    Example:

    ```python
    >>> from rarl.rewards import consistency_reward
    >>> text = '<answer>[{"image_id": 2, "value": 4}, {"image_id": 1, "value": 3}]</answer>'
    >>> consistency_reward([text], values=[[30, 4]])
    [-1.0]
    ```
    """
    return [consistency(answer) for answer in read_answers(completions, values)]
