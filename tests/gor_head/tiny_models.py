"""What the tests of the GoR core share: small vocabularies and models, and codes without the library's tables."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from gor_head import EOS, CoDiVocabulary
from gor_head.model import GoRConfig, GoRModel

DECODER_KINDS = ["rnn", "gru", "lstm", "transformer"]
WIDTH = 8


class GivenMemory(nn.Module):
    """The memory is the input, so that a test says what the decoder reads."""

    width = 4

    def forward(self, memory: Tensor) -> Tensor:
        return memory


def tiny(
    vocabulary: CoDiVocabulary, decoder: str = "gru", *, seed: int = 0, spread: float = 4.0, **settings: Any
) -> GoRModel:
    """A random float64 model in evaluation mode; `spread` widens its logits, so that distributions are uneven."""
    torch.manual_seed(seed)
    defaults: dict[str, Any] = {"width": WIDTH, "layers": 1, "heads": 2, "dropout": 0.0, "strategy": "teacher_forcing"}
    model = GoRModel(GoRConfig(vocabulary.to_dict(), decoder=decoder, **(defaults | settings)), GivenMemory()).double()
    with torch.no_grad():
        model.output.weight.mul_(spread)
    return model.eval()


def memory_of(rows: int, places: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(rows, places, GivenMemory.width, generator=torch.Generator().manual_seed(seed)).double()


def greedy_code(units: int, tokens: list[int], tolerance: float, max_length: int) -> tuple[int, ...]:
    """Code of a number of units above the offset, token by token as the paper says it, EOS last."""
    code: list[int] = []
    rest = units
    while len(code) < max_length and rest > math.floor(units * tolerance):
        fitting = [i for i, token in enumerate(tokens) if token <= rest]
        if not fitting:
            break
        code.append(fitting[-1] + 3)
        rest -= tokens[fitting[-1]]
    return (*code, EOS)


def every_code(vocabulary: CoDiVocabulary) -> list[tuple[int, ...]]:
    """Codes of all integers, by ascending number."""
    tokens = vocabulary.tokens.tolist()
    # Under a tolerance up to 0.6 no code first appears beyond this.
    top = 4 * vocabulary.max_length * max(tokens, default=0)
    codes = {greedy_code(y, tokens, vocabulary.tolerance, vocabulary.max_length) for y in range(top + 1)}
    return sorted(codes, key=lambda code: sum(tokens[token - 3] for token in code[:-1]))


def padded(codes: list[tuple[int, ...]]) -> Tensor:
    """Codes with PAD on the right, int64 `[C, T]`."""
    longest = max(map(len, codes))
    return torch.tensor([[*code, *[0] * (longest - len(code))] for code in codes])


def stripped(codes: Tensor) -> list[tuple[int, ...]]:
    """Codes without their PAD."""
    return [tuple(token for token in code if token) for code in codes.tolist()]


def code_probabilities(model: GoRModel, memory: Tensor) -> tuple[list[tuple[int, ...]], Tensor]:
    """All codes by ascending number, and each row's probability of each, `[B, C]`: one pass per code, no cache."""
    codes = every_code(model.vocabulary)
    with torch.no_grad():
        rows = memory.repeat_interleave(len(codes), dim=0)
        log_probs = model.code_log_probs(rows, padded(codes).repeat(len(memory), 1))
    return codes, log_probs.view(len(memory), len(codes)).exp()


@st.composite
def vocabularies(draw: st.DrawFn) -> CoDiVocabulary:
    """Small vocabularies, made by hand or fitted."""
    max_length = draw(st.integers(1, 3))
    tolerance = draw(st.sampled_from([0.0, 0.005, 0.05, 0.3, 0.6]))
    if draw(st.booleans()):
        return CoDiVocabulary(
            sorted(draw(st.sets(st.integers(1, 30), max_size=5))),
            resolution=draw(st.sampled_from([1.0, 0.1, 0.25])),
            offset=draw(st.integers(-20, 20)),
            tolerance=tolerance,
            max_length=max_length,
        )
    shift = draw(st.sampled_from([0, -7]))
    return CoDiVocabulary.fit(
        [label + shift for label in draw(st.lists(st.integers(0, 40), min_size=1, max_size=12))],
        initializer=draw(st.sampled_from(["quantile", "manual", "binary", "place", "labels"])),
        exact=draw(st.booleans()),
        tolerance=tolerance,
        beta=draw(st.sampled_from([0.0, 0.7, 1.0])),
        max_length=max_length + 1,
        offset="min" if shift else None,
    )


class Calls:
    """A module's first input at each call, while the block runs."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.inputs: list[Tensor] = []

    def __enter__(self) -> list[Tensor]:
        self.handle = self.module.register_forward_pre_hook(lambda _, args: self.inputs.append(args[0].detach()))
        return self.inputs

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


def decode_all(vocabulary: CoDiVocabulary, codes: list[tuple[int, ...]]) -> Iterator[float]:
    """Numbers of codes by hand."""
    for code in codes:
        units = sum(int(vocabulary.tokens[token - 3]) for token in code[:-1])
        yield (units + vocabulary.grid.offset) * vocabulary.grid.resolution
