import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor
from threadpoolctl import threadpool_info

from gor_head.compare import Cell, Comparison, Result, run, summarize
from gor_head.compare.cells import cell_settings, check_settings, fingerprint, measure, read, split, taken, write
from gor_head.compare.methods import METHODS as METHODS_OF_GOR
from gor_head.compare.plot import comparison_figure, plot_comparison
from gor_head.compare.significance import standings
from gor_head.tables import Table
from gor_head.vocabulary import CoDiVocabulary


class LinearWithOffset(BaseEstimator, RegressorMixin):
    """Least squares that is read in two ways, and takes a seed and a setting."""

    def __init__(self, random_state: int = 0, alpha: float = 1e-6) -> None:
        self.random_state = random_state
        self.alpha = alpha

    def fit(self, X: pd.DataFrame, y: Any) -> "LinearWithOffset":
        self.model_ = Ridge(self.alpha).fit(X, y)
        return self

    def predict(self, X: pd.DataFrame, offset: float = 0.0) -> Any:
        return self.model_.predict(X) + offset


class Failing(LinearWithOffset):
    """Fails with one seed until a file is there."""

    def __init__(self, random_state: int = 0, alpha: float = 1e-6, cure: str = "") -> None:
        super().__init__(random_state, alpha)
        self.cure = cure

    def fit(self, X: pd.DataFrame, y: Any) -> "LinearWithOffset":
        if self.random_state == 1 and not Path(self.cure).is_file():
            raise RuntimeError("diverged at step 7")
        return super().fit(X, y)


class Dying(LinearWithOffset):
    """Ends its process without a word, as a system short of memory does."""

    def fit(self, X: pd.DataFrame, y: Any) -> "LinearWithOffset":
        os._exit(9)


class CountsThreads(LinearWithOffset):
    """Predicts how many threads its training was given."""

    def predict(self, X: pd.DataFrame, offset: float = 0.0) -> Any:
        threads = max([torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())])
        return np.full(len(X), float(threads))


@dataclass(frozen=True)
class Regressor:
    name: str
    make: Callable[..., Any]
    reads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def seedless(make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda random_state=0, **settings: make(**settings)


LINEAR = Regressor("linear", LinearWithOffset, {"linear": {}, "linear (high)": {"offset": 0.5}})
NEIGHBOURS = Regressor("k-NN / 5", seedless(KNeighborsRegressor), {"k-NN": {}})
MEAN = Regressor("mean", seedless(DummyRegressor), {"mean": {}})
METHODS = [LINEAR, NEIGHBOURS, MEAN]


def table(name: str, n: int = 120, noise: float = 0.3) -> Table:
    generator = np.random.default_rng(len(name))
    features = pd.DataFrame(generator.normal(size=(n, 3)), columns=["a", "b", "c"])
    labels = 10 + features @ [2.0, -1.0, 0.5] + noise * generator.normal(size=n)
    return Table(name, features, labels.to_numpy(), "y")


TABLES = [table("small", 60), table("larger", 150, noise=1.0)]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("comparison")
    return folder, run(TABLES, METHODS, range(3), folder=folder, jobs=2)


def test_split_is_a_partition_by_seed() -> None:
    train, test = split(101, 3)
    assert sorted([*train, *test]) == list(range(101)) and len(test) == 21
    np.testing.assert_array_equal(split(101, 3)[1], test)
    assert set(split(101, 4)[1]) != set(test)


def test_cells_hold_what_the_regressor_predicts(outcome: tuple[Path, Any]) -> None:
    folder, done = outcome
    assert not done.failures and len(done.results) == 2 * 3 * 3
    train, test = split(150, 2)
    data = TABLES[1]
    expected = LinearRegression().fit(data.features.iloc[train], data.labels[train]).predict(data.features.iloc[test])
    result = done.results[Cell("larger", "linear", 2)]
    np.testing.assert_array_equal(result.samples, test)
    np.testing.assert_array_equal(result.truth, data.labels[test])
    np.testing.assert_allclose(result.predictions["linear"], expected, rtol=1e-5)
    np.testing.assert_allclose(result.predictions["linear (high)"], expected + 0.5, rtol=1e-5)
    assert result.fit_seconds > 0 and set(result.predict_seconds) == {"linear", "linear (high)"}
    files = sorted(path.name for path in (folder / "cells").iterdir())
    assert len(files) == 18 and "small--k-NN_5--0.npz" in files


def test_second_run_reads_the_cells_and_adds_what_is_new(outcome: tuple[Path, Any]) -> None:
    folder, done = outcome
    written = {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    seen: list[tuple[int, int, Cell | None]] = []
    ridge = Regressor("ridge", seedless(Ridge), {"ridge": {}})
    again = run(TABLES, [*METHODS, ridge], range(3), folder=folder, progress=lambda *step: seen.append(step))
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    assert seen[0] == (18, 24, None) and [step[0] for step in seen[1:]] == list(range(19, 25))
    assert {step[2] for step in seen[1:]} == {Cell(data.name, "ridge", seed) for data in TABLES for seed in range(3)}
    for cell, result in done.results.items():
        for row, predicted in result.predictions.items():
            np.testing.assert_array_equal(again.results[cell].predictions[row], predicted)


def test_number_of_processes_does_not_change_a_cell(outcome: tuple[Path, Any], tmp_path: Path) -> None:
    alone = run(TABLES[:1], METHODS, range(3), folder=tmp_path, jobs=1)
    for cell, result in alone.results.items():
        for row, predicted in result.predictions.items():
            np.testing.assert_array_equal(predicted, outcome[1].results[cell].predictions[row])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"settings": {"alpha": 3.0}}, r"larger--linear--0.npz: made with alpha 1e-06 \(wanted 3.0\)\. Rem"),
        (
            {"tables": [table("larger", 150, noise=2.0)]},
            r"larger--linear--0.npz: made with data '\w+' \(wanted '\w+'\)",
        ),
        (
            {"methods": [Regressor("linear", LinearWithOffset, {"linear": {"offset": 1}})]},
            "made with reads .*'offset': 1",
        ),
    ],
)
def test_cells_made_otherwise_are_an_error(outcome: tuple[Path, Any], changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"tables": TABLES, "methods": [LINEAR], "seeds": [0], "folder": outcome[0]} | changed
    with pytest.raises(ValueError, match=message):
        run(**arguments)


