"""Length reward: whether the answer covers every image."""

from collections.abc import Sequence
from typing import Any

from rarl.answer import Answer
from rarl.rewards.scoring import Rewards, TaskColumn, Values, read_answers


def length(answer: Answer) -> float | None:
    """1 if every image has a valid item, else 0; `None` for one image."""
    if answer.num_images == 1:
        return None
    return float(len(answer.items) == answer.num_images)


def graded_length(answer: Answer) -> float | None:
    """Share of the images that have a valid item, in 0..1; `None` for one image."""
    if answer.num_images == 1:
        return None
    return len(answer.items) / answer.num_images


def length_reward(completions: Sequence[Any], values: Values, task: TaskColumn | None = None, **kwargs: Any) -> Rewards:
    """1 if the answer covers every image of the prompt, else 0.

    ```
    reward = 1 if number of distinct valid image ids == N else 0
    ```

    One image has no ranking to complete: not applicable. An unreadable answer scores 0.

    Inputs:

    | column | per completion |
    |---|---|
    | completions | text, or messages |
    | values | true value of each image, in prompt order; only their number counts |
    | task | not used |

    Returns:
        0 or 1 per completion, `None` for one image.

    Raises:
        ValueError: If the columns differ in length.

    [`graded_length_reward`][rarl.rewards.length.graded_length_reward] rises step by step,
    [`length_reward`][rarl.rewards.length.length_reward] at the last image only.

    Reference: RARL, equation 4.

    Example:

    ```python
    >>> from rarl.rewards import length_reward
    >>> text = '<answer>[{"image_id": 2, "value": 4}]</answer>'
    >>> length_reward([text, text], values=[[30, 4], [4]])
    [0.0, None]
    ```
    """
    return [length(answer) for answer in read_answers(completions, values)]


def graded_length_reward(
    completions: Sequence[Any], values: Values, task: TaskColumn | None = None, **kwargs: Any
) -> Rewards:
    """Share of the images that the answer covers: [`length_reward`][rarl.rewards.length.length_reward] with partial
    credit, to be used in its place.

    ```
    reward = number of distinct valid image ids / N
    ```

    Inputs, `None` and errors are those of [`length_reward`][rarl.rewards.length.length_reward].

    Example:

    ```python
    >>> from rarl.rewards import graded_length_reward
    >>> graded_length_reward(['<answer>[{"image_id": 2, "value": 4}]</answer>'], values=[[30, 4]])
    [0.5]
    ```
    """
    return [graded_length(answer) for answer in read_answers(completions, values)]
