import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from gor_head import EOS, PAD, SOS, CoDiVocabulary
from gor_head.decoding import MOST_CODES, beam, enumerate_codes, greedy, mean, posterior, quantile, sample, window
from gor_head.decoding.posterior import count_codes, posterior_mean
from gor_head.decoding.quantile import descend
from gor_head.intervals import Intervals, legal_ids
from gor_head.model import GoRModel
from tests.gor_head.tiny_models import (
    DECODER_KINDS,
    Calls,
    code_probabilities,
    decode_all,
    every_code,
    memory_of,
    padded,
    stripped,
    tiny,
    vocabularies,
)

COINS = CoDiVocabulary([1, 3, 10], tolerance=0, max_length=3)
MANY = CoDiVocabulary([1, 10, 100, 1000], tolerance=0, max_length=16)
LEVELS = torch.cat([torch.linspace(0, 1, 41), torch.tensor([1e-9, 0.999999])]).double().sort().values


def numbers(model: GoRModel, codes: Tensor) -> Tensor:
    """Of codes `[…, T]`."""
    return model.vocabulary.decode(codes.flatten(0, -2)).view(codes.shape[:-1])


def constant(vocabulary: CoDiVocabulary, logits: list[float]) -> GoRModel:
    """A model whose logits of EOS and the value tokens are these, whatever came before."""
    model = tiny(vocabulary)
    with torch.no_grad():
        model.output.weight.zero_()
        model.output.bias.copy_(torch.tensor([0.0, 0.0, *logits]))
    return model


def naive_greedy(model: GoRModel, memory: Tensor, start: tuple[int, ...] = ()) -> tuple[int, ...]:
    """One row, the whole prefix decoded anew for every token."""
    code = list(start)
    while EOS not in code:
        tokens = model.embedding(torch.tensor([[SOS, *code]]))
        logits = model.output(model.decoder(tokens, model.decoder.start(memory))[0])[0, -1]
        code.append(max(legal_ids(model.vocabulary, code), key=lambda token: logits[token].item()))
    return tuple(code)


@pytest.mark.filterwarnings("ignore::UserWarning")
@hypothesis_settings(max_examples=60, deadline=None)
@given(
    vocabulary=vocabularies(),
    kind=st.sampled_from(DECODER_KINDS),
    places=st.integers(1, 3),
    seed=st.integers(0, 999),
    levels=st.lists(st.floats(0, 1), min_size=1, max_size=5),
)
def test_every_way_to_decode_equals_enumeration(
    vocabulary: CoDiVocabulary, kind: str, places: int, seed: int, levels: list[float]
) -> None:
    model, memory = tiny(vocabulary, kind, seed=seed), memory_of(3, places, seed=seed)
    codes, probabilities = code_probabilities(model, memory)
    values = np.array(list(decode_all(vocabulary, codes)))
    cumulative = probabilities.cumsum(dim=1)

    # The whole distribution, and its mean.
    whole = posterior(model, memory)
    assert stripped(whole.codes) == codes
    np.testing.assert_allclose(whole.values.numpy(), values)
    torch.testing.assert_close(whole.log_probs.exp(), probabilities, rtol=1e-9, atol=1e-12)
    wanted = probabilities.numpy() @ values
    np.testing.assert_allclose(whole.mean().detach().numpy(), wanted, rtol=1e-9, atol=1e-9)
    means, errors = mean(model, memory)
    np.testing.assert_allclose(means.numpy(), wanted, rtol=1e-9, atol=1e-9)
    assert errors.tolist() == [0.0] * 3

    # Quantiles: the least code whose cumulative probability reaches the level; border cases fall to either side.
    asked = torch.cat([LEVELS, torch.tensor(levels).double()]).sort().values
    found = quantile(model, memory, asked)
    assert found.shape[:2] == (3, len(asked)) and found.shape[2] <= vocabulary.max_length + 1
    for row in range(3):
        places_found = [codes.index(code) for code in stripped(found[row])]
        assert places_found == sorted(places_found)
        for level, place in zip(asked.tolist(), places_found, strict=True):
            assert cumulative[row, place] >= level - 1e-9
            assert place == 0 or cumulative[row, place - 1] <= level + 1e-9

    # Greedy: token by token.
    assert stripped(greedy(model, memory)) == [naive_greedy(model, memory[row : row + 1]) for row in range(3)]

    # Beam: wide enough, all codes by probability.
    survivors, scores = beam(model, memory, len(codes) + 1)
    for row in range(3):
        order = probabilities[row].argsort(descending=True).tolist()
        assert stripped(survivors[row]) == [codes[i] for i in order] + [()]
        torch.testing.assert_close(scores[row, :-1].exp(), probabilities[row, order], rtol=1e-9, atol=1e-12)
        assert scores[row, -1] == -math.inf

    # Samples: codes of the vocabulary, no others.
    assert set(stripped(sample(model, memory))) <= set(codes)