def test_cell_of_a_method_that_was_changed_since_is_an_error(outcome: tuple[Path, Any]) -> None:
    """No setting is given; what the method itself gives its estimator differs."""
    changed = Regressor("k-NN / 5", seedless(partial(KNeighborsRegressor, n_neighbors=4)), {"k-NN": {}})
    with pytest.raises(ValueError, match=r"k-NN_5--0.npz: made with n_neighbors 5 \(wanted 4\)\. Remove"):
        run(TABLES, [changed], [0], folder=outcome[0])
    other = Regressor("k-NN / 5", seedless(Ridge), {"k-NN": {}})
    with pytest.raises(ValueError, match=r"made with estimator 'KNeighborsRegressor' \(wanted 'Ridge'\)"):
        run(TABLES, [other], [0], folder=outcome[0])


def test_fingerprint_sees_features_columns_and_labels() -> None:
    data = TABLES[0]
    renamed = data.features.rename(columns={"a": "d"})
    category = data.features.assign(a=pd.Categorical(["x"] * 60))
    others = [
        Table("small", data.features, data.labels + 1, "y"),
        Table("small", data.features * 2, data.labels, "y"),
        Table("small", renamed, data.labels, "y"),
        Table("small", category, data.labels, "y"),
        Table("small", category.assign(a=pd.Categorical(["z"] * 60)), data.labels, "y"),
    ]
    assert len({fingerprint(other) for other in [data, *others]}) == 6
    assert fingerprint(Table("other name", data.features.copy(), data.labels, "y")) == fingerprint(data)


@pytest.mark.parametrize("jobs", [1, 2])
def test_failed_cell_is_named_and_missing_and_tried_again(tmp_path: Path, jobs: int) -> None:
    cure = tmp_path / "cure"
    failing = Regressor("failing", partial(Failing, cure=str(cure)), {"failing": {}})
    done = run(TABLES[:1], [failing, MEAN], range(3), folder=tmp_path, jobs=jobs)
    assert done.failures == {Cell("small", "failing", 1): "RuntimeError: diverged at step 7"}
    assert len(done.results) == 5
    log = tmp_path / "cells" / "small--failing--1.error.txt"
    assert "in fit\n" in log.read_text()

    summary = summarize(done.results, ["small"], [failing, MEAN], seeds=range(3))
    assert summary.entries["small"]["failing"] is None and summary.rows["failing"] is None
    assert summary.entries["small"]["mean"] is not None

    cure.touch()
    again = run(TABLES[:1], [failing, MEAN], range(3), folder=tmp_path)
    assert not again.failures and len(again.results) == 6
    assert not log.exists()


def test_predictions_that_are_no_numbers_fail_the_cell(tmp_path: Path) -> None:
    reads = {"good": {}, "bad": {"offset": np.nan}}
    done = run(TABLES[:1], [Regressor("linear", LinearWithOffset, reads)], [0], folder=tmp_path)
    assert done.failures[Cell("small", "linear", 0)] == (
        "ValueError: predictions of bad: 12 of 12 are no finite numbers."
    )


