from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gor_head.decoders import DECODERS, Decoder, RecurrentDecoder, TransformerDecoder, select
from tests.gor_head.tiny_models import DECODER_KINDS

WIDTH, MEMORY = 8, 6


def build(kind: str, layers: int = 2, memory_width: int = MEMORY, dropout: float = 0.0) -> Decoder:
    torch.manual_seed(0)
    return DECODERS[kind](memory_width, WIDTH, layers, heads=2, dropout=dropout, positions=7).double().eval()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def run(decoder: Decoder, tokens: Tensor, cache: Any, sizes: list[int]) -> Tensor:
    """Hidden states of tokens given in parts of these sizes."""
    parts = []
    for part in tokens.split(sizes, dim=1):
        hidden, cache = decoder(part, cache)
        parts.append(hidden)
    return torch.cat(parts, dim=1)


def test_the_kinds_are_all_tested() -> None:
    assert list(DECODERS) == DECODER_KINDS


@pytest.mark.parametrize("kind", DECODER_KINDS)
@pytest.mark.parametrize("places", [1, 3])
@pytest.mark.parametrize("layers", [1, 2])
def test_parts_with_a_cache_equal_the_whole(kind: str, places: int, layers: int) -> None:
    decoder, memory, tokens = build(kind, layers), random(4, places, MEMORY), random(4, 7, WIDTH, seed=1)
    whole = run(decoder, tokens, decoder.start(memory), [7])
    assert whole.shape == (4, 7, WIDTH)
    for sizes in ([1] * 7, [3, 4], [1, 2, 1, 3]):
        torch.testing.assert_close(run(decoder, tokens, decoder.start(memory), sizes), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", DECODER_KINDS)
@pytest.mark.parametrize("places", [1, 3])
def test_selected_rows_equal_those_rows_alone(kind: str, places: int) -> None:
    decoder, memory, tokens = build(kind), random(4, places, MEMORY), random(4, 5, WIDTH, seed=1)
    _, cache = decoder(tokens[:, :2], decoder.start(memory))
    for rows in (torch.tensor([2, 0, 2]), torch.tensor([True, False, False, True])):
        hidden = run(decoder, tokens[rows, 2:], select(cache, rows), [1, 2])
        alone = run(decoder, tokens[rows], decoder.start(memory[rows]), [5])[:, 2:]
        torch.testing.assert_close(hidden, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", DECODER_KINDS)
@pytest.mark.parametrize("places", [1, 3])
def test_the_past_is_seen_and_the_future_is_not(kind: str, places: int) -> None:
    decoder, memory, tokens = build(kind), random(2, places, MEMORY), random(2, 6, WIDTH, seed=1)
    before = run(decoder, tokens, decoder.start(memory), [6])
    for changed in range(6):
        other = tokens.clone()
        other[:, changed] += random(WIDTH, seed=2)
        after = run(decoder, other, decoder.start(memory), [6])
        assert torch.equal(after[:, :changed], before[:, :changed])
        assert ((after - before).abs().amax(dim=2)[:, changed:] > 1e-9).all()


@pytest.mark.parametrize("kind", DECODER_KINDS)
def test_every_place_of_the_memory_counts_and_their_order_does_not(kind: str) -> None:
    decoder, memory, tokens = build(kind), random(2, 3, MEMORY), random(2, 4, WIDTH, seed=1)
    before = run(decoder, tokens, decoder.start(memory), [4])
    torch.testing.assert_close(run(decoder, tokens, decoder.start(memory.flip(1)), [4]), before)
    for place in range(3):
        other = memory.clone()
        other[:, place] += random(MEMORY, seed=2)
        assert ((run(decoder, tokens, decoder.start(other), [4]) - before).abs() > 1e-9).any(dim=2).all()


@pytest.mark.parametrize("kind", DECODER_KINDS)
def test_rows_do_not_mix(kind: str) -> None:
    decoder, memory, tokens = build(kind), random(3, 2, MEMORY), random(3, 4, WIDTH, seed=1)
    together = run(decoder, tokens, decoder.start(memory), [4])
    for row in range(3):
        alone = run(decoder, tokens[row : row + 1], decoder.start(memory[row : row + 1]), [4])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", DECODER_KINDS)
@pytest.mark.parametrize("layers", [1, 2])
def test_dropout_acts_in_training_alone(kind: str, layers: int) -> None:
    decoder, memory, tokens = build(kind, layers, dropout=0.5), random(2, 1, MEMORY), random(2, 4, WIDTH, seed=1)
    still = run(decoder, tokens, decoder.start(memory), [4])
    torch.testing.assert_close(still, run(build(kind, layers), tokens, decoder.start(memory), [4]))
    decoder.train()
    assert not torch.allclose(run(decoder, tokens, decoder.start(memory), [4]), still)


@pytest.mark.parametrize("places", [1, 3])
def test_transformer_equals_that_of_pytorch(places: int) -> None:
    decoder = build("transformer", memory_width=WIDTH)
    assert isinstance(decoder, TransformerDecoder)
    for norm in decoder.modules():
        if isinstance(norm, nn.LayerNorm):
            nn.init.uniform_(norm.weight), nn.init.uniform_(norm.bias)
    memory, tokens = random(2, places, WIDTH), random(2, 5, WIDTH, seed=1)
    x = tokens + decoder.positions.weight[:5]
    for ours in decoder.layers:
        layer = nn.TransformerDecoderLayer(
            WIDTH, 2, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        ).double()
        attention, cross = layer.self_attn, layer.multihead_attn
        copies = {
            attention.in_proj_weight: ours.self_in.weight,
            attention.in_proj_bias: ours.self_in.bias,
            attention.out_proj.weight: ours.self_out.weight,
            attention.out_proj.bias: ours.self_out.bias,
            cross.in_proj_weight: torch.cat([ours.query.weight, ours.memory_in.weight]),
            cross.in_proj_bias: torch.cat([ours.query.bias, ours.memory_in.bias]),
            cross.out_proj.weight: ours.memory_out.weight,
            cross.out_proj.bias: ours.memory_out.bias,
            layer.linear1.weight: ours.feed[0].weight,
            layer.linear1.bias: ours.feed[0].bias,
            layer.linear2.weight: ours.feed[2].weight,
            layer.linear2.bias: ours.feed[2].bias,
        }
        with torch.no_grad():
            for target, source in copies.items():
                target.copy_(source)
            for norm, source in zip((layer.norm1, layer.norm2, layer.norm3), ours.norms, strict=True):
                norm.load_state_dict(source.state_dict())
            x = layer(x, memory, tgt_mask=nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64))
    hidden = run(decoder, tokens, decoder.start(memory), [5])
    torch.testing.assert_close(hidden, decoder.norm(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_recurrent_decoders_equal_cells_in_a_loop(kind: str) -> None:
    decoder, memory, tokens = build(kind), random(2, 3, MEMORY), random(2, 4, WIDTH, seed=1)
    assert isinstance(decoder, RecurrentDecoder)
    cells = []
    for layer in range(2):
        cell = {"rnn": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}[kind](WIDTH, WIDTH).double()
        names = {name: f"{name}_l{layer}" for name, _ in cell.named_parameters()}
        cell.load_state_dict({name: getattr(decoder.cells, ours) for name, ours in names.items()})
        cells.append(cell)
    pooled = memory.mean(dim=1)
    first = torch.tanh(decoder.first(pooled))
    state: list[Any] = [first[:, :WIDTH], first[:, WIDTH:]]
    if kind == "lstm":
        state = [(hidden, torch.zeros_like(hidden)) for hidden in state]
    outputs = []
    for token in tokens.unbind(1):
        x = token + decoder.context(pooled)
        for layer, cell in enumerate(cells):
            state[layer] = cell(x, state[layer])
            x = state[layer][0] if kind == "lstm" else state[layer]
        outputs.append(x)
    hidden = run(decoder, tokens, decoder.start(memory), [4])
    torch.testing.assert_close(hidden, torch.stack(outputs, dim=1), rtol=0, atol=1e-12)


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 3 heads, got 8"):
        TransformerDecoder(4, 8, heads=3)