@pytest.mark.parametrize("kind", DECODER_KINDS)
def test_float32_quantiles_are_within_its_rounding(kind: str) -> None:
    model, memory = tiny(MANY, kind, seed=3, spread=10.0).float(), memory_of(4).float()
    whole = posterior(model, memory, limit=10**5)
    cumulative = whole.log_probs.double().exp().cumsum(1)
    found = numbers(model, quantile(model, memory, LEVELS))
    assert (found.diff(dim=1) >= 0).all()
    for row in range(4):
        places = torch.searchsorted(whole.values, found[row])
        assert (cumulative[row, places] >= LEVELS - 1e-5).all()
        assert (cumulative[row, (places - 1).clamp(min=0)][places > 0] <= LEVELS[places > 0] + 1e-5).all()


def test_descend_by_hand() -> None:
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]]).double().expand(6, 6)
    token, inner = descend(probabilities, torch.tensor([0.0, 0.125, 0.25, 0.5, 0.9375, 1.0]).double())
    assert token.tolist() == [1, 1, 1, 3, 4, 4]
    assert inner.tolist() == [0.0, 0.5, 1.0, 0.5, 0.75, 1.0]
    # A total a little below or above 1 changes nothing at the end.
    for scale in (1 - 1e-7, 1 + 1e-7):
        assert descend(probabilities[:1] * scale, torch.ones(1).double())[0].tolist() == [4]


def test_a_sum_that_rounding_ends_below_its_level_reaches_it() -> None:
    """Of k equal parts, the level i/k is reached by the first i."""
    for k in range(1, 40):
        levels = torch.arange(1, k + 1, dtype=torch.float64) / k
        token, inside = descend(torch.full((k, k), 1 / k, dtype=torch.float64), levels)
        assert token.tolist() == list(range(k))
        torch.testing.assert_close(inside, torch.ones(k).double())


@pytest.mark.parametrize("levels", [[-0.1], [0.5, 1.01], [math.nan], [], 0.5, [[0.5]]])
def test_levels_outside_0_to_1_are_refused(levels: object) -> None:
    with pytest.raises(ValueError, match="levels: wanted one or more numbers from 0 to 1 in one dimension"):
        quantile(tiny(COINS), memory_of(2), torch.tensor(levels))


def test_quantiles_by_hand() -> None:
    # EOS counts three, every other token one, among those that may follow:
    #   at first EOS 1/2, the coins 1/6; after 1: EOS 3/4, 1 1/4; after 3: EOS 3/5, 1 and 3 1/5; after 10 as at first.
    #   P(0..10) = 1/2, 1/8, 1/24, 1/10, 1/40, 1/120, 1/50, 1/150, 0, 1/150, 1/12, and 1/12 above; 8 has four tokens.
    model = constant(COINS, [math.log(3), 0, 0, 0])
    by_number = [1 / 2, 1 / 8, 1 / 24, 1 / 10, 1 / 40, 1 / 120, 1 / 50, 1 / 150, 0, 1 / 150, 1 / 12]
    levels, wanted = [0.0, 1.0], [0, 30]
    for number, below in enumerate(np.cumsum([0, *by_number[:-1]])):
        if by_number[number]:
            levels += [below + 1e-6, below + by_number[number] - 1e-6]
            wanted += [number, number]
    found = numbers(model, quantile(model, memory_of(1), torch.tensor(levels).double()))
    assert found[0].tolist() == wanted


@pytest.mark.parametrize("kind", DECODER_KINDS)
def test_beam_of_four_finds_legal_codes_as_a_naive_beam_does(kind: str) -> None:
    model, memory = tiny(MANY, kind, seed=1), memory_of(5, places=2)
    survivors, scores = beam(model, memory)
    assert survivors.shape[:2] == (5, 4) and (scores.diff(dim=1) <= 0).all()
    for row in range(5):
        found = stripped(survivors[row])
        assert len(set(found)) == 4
        assert Intervals.of(MANY).prefixes(survivors[row]).legal.all()
        assert all(code[-1] == EOS for code in found)
        repeated = memory[row : row + 1].expand(4, -1, -1)
        torch.testing.assert_close(scores[row], model.code_log_probs(repeated, survivors[row]))
        assert found == naive_beam(model, memory[row : row + 1], 4)