@pytest.mark.filterwarnings("ignore:.*worker:UserWarning")
def test_process_that_dies_leaves_the_cells_that_are_done(tmp_path: Path) -> None:
    dying = Regressor("dying", Dying, {"dying": {}})
    run(TABLES[:1], [MEAN], range(2), folder=tmp_path)
    done = run(TABLES[:1], [MEAN, dying], range(2), folder=tmp_path, jobs=2)
    assert set(done.results) == {Cell("small", "mean", seed) for seed in range(2)}
    assert set(done.failures) == {Cell("small", "dying", seed) for seed in range(2)}
    assert all(reason.startswith("a process died") for reason in done.failures.values())


@pytest.mark.parametrize("jobs", [1, 2])
def test_cells_run_on_one_thread(tmp_path: Path, jobs: int) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        method = Regressor("threads", CountsThreads, {"threads": {}})
        done = run(TABLES[:1], [method], range(2), folder=tmp_path, jobs=jobs)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert all((result.predictions["threads"] == 1).all() for result in done.results.values())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tables": [table("a b"), table("A/B")]}, "tables need different names, got 'a b' and 'A/B'"),
        ({"methods": [LINEAR, Regressor("other", Ridge, {"linear": {}})]}, "rows need different names, got 'linear'"),
        ({"seeds": [1, 1]}, "seeds need different names, got '1'"),
        ({"methods": []}, "at least one method"),
        ({"tables": []}, "at least one table"),
        ({"settings": {"gamma": 1}}, "settings: no method takes 'gamma'; the methods are linear, k-NN / 5, mean"),
        ({"settings": {"random_state": 1}}, "settings: no method takes 'random_state'"),
        ({"jobs": 0}, "jobs: wanted at least 1, got 0"),
    ],
)
def test_what_cannot_be_compared(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"tables": TABLES, "methods": METHODS, "seeds": [0], "folder": tmp_path}
    with pytest.raises(ValueError, match=message):
        run(**(arguments | changed))


def test_each_method_is_given_what_it_takes_and_the_rest_is_said(tmp_path: Path) -> None:
    settings = {"alpha": 2.0, "n_neighbors": 3}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(TABLES[:1], METHODS, [0], folder=tmp_path, settings=settings)
    said = [str(each.message) for each in caught if "is no setting of" in str(each.message)]
    assert said == [
        "alpha is no setting of k-NN / 5, mean: trained without it.",
        "n_neighbors is no setting of linear, mean: trained without it.",
    ]
    found = {method.name: read(Cell("small", method.name, 0).path(tmp_path))[1]["parameters"] for method in METHODS}
    assert found["linear"]["alpha"] == 2 and found["k-NN / 5"]["n_neighbors"] == 3


def test_cells_of_other_vocabularies_differ() -> None:
    """Both are written alike in an error message."""
    cell, method = Cell("small", "gor", 0), METHODS_OF_GOR["gor"]
    vocabularies = [CoDiVocabulary([1, second, 9]) for second in (2, 3)]
    settings = [cell_settings(cell, method, "", settings={"vocabulary": each}) for each in vocabularies]
    with pytest.raises(ValueError, match=r"made with vocabulary {.*'tokens': \[1, 2, 9\].* \(wanted {"):
        check_settings(Path("cell.npz"), *settings)
    assert taken(METHODS_OF_GOR["gr"], {"vocabulary": {}, "decoder": "gru"}) == {"decoder": "gru"}


def test_file_of_a_cell(tmp_path: Path) -> None:
    data, path = TABLES[0], tmp_path / "cells" / "cell.npz"
    settings = cell_settings(Cell("small", "linear", 0), LINEAR, fingerprint(data), settings={"alpha": 1e-3})
    result, notes = measure(data, LINEAR, 0, settings={"alpha": 1e-3})
    write(path, result, settings, notes=notes)
    kept, found = read(path)
    assert found == settings and kept.fit_seconds == result.fit_seconds
    check_settings(path, found, settings)
    for row in LINEAR.reads:
        np.testing.assert_array_equal(kept.predictions[row], result.predictions[row])
    assert [entry.name for entry in path.parent.iterdir()] == ["cell.npz"]

    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cell.npz: not the file of a cell"):
            read(path)
    refused = 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read(path)
        except ValueError as error:
            refused += "cell.npz: not the file of a cell" in str(error)
    # Most bytes matter; dates in the archive do not.
    assert refused > 0.7 * len(whole) / 7


def synthetic(errors: dict[str, dict[str, float]], n: int = 40) -> tuple[dict[Cell, Result], list[Regressor]]:
    """Cells in which the predictions of a row are off by a constant: its MAE is that constant."""
    rows = list(next(iter(errors.values())))
    truth = np.arange(n, dtype=np.float64)
    results = {
        Cell(name, row, seed): Result(np.arange(n), truth, {row: truth + off}, 2.0 + seed, {row: 0.5})
        for name, by_row in errors.items()
        for row, off in by_row.items()
        for seed in range(2)
    }
    return results, [Regressor(row, LinearWithOffset, {row: {}}) for row in rows]


