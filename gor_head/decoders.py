"""Decoders: memory and the tokens so far → hidden states, a step at a time or whole codes at once.

All share one interface: `start` turns the memory into a cache, `forward` takes embedded tokens and a cache and gives
hidden states and the next cache. A cache is a tuple of tensors whose first dimension is the row, so that rows are
dropped or repeated by indexing each of them ([`select`][gor_head.decoders.select]).
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Cache = tuple[Tensor, ...]


def select(cache: Cache, rows: Tensor) -> Cache:
    """The rows of a cache, by index or mask."""
    return tuple(part[rows] for part in cache)


class Decoder(ABC, nn.Module):
    """What every decoder does; `width` is the size of its tokens and hidden states."""

    width: int

    @abstractmethod
    def start(self, memory: Tensor) -> Cache:
        """Cache before the first token, from memory `[B, L, D]`."""

    @abstractmethod
    def forward(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Embedded tokens `[B, T, width]` that follow those in the cache → hidden states `[B, T, width]`, cache."""


class RecurrentDecoder(Decoder):
    """RNN, GRU or LSTM whose state begins as a function of the mean memory, which it also sees at every step.

    Args:
        memory_width: D of the memory.
        width: Width of tokens and hidden states.
        layers: Recurrent layers.
        heads, positions: Not used; decoders share one signature.
        dropout: Between layers, and on the hidden states.
    """

    kind: ClassVar[Any] = nn.RNN
    states: ClassVar[int] = 1

    def __init__(
        self,
        memory_width: int,
        width: int,
        layers: int = 2,
        *,
        heads: int = 4,
        dropout: float = 0.1,
        positions: int = 17,
    ) -> None:
        super().__init__()
        self.width, self.layers = width, layers
        self.first = nn.Linear(memory_width, layers * width)
        self.context = nn.Linear(memory_width, width)
        self.cells = self.kind(width, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)

    def start(self, memory: Tensor) -> Cache:
        """State `[B, layers, width]` (LSTM: and cell), then the context `[B, width]`."""
        pooled = memory.mean(dim=1)
        state = torch.tanh(self.first(pooled)).unflatten(1, (self.layers, self.width))
        return (state, *([torch.zeros_like(state)] * (self.states - 1)), self.context(pooled))

    def forward(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """See [`Decoder`][gor_head.decoders.Decoder]."""
        *states, context = cache
        layered = tuple(state.transpose(0, 1).contiguous() for state in states)
        hidden, after = self.cells(tokens + context[:, None], layered if self.states > 1 else layered[0])
        parts = after if self.states > 1 else (after,)
        return self.dropout(hidden), (*(part.transpose(0, 1) for part in parts), context)


class RNNDecoder(RecurrentDecoder):
    """Elman network, see [`RecurrentDecoder`][gor_head.decoders.RecurrentDecoder]."""


class GRUDecoder(RecurrentDecoder):
    """Gated recurrent units, see [`RecurrentDecoder`][gor_head.decoders.RecurrentDecoder]."""

    kind = nn.GRU


class LSTMDecoder(RecurrentDecoder):
    """Long short-term memory, see [`RecurrentDecoder`][gor_head.decoders.RecurrentDecoder]."""

    kind = nn.LSTM
    states = 2


class TransformerLayer(nn.Module):
    """Causal self-attention, attention over the memory and a feed-forward part, each normalised before."""

    def __init__(self, memory_width: int, width: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.self_in, self.self_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.memory_in = nn.Linear(memory_width, 2 * width)
        self.query, self.memory_out = nn.Linear(width, width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def start(self, memory: Tensor) -> Cache:
        """Keys and values: none of tokens yet, `[B, heads, 0, d]`, and those of the memory, `[B, heads, L, d]`."""
        keys, values = (self._split(part) for part in self.memory_in(memory).chunk(2, dim=2))
        none = keys[:, :, :0]
        return none, none, keys, values

    def forward(self, x: Tensor, cache: Cache, mask: Tensor | None) -> tuple[Tensor, Cache]:
        """Hidden states `[B, T, width]` → the same after this layer, and the cache with T more tokens."""
        past_keys, past_values, memory_keys, memory_values = cache
        query, key, value = (self._split(part) for part in self.self_in(self.norms[0](x)).chunk(3, dim=2))
        first = past_keys.shape[2] == 0
        keys = key if first else torch.cat([past_keys, key], dim=2)
        values = value if first else torch.cat([past_values, value], dim=2)
        # A single token attends to all before it and needs no mask; so do whole codes from the start, bar causality.
        attended = F.scaled_dot_product_attention(query, keys, values, mask, is_causal=first and x.shape[1] > 1)
        x = x + self.dropout(self.self_out(_join(attended)))
        if memory_keys.shape[2] == 1:
            # Attention over one place has weight 1, whatever the query.
            attended = memory_values
        else:
            query = self._split(self.query(self.norms[1](x)))
            attended = F.scaled_dot_product_attention(query, memory_keys, memory_values)
        x = x + self.dropout(self.memory_out(_join(attended)))
        x = x + self.dropout(self.feed(self.norms[2](x)))
        return x, (keys, values, memory_keys, memory_values)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


def _join(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)


class TransformerDecoder(Decoder):
    """Pre-norm transformer with learned positions and a key-value cache.

    Args:
        memory_width: D of the memory.
        width: Width of tokens and hidden states; a multiple of `heads`.
        layers: Layers (paper: 2).
        heads: Attention heads (paper: 4).
        dropout: After every part of a layer (paper: 0.1).
        positions: The largest number of tokens in a code, EOS counted.
    """

    def __init__(
        self,
        memory_width: int,
        width: int,
        layers: int = 2,
        *,
        heads: int = 4,
        dropout: float = 0.1,
        positions: int = 17,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"TransformerDecoder: wanted a width that is a multiple of {heads} heads, got {width}.")
        self.width = width
        self.positions = nn.Embedding(positions, width)
        self.layers = nn.ModuleList(
            TransformerLayer(memory_width, width, heads, dropout=dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def start(self, memory: Tensor) -> Cache:
        """Four tensors per layer, see [`TransformerLayer.start`][gor_head.decoders.TransformerLayer.start]."""
        return tuple(part for layer in self.layers for part in cast(TransformerLayer, layer).start(memory))

    def forward(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """See [`Decoder`][gor_head.decoders.Decoder]."""
        past, count = cache[0].shape[2], tokens.shape[1]
        x = tokens + self.positions.weight[past : past + count]
        mask = None
        if count > 1 and past:
            mask = torch.ones(count, past + count, dtype=torch.bool, device=x.device).tril(past)
        after: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            x, parts = layer(x, cache[4 * i : 4 * i + 4], mask)
            after += parts
        return self.norm(x), tuple(after)


DECODERS: dict[str, type[Decoder]] = {
    "rnn": RNNDecoder,
    "gru": GRUDecoder,
    "lstm": LSTMDecoder,
    "transformer": TransformerDecoder,
}