def naive_beam(model: GoRModel, memory: Tensor, width: int) -> list[tuple[int, ...]]:
    beams: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    while any(EOS not in code for _, code in beams):
        candidates = [(score, code) for score, code in beams if EOS in code]
        for score, code in beams:
            if EOS not in code:
                tokens = model.embedding(torch.tensor([[SOS, *code]]))
                logits = model.output(model.decoder(tokens, model.decoder.start(memory))[0])[0, -1]
                legal = legal_ids(model.vocabulary, list(code))
                steps = logits[legal].log_softmax(0).tolist()
                candidates += [(score + step, (*code, token)) for step, token in zip(steps, legal, strict=True)]
        beams = sorted(candidates, reverse=True)[:width]
    return [code for _, code in beams]


def test_a_beam_of_one_is_greedy() -> None:
    model, memory = tiny(MANY, seed=2), memory_of(6)
    survivors, _ = beam(model, memory, 1)
    assert stripped(survivors[:, 0]) == stripped(greedy(model, memory))
    with pytest.raises(ValueError, match="width: wanted 1 or more, got 0"):
        beam(model, memory, 0)


@pytest.mark.parametrize("kind", DECODER_KINDS)
def test_the_posterior_has_the_gradients_of_the_codes(kind: str) -> None:
    model, memory = tiny(COINS, kind), memory_of(2, places=2).requires_grad_()
    codes = every_code(COINS)
    values = torch.tensor(list(decode_all(COINS, codes))).double()
    rows = memory.repeat_interleave(len(codes), dim=0)
    probabilities = model.code_log_probs(rows, padded(codes).repeat(2, 1)).exp().view(2, -1)
    wanted = torch.autograd.grad(((probabilities @ values) ** 2).sum(), [memory, *model.output.parameters()])
    found = torch.autograd.grad((posterior(model, memory).mean() ** 2).sum(), [memory, *model.output.parameters()])
    for one, other in zip(wanted, found, strict=True):
        assert one.any()
        torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore::UserWarning")
@hypothesis_settings(max_examples=60, deadline=None)
@given(vocabulary=vocabularies())
def test_enumerated_codes_are_those_of_all_integers(vocabulary: CoDiVocabulary) -> None:
    codes = every_code(vocabulary)
    found = enumerate_codes(Intervals.of(vocabulary))
    assert stripped(found) == codes
    assert count_codes(Intervals.of(vocabulary)) == len(codes)
    # No number has two codes.
    assert (vocabulary.decode(found).diff() > 0).all()
    if vocabulary.tolerance == 0:
        top = round((vocabulary.largest - vocabulary.offset) / vocabulary.grid.resolution)
        labels = vocabulary.offset + np.arange(top + 1) * vocabulary.grid.resolution
        assert set(stripped(torch.from_numpy(vocabulary.encode(labels)))) == set(codes)


def test_the_limit_of_enumeration() -> None:
    intervals, codes = Intervals.of(COINS), len(every_code(COINS))
    assert len(enumerate_codes(intervals, codes)) == count_codes(intervals, codes) == codes
    assert count_codes(intervals, codes - 1) is None
    with pytest.raises(ValueError, match=f"more than {codes - 1} codes: too many"):
        enumerate_codes(intervals, codes - 1)
    with pytest.raises(ValueError, match=f"more than {MOST_CODES} codes"):
        posterior(tiny(MANY), memory_of(1))


