"""Format reward: whether the completion has the form that the prompt asks for."""

from collections.abc import Sequence
from typing import Any

from rarl.answer import completion_text, is_formatted
from rarl.rewards.scoring import Rewards, TaskColumn, Values, check_rows


def format_reward(completions: Sequence[Any], values: Values, task: TaskColumn | None = None, **kwargs: Any) -> Rewards:
    """1 if the whole completion is one think block, then one answer block with a well-formed list, else 0.

    ```
    reward = 1 if completion == <think>...</think><answer>[{"image_id": ..., "value": ...}, ...]</answer> else 0
    ```

    Well-formed: the list has at least one item, every item is valid, and no image is repeated. Blanks around the blocks
    and an end-of-turn token after them do not matter.

    Inputs:

    | column | per completion |
    |---|---|
    | completions | text, or messages |
    | values | true value of each image, in prompt order; only their number counts |
    | task | not used |

    Returns:
        0 or 1 per completion.

    Raises:
        ValueError: If the columns differ in length.

    Reference: RARL, equation 8.

    Example:

    ```python
    >>> from rarl.rewards import format_reward
    >>> answer = '<answer>[{"image_id": 1, "value": 4}]</answer>'
    >>> format_reward(["<think>small</think>" + answer, answer], values=[[4], [4]])
    [1.0, 0.0]
    ```
    """
    check_rows(completions, values)
    return [
        float(is_formatted(completion_text(completion), len(truth)))
        for completion, truth in zip(completions, values, strict=True)
    ]
