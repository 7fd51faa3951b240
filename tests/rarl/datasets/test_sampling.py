from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rarl.datasets import ImageSource, sample_groups, split_by_content, without_copies
from rarl.task import get_task


class Blocks(ImageSource):
    """One-colour images whose content is a number."""

    def __init__(self, contents: list[int]) -> None:
        self.contents = contents
        super().__init__(get_task("count"), np.zeros(len(contents)))

    def name(self, i: int) -> str:
        return f"{i}.png"

    def read(self, i: int) -> tuple[Image.Image, bytes]:
        return Image.new("RGB", (56, 56)), str(self.contents[i]).encode()


def split_of(source: Blocks, seed: int) -> dict[int, str]:
    """Split of each content; fails if a content is on two sides."""
    found: dict[int, str] = {}
    for name, indices in split_by_content(source, (0.5, 0.25, 0.25), seed).items():
        for index in indices:
            assert found.setdefault(source.contents[index], name) == name
    return found


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 120), max_size=200), st.integers(0, 2**40), st.randoms(use_true_random=False))
def test_split_is_a_function_of_content_and_seed(extra: list[int], seed: int, random: object) -> None:
    base = list(range(150))
    contents = base + extra + list(range(150, 200))
    random.shuffle(contents)  # type: ignore[attr-defined]
    before, after = split_of(Blocks(base), seed), split_of(Blocks(contents), seed)
    assert {content: after[content] for content in base} == before


def test_split_covers_every_index_once_in_the_given_shares() -> None:
    source = Blocks(list(range(4000)))
    splits = split_by_content(source)
    assert sorted(np.concatenate(list(splits.values()))) == list(range(4000))
    for name, share in {"train": 0.8, "validation": 0.1, "test": 0.1}.items():
        # Five standard deviations of a binomial share.
        assert abs(len(splits[name]) / 4000 - share) < 5 * (share * (1 - share) / 4000) ** 0.5
    assert not np.array_equal(splits["test"], split_by_content(source, seed=1)["test"])


def test_split_is_the_same_in_every_release() -> None:
    # A model's test images must stay test images: this list may not change.
    splits = split_by_content(Blocks(list(range(30))), (0.6, 0.2, 0.2))
    assert {name: len(indices) for name, indices in splits.items()} == {"train": 17, "validation": 5, "test": 8}
    assert splits["test"].tolist() == [2, 9, 13, 15, 16, 18, 19, 20]


def test_empty_split_is_an_error_unless_asked_for() -> None:
    source = Blocks([1, 1, 1])
    with pytest.raises(ValueError, match="split of 3 images is empty although its fraction is 0.[18]"):
        split_by_content(source)
    splits = split_by_content(source, (1.0, 0.0, 0.0))
    assert [len(indices) for indices in splits.values()] == [3, 0, 0]


