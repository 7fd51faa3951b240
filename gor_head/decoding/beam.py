"""Beam search: some of the likeliest codes of each row."""

import torch
from torch import Tensor

from gor_head.decoders import select
from gor_head.interface import CodeModel
from gor_head.intervals import Prefixes
from gor_head.vocabulary import EOS, PAD, SOS


@torch.no_grad()
def beam(model: CodeModel, memory: Tensor, width: int = 4) -> tuple[Tensor, Tensor]:
    """The codes that survive a beam search, likeliest first.

    Args:
        model: A model in evaluation mode.
        memory: The encoder's output, `[B, L, D]`.
        width: Codes kept per row, k ≥ 1.

    Returns:
        Token ids `[B, k, T]`, and log P(code) `[B, k]`; −inf where a row has fewer than k codes, whose ids are PAD.
    """
    if width < 1:
        raise ValueError(f"width: wanted 1 or more, got {width}.")
    rows, size, device = len(memory), len(model.vocabulary), memory.device
    flat = torch.arange(rows, device=device).repeat_interleave(width)
    cache = select(model.decoder.start(memory), flat)
    state = model.intervals.start(rows * width)
    codes = torch.zeros(rows * width, 0, dtype=torch.int64, device=device)
    last = torch.full((rows * width,), SOS, device=device)
    # All beams of a row begin alike: only the first may go on.
    scores = torch.full((rows, width), -torch.inf, device=device)
    scores[:, 0] = 0.0
    ended = torch.zeros(rows * width, dtype=torch.bool, device=device)
    for _ in range(model.vocabulary.max_length + 1):
        log_probs, cache = model.step(last, cache, state)
        log_probs = log_probs.masked_fill(~model.intervals.legal_tokens(state), -torch.inf)
        scores, best = (scores[..., None] + log_probs.view(rows, width, size)).flatten(1).topk(width, dim=1)
        parent = (best // size + torch.arange(rows, device=device)[:, None] * width).flatten()
        last = torch.where(scores.flatten() > -torch.inf, (best % size).flatten(), PAD)
        codes = torch.cat([codes[parent], last[:, None]], dim=1)
        cache = select(cache, parent)
        state = model.intervals.advance(Prefixes(*(part[parent] for part in vars(state).values())), last)
        ended = ended[parent] | (last == EOS) | (scores.flatten() == -torch.inf)
        if bool(ended.all()):
            break
    codes = torch.where((scores.flatten() == -torch.inf)[:, None], PAD, codes)
    return codes.unflatten(0, (rows, width)), scores
