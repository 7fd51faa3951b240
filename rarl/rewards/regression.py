"""Regression reward: how near the predicted values are to the true ones."""

from collections.abc import Sequence
from typing import Any

from rarl.answer import Answer
from rarl.rewards.scoring import Rewards, TaskColumn, Values, read_answers, read_tasks


def regression(answer: Answer, values: Sequence[float], tolerance: float) -> float:
    """Regression reward of one answer, in 0..1; `values` are the true ones, `tolerance` is δ in their unit."""
    total = 0.0
    for image_id, predicted in answer.items:
        distance = abs(predicted - values[image_id - 1])
        if distance <= tolerance:
            total += 1.0 - (distance / tolerance) ** 2
    return total / len(values)


def regression_reward(completions: Sequence[Any], values: Values, task: TaskColumn, **kwargs: Any) -> Rewards:
    """Mean closeness of the predicted values, non-zero within the tolerance δ of the task only.

    ```
    reward = mean over the N true images of (1 - ((predicted - true) / δ) ** 2  if |predicted - true| <= δ  else 0)
    ```

    A missing image scores 0, and so does an unreadable answer.

    Inputs:

    | column | per completion |
    |---|---|
    | completions | text, or messages |
    | values | true value of each image, in prompt order |
    | task | task or its name; one for all is fine |

    Returns:
        One reward in 0..1 per completion, 1 for the true values.

    Raises:
        ValueError: If the columns differ in length or a task is unknown.

    Reference: RARL, equation 3.

    Example:

    ```python
    >>> from rarl.rewards import regression_reward
    >>> text = '<answer>[{"image_id": 2, "value": 4}, {"image_id": 1, "value": 25}]</answer>'
    >>> regression_reward([text], values=[[30, 4]], task=["age"])
    [0.875]
    ```
    """
    answers = read_answers(completions, values)
    tasks = read_tasks(task, len(completions))
    return [
        regression(answer, truth, row_task.tolerance)
        for answer, truth, row_task in zip(answers, values, tasks, strict=True)
    ]