def test_copies_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A file under a second name would stand twice in a prompt."""
    source = Blocks([7, 7, 8, 8, 9, 9])
    assert without_copies(source, np.array([1, 2, 4])).tolist() == [1, 2, 4] and not caplog.text
    assert without_copies(source, np.arange(1, 6)).tolist() == [1, 2, 4]
    assert "2 of 5 images are copies of others and not used, such as 3.png (value 0) of 2.png (value 0)" in caplog.text
    source.values[5] = 1234567
    without_copies(source, np.arange(1, 6))
    assert "not used, 1 of them with another value, such as 5.png (value 1234567) of " in caplog.text


@pytest.mark.parametrize("fractions", [(0.8, 0.1), (0.8, 0.3, 0.1), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5)])
def test_bad_fractions(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="sum 1"):
        split_by_content(Blocks([1, 2, 3]), fractions)


MIXES = st.dictionaries(st.integers(1, 8), st.floats(0.1, 10), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 60), MIXES, st.integers(0, 2**32))
def test_without_gap_images_are_used_evenly(num_images: int, mix: dict[int, float], seed: int) -> None:
    used = np.zeros(num_images, dtype=int)
    for group in sample_groups(np.zeros(num_images), 60, mix, seed=seed):
        assert len(group) in mix
        assert len(set(group.tolist())) == len(group)
        used[group] += 1
    assert used.max() - used.min() <= 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 1) | st.integers(0, 20).map(lambda step: step / 20), min_size=8, max_size=60),
    MIXES,
    st.sampled_from([0.05, 0.1, 0.15, 0.3]) | st.floats(1e-6, 0.5),
    st.integers(0, 2**32),
)
def test_gap_holds_or_the_request_is_refused(values: list[float], mix: dict[int, float], gap: float, seed: int) -> None:
    array = np.array(values)
    longest = 0
    last = -np.inf
    for value in np.unique(array):  # The most values a gap apart, taken from below.
        if value - last >= gap:
            longest, last = longest + 1, value
    if longest < max(mix):
        with pytest.raises(ValueError, match=f"at most {longest} of these"):
            sample_groups(array, 10, mix, min_gap=gap, seed=seed)
        return
    for group in sample_groups(array, 30, mix, min_gap=gap, seed=seed):
        assert len(group) in mix
        assert (np.diff(np.sort(array[group])) >= gap).all()


def test_only_one_combination_fits() -> None:
    values = np.repeat(np.arange(11.0), 50)
    for group in sample_groups(values, 40, {3: 1.0}, min_gap=5):
        assert sorted(values[group]) == [0, 5, 10]


def test_rare_values_are_found_behind_many_equal_ones() -> None:
    values = np.array([5.0] * 990 + [6.0] * 10)
    groups = list(sample_groups(values, 30, {2: 1.0}, min_gap=1))
    assert all(sorted(values[group]) == [5, 6] for group in groups)
    used = np.bincount(np.concatenate(groups), minlength=1000)
    assert used[:990].max() == 1
    assert (used[990:] == 3).all()


def test_mix_frequencies() -> None:
    mix = {1: 2.0, 2: 1.0, 4: 1.0, 8: 0.0}
    sizes = np.array([len(group) for group in sample_groups(np.arange(40), 4000, mix)])
    assert set(sizes) == {1, 2, 4}
    for size, share in {1: 0.5, 2: 0.25, 4: 0.25}.items():
        assert abs((sizes == size).mean() - share) < 5 * (share * (1 - share) / 4000) ** 0.5


def test_order_in_the_prompt_is_random() -> None:
    values = np.arange(100.0)
    groups = list(sample_groups(values, 2000, {3: 1.0}, min_gap=20))
    orders = np.bincount([int(np.argsort(values[group]) @ [9, 3, 1]) for group in groups])
    counts = orders[orders > 0]
    assert len(counts) == 6
    # Six orders at 1/6 of 2000 each, five standard deviations.
    assert (abs(counts - 2000 / 6) < 5 * (2000 * 5 / 36) ** 0.5).all()


def test_same_seed_same_groups_and_stream_begins_alike() -> None:
    arguments: dict[str, Any] = {"values": np.arange(30), "mix": {1: 1.0, 4: 1.0}, "min_gap": 2.0}

    def lists(seed: int, num_prompts: int | None) -> list[list[int]]:
        return [group.tolist() for group in islice(sample_groups(**arguments, num_prompts=num_prompts, seed=seed), 50)]

    assert lists(1, 50) == lists(1, 50) == lists(1, None)
    assert lists(1, 50) != lists(2, 50)
    turned = {**arguments, "mix": {4: 1.0, 1: 1.0}}
    assert lists(1, 50) == [group.tolist() for group in sample_groups(**turned, num_prompts=50, seed=1)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mix": {}}, "mix is empty"),
        ({"mix": {11: 1.0}}, "N=11, but there are only 10 items"),
        ({"mix": {0: 1.0}}, "N=0"),
        ({"mix": {-2: 1.0}}, "N=-2"),
        ({"mix": {1.5: 1.0}}, "N=1.5"),
        ({"mix": {1: -1.0}}, "N=1 the weight -1"),
        ({"mix": {1: float("nan")}}, "N=1 the weight nan"),
        ({"mix": {1: 0.0}}, "All weights of the mix are 0"),
        ({"num_prompts": 0}, "num_prompts must be at least 1.*got 0"),
        ({"min_gap": -1.0}, "min_gap.*got -1"),
        ({"min_gap": 5.0, "mix": {3: 1.0}}, "3 images in a prompt.*5 apart, but at most 2 of these 10"),
        ({"values": [1.0, float("nan"), 2.0]}, "1 that are not"),
    ],
)
def test_errors_are_raised_at_the_call(change: dict[str, object], message: str) -> None:
    arguments: dict[str, Any] = {"values": np.arange(10), "num_prompts": 3, "mix": {2: 1.0}}
    with pytest.raises(ValueError, match=message):
        sample_groups(**(arguments | change))


def test_a_weight_of_zero_may_exceed_the_data() -> None:
    assert len(next(sample_groups(np.arange(3), 1, {2: 1.0, 8: 0.0}))) == 2
