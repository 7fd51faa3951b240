"""Free running: the decoder sees its own tokens; and the step-by-step pass that it shares with the curriculum."""

import torch
from torch import Tensor

from gor_head.interface import CodeModel
from gor_head.training.base import Strategy
from gor_head.vocabulary import SOS


def mixed_pass(model: CodeModel, memory: Tensor, codes: Tensor, *, from_model: Tensor) -> Tensor:
    """Log-probabilities where some inputs are the model's own likeliest tokens instead of the true ones.

    The targets stay the true codes, and so do the tokens that count as legal; the model's own tokens are legal after
    its own prefix, as they would be in decoding.

    Args:
        model: The model.
        memory: The encoder's output, `[B, L, D]`.
        codes: True codes, int64 `[B, T]`.
        from_model: Which tokens are fed as the model chose them, bool `[B, T]`.

    Returns:
        `[B, T, V]`.
    """
    legal = model.legal(codes)
    cache = model.decoder.start(memory)
    state = model.intervals.start(len(codes))
    fed = torch.full_like(codes[:, 0], SOS)
    steps: list[Tensor] = []
    for t in range(codes.shape[1]):
        hidden, cache = model.decoder(model.embedding(fed[:, None]), cache)
        steps.append(model.head(hidden[:, 0], legal[:, t]))
        with torch.no_grad():
            chosen = model.head(hidden[:, 0], model.intervals.legal_tokens(state)).argmax(dim=1)
        fed = torch.where(from_model[:, t], chosen, codes[:, t])
        state = model.intervals.advance(state, fed)
    return torch.stack(steps, dim=1)


class FreeRunning(Strategy):
    """Every input is the model's own likeliest token; the target is the true token at that place (paper, table 8)."""

    def passes(self, model: CodeModel, memory: Tensor, codes: Tensor, *, progress: float) -> list[tuple[float, Tensor]]:
        """See [`Strategy.passes`][gor_head.training.base.Strategy.passes]."""
        return [(1.0, mixed_pass(model, memory, codes, from_model=torch.ones_like(codes, dtype=torch.bool)))]
