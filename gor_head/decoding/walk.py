"""The walk that every one-path decoder shares: a token a step, until all rows have ended."""

from collections.abc import Callable

import torch
from torch import Tensor

from gor_head.decoders import select
from gor_head.interface import CodeModel
from gor_head.intervals import Prefixes
from gor_head.vocabulary import EOS, PAD, SOS

Choose = Callable[[Tensor, Tensor], Tensor]
"""(log-probabilities `[n, V]`, which of the B rows these are `[n]`) → token ids `[n]`."""


def walk(model: CodeModel, memory: Tensor, choose: Choose) -> Tensor:
    """Codes of B rows; a row that has ended leaves the batch.

    Args:
        model: A model in evaluation mode.
        memory: The encoder's output, `[B, L, D]`.
        choose: Picks the next tokens.

    Returns:
        Token ids, `[B, T]`, every code with EOS, then PAD; T is the longest code's length.

    Raises:
        ValueError: If a row does not end, as when its memory or the weights are NaN.
    """
    rows = torch.arange(len(memory), device=memory.device)
    last = torch.full_like(rows, SOS)
    state = model.intervals.start(len(memory))
    cache = model.decoder.start(memory)
    columns: list[Tensor] = []
    for _ in range(model.vocabulary.max_length + 1):
        if not len(rows):
            break
        log_probs, cache = model.step(last, cache, state)
        last = choose(log_probs, rows)
        state = model.intervals.advance(state, last)
        columns.append(torch.full((len(memory),), PAD, device=memory.device).index_copy(0, rows, last))
        going = (last != EOS).nonzero().squeeze(1)
        if len(going) < len(rows):
            rows, last, cache = rows[going], last[going], select(cache, going)
            state = Prefixes(*(part[going] for part in vars(state).values()))
    if len(rows):
        raise ValueError(f"decoding: {len(rows)} of {len(memory)} rows did not end; are memory and weights numbers?")
    return torch.stack(columns, dim=1) if columns else torch.zeros(0, 1, dtype=torch.int64, device=memory.device)
