import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from PIL import Image

from gor_head import CoDiVocabulary, GoRRegressor
from gor_head.plots import (
    frequency_figure,
    pruning,
    pruning_figure,
    refinement,
    refinement_figure,
    token_frequencies,
)


@pytest.fixture(scope="module")
def long_tailed() -> CoDiVocabulary:
    return CoDiVocabulary.fit(np.rint(np.random.default_rng(0).lognormal(4, 1.5, 2000)), resolution=1.0)


def test_panels_show_the_counts_of_the_summary(long_tailed: CoDiVocabulary) -> None:
    summary = long_tailed.summary()
    axes = frequency_figure(summary).axes
    assert len(axes) == 2
    for axis, stage in zip(axes, ("before", "after"), strict=True):
        (points,) = axis.lines
        assert points.get_xdata().tolist() == summary[stage]["values"]
        assert points.get_ydata().tolist() == summary[stage]["occurrences"]
        assert stage in axis.get_title() and f"vocabulary of {summary[stage]['size']}," in axis.get_title()
        assert axis.get_xscale() == "log" and axis.get_yscale() == "symlog"
        assert axis.get_xlabel() or stage == "before"
        assert axis.get_ylabel()
    assert summary["after"]["size"] < summary["before"]["size"]


@pytest.mark.parametrize("beta", [0, 1])
@pytest.mark.parametrize("labels", [list(range(1, 90)) * 5, [3, 3, 3], [0, 0, 0.25]])
def test_every_point_lies_inside_the_axes(labels: list[float], beta: float) -> None:
    vocabulary = CoDiVocabulary.fit(labels, initializer="binary", beta=beta)
    for axis in frequency_figure(vocabulary.summary()).axes:
        x, y = axis.lines[0].get_data()
        assert axis.get_xlim()[0] < min(x) and max(x) < axis.get_xlim()[1]
        assert axis.get_ylim()[0] == 0 and max(y) < axis.get_ylim()[1]


def test_image_is_written_without_global_state(long_tailed: CoDiVocabulary, tmp_path: Path) -> None:
    pyplot_was_loaded = "matplotlib.pyplot" in sys.modules
    path = tmp_path / "frequencies.png"
    token_frequencies(long_tailed, path)
    assert ("matplotlib.pyplot" in sys.modules) == pyplot_was_loaded
    with Image.open(path) as image:
        assert image.size == (900, 660)
        colours = {colour for _, colour in image.convert("RGB").getcolors(maxcolors=2**24) or []}
    assert {(31, 119, 180), (255, 127, 14)} <= colours  # both panels' stems


def test_vocabulary_without_counts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "frequencies.png"
    with pytest.raises(ValueError, match="wanted one made by fit, got one without counts"):
        token_frequencies(CoDiVocabulary([1, 2, 4]), path)
    with pytest.raises(ValueError, match="wanted at least 1 value token, got none; all labels are zero"):
        token_frequencies(CoDiVocabulary.fit([0, 0]), path)
    assert not path.exists()


def test_pruning_is_drawn_as_it_went(tmp_path: Path) -> None:
    labels = list(range(1, 120))
    vocabulary = CoDiVocabulary.fit(labels, initializer="place", beta=0, exact=True, mean_length=2.5)
    summary = vocabulary.summary()
    [axes] = pruning_figure(summary).axes
    path, limit = axes.lines
    assert list(zip(*path.get_data(), strict=True)) == [tuple(step) for step in summary["pruning"]]
    assert set(limit.get_ydata()) == {2.5} and len(summary["pruning"]) > 3
    assert path.get_xdata()[-1] == len(vocabulary.tokens) and path.get_ydata()[-1] <= 2.5
    pruning(vocabulary, tmp_path / "pruning.png")
    assert imread(tmp_path / "pruning.png").std() > 0.01
    for other in (CoDiVocabulary([1, 2, 4]), CoDiVocabulary.for_language_model(labels)):
        with pytest.raises(ValueError, match="wanted one made by fit, got one without a record of its pruning"):
            pruning(other, tmp_path / "none.png")


def test_refinement_draws_every_row_and_its_sums(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 2))
    labels = np.round(30 + 10 * features[:, 0].clip(-2, 2))
    regressor = GoRRegressor(max_steps=5, width=8, layers=1, random_state=0).fit(features, labels)
    figure = refinement_figure(regressor, features[:4], labels[:4])
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 4
    predictions = regressor.predict(features[:4])
    for axes, prediction in zip(shown, predictions, strict=True):
        sums = next(line for line in axes.lines if line.get_label() == "sum so far").get_ydata()
        assert sums[0] == 0 and sums[-1] == prediction
        assert axes.get_title().endswith(f"= {prediction:g}")
    of_frame = refinement_figure(regressor, features[:4], pd.Series(labels)[56:])
    assert [axes.lines[-1].get_ydata()[0] for axes in of_frame.axes[:4]] == labels[56:].tolist()
    refinement(regressor, features[:4], tmp_path / "refinement.png")
    assert (tmp_path / "refinement.png").stat().st_size > 1000