def test_the_mean_of_many_codes_is_within_its_standard_error() -> None:
    model, memory = tiny(MANY, seed=1), memory_of(3)
    exact = posterior(model, memory, limit=10**5)
    spread = ((exact.log_probs.exp() @ exact.values**2) - exact.mean() ** 2).sqrt().detach()
    found, errors = mean(model, memory, samples=400, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(errors, spread / 20, rtol=0.25, atol=0)
    assert ((found - exact.mean().detach()).abs() < 4 * errors).all() and (errors > 0).all()


def test_draws_for_a_mean_are_made_together() -> None:
    model = tiny(MANY, seed=1)
    with Calls(model.decoder) as calls:
        mean(model, memory_of(3), samples=256)
    assert len(calls) <= MANY.max_length + 1 and len(calls[0]) == 3 * 256
    with Calls(model.decoder) as calls:
        found, _ = mean(model, memory_of(1000), samples=100)
    assert found.shape == (1000,) and max(map(len, calls)) <= 65_536
    assert sum(len(each) for each in calls if each.shape[1] == 1) >= 100_000


def test_gradients_of_the_mean_of_many_rows_are_those_of_few() -> None:
    """Only a part of the rows is in memory at once, and what gradients need is computed again."""
    model, rows = tiny(COINS), 4000
    memory = memory_of(rows).requires_grad_()
    with Calls(model.decoder) as calls:
        posterior_mean(model, memory).sum().backward()
    assert max(map(len, calls)) <= 65_536 and len(calls) == 2 * 2 * 4
    found, memory.grad = memory.grad, None
    posterior(model, memory).mean().sum().backward()
    torch.testing.assert_close(found, memory.grad)


def test_the_mean_of_many_rows_is_taken_a_part_at_a_time() -> None:
    model, memory = tiny(COINS), memory_of(4000)
    with Calls(model.decoder) as calls:
        found = mean(model, memory)[0]
    assert len(calls) == 2 * 4 and max(map(len, calls)) <= 65_536
    with torch.no_grad():
        torch.testing.assert_close(found, posterior(model, memory).mean())


@pytest.mark.parametrize("kind", ["gru", "transformer"])
def test_samples_follow_the_posterior(kind: str) -> None:
    model, memory = tiny(COINS, kind, spread=2.0), memory_of(1)
    generator = torch.Generator().manual_seed(0)
    drawn = numbers(model, sample(model, memory.expand(20_000, -1, -1), generator))
    codes, probabilities = code_probabilities(model, memory)
    values = np.array(list(decode_all(COINS, codes)))
    counts = np.array([(drawn.numpy() == value).sum() for value in values])
    expected = 20_000 * probabilities[0].numpy()
    assert counts.sum() == 20_000
    rare = expected < 5
    assert (~rare).sum() > 10 and expected[rare].sum() < 20
    kept = counts[~rare]
    assert scipy.stats.chisquare(kept, expected[~rare] * kept.sum() / expected[~rare].sum()).pvalue > 1e-3


def test_samples_repeat_with_their_generator() -> None:
    model, memory = tiny(COINS), memory_of(50)
    first, second, third = (sample(model, memory, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, second) and stripped(first) != stripped(third)


def test_window_by_hand() -> None:
    # 10 is likeliest at each of three steps; the fourth may only end. All ids are within ten of each other.
    vocabulary = CoDiVocabulary([1, 3, 10], offset=100, tolerance=0, max_length=3)
    model = constant(vocabulary, [math.log(1), math.log(2), math.log(2), math.log(5)])
    step = (0 * 1 + 1 * 2 + 3 * 2 + 10 * 5) / 10
    assert window(model, memory_of(2)).tolist() == pytest.approx([100 + 3 * step] * 2)
    # The likeliest is EOS, id 2: ids 3 to 12 are kept, of which the last is the tenth token; not renormalised.
    wide = CoDiVocabulary(range(1, 16), tolerance=0, max_length=2)
    model = constant(wide, [math.log(5)] + [0.0] * 15)
    assert window(model, memory_of(2)).tolist() == pytest.approx([sum(range(1, 11)) / 20] * 2)


def test_rows_that_have_ended_leave_the_batch() -> None:
    model, memory = tiny(COINS, "transformer"), memory_of(40)
    for decode in (
        greedy,
        sample,
        lambda model, memory: quantile(model, memory, torch.tensor([0.3, 0.9])).flatten(0, 1),
    ):
        with Calls(model.decoder) as calls:
            codes = decode(model, memory)
        running = (codes != PAD).sum(dim=0).tolist()
        assert [len(tokens) for tokens in calls] == running and all(tokens.shape[1] == 1 for tokens in calls)
    with Calls(model.decoder) as calls:
        lowest_and_highest = quantile(model, memory[:1], torch.tensor([0.0, 1.0]))
    assert lowest_and_highest.tolist() == [[[EOS, PAD, PAD, PAD], [5, 5, 5, EOS]]]
    assert [len(tokens) for tokens in calls] == [2, 1, 1, 1]


def test_decoding_of_no_rows() -> None:
    model, memory = tiny(COINS), memory_of(0)
    assert len(greedy(model, memory)) == len(sample(model, memory)) == len(window(model, memory)) == 0
    assert quantile(model, memory, torch.tensor([0.1, 0.9])).shape[:2] == (0, 2)
    assert len(mean(model, memory)[0]) == 0 and beam(model, memory)[1].shape == (0, 4)


@pytest.mark.parametrize("kind", DECODER_KINDS)
def test_rows_that_are_no_numbers_are_counted_and_not_decoded_forever(kind: str) -> None:
    model, memory = tiny(COINS, kind), memory_of(5)
    memory[1:3] = math.nan
    for decode in (greedy, window, lambda model, memory: quantile(model, memory, torch.tensor([0.5]))):
        with pytest.raises(ValueError, match="2 of 5 rows did not end; are memory and weights numbers"):
            decode(model, memory)


def test_decoding_keeps_no_graph() -> None:
    model, memory = tiny(COINS), memory_of(3).requires_grad_()
    assert not mean(model, memory)[0].requires_grad and not beam(model, memory)[1].requires_grad
    assert not window(model, memory).requires_grad
