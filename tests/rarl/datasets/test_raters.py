"""Labels of raters: votes about images, what training sees of them, and the truth that tests keep to."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import spearmanr

from rarl.datasets import FolderSource, load_source, make_dataset, split_by_content
from rarl.datasets.raters import agreement, choose_votes, draw_votes, label_places, mean_votes, to_task
from rarl.evaluation.heldout import heldout_prompts
from rarl.task import OrdinalTask, get_task

COUNT, BRIGHTNESS = get_task("count"), get_task("brightness")


def test_numbers_of_a_rater_written_out() -> None:
    assert to_task([-3.0, 0.49, 0.5, 2.5, 9.6, 12.0], COUNT).tolist() == [0, 0, 1, 3, 10, 10]
    assert to_task([-0.1, 0.123, 0.126, 1.3], BRIGHTNESS).tolist() == [0, 0.12, 0.13, 1]
    assert mean_votes([[1, 2, 4], [0, 0, 1], [10, 10, 10]], COUNT).tolist() == [2, 0, 10]  # 7/3, 1/3
    np.testing.assert_allclose(mean_votes([[0.1, 0.2]], BRIGHTNESS), [0.15])


@given(st.lists(st.integers(0, 10), min_size=1, max_size=30), st.floats(0, 5), st.integers(1, 6), st.integers(0, 9))
def test_votes_are_answers_of_the_task(values: list[int], deviation: float, raters: int, seed: int) -> None:
    votes = draw_votes(values, deviation, COUNT, raters=raters, seed=(seed,))
    assert votes.shape == (len(values), raters)
    assert (votes == np.round(votes)).all() and votes.min() >= 0 and votes.max() <= 10
    longer = draw_votes([*values, 3, 3], deviation, COUNT, raters=raters, seed=(seed,))
    np.testing.assert_array_equal(longer[: len(values)], votes)
    if deviation == 0:
        assert (votes == np.array(values)[:, None]).all()


def test_votes_have_the_deviation_that_was_asked_for() -> None:
    """Far from the ends of the range, and one vote's variance is k times that of the mean of k."""
    wide = OrdinalTask("wide", "length", -1000, 1000, tolerance=1)
    one = draw_votes(np.zeros(20_000), 3.0, wide, raters=1, seed=(0,))
    four = mean_votes(draw_votes(np.zeros(20_000), 3.0, wide, raters=4, seed=(1,)), wide)
    assert one.std() == pytest.approx(3.0, rel=0.02) and four.std() == pytest.approx(1.5, rel=0.02)
    own = draw_votes(np.zeros(20_000), np.repeat([0.0, 2.0], 10_000), wide, raters=1, seed=(2,))
    assert own[:10_000].std() == 0 and own[10_000:].std() == pytest.approx(2.0, rel=0.03)


@given(st.integers(1, 4), st.integers(0, 5))
def test_chosen_votes_are_votes_of_the_image(raters: int, seed: int) -> None:
    votes = np.arange(40).reshape(10, 4)
    chosen = choose_votes(votes, raters=raters, seed=(seed,))
    assert chosen.shape == (10, raters)
    for row, own in zip(votes, chosen, strict=True):
        assert len(set(own)) == raters and set(own) <= set(row)


def test_training_sees_labels_and_tests_the_truth() -> None:
    plain, noisy = load_source("builtin", size=200), load_source("builtin", size=200, rater_noise=2.0)
    np.testing.assert_array_equal(plain.values, noisy.values)
    rated = noisy.rated()
    assert (rated.values != noisy.values).mean() > 0.5 and plain.rated() is plain
    assert rated.content_hash(3) == noisy.content_hash(3) == plain.content_hash(3), "images show the truth"
    datasets, median = heldout_prompts(noisy, num_images=[1, 2], num_prompts=5)
    wanted, true_median = heldout_prompts(plain, num_images=[1, 2], num_prompts=5)
    for number in (1, 2):
        assert datasets[number]["values"] == wanted[number]["values"]
    train = split_by_content(noisy)["train"]
    assert median == np.median(noisy.labels[train]) and true_median == np.median(plain.values[train])
    rows = make_dataset(rated, train, 20, {1: 1.0})
    stored = rows.with_format(None)
    assert [row["values"] for row in stored] == [[noisy.labels[i] for i in row["images"]] for row in stored]
    with pytest.raises(ValueError, match="Held-out prompts want the true values, got a source whose values are labels"):
        heldout_prompts(rated)


