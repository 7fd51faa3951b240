"""The pure functions of shared prompts, each against a plain definition of what it should give."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen2VLConfig, Qwen3Config, Qwen3VLConfig

from rarl import tiny
from rarl.shared_prefix import (
    Group,
    additive_mask,
    attention_cost,
    cut_groups,
    find_groups,
    innermost,
    join_images,
    pack_groups,
    plan_calls,
    prompt_positions,
    share_images,
    shuffled_groups,
    split_calls,
    split_images,
    unsupported,
)
from rarl.shared_prefix.groups import take_rows
from rarl.shared_prefix.scoring import sum_of

PAD = 7
Answers = tuple[list[Group], torch.Tensor, torch.Tensor]


@st.composite
def batches(draw: st.DrawFn) -> Answers:
    """Groups of 1 to 4 rows in any order, prompts of 1 to 5 tokens, answers of 0 to 4; ids tell all tokens apart."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    order = draw(st.permutations(range(sum(sizes))))
    width = draw(st.integers(1, 4))
    lengths = torch.tensor(draw(st.lists(st.integers(0, width), min_size=len(order), max_size=len(order))))
    mask = (torch.arange(width) < lengths[:, None]).long()
    answers = (1000 + torch.arange(len(order) * width).view(-1, width)) * mask + PAD * (1 - mask)
    groups, start = [], 0
    dimensions = draw(st.sampled_from([1, 3]))
    for index, size in enumerate(sizes):
        length = draw(st.integers(1, 5))
        prompt = 100 * (index + 1) + torch.arange(length)
        positions = torch.randint(0, 9, (dimensions, length), generator=torch.Generator().manual_seed(index))
        groups.append(Group(tuple(sorted(order[start : start + size])), prompt, positions))
        start += size
    return groups, answers, mask


@given(batches())
def test_pack_holds_every_answer_token_once_after_its_predecessor(batch: Answers) -> None:
    groups, answers, mask = batch
    pack = pack_groups(groups, answers, mask, pad_token_id=PAD)
    labelled = (pack.shift_labels != -100).nonzero().tolist()
    assert len(labelled) == len(pack.source_row) == int(mask.sum())
    found = set()
    for (row, place), source, column in zip(labelled, pack.source_row, pack.source_column, strict=True):
        group = groups[row]
        assert int(source) in group.rows
        whole = torch.cat([group.prompt, answers[source]])  # the plain layout of this answer
        assert pack.shift_labels[row, place] == whole[len(group.prompt) + column] == answers[source, column]
        assert pack.input_ids[row, place] == whole[len(group.prompt) + column - 1]
        expected = group.positions[:, -1] + column
        assert torch.equal(pack.position_ids[:, row, place], expected)
        found.add((int(source), int(column)))
    assert found == {tuple(place) for place in mask.nonzero().tolist()}


@given(batches())
def test_packed_mask_shows_each_token_its_plain_context(batch: Answers) -> None:
    """The ids and positions that a labelled place may attend to, in order, are the plain layout up to there."""
    groups, answers, mask = batch
    pack = pack_groups(groups, answers, mask, pad_token_id=PAD)
    places = (pack.shift_labels != -100).nonzero().tolist()
    for (row, place), source, column in zip(places, pack.source_row, pack.source_column, strict=True):
        group, seen = groups[row], pack.allowed[row, place]
        answer = answers[source, :column]
        assert torch.equal(pack.input_ids[row, seen], torch.cat([group.prompt, answer]))
        later = group.positions[:, -1:] + 1 + torch.arange(int(column))
        assert torch.equal(pack.position_ids[:, row, seen], torch.cat([group.positions, later], dim=1))
    for row, group in enumerate(groups):
        shared = len(group.prompt) - 1
        assert torch.equal(pack.allowed[row, :shared, :shared], torch.ones(shared, shared).tril().bool())
    assert pack.allowed.any(dim=-1).all(), "a query without a key is not a number in some kernels"
    used = max(len(group.prompt) - 1 + int(mask[list(group.rows)].sum()) for group in groups)
    assert pack.input_ids.shape == (len(groups), max(used, 1))


