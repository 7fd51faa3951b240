"""Which groups go through the model together, and in how many parts: least work, within a budget of tokens."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from rarl.shared_prefix.layout import Group


def attention_cost(config: Any) -> float:
    """Work of a query with one key, `q·k` and `p·v`, over the work of a token in the projections of a layer."""
    text = config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    query, key = (head_dim * heads for heads in (text.num_attention_heads, text.num_key_value_heads))
    projections = text.hidden_size * (2 * query + 2 * key + 3 * text.intermediate_size)
    return 2 * query / projections


def cut_groups(groups: Sequence[Group], lengths: Sequence[int], cost: float) -> list[Group]:
    """Groups in as many part-groups of like size as make least work.

    A row of `n` tokens is `n + cost·n²` of work, as attention computes all pairs, also those that the mask hides: many
    long answers to a short prompt are cheaper in rows of a few, each with the prompt again.

    Args:
        groups: The groups of one micro-batch.
        lengths: Tokens of each answer of the micro-batch, indexed by `Group.rows`.
        cost: Work of a pair of tokens beside that of a token; see
            [`attention_cost`][rarl.shared_prefix.calls.attention_cost]. 0 leaves groups whole.
    """
    parts = []
    for group in groups:
        number, prompt = len(group.rows), len(group.prompt) - 1
        answer = sum(lengths[row] for row in group.rows) / number

        def work(number_of_parts: int, number: int = number, prompt: int = prompt, answer: float = answer) -> float:
            tokens = prompt + answer * number / number_of_parts
            return number_of_parts * (tokens + cost * tokens**2)

        number_of_parts = min(range(1, number + 1), key=work)
        split = torch.tensor(group.rows).tensor_split(number_of_parts)
        parts += [replace(group, rows=tuple(part.tolist())) for part in split]
    return parts


def plan_calls(groups: Sequence[Group], lengths: Sequence[int], budget: int | None) -> list[list[Group]]:
    """Which groups go through the model together: padded tokens of a call stay within `budget`.

    Groups of like length come together, so that little is padded. A group whose row alone is over the budget is cut
    into part-groups, each with the prompt again; a single answer over it goes alone.

    Args:
        groups: The groups of one micro-batch.
        lengths: Tokens of each answer of the micro-batch, indexed by `Group.rows`.
        budget: The largest number of tokens in a call, padding included; `None` puts all groups into one.
    """
    if budget is None:
        return [list(groups)]
    parts: list[tuple[int, Group]] = []
    for group in groups:
        shared = len(group.prompt) - 1
        rows: list[int] = []
        tokens = shared
        for row in group.rows:
            if rows and tokens + lengths[row] > budget:
                parts.append((tokens, replace(group, rows=tuple(rows))))
                rows, tokens = [], shared
            rows.append(row)
            tokens += lengths[row]
        parts.append((tokens, replace(group, rows=tuple(rows))))
    calls: list[list[Group]] = []
    longest = 0
    for tokens, part in sorted(parts, key=lambda pair: -pair[0]):
        if not calls or (len(calls[-1]) + 1) * longest > budget:
            calls.append([])
            longest = tokens  # the first of a call is its longest
        calls[-1].append(part)
    return calls


def split_calls(calls: Sequence[Sequence[Group]], number: int) -> list[list[Group]]:
    """The same work in exactly `number` calls: processes that shard a model must call it equally often.

    Raises:
        ValueError: If there are fewer answers than calls wanted, or more calls than wanted already.
    """
    result = [list(call) for call in calls]
    while len(result) < number:
        largest = max(range(len(result)), key=lambda index: sum(len(group.rows) for group in result[index]))
        call = result.pop(largest)
        if len(call) == 1:
            rows = call[0].rows
            call = [replace(call[0], rows=half) for half in (rows[::2], rows[1::2])]
            if not rows[1:]:
                raise ValueError(f"{number} calls are wanted, but there are only {len(result) + 1} answers.")
        result += [call[::2], call[1::2]]
    if len(result) != number:
        raise ValueError(f"{len(result)} calls are planned, more than the {number} wanted.")
    return result