def test_votes_are_drawn_once_an_image() -> None:
    short, long = (load_source("builtin", size=size, rater_noise=2.0, raters=3, seed=4) for size in (50, 90))
    np.testing.assert_array_equal(short.labels, long.labels[:50])
    assert (load_source("builtin", size=50, rater_noise=2.0, raters=3, seed=5).labels != short.labels).any()
    shades = load_source("builtin", "brightness", size=50, rater_noise=0.2)
    np.testing.assert_array_equal(np.round(shades.labels, 2), shades.labels)
    many = [load_source("builtin", size=500, rater_noise=2.0, raters=number) for number in (1, 9)]
    spread = [np.abs(each.labels - each.values).mean() for each in many]
    assert spread[1] < spread[0] / 2


def folder(path: Path, csv: str) -> tuple[Path, Path]:
    for number in range(3):
        Image.new("RGB", (8, 8), (number * 40, 0, 0)).save(path / f"{number}.png")
    (path / "labels.csv").write_text(csv, encoding="utf-8")
    return path, path / "labels.csv"


VOTES = "file,value_1,value_2,value_3\n0.png,1,2,4\n1.png,0,0,1\n2.png,10,10,10\n"


def test_value_of_an_image_is_the_mean_of_all_votes(tmp_path: Path) -> None:
    source = FolderSource(*folder(tmp_path, VOTES), "count")
    assert source.values.tolist() == [2, 0, 10] and source.rated() is source
    two = FolderSource(tmp_path, tmp_path / "labels.csv", "count", raters=2)
    assert two.values.tolist() == [2, 0, 10]
    possible = [{2, 3}, {0, 1}, {10}]  # means of two of the votes, half units upwards
    assert all(label in each for label, each in zip(two.labels, possible, strict=True))
    drawn = {tuple(FolderSource(tmp_path, tmp_path / "labels.csv", "count", raters=1, seed=s).labels) for s in range(9)}
    assert len(drawn) > 1


def test_votes_about_a_mean_with_its_deviation(tmp_path: Path) -> None:
    text = "file,value,std\n0.png,0.5,0\n1.png,0.5,0.2\n2.png,0.25,0.1\n"
    arguments = folder(tmp_path, text)
    assert FolderSource(*arguments, "brightness").rated().values.tolist() == [0.5, 0.5, 0.25]
    source = FolderSource(*arguments, "brightness", raters=1)
    assert source.values.tolist() == [0.5, 0.5, 0.25]
    assert source.labels[0] == 0.5 and source.labels[1] != 0.5
    again = load_source("folder", "brightness", folder=arguments[0], csv=arguments[1], raters=1)
    np.testing.assert_array_equal(again.labels, source.labels)