@given(batches())
def test_scatter_brings_answers_back(batch: Answers) -> None:
    groups, answers, mask = batch
    pack = pack_groups(groups, answers, mask)
    field = pack.shift_labels.double().requires_grad_()
    found = pack.scatter(field, answers.shape)
    assert torch.equal(found.long(), answers * mask)
    found.sum().backward()
    assert torch.equal(field.grad, (pack.shift_labels != -100).double())


def test_pack_written_out() -> None:
    prompt = torch.tensor([11, 12, 13])
    group = Group((0, 2), prompt, torch.arange(3)[None])
    answers = torch.tensor([[21, 22], [0, 0], [31, 0]])
    pack = pack_groups([group], answers, torch.tensor([[1, 1], [0, 0], [1, 0]]))
    assert pack.input_ids.tolist() == [[11, 12, 13, 21, 13]]
    assert pack.position_ids.tolist() == [[[0, 1, 2, 3, 2]]]
    assert pack.shift_labels.tolist() == [[-100, -100, 21, 22, 31]]
    assert pack.allowed.int().tolist() == [
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_additive_mask(dtype: torch.dtype) -> None:
    allowed = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(0)) > 0.5
    mask = additive_mask(allowed, dtype)
    assert mask.shape == (2, 1, 3, 3) and mask.dtype == dtype
    assert torch.equal(mask[:, 0] == 0, allowed)
    assert (mask[:, 0][~allowed] == torch.finfo(dtype).min).all()


def groups_of(sizes: list[tuple[int, list[int]]]) -> tuple[list[Group], list[int]]:
    """Groups of (prompt length, answer lengths), their rows in a row."""
    groups, lengths = [], []
    for prompt, answers in sizes:
        rows = tuple(range(len(lengths), len(lengths) + len(answers)))
        groups.append(Group(rows, torch.arange(prompt), torch.arange(prompt)[None]))
        lengths += answers
    return groups, lengths


shapes = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(0, 10), min_size=1, max_size=5)), min_size=1, max_size=5
)


def row_tokens(group: Group, lengths: list[int]) -> int:
    return len(group.prompt) - 1 + sum(lengths[row] for row in group.rows)


def rows_of(calls: list[list[Group]]) -> Counter[int]:
    return Counter(row for call in calls for group in call for row in group.rows)


def check_parts(calls: list[list[Group]], groups: list[Group]) -> None:
    """Every answer once, and with its own prompt."""
    assert rows_of(calls) == Counter(row for group in groups for row in group.rows)
    prompts = {row: group.prompt for group in groups for row in group.rows}
    for call in calls:
        for part in call:
            assert all(prompts[row] is part.prompt for row in part.rows)
            assert part.positions.shape[-1] == len(part.prompt)


@given(shapes, st.integers(1, 120))
def test_planned_calls_keep_the_budget(sizes: list[tuple[int, list[int]]], budget: int) -> None:
    groups, lengths = groups_of(sizes)
    calls = plan_calls(groups, lengths, budget)
    check_parts(calls, groups)
    for call in calls:
        padded = len(call) * max(row_tokens(part, lengths) for part in call)
        alone = len(call) == 1 and sum(lengths[row] > 0 for row in call[0].rows) <= 1
        assert padded <= budget or alone, "only a single answer may be over the budget"


@given(shapes, st.floats(0, 1))
def test_cut_groups_hold_every_answer_once(sizes: list[tuple[int, list[int]]], cost: float) -> None:
    groups, lengths = groups_of(sizes)
    check_parts([cut_groups(groups, lengths, cost)], groups)


@given(shapes)
def test_groups_stay_whole_if_pairs_cost_nothing(sizes: list[tuple[int, list[int]]]) -> None:
    groups, lengths = groups_of(sizes)
    for part, group in zip(cut_groups(groups, lengths, 0.0), groups, strict=True):
        assert part.rows == group.rows