def summarized(errors: dict[str, dict[str, float]]) -> Comparison:
    results, methods = synthetic(errors)
    return summarize(results, list(errors), methods, seeds=range(2))


def test_summary_by_hand() -> None:
    summary = summarized(
        {
            "one": {"a": 1.0, "b": 1.005, "c": 2.0},
            "two": {"a": 3.0, "b": 2.0, "c": 2.0},
        }
    )
    one = summary.entries["one"]
    assert one["a"] is not None and one["b"] is not None and one["c"] is not None
    assert (one["a"].standing.best, one["b"].standing.best) == (True, False)
    assert (one["b"].standing.tied, one["c"].standing.tied) == (True, False)
    assert one["c"].relative == pytest.approx(2.0) and one["c"].srcc == pytest.approx(1.0)
    assert one["a"].fit_seconds == 2.5 and one["a"].predict_seconds == 0.5
    a, b, c = (summary.rows[row] for row in "abc")
    assert a is not None and b is not None and c is not None
    assert (a.tied, b.tied, c.tied) == (1, 2, 1) and (a.share, b.share) == (0.5, 1.0)
    assert (a.rank, b.rank, c.rank) == ((1 + 3) / 2, (2 + 1.5) / 2, (3 + 1.5) / 2)
    assert a.relative == pytest.approx((1 + 1.5) / 2) and b.relative == pytest.approx((1.005 + 1) / 2)


def test_summary_of_a_perfect_row_is_json() -> None:
    summary = summarized({"one": {"a": 0.0, "b": 0.5}})
    content = json.loads(json.dumps(summary.to_json(), allow_nan=False))
    assert content["tables"]["one"]["a"] | {"p_value": 0} == {
        "mae": 0.0, "p_value": 0, "best": True, "tied": True, "srcc": 1.0, "relative": 1.0, "rank": 1.0,
        "fit_seconds": 2.5, "predict_seconds": 0.5,
    }  # fmt: skip
    assert content["tables"]["one"]["b"]["relative"] is None
    assert content["rows"]["b"] == {"tables": 1, "tied": 0, "share": 0.0, "rank": 2.0, "relative": None}


def test_row_that_lacks_a_seed_is_missing_on_that_table_only() -> None:
    results, methods = synthetic({"one": {"a": 1.0, "b": 2.0}, "two": {"a": 3.0, "b": 2.0}})
    del results[Cell("one", "a", 1)]
    summary = summarize(results, ["one", "two"], methods, seeds=range(2))
    assert summary.entries["one"]["a"] is None
    b = summary.entries["one"]["b"]
    assert b is not None and b.standing.best and b.rank == 1
    assert summary.rows["a"] is not None and summary.rows["a"].tables == 1
    assert summary.to_json()["tables"]["one"]["a"] is None


def test_summary_is_that_of_the_pooled_rows(outcome: tuple[Path, Any]) -> None:
    results = outcome[1].results
    summary = summarize(results, ["larger"], METHODS, seeds=range(3))
    names = {"linear": "linear", "linear (high)": "linear", "k-NN": "k-NN / 5", "mean": "mean"}
    cells = {row: [results[Cell("larger", name, seed)] for seed in range(3)] for row, name in names.items()}
    errors = {
        row: np.concatenate([np.abs(cell.truth - cell.predictions[row]) for cell in kept])
        for row, kept in cells.items()
    }
    samples = np.concatenate([cell.samples for cell in cells["mean"]])
    expected = standings(errors, samples)
    seen = {row: entry.standing for row, entry in summary.entries["larger"].items() if entry is not None}
    assert seen == expected and expected["linear"].best and not expected["mean"].tied
    mean = summary.entries["larger"]["mean"]
    assert mean is not None and mean.srcc == 0.0


def test_figure(tmp_path: Path) -> None:
    summary = summarized({f"table {place}": {"a": 1.0, "b": 1 + 0.1 * place, "c": 2.0} for place in range(5)})
    axes = comparison_figure(summary).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    points = [line for line in axes.lines if line.get_marker() == "o"]
    drawn = sorted(float(np.asarray(line.get_xdata())[0]) for line in points)
    assert drawn == pytest.approx([1] * 6 + [1.1, 1.2, 1.3, 1.4] + [2] * 5)
    assert sum(line.get_markerfacecolor() == "tab:blue" for line in points) == 6
    plot_comparison(summary, tmp_path / "figure.png")
    assert imread(tmp_path / "figure.png").std() > 0.05

    with pytest.raises(ValueError, match="nothing to draw"):
        comparison_figure(summarize({}, ["one"], METHODS, seeds=[0]))