@pytest.mark.parametrize(
    ("csv", "settings", "message"),
    [
        (VOTES, {"raters": 4}, "raters: wanted at most 3, the votes that an image has, got 4"),
        (VOTES, {"raters": 0}, "raters: wanted at least one rater an image, got 0"),
        (VOTES.replace("1.png,0,0", "1.png,0,11"), {}, "line 3, file '1.png', value_2: value 11 is outside the range"),
        (
            VOTES.replace("1.png,0,0", "1.png,0,x"),
            {},
            "line 3, file '1.png', value_2: value 'x' is not a finite",
        ),
        (VOTES.replace("1.png,0,0", "1.png,0,0.5"), {}, "value_2: value 0.5 is not an integer"),
        ("file,value\n0.png,1\n", {"raters": 2}, "has no votes to draw from; wanted a column std, or columns of votes"),
        ("file,value,value_1\n0.png,1,1\n", {"raters": 1}, "wanted columns of votes without a column value"),
        (
            "file,value,std\n0.png,1,-1\n",
            {"raters": 1},
            "'0.png': std '-1': wanted a standard deviation of 0",
        ),
        ("file,value,std\n0.png,1,nan\n", {"raters": 1}, "std 'nan': wanted a standard deviation of 0 or more"),
    ],
)
def test_votes_that_cannot_be_meant(tmp_path: Path, csv: str, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FolderSource(*folder(tmp_path, csv), "count", **settings)


def test_labels_of_fractions_have_two_decimals_or_more(tmp_path: Path) -> None:
    source = FolderSource(*folder(tmp_path, "file,value_1,value_2,value_3\n0.png,0.5,0.5,0.6\n"), "brightness")
    assert source.values.tolist() == [0.53]
    drawn = FolderSource(*folder(tmp_path, "file,value,std\n0.png,0.5,0.1\n"), "brightness", raters=3).labels[0]
    assert drawn == round(drawn, 2)
    small = OrdinalTask("small", "a share", 0, 0.02, tolerance=0.01)
    assert [label_places(task) for task in (BRIGHTNESS, get_task("aesthetics"), small)] == [2, 2, 4]


def test_columns_that_nobody_asked_for_are_left_alone(tmp_path: Path) -> None:
    source = FolderSource(*folder(tmp_path, "file,value,std,value_1\n0.png,1,high,?\n"), "count")
    assert source.values.tolist() == [1.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rater_noise": -1.0}, "rater_noise: wanted a standard deviation of 0 or more, got -1.0"),
        ({"rater_noise": float("nan")}, "rater_noise: wanted a standard deviation of 0 or more, got nan"),
        ({"raters": 3}, "without rater_noise all say the same"),
        ({"raters": 0, "rater_noise": 1.0}, "wanted at least one rater an image, got 0"),
    ],
)
def test_noise_that_cannot_be_meant(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_source("builtin", size=4, **settings)


def test_sources_without_raters_refuse_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'utkface' does not use rater_noise, got '1.0'"):
        load_source("utkface", folder=tmp_path, rater_noise=1.0)
    with pytest.raises(ValueError, match="'folder' does not use rater_noise"):
        load_source("folder", "count", folder=tmp_path, csv=tmp_path / "a.csv", rater_noise=1.0)


def test_people_agree_with_people_as_scipy_says() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 10, size=400)
    votes = [(value + rng.normal(0, 2, size=rng.integers(15, 21))).tolist() for value in truth]
    found = agreement(votes, seed=3)
    again = np.random.default_rng(3)
    halves, singles = [], []
    for each in votes:
        shuffled = again.permutation(np.array(each))
        middle = len(shuffled) // 2
        halves.append([shuffled[:middle].mean(), shuffled[middle:].mean()])
        singles.append([shuffled[0], shuffled[1:].mean()])
    for pairs, srcc, error in ((halves, found.half_srcc, found.half_mae), (singles, found.one_srcc, found.one_mae)):
        one, other = np.array(pairs).T
        assert srcc == pytest.approx(spearmanr(one, other).statistic)
        assert error == pytest.approx(np.abs(one - other).mean())
    assert found.half_srcc > found.one_srcc and found.half_mae < found.one_mae
    same = agreement([[3.0] * 4, [5.0] * 5, [7.0] * 2])
    assert (same.half_srcc, same.one_srcc, same.half_mae, same.one_mae) == (1.0, 1.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="Item 1: wanted at least two votes, got 1"):
        agreement([[1.0, 2.0], [3.0]])