@given(st.integers(2, 40), st.integers(1, 40), st.sampled_from([2, 4, 8]), st.floats(0, 0.2))
def test_cuts_make_least_work(prompt: int, answer: int, number: int, cost: float) -> None:
    """Against every way to cut a group of equal answers evenly."""
    groups, lengths = groups_of([(prompt, [answer] * number)])

    def work(parts: list[Group]) -> float:
        return sum(tokens + cost * tokens**2 for tokens in (row_tokens(part, lengths) for part in parts))

    found = work(cut_groups(groups, lengths, cost))
    for size in (size for size in range(1, number + 1) if number % size == 0):
        rows = range(0, number, size)
        parts = [Group(tuple(range(row, row + size)), groups[0].prompt, groups[0].positions) for row in rows]
        assert found <= work(parts) * 1.05  # uneven cuts are rated as if they were even


def test_long_answers_to_a_short_prompt_are_cut() -> None:
    """The case that was measured to be slower in one row: width 384, 86 prompt tokens, 8 answers of 512."""
    config = Qwen2Config(
        hidden_size=384, intermediate_size=1024, num_attention_heads=6, num_key_value_heads=6, num_hidden_layers=6
    )
    cost = attention_cost(config)
    assert cost == pytest.approx(2 * 384 / (4 * 384**2 + 3 * 384 * 1024))
    long, lengths = groups_of([(86, [512] * 8)])
    assert len(cut_groups(long, lengths, cost)) == 8
    short, lengths = groups_of([(86, [64] * 8)])
    assert len(cut_groups(short, lengths, cost)) == 1


@given(shapes)
def test_without_a_budget_there_is_one_call(sizes: list[tuple[int, list[int]]]) -> None:
    groups, lengths = groups_of(sizes)
    assert plan_calls(groups, lengths, None) == [groups]


def test_a_group_that_fits_is_not_cut() -> None:
    groups, lengths = groups_of([(10, [5, 5, 5]), (10, [5, 5, 5])])
    assert [[part.rows for part in call] for call in plan_calls(groups, lengths, 24)] == [[(0, 1, 2)], [(3, 4, 5)]]
    assert [[part.rows for part in call] for call in plan_calls(groups, lengths, 48)] == [[(0, 1, 2), (3, 4, 5)]]
    parts = [part.rows for call in plan_calls(groups, lengths, 23) for part in call]
    assert sorted(parts) == [(0, 1), (2,), (3, 4), (5,)]


@given(shapes, st.integers(1, 120), st.data())
def test_split_gives_the_number_wanted(sizes: list[tuple[int, list[int]]], budget: int, data: st.DataObject) -> None:
    groups, lengths = groups_of(sizes)
    calls = plan_calls(groups, lengths, budget)
    number = data.draw(st.integers(len(calls), len(lengths)))
    split = split_calls(calls, number)
    assert len(split) == number
    check_parts(split, groups)
    assert all(part.rows for call in split for part in call) and all(split)


def test_impossible_splits_are_refused() -> None:
    groups, lengths = groups_of([(3, [1, 1]), (3, [1])])
    calls = plan_calls(groups, lengths, 1)
    with pytest.raises(ValueError, match="4 calls are wanted, but there are only 3 answers"):
        split_calls(calls, 4)
    with pytest.raises(ValueError, match="3 calls are planned, more than the 2 wanted"):
        split_calls(calls, 2)


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 20), st.integers(0, 2**31))
def test_shuffle_keeps_groups_together(rows: int, size: int, offset: int, seed: int) -> None:
    torch.manual_seed(seed)
    order = shuffled_groups(rows, size, offset)
    assert sorted(order.tolist()) == list(range(rows))
    group = (order + offset) // size
    assert len(torch.unique_consecutive(group)) == len(group.unique())
    for number in group.unique():
        assert (order[group == number].diff() > 0).all()
    after = torch.get_rng_state()
    torch.manual_seed(seed)
    torch.randperm(rows)
    assert torch.equal(after, torch.get_rng_state()), "the run that follows draws other numbers"


