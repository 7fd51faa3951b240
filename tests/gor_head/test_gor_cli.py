"""The `gor` command, as a user calls it."""

import io
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from rich.console import Console
from sklearn.metrics import mean_absolute_error, root_mean_squared_error
from typer.testing import CliRunner, Result

from gor_head import CoDiVocabulary
from gor_head.cli import app
from gor_head.cli.compare import comparison_tables, overall_table
from gor_head.cli.evaluate import metrics_table, parse_edges, ranges_table
from gor_head.cli.options import parse_settings
from gor_head.cli.vocabulary import summary_table, summary_text
from gor_head.compare import Cell, Comparison, Entry, Overall
from gor_head.compare.cells import read, split
from gor_head.compare.plot import comparison_figure
from gor_head.compare.significance import Standing
from gor_head.evaluation import evaluate_predictions
from tests.markup import NAMES
from tests.outputs import call_with_encoding, unwritable

QUICK = ["--set", "max_steps=30", "--set", "batch_size=64"]


def gor(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "160"})


def succeed(*arguments: Any) -> str:
    result = gor(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def fail(code: int, *arguments: Any) -> str:
    result = gor(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tables with a category, a customer's number and different names of the label."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for name, target, rows in [("visits", "seconds", 160), ("spending", "cents", 120)]:
        x = generator.normal(size=rows)
        city = generator.choice(["Oslo", "Bergen"], rows)
        label = np.round(20 + 6 * x + 10 * (city == "Oslo") + generator.normal(size=rows)).clip(0)
        data = pd.DataFrame({"customer": [f"c{row:04d}" for row in range(rows)], "x": x, "city": city, target: label})
        data.to_csv(folder / f"{name}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    out = folder / "model"
    printed = succeed(
        "train", folder / "visits.csv", "--target", "seconds", "--drop", "customer", "--out", out, *QUICK,
        "--set", 'vocabulary={"beta": 0.9}', "--set", "decoder=gru",
    )  # fmt: skip
    assert "160 rows, 2 columns" in printed and "30 steps, validation MAE" in printed
    return out


def test_help_names_every_command() -> None:
    printed = subprocess.run(
        [sys.executable, "-c", "from gor_head.cli import app; app()", "--help"], capture_output=True, text=True
    )
    assert printed.returncode == 0, printed.stderr
    for command in ("vocabulary", "train", "predict", "evaluate", "compare"):
        assert command in printed.stdout


# gor vocabulary


@pytest.fixture
def ages(tmp_path: Path) -> Path:
    path = tmp_path / "ages.csv"
    path.write_text("age\n" + "\n".join(map(str, [3, 21, 30, 34, 58, 58, 60, 71])) + "\n")
    return path


def test_vocabulary(ages: Path, tmp_path: Path) -> None:
    out, image = tmp_path / "new" / "vocabulary", tmp_path / "figures" / "tokens.png"
    flags = ["--initializer", "binary", "--beta", "1", "--tolerance", "0.01", "--max-length", "8"]
    printed = succeed("vocabulary", ages, *flags, "--out", out, "--plot", image)
    assert "1, 2, 4, 8, 16, 32, 64" in printed and "8 labels, 7 of them distinct" in printed
    expected = CoDiVocabulary.fit(
        [3, 21, 30, 34, 58, 58, 60, 71], initializer="binary", beta=1, tolerance=0.01, max_length=8
    )
    saved = CoDiVocabulary.from_pretrained(out)
    assert saved.tokens.tolist() == expected.tokens.tolist() and saved.summary() == expected.summary()
    assert imread(image).std() > 0.01
    assert json.loads(succeed("vocabulary", ages, *flags, "--json")) == expected.summary()


def test_vocabulary_with_short_codes(ages: Path, tmp_path: Path) -> None:
    image = tmp_path / "pruning.png"
    flags = [
        "--initializer",
        "place",
        "--beta",
        "0",
        "--mean-length",
        "2",
        "--exact",
        "--plot-pruning",
        image,
        "--json",
    ]
    summary = json.loads(succeed("vocabulary", ages, *flags))
    expected = CoDiVocabulary.fit(
        [3, 21, 30, 34, 58, 58, 60, 71], initializer="place", beta=0, mean_length=2, exact=True
    )
    assert summary == expected.summary() and summary["after"]["mean_length"] <= 2
    assert imread(image).std() > 0.01
    own = json.loads(succeed("vocabulary", ages, "--language-model", "--json"))
    assert own["tagless"] and own["after"]["longest"] == 1 and own["size"] == 71
    for flag in (["--q", "0.5"], ["--exact"], ["--mean-length", "2"], ["--offset", "min"]):
        name = flag[0][2:].replace("-", "_")
        assert f"{name}: has no effect with --language-model" in fail(2, "vocabulary", ages, "--language-model", *flag)
    error = fail(2, "vocabulary", ages, "--language-model", "--plot-pruning", image)
    assert "plot_pruning: nothing is pruned with --language-model" in error


def test_vocabulary_of_negative_labels_on_a_coarse_grid(tmp_path: Path) -> None:
    path = tmp_path / "changes.csv"
    path.write_text("row,change\n1,-1.5\n2,0.5\n3,2.5\n")
    error = fail(2, "vocabulary", path, "--column", "change")
    assert "1 negative of 3" in error and error.count("\n") == 1
    flags = ["--column", "change", "--offset", "min", "--resolution", "0.5", "--exact", "--q", "0.5", "--json"]
    summary = json.loads(succeed("vocabulary", path, *flags))
    assert (summary["offset"], summary["resolution"], summary["tolerance"], summary["q"]) == (-1.5, 0.5, 0.0, 0.5)


def test_vocabulary_errors(ages: Path, tmp_path: Path) -> None:
    assert "wanted the column 'years', got 'age'" in fail(2, "vocabulary", ages, "--column", "years")
    assert "q: wanted a number above 0" in fail(2, "vocabulary", ages, "--q", "2")
    assert "none.csv" in fail(1, "vocabulary", tmp_path / "none.csv")
    assert "--plot: wanted an image" in fail(2, "vocabulary", ages, "--plot", tmp_path / "tokens.foo")
    (tmp_path / "file").touch()
    assert "tokens.png: wanted a file" in fail(1, "vocabulary", ages, "--plot", tmp_path / "file" / "tokens.png")
    ages.write_text("age\n3\nold\n")
    assert "line 3: wanted a finite number in column 'age', got 'old'" in fail(2, "vocabulary", ages)


@pytest.mark.parametrize("text", ["1_0", "０.５", "nan", "inf", "1,5"])
def test_options_take_plain_digits_only(ages: Path, text: str) -> None:
    assert f"digits, got '{text}'" in " ".join(fail(2, "vocabulary", ages, "--tolerance", text).split())
    assert f"digits, got '{text}'" in " ".join(fail(2, "evaluate", ages, ages, "--within", text).split())


def test_warnings_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "spent.csv"
    path.write_text("y\n" + "0\n" * 99 + "5\n")
    result = gor("vocabulary", path)
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("Warning: Only") and ".py" not in lines[0]


# gor train, predict and evaluate


def test_category_by_name(folder: Path, tmp_path: Path) -> None:
    """A column of numbers with an odd field is refused, and read as categories only if told so."""
    lines = (folder / "visits.csv").read_text().splitlines()
    odd = tmp_path / "odd.csv"
    odd.write_text("\n".join([f"{lines[0]},grade", f"{lines[1]},?", *(f"{line},{len(line)}" for line in lines[2:])]))
    flags = ["train", odd, "--target", "seconds", "--drop", "customer", "--out", tmp_path / "m", "--set", "max_steps=2"]
    message = fail(2, *flags)
    assert "line 2: wanted a finite number in column 'grade', got '?' (1 of 160 rows)" in message
    assert not (tmp_path / "m").exists()
    assert "--category: no column 'grad' in" in fail(2, *flags, "--category", "grad")
    assert "160 rows, 3 columns" in succeed(*flags, "--category", "grade")
    assert json.loads((tmp_path / "m/data.json").read_text())["columns"]["grade"] == "category"


def test_predict(folder: Path, model: Path, tmp_path: Path) -> None:
    from gor_head.estimator import GoRRegressor

    out = tmp_path / "new" / "predictions.csv"
    succeed("predict", model, folder / "visits.csv", "--out", out, "--interval", "0.8", "--decode", "greedy")
    written = pd.read_csv(out)
    assert list(written) == ["prediction", "low", "high"] and len(written) == 160
    estimator = GoRRegressor.from_pretrained(model)
    features = pd.read_csv(folder / "visits.csv")[["x", "city"]]
    np.testing.assert_allclose(written["prediction"], estimator.predict(features, decode="greedy"))
    np.testing.assert_allclose(written[["low", "high"]], estimator.predict_quantiles(features, [0.1, 0.9]))
    assert (written["low"] <= written["high"]).all() and written["prediction"].nunique() > 1


def test_columns_of_numbers_only(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "numbers.csv"
    pd.read_csv(folder / "visits.csv")[["seconds", "x"]].to_csv(data, index=False)
    succeed("train", data, "--target", "seconds", "--out", tmp_path / "model", *QUICK)
    result = gor("evaluate", tmp_path / "model", data, "--json")
    assert json.loads(result.stdout)["mae"] > 0 and result.stderr == ""


def test_predict_finds_columns_by_name(folder: Path, model: Path, tmp_path: Path) -> None:
    data = pd.read_csv(folder / "visits.csv")
    data[["city", "customer", "x"]].to_csv(tmp_path / "shuffled.csv", index=False)
    for name, path in [("a.csv", folder / "visits.csv"), ("b.csv", tmp_path / "shuffled.csv")]:
        succeed("predict", model, path, "--out", tmp_path / name)
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()


def test_predict_errors(folder: Path, model: Path, tmp_path: Path) -> None:
    data, out = folder / "visits.csv", tmp_path / "out.csv"
    assert "--interval: wanted a probability" in fail(2, "predict", model, data, "--out", out, "--interval", "90")
    assert "decode: wanted one of greedy" in fail(2, "predict", model, data, "--out", out, "--decode", "best")
    assert "written by `gor train` is wanted" in fail(1, "predict", tmp_path, data, "--out", out)
    lacking = tmp_path / "lacking.csv"
    lacking.write_text("city\nOslo\n")
    assert "lacking.csv: wanted the columns 'x', got 'city'" in fail(2, "predict", model, lacking, "--out", out)
    lacking.write_text("x,city\n1,Oslo\nmany,Oslo\n")
    assert "line 3: wanted a finite number in column 'x', got 'many'" in fail(
        2, "predict", model, lacking, "--out", out
    )
    assert not out.exists()


def test_evaluate(folder: Path, model: Path, tmp_path: Path) -> None:
    data = folder / "visits.csv"
    succeed("predict", model, data, "--out", tmp_path / "p.csv")
    truth, predicted = pd.read_csv(data)["seconds"], pd.read_csv(tmp_path / "p.csv")["prediction"]
    report = json.loads(succeed("evaluate", model, data, "--json", "--edges", "0,10,20,inf", "--within", "2"))
    assert report["mae"] == pytest.approx(mean_absolute_error(truth, predicted))
    assert report["rmse"] == pytest.approx(root_mean_squared_error(truth, predicted))
    assert report["cs@2"] == pytest.approx((abs(truth - predicted) <= 2).mean())
    assert report["srcc"] == pytest.approx(truth.corr(predicted, method="spearman"))
    middle = (truth > 10) & (truth <= 20)
    ranges = report["ranges"]
    assert [(row["low"], row["high"]) for row in ranges] == [(0, 10), (10, 20), (20, None)]
    assert ranges[1]["count"] == middle.sum() and sum(row["count"] for row in ranges) == 160
    assert ranges[1]["mae"] == pytest.approx(mean_absolute_error(truth[middle], predicted[middle]))
    whole = report["whole"]
    assert whole["truth_mean"] == pytest.approx(truth.mean())
    assert whole["prediction_variance"] == pytest.approx(predicted.var(ddof=0))

    printed = succeed("evaluate", model, data)
    assert f"{report['mae']:.4g}" in printed and "true variance" in printed and "visits.csv, 160 rows" in printed


def test_evaluate_parts_labels_into_fifths_by_default() -> None:
    truth = np.arange(100.0)
    ranges = evaluate_predictions(truth, truth + 1).ranges
    assert [row.count for row in ranges] == [21, 20, 20, 20, 19] and all(row.mae == 1 for row in ranges)
    constant = evaluate_predictions(np.full(4, 3.0), np.full(4, 3.5)).to_json()["ranges"]
    assert [(row["count"], row["mae"], row["low"]) for row in constant] == [(4, 0.5, None)]
    assert len(evaluate_predictions([0.0] * 9 + [1.0], [0.0] * 10).ranges) == 1


def test_numbers_keep_their_digits() -> None:
    """In JSON keys and in tables, where six digits would make 1234567 and 1234568 one."""
    truth = [1234567.0, 1234568.0, 1234569.0]
    edges = [1234566.0, 1234568.0, 1234569.0]
    report = evaluate_predictions(truth, truth, edges=edges, within=1234567.0)
    assert "cs@1234567" in report.metrics
    console = Console(file=io.StringIO(), width=160)
    console.print(ranges_table(report))
    assert "1234566 … 1234568" in console.file.getvalue() and "1234568 … 1234569" in console.file.getvalue()
    summary = CoDiVocabulary.fit(truth, exact=True).summary()
    tokens = ", ".join(f"{value:.0f}" for value in summary["after"]["values"])
    assert summary_text(summary).endswith(f"Tokens: {tokens}")
    assert parse_edges(" 0,1e6,-inf,inf") == [0, 1e6, -math.inf, math.inf]
    for text in ("1_0", "１２", "nan", "0,,1"):
        with pytest.raises(ValueError, match=f"--edges: wanted numbers with commas between them, got '{text}'"):
            parse_edges(text)


def test_evaluate_errors(folder: Path, model: Path) -> None:
    data = folder / "visits.csv"
    assert "--edges: wanted numbers with commas" in fail(2, "evaluate", model, data, "--edges", "0;5")
    assert "outer edges" in fail(2, "evaluate", model, data, "--edges", "0,5")
    unlabelled = folder / "unlabelled.csv"
    pd.read_csv(data).drop(columns="seconds").to_csv(unlabelled, index=False)
    assert "wanted the column 'seconds' as label, got 'customer'" in fail(2, "evaluate", model, unlabelled)
    damaged = folder / "damaged"
    damaged.mkdir()
    assert "data.json: no such file; a folder written by `gor train`" in fail(1, "evaluate", damaged, data)
    (damaged / "data.json").write_text("{}")
    assert "data.json: not written by `gor train`" in fail(2, "evaluate", damaged, data)
    (damaged / "data.json").write_text('{"target": "seconds", "columns": {"x": "date"}}')
    assert "wanted the kinds number and category, got 'date'" in fail(2, "evaluate", damaged, data)


def test_train_errors(folder: Path, tmp_path: Path) -> None:
    data = [folder / "visits.csv", "--target", "seconds", "--out", tmp_path / "out"]
    assert "--drop: no column 'custmer'" in fail(2, "train", *data, "--drop", "custmer")
    assert "--set: no setting 'epochs'; there are batch_size" in fail(2, "train", *data, "--set", "epochs=3")
    error = fail(2, "train", *data, "--set", "random_state=3")
    assert "--set: no setting 'random_state'; " in error and "predict_batch_size, smoothing, strategy" in error
    assert error.rstrip().endswith("the seed is --seed.")
    conv = 'encoder={"kind": "conv"}'
    assert "the encoder of tables is 'ffn'" in fail(2, "train", *data[:3], "--out", folder / "conv", "--set", conv)
    assert not (tmp_path / "out").exists()
    wrong = [folder / "visits.csv", "--target", "city", "--out", tmp_path / "out"]
    assert "line 2: wanted a finite number in column 'city', got" in fail(2, "train", *wrong)


def test_settings_are_json_or_words() -> None:
    pairs = ["a=1", "b=gru", "c=null", 'd={"e": [1, 2]}', "f=a=b", "g="]
    assert parse_settings(pairs) == {"a": 1, "b": "gru", "c": None, "d": {"e": [1, 2]}, "f": "a=b", "g": ""}
    for wrong in ("a", "=1"):
        with pytest.raises(ValueError, match="--set wants NAME=VALUE"):
            parse_settings([wrong])
    with pytest.raises(ValueError, match="'a' twice"):
        parse_settings(["a=1", "a=2"])
    assert parse_edges("-inf,0, 2.5") == [-np.inf, 0.0, 2.5]


# gor compare


def compare_flags(folder: Path, out: Path) -> list[Any]:
    return [
        "compare", folder / "visits.csv", folder / "spending.csv", "--target", "seconds", "--target", "cents",
        "--drop", "customer", "--out", out, "--seeds", "2", "--set", "max_steps=10", "--set", "batch_size=64",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def compared(folder: Path) -> tuple[Path, dict[str, Any]]:
    out = folder / "comparison"
    flags = ["--methods", "gor", "--methods", "l1", "--jobs", "2", "--json", "--plot", folder / "figures" / "mae.png"]
    command = [sys.executable, "-c", "from gor_head.cli import app; app()", *compare_flags(folder, out), *flags]
    finished = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return out, json.loads(finished.stdout)


def test_compare(folder: Path, compared: tuple[Path, dict[str, Any]]) -> None:
    out, report = compared
    assert report["seeds"] == 2 and report["settings"] == {"max_steps": 10, "batch_size": 64}
    assert set(report["tables"]) == {"visits", "spending"} and report["failures"] == {}
    assert {"GoR (greedy)", "GoR (quantile)", "L1"} <= set(report["rows"])
    truth = pd.read_csv(folder / "visits.csv")["seconds"].to_numpy()
    for row, entry in report["tables"]["visits"].items():
        name = "gor" if row.startswith("GoR") else "l1"
        errors = []
        for seed in range(2):
            result, _ = read(Cell("visits", name, seed).path(out))
            np.testing.assert_array_equal(result.truth, truth[split(160, seed)[1]])
            errors.append(np.abs(result.predictions[row] - result.truth).mean())
        assert entry["mae"] == pytest.approx(np.mean(errors))
    assert imread(folder / "figures" / "mae.png").std() > 0.05


def test_compare_prints_tables_and_trains_nothing_twice(folder: Path, compared: tuple[Path, dict[str, Any]]) -> None:
    out, report = compared
    before = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    printed = succeed(*compare_flags(folder, out), "--methods", "gor", "--methods", "l1")
    assert {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()} == before
    assert "Over 2 tables" in printed and "spending" in printed
    for entries in report["tables"].values():
        for entry in entries.values():
            mark = "*" if entry["best"] else "≈" if entry["tied"] else " "
            assert f"{entry['mae']:.4g}{mark}" in printed and f"{entry['srcc']:.3f}" in printed


def test_compare_with_other_settings_is_an_error(folder: Path, compared: tuple[Path, dict[str, Any]]) -> None:
    error = fail(2, *compare_flags(folder, compared[0]), "--methods", "l1", "--set", "patience=3")
    assert "visits--l1--0.npz: made with patience 10 (wanted 3)." in error


def test_compare_reports_a_failed_training(folder: Path, tmp_path: Path) -> None:
    """Negative labels are none of GoR's without an offset, but of direct heads they are."""
    data = pd.read_csv(folder / "visits.csv").drop(columns="customer")
    data["seconds"] -= 30
    data.to_csv(tmp_path / "changes.csv", index=False)
    flags = ["--target", "seconds", "--methods", "gor", "--methods", "l1", "--seeds", "1", "--out", tmp_path, *QUICK]
    result = gor("compare", tmp_path / "changes.csv", *flags)
    assert result.exit_code == 1
    assert "Failed: changes, gor, seed 0: ValueError" in result.stderr and "Trainings failed: 1;" in result.stderr
    assert "missing" in result.stdout
    report = json.loads(gor("compare", tmp_path / "changes.csv", *flags, "--json").stdout)
    assert report["tables"]["changes"]["GoR (quantile)"] is None and list(report["failures"]) == [
        "changes, gor, seed 0"
    ]


def test_compare_gives_each_method_its_settings(folder: Path, tmp_path: Path) -> None:
    flags = ["--target", "seconds", "--drop", "customer", "--methods", "gor", "--methods", "l1", "--seeds", "1", *QUICK]
    result = gor("compare", folder / "visits.csv", *flags, "--set", "decoder=gru", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "Warning: decoder is no setting of l1: trained without it." in result.stderr
    assert read(Cell("visits", "gor", 0).path(tmp_path))[1]["parameters"]["decoder"] == "gru"


def test_compare_errors(folder: Path, tmp_path: Path) -> None:
    flags = compare_flags(folder, tmp_path)
    assert "--methods: wanted some of gor" in fail(2, *flags, "--methods", "GoR")
    assert "--drop: no column 'id' in any of the tables" in fail(2, *flags, "--drop", "id")
    error = fail(2, *flags, "--methods", "l1", "--set", "epochs=3")
    assert "no method takes 'epochs'" in error
    assert "--seeds says how many" in fail(2, *flags, "--set", "random_state=3")
    error = fail(2, *flags, "--plot", tmp_path / "mae.foo")
    assert "--plot: wanted an image of the kind" in error and "'mae.foo'" in error
    other = [folder / "visits.csv", "--target", "response", "--out", tmp_path]
    assert "wanted the column 'response' as label" in fail(2, "compare", *other)
    assert not (tmp_path / "cells").exists()


def test_wide_comparison_is_parted_to_fit_the_screen() -> None:
    entry = Entry(Standing(12.3456, 1.0, True, True), 0.5, 1.0, 1.0, 1.0, 1.0)
    rows = [f"{word} {number}" for number in range(5) for word in ("short", "mean-variance")]
    overall = Overall(1, 1, 1.0, 1.0, 1.0)
    comparison = Comparison({"a table of long name, indeed": dict.fromkeys(rows, entry)}, dict.fromkeys(rows, overall))
    console = Console(width=80, record=True, file=io.StringIO())
    tables = comparison_tables(comparison, 80)
    for table in tables:
        console.print(table)
    text = console.export_text()
    assert len(tables) == 3 and text.count("12.35*") == 10 and "…" not in text
    assert text.count("mean-variance") == text.count("short") == 5
    assert max(map(len, text.splitlines())) <= 80


# Names of users


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_are(name: str) -> None:
    entry = Entry(Standing(12.3456, 1.0, True, True), 0.5, 1.0, 1.0, 1.0, 1.0)
    comparison = Comparison(
        {name: {name: entry, f"{name} 2": None}}, {name: Overall(1, 1, 1.0, 1.0, 1.0), f"{name} 2": None}
    )
    report = evaluate_predictions([0.0, 1.0], [0.0, 2.0])
    summary = CoDiVocabulary.fit([1, 2, 3]).summary()
    console = Console(width=200, file=io.StringIO())
    for table in [*comparison_tables(comparison, 200), overall_table(comparison), metrics_table(report, name)]:
        console.print(table)
    console.print(summary_table(summary, title=name))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    # A column is as wide as a name's longest word: there it is parted at its blanks.
    assert printed.count(name) >= 4 and all(word in printed for word in name.split())
    comparison_figure(comparison).savefig(io.BytesIO())


def test_a_table_whose_name_looks_like_markup(folder: Path, tmp_path: Path) -> None:
    data = pd.read_csv(folder / "visits.csv").rename(columns={"x": "[/x]", "seconds": "[red]"})
    path = tmp_path / "visits [final].csv"
    data.to_csv(path, index=False)
    flags = ["--target", "[red]", "--drop", "customer", *QUICK]
    succeed("train", path, *flags, "--out", tmp_path / "[model]")
    assert "visits [final].csv, 160 rows" in succeed("evaluate", tmp_path / "[model]", path)
    assert "visits [final].csv" in succeed("vocabulary", path, "--column", "[red]")
    result = gor("compare", path, *flags, "--methods", "l1", "--seeds", "2", "--out", tmp_path / "out")
    assert result.exit_code == 0 and "[final]" in result.stdout, result.output
    error = fail(2, "train", path, "--target", "[blue]", "--out", tmp_path / "other")
    assert "wanted the column '[blue]' as label" in error and "'[/x]'" in error
    assert "[/x]" in fail(2, "vocabulary", path, "--initializer", "[/x]")


# Outputs


def test_outputs_are_tried_before_the_work(folder: Path, tmp_path: Path) -> None:
    label = ["--target", "seconds"]
    with unwritable(folder / "visits.csv") as locked:
        data = locked / "visits.csv"
        for command, output in {
            ("train", data, *label, "--out"): locked,
            ("predict", folder / "none", data, "--out"): locked / "predictions.csv",
            ("compare", data, *label, "--methods", "l1", "--out"): locked / "new",
            ("compare", data, *label, "--out", tmp_path, "--plot"): locked / "mae.png",
            ("vocabulary", data, "--column", "seconds", "--out"): locked / "new",
            ("vocabulary", data, "--column", "seconds", "--plot"): locked / "tokens",
        }.items():
            result = gor(*command, output)
            assert result.exit_code == 1 and result.stdout == "", result.output
            error = result.stderr.splitlines()[-1]
            assert error.startswith(f"Error: {output}") and error.endswith("got PermissionError: Permission denied.")
    assert not (tmp_path / "cells").exists()


def test_what_was_compared_is_shown_from_a_folder_that_may_only_be_read(
    folder: Path, compared: tuple[Path, dict[str, Any]]
) -> None:
    out, _ = compared
    methods = ["--methods", "gor", "--methods", "l1"]
    with unwritable(out / "cells", folder / "visits.csv", folder / "spending.csv") as locked:
        assert "Over 2 tables" in succeed(*compare_flags(locked, locked), *methods)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_stdout_of_another_encoding(encoding: str, folder: Path, model: Path, tmp_path: Path) -> None:
    """Tables have arrows and Greek letters, and so may names."""
    data = Path(shutil.copy(folder / "visits.csv", tmp_path / "Größe → α.csv"))
    name = "Gr??e ? ?.csv" if encoding == "ascii" else "Größe ? ?.csv"
    code, text = call_with_encoding(encoding, app, "evaluate", model, data)
    assert code == 0 and name in text and "MAE ?" in text
    plot, out = tmp_path / "τ.png", tmp_path / "λ"
    flags = ["--column", "seconds", "--plot", plot, "--out", out]
    code, text = call_with_encoding(encoding, app, "vocabulary", data, *flags)
    assert code == 0 and name in text and plot.is_file() and (out / "vocabulary.json").is_file()
    flags = ["--target", "seconds", "--drop", "customer", *QUICK, "--out", out]
    code, text = call_with_encoding(encoding, app, "train", data, *flags)
    assert code == 0 and "160 rows" in text
    code, text = call_with_encoding(encoding, app, "compare", data, *flags, "--methods", "l1", "--seeds", "2")
    assert code == 0 and "MAE ?" in text
    for command in ([], ["vocabulary"], ["train"], ["predict"], ["evaluate"], ["compare"]):
        assert call_with_encoding(encoding, app, *command, "--help")[0] == 0
