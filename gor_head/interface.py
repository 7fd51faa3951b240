"""What decoding and training need of a model that writes numbers as codes."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gor_head.decoders import Cache, Decoder
from gor_head.intervals import Intervals, Prefixes
from gor_head.vocabulary import CoDiVocabulary

TARGETS = ("codes", "rejected", "reference_margin")
"""Columns of a batch that are no features: true (or chosen) codes, and what preferences need beside them."""


class CodeModel(Protocol):
    """A model whose distribution is one over the codes of a vocabulary, token by token.

    B is the number of rows, L and D are length and width of their memory, T is the length of codes and V the number of
    token ids. [`gor_head.model.GoRModel`][gor_head.model.GoRModel] is one; any other module with these members is
    decoded and trained alike.

    Attributes:
        vocabulary: The vocabulary.
        encoder: Inputs by name → memory `[B, L, D]`.
        decoder: Embedded tokens and a cache → hidden states and the cache.
        embedding: Token ids → embedded tokens.
        training: Whether dropout is on, as of any module.
    """

    vocabulary: CoDiVocabulary
    encoder: nn.Module
    decoder: Decoder
    embedding: nn.Embedding
    training: bool

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def intervals(self) -> Intervals:
        """Tables of the vocabulary on that device."""

    @property
    def values(self) -> Tensor:
        """Value of each id in label units, 0 for control tokens, float64 `[V]`."""

    def step(self, tokens: Tensor, cache: Cache, state: Prefixes) -> tuple[Tensor, Cache]:
        """One step of decoding: last token ids `[n]`, cache and prefixes → log-probabilities `[n, V]`, cache."""

    def legal(self, codes: Tensor) -> Tensor:
        """Tokens that may stand at each place of codes `[B, T]`, bool `[B, T, V]`."""

    def hidden(self, memory: Tensor, tokens: Tensor) -> Tensor:
        """Memory `[B, L, D]` and embedded tokens `[B, T, width]` → hidden states `[B, T, width]`."""

    def head(self, hidden: Tensor, legal: Tensor) -> Tensor:
        """Hidden states `[…, width]` and legal tokens `[…, V]` → log-probabilities `[…, V]`."""

    def log_probs(self, memory: Tensor, codes: Tensor) -> Tensor:
        """Log-probabilities of the next token after each true prefix of codes `[B, T]`, `[B, T, V]`."""

    def code_log_probs(self, memory: Tensor, codes: Tensor) -> Tensor:
        """log P(code) of each row, `[B]`."""

    def objective(self, memory: Tensor, log_probs: Tensor, codes: Tensor, *, labels: Tensor) -> Tensor:
        """Loss of each row under log-probabilities `[B, T, V]` of its code and its label, `[B]` (equation 7)."""

    def eval(self) -> Any:
        """Turn dropout off, as of any module."""

    def train(self, mode: bool = True) -> Any:
        """Turn dropout on or off, as of any module."""