def test_shuffle_gives_every_order_of_groups() -> None:
    torch.manual_seed(0)
    seen = Counter(tuple((shuffled_groups(6, 2)[::2] // 2).tolist()) for _ in range(1200))
    assert len(seen) == 6 and min(seen.values()) > 150


def rows_of_prompts(prompts: list[list[int]], answer: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of prompts padded on the left, with answers of unlike ids."""
    width = max(map(len, prompts))
    ids = [[0] * (width - len(prompt)) + prompt + [90 + row] * answer for row, prompt in enumerate(prompts)]
    mask = [[0] * (width - len(prompt)) + [1] * (len(prompt) + answer) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=3), min_size=1, max_size=8))
def test_groups_are_the_rows_of_equal_prompts(prompts: list[list[int]]) -> None:
    ids, mask = rows_of_prompts(prompts)  # the token 0 is a prompt's as well as padding
    groups = find_groups(ids, mask, 2)
    assert sorted(row for group in groups for row in group) == list(range(len(prompts)))
    assert all(group == sorted(group) for group in groups)
    assert [prompts[group[0]] for group in groups] == list(map(list, dict.fromkeys(map(tuple, prompts))))
    assert all(prompts[row] == prompts[group[0]] for group in groups for row in group)


def test_groups_are_told_apart_by_grid_and_pixels() -> None:
    ids, mask = rows_of_prompts([[1, 2]] * 7)
    wide, high = torch.tensor([[1, 2, 4]]), torch.tensor([[1, 4, 2]])
    one, other = torch.zeros(8, 3), torch.zeros(8, 3)
    other[5, 1] = 1e-6
    shown = [(wide, one), (high, one), (wide, other), None, (wide, one.clone()), None, (wide, other)]
    images = [own and {"image_grid_thw": own[0], "pixel_values": own[1]} for own in shown]
    assert find_groups(ids, mask, 2, images=images) == [[0, 4], [1], [2, 6], [3, 5]]


def test_images_are_split_by_their_patches() -> None:
    grid = torch.tensor([[1, 2, 2], [1, 2, 4], [2, 2, 2]])
    pixels = torch.arange(20.0)[:, None]
    fields = {"pixel_values": pixels, "image_grid_thw": grid}
    first, second, third = split_images(fields, [2, 0, 1]) or []
    assert first is not None and third is not None and second is None
    assert torch.equal(first["image_grid_thw"], grid[:2]) and torch.equal(first["pixel_values"], pixels[:12])
    assert torch.equal(third["image_grid_thw"], grid[2:]) and torch.equal(third["pixel_values"], pixels[12:])
    assert split_images({}, None) is None
    joined = join_images([first, second, third])
    assert all(torch.equal(joined[name], field) for name, field in fields.items()) and joined.keys() == fields.keys()
    assert join_images([None, None]) == {}


@pytest.mark.parametrize(
    ("fields", "num_images", "lengths"),
    [
        ({"pixel_values": 5, "image_sizes": 5}, [2, 0, 3], [2, 0, 3]),  # an entry an image, as LLaVA-NeXT has it
        ({"pixel_values": 3, "pixel_attention_mask": 3}, [2, 1, 3], [1, 1, 1]),  # a row each, as Idefics3 has it
        ({"pixel_values": 9}, [1, 1, 1], [5, 1, 3]),  # tiles, as InternVL has them
    ],
)
def test_images_are_split_by_rows_images_or_tiles(
    fields: dict[str, int], num_images: list[int], lengths: list[int]
) -> None:
    tensors = {name: torch.arange(float(number))[:, None] for name, number in fields.items()}
    given = tensors | ({"num_tiles": lengths} if sum(lengths) == 9 else {})
    rows = split_images(given, num_images) or []
    starts = [sum(lengths[:row]) for row in range(3)]
    for row, number, start, length in zip(rows, num_images, starts, lengths, strict=True):
        assert (row is None) == (number == 0)
        for name, value in (row or {}).items():
            assert torch.equal(value, tensors[name][start : start + length])
    shared = share_images({**given, "num_images": num_images}, [[0], [1], [2]])
    assert [len(part) for part in shared["pixel_values"]] == lengths


@pytest.fixture(scope="module")
def vision_model() -> Any:
    torch.manual_seed(0)
    return tiny.build_model(tiny.build_processor(), width=64, layers=1, vision_layers=1)


def test_positions_are_those_of_the_model(vision_model: Any) -> None:
    image = vision_model.config.image_token_id
    prompt, types = torch.tensor([5, 3, image, image, 4, 9]), torch.tensor([0, 0, 1, 1, 0, 0])
    grid = torch.tensor([[1, 2, 4]])
    found = prompt_positions(vision_model.model, prompt, types, grid=grid)
    # Two text tokens, a row of two merged patches side by side, then text from the largest position on.
    assert found.tolist() == [[0, 1, 2, 2, 4, 5], [0, 1, 2, 2, 4, 5], [0, 1, 2, 3, 4, 5]]
    longer = torch.tensor([*prompt, 8, 8]), torch.tensor([*types, 0, 0])
    whole = prompt_positions(vision_model.model, *longer, grid=grid)
    assert torch.equal(whole[:, :6], found) and whole[:, 6:].tolist() == [[6, 7]] * 3


def test_positions_of_text(vision_model: Any) -> None:
    prompt = torch.tensor([5, 6, 8])
    assert prompt_positions(vision_model.model, prompt, None, grid=None).tolist() == [[0, 1, 2]] * 3
    assert prompt_positions(torch.nn.Linear(1, 1), prompt, None, grid=None).tolist() == [[0, 1, 2]]


def test_a_prompt_that_ends_in_an_image_is_refused(vision_model: Any) -> None:
    image = vision_model.config.image_token_id
    with pytest.raises(ValueError, match="last token of a prompt must be text"):
        prompt_positions(
            vision_model.model, torch.tensor([3, image]), torch.tensor([0, 1]), grid=torch.tensor([[1, 2, 2]])
        )


def test_innermost_is_the_model_with_rotary_indices(vision_model: Any) -> None:
    assert innermost(vision_model) is vision_model.model
    text = torch.nn.Linear(1, 1)
    assert innermost(text) is text


@settings(max_examples=20)
@given(st.permutations(range(4)))
def test_rows_are_taken_in_order(order: list[int]) -> None:
    batch = {"ids": torch.arange(8).view(4, 2), "names": list("abcd"), "count": torch.tensor(3), "missing": None}
    found = take_rows(batch, torch.tensor(order))
    assert found["ids"][:, 0].tolist() == [2 * index for index in order]
    assert found["names"] == ["abcd"[index] for index in order]
    assert found["count"] == 3 and found["missing"] is None


def test_sum_of_one_is_itself() -> None:
    one = torch.ones(2)
    assert sum_of([one]) is one
    assert sum_of([one, 2 * one]).tolist() == [3, 3]


def with_attention(config: Any, attention: str = "sdpa") -> Any:
    config._attn_implementation = attention
    return config


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("cls", [Qwen2VLConfig, Qwen3VLConfig, Qwen2Config, Qwen3Config, LlamaConfig])
def test_supported(cls: Any, attention: str) -> None:
    assert unsupported(with_attention(cls(), attention)) is None


def test_unsupported_gives_the_reason() -> None:
    assert "attention 'flash_attention_2' takes no mask" in str(
        unsupported(with_attention(Qwen2VLConfig(), "flash_attention_2"))
    )
    window = Qwen2Config(use_sliding_window=True, sliding_window=8, max_window_layers=0)
    assert unsupported(with_attention(window)) == "its layers have sliding windows"
    assert str(unsupported(with_attention(MistralConfig()))).startswith("model type 'mistral' is not one of")
