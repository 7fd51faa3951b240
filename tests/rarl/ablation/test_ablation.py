"""The comparison of rows: what is run, what is kept, and how it is summed up."""

import json
import math
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import ttest_rel
from trl import SFTConfig
from typer.testing import CliRunner

from rarl.ablation import run as running
from rarl.ablation.plan import plan
from rarl.ablation.plots import plot_learning, plot_results
from rarl.ablation.rows import ROWS, SETTINGS
from rarl.ablation.run import RESULTS, Result, read_results, resumed, run_all, write_results
from rarl.ablation.summary import COLUMNS, TESTED, by_row, differences, markdown
from rarl.cli import app
from rarl.recipe import parse
from rarl.rewards import REGISTRY
from rarl.trainer import RARLConfig
from tests.paths import ROOT

RECIPES = ROOT / "recipes"
REVIEWS: dict[str, Any] = {"recipes": RECIPES, "model": "film_reviews"}


def test_every_row_starts_from_a_row_and_has_a_recipe() -> None:
    for name, row in ROWS.items():
        assert row.start is None or row.start in ROWS, name
        assert row.recipe is None or (RECIPES / f"{row.recipe}.py").is_file(), name
        assert row.recipe is None or row.decode is None, "trained rows are read as their recipe does"
    assert len({row.label for row in ROWS.values()}) == len(ROWS)


def test_runs_come_after_those_that_they_start_from() -> None:
    runs = plan(["count_noisy"], ["sft_rarl_median", "stage2"], [3, 1], recipes=RECIPES)
    assert [run.name for run in runs] == [
        f"count_noisy/seed{seed}/{row}"
        for seed in (3, 1)
        for row in ("sft", "sft_rarl", "sft_rarl_median", "stage1", "stage2")
    ]
    by_name = {run.name: run for run in runs}
    last = by_name["count_noisy/seed3/sft_rarl_median"]
    assert last.start is by_name["count_noisy/seed3/sft_rarl"] and last.script is None and last.decode == "median"
    assert last.start.script == RECIPES / "rarl_stage2.py"
    assert last.arguments[2:] == ("--task", "count", "--rater_noise", "2", "--seed", "3", "--split_seed", "3")


def test_prompts_and_steps_are_those_of_the_recipes_together() -> None:
    settings = {
        name: yaml.safe_load((RECIPES / f"configs/{name}_tiny.yaml").read_text())
        for name in ("sft", "rarl_stage1", "rarl_stage2")
    }
    [whole] = [run for run in plan(["count"], ["sft_all"], [0], recipes=RECIPES)]
    prompts = settings["sft"]["num_prompts"] + settings["rarl_stage2"]["num_prompts"]
    assert f"--num_prompts {prompts}" in " ".join(whole.arguments)
    for name, wanted in (("digits", ["6400"]), ("sft_all", [str(prompts)]), ("tokens_more", ["3200", "3200"])):
        words = plan(["area"], [name], [0], recipes=RECIPES)[-1].arguments  # what a setting gives to a recipe counts
        assert [words[place + 1] for place, word in enumerate(words) if word == "--num_prompts"] == wanted
    [one] = plan(["brightness"], ["one_stage"], [0], recipes=RECIPES)
    steps = settings["rarl_stage1"]["max_steps"] + settings["rarl_stage2"]["max_steps"]
    words = " ".join(one.arguments)
    assert f"--max_steps {steps}" in words and words.endswith("--max_completion_length 144 --seed 0 --split_seed 0")


def test_arguments_are_those_of_the_recipes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every row of every setting is accepted by its recipe."""
    types: dict[str, Any] = {"rarl_stage1": RARLConfig, "rarl_stage2": RARLConfig, "sft": SFTConfig}
    types |= {
        "gor_sft": runpy.run_path(str(RECIPES / "gor_sft.py"))["GoRSFTConfig"],
        "expected_error": runpy.run_path(str(RECIPES / "expected_error.py"))["ExpectedErrorConfig"],
        "gor_dpo": runpy.run_path(str(RECIPES / "gor_dpo.py"))["GoRDPOConfig"],
    }
    for setting in SETTINGS:
        for each in plan([setting], list(ROWS), [0], recipes=RECIPES):
            if each.script is None:
                continue
            words = [each.script.name, *each.arguments, "--output_dir", str(tmp_path), "--bf16", "false"]
            monkeypatch.setattr("sys.argv", words)
            _, arguments, _ = parse(types[each.script.stem], Path(each.arguments[1]))
            assert set(arguments.rewards or []) <= set(REGISTRY)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rows": []}, "rows: wanted at least one, got none"),
        ({"rows": ["sft", "sft"]}, "rows: wanted each once, got sft, sft"),
        ({"rows": ["best"]}, "rows: unknown best; known rows: cold_start, few_shot, sft"),
        ({"settings": ["faces"]}, "settings: 'faces' is none of count_noisy, count"),
        ({"seeds": [1, 1]}, "seeds: wanted each once, got 1, 1"),
    ],
)
def test_plans_that_cannot_be_meant(given: Any, message: str) -> None:
    arguments: dict[str, Any] = {"settings": ["count"], "rows": ["sft"], "seeds": [0], **given}
    with pytest.raises(ValueError, match=message):
        plan(arguments["settings"], arguments["rows"], arguments["seeds"], recipes=RECIPES)
    with pytest.raises(
        FileNotFoundError, match=r"recipe sft has those of film_reviews, qwen2_5_vl_3b, qwen2_5_vl_7b, tiny"
    ):
        plan(["count"], ["sft"], [0], recipes=RECIPES, model="giant")


def test_data_of_ones_own() -> None:
    [run] = plan(["rust"], ["sft"], [0], recipes=RECIPES, extra=["--source", "folder", "--folder", "photos"])
    assert run.name == "rust/seed0/sft" and "--folder photos --seed 0" in " ".join(run.arguments)


def test_command_has_no_path_and_follows_the_configuration(tmp_path: Path) -> None:
    [run] = plan(["count"], ["sft"], [0], recipes=RECIPES)
    assert str(RECIPES) not in run.command and run.command.startswith("sft sft_tiny@")
    config = tmp_path / "sft_tiny.yaml"
    text = Path(run.arguments[1]).read_text()
    moved = replace(run, arguments=("--config", str(config), *run.arguments[2:]))
    config.write_text("# a comment\n" + text)
    assert moved.command == run.command
    config.write_text(text.replace("num_prompts: 1520", "num_prompts: 1521"))
    assert moved.command != run.command


def result(row: str, seed: int, mae: float, tau: float | None, setting: str = "count_noisy") -> Result:
    scores = {"mae": mae, "accuracy": 1 - mae, "tau": {"2": tau, "4": tau, "8": tau}}
    report = {"task": "count", **scores, "failure_rate": 0.0, "strict": scores}
    return Result(setting, row, seed, "a command", 10.0 + seed, report, {}, None)


def some_results() -> list[Result]:
    rng = np.random.default_rng(0)
    means = {"sft": 0.6, "sft_rarl": 0.3, "stage2": 0.31}
    return [
        result(row, seed, mean + 0.05 * rng.random(), 0.9 - mean / 2 * rng.random())
        for row, mean in means.items()
        for seed in range(4)
    ]


def test_results_come_back_from_their_file(tmp_path: Path) -> None:
    results = some_results()
    write_results(results, tmp_path / RESULTS)
    assert read_results(tmp_path / RESULTS) == {each.name: each for each in results}
    assert read_results(tmp_path / "none.json") == {}
    for broken in ("{", "[1]", '[{"row": "sft"}]', json.dumps([{**results[0].__dict__, "report": {"mae": 1}}])):
        (tmp_path / RESULTS).write_text(broken)
        with pytest.raises(ValueError, match=r"results.json: wanted a list of results that rarl ablate wrote"):
            read_results(tmp_path / RESULTS)


def test_differences_are_paired_and_corrected() -> None:
    """Against SciPy's paired test, multiplied by hand after Holm: 8 tests, the least p eight times, and so on."""
    results = some_results()
    rows = by_row(results)
    found = differences(results, "sft_rarl")
    tested = [column for column in TESTED if column != "srcc"]  # a task of its own has that
    assert set(found) == {"sft", "stage2"} and [each.column for each in found["sft"]] == tested
    raw = {}
    for row in found:
        for column in tested:
            pairs = [(rows["sft_rarl"][seed][column], rows[row][seed][column]) for seed in range(4)]
            raw[row, column] = ttest_rel(*zip(*pairs, strict=True)).pvalue
    running_max = 0.0
    for place, key in enumerate(sorted(raw, key=lambda key: raw[key])):
        running_max = max(running_max, min(1.0, raw[key] * (len(raw) - place)))
        difference = next(each for each in found[key[0]] if each.column == key[1])
        assert difference.p_value == pytest.approx(running_max) and difference.seeds == 4
    gap = np.mean([rows["sft_rarl"][seed]["mae"] - rows["sft"][seed]["mae"] for seed in range(4)])
    assert next(each for each in found["sft"] if each.column == "mae").mean == pytest.approx(gap)
    with pytest.raises(ValueError, match="reference: wanted a row with results"):
        differences(results, "stage1")


def test_one_seed_has_no_test_and_missing_metrics_are_left_out() -> None:
    results = [result("sft", 0, 0.6, None), result("sft_rarl", 0, 0.3, 0.9), result("sft", 1, 0.6, 0.5)]
    [mae] = differences(results, "sft_rarl")["sft"]
    assert (mae.column, mae.p_value, mae.seeds) == ("mae", None, 1) and mae.mean == pytest.approx(-0.3)


def test_table_leaves_out_what_nothing_was_asked_of() -> None:
    """Prompts of one and two images have no τ of four or eight."""
    few = result("sft", 0, 0.2, 0.5)
    scores = {"mae": 0.2, "tau": {"2": 0.5}}
    few = replace(few, report={**few.report, **scores, "strict": scores})
    assert "| | MAE ↓ | τ2 ↑ | unreadable ↓ | seconds ↓ | seeds |" in markdown([few], "sft")


def test_table_shows_the_best_and_the_spread() -> None:
    results = [result("sft", seed, mae, 0.5) for seed, mae in ((0, 0.6), (1, 0.8))]
    results += [result("sft_rarl", seed, mae, 0.75) for seed, mae in ((0, 0.25), (1, 0.35))]
    inside = {"interval": 0.8, "coverage": 0.75, "width": 2.0, "unreadable": 0}
    results[-1] = replace(results[-1], report={**results[-1].report, "interval": inside})
    text = markdown(results, "sft_rarl")
    assert "| 75.0 % | 0.0 % | 10 | 2 |" in text and "|  | 0.0 % | 10 | 2 |" in text
    assert "**count, noisy labels (σ 2)**" in text
    assert "| SFT | 0.300 ± 0.141 | 0.700 ± 0.141 | 0.500 ± 0.000 |" in text
    assert "| SFT → RARL | **0.700** ± 0.071 | **0.300** ± 0.071 | **0.750** ± 0.000 |" in text
    assert "| 0.0 % | 10 | 2 |" in text
    assert "| SFT | -0.400 (" in text and "| +0.250 |" in text
    assert [head for head in COLUMNS.values() if head not in text] == ["SRCC ↑"]  # of other tasks


def test_tasks_of_ones_own_are_not_registered_here() -> None:
    """A task that only the runs' own processes know; its metric is the one that reports have beside the MAE."""
    scores = {"mae": 0.2, "srcc": 0.8, "tau": {"2": 0.5}}
    own = replace(result("sft", 0, 0.5, 0.5), setting="rust")
    own = replace(own, report={"task": "rust", **scores, "failure_rate": 0.0, "strict": scores})
    assert "| | SRCC ↑ | MAE ↓ |" in markdown([own], "sft") and "| SFT | **0.800** | **0.200** |" in markdown(
        [own], "sft"
    )


def test_figure_is_drawn(tmp_path: Path) -> None:
    plot_results(some_results() + [result("sft", 0, 0.1, None, "count")], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_lines_stand_across_the_panels_that_they_have_a_value_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: drawn.append(figure))
    plot_results(some_results(), tmp_path / "figure.png", lines={"people": {"mae": 0.9}, "constant": {"mae": 2.5}})
    [figure] = drawn
    found = {
        axis.get_title(): {line.get_label(): line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == "--"}
        for part in figure.subfigs
        for axis in part.axes
    }
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"people", "constant"}
    assert found.pop("MAE ↓") == {"people": 0.9, "constant": 2.5} and found and not any(found.values())


def test_rewards_are_drawn_as_they_were_learned(tmp_path: Path) -> None:
    curve: dict[str, list[float | None]] = {"step": [5, 10, 15], "reward": [1.0, 2.0, 2.5]}
    learned = [replace(result("sft_rarl", seed, 0.3, 0.9), curve=curve, train_seconds=60.0) for seed in range(2)]
    plot_learning([*learned, result("sft", 0, 0.5, 0.5)], tmp_path / "learning.png", window=2)
    assert (tmp_path / "learning.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="No reward is logged in the runs count_noisy/seed0/sft"):
        plot_learning([result("sft", 0, 0.5, 0.5)], tmp_path / "learning.png")


def fake(folder: Path, calls: list[str], fail: str | None = None) -> Any:
    def execute(run: Any, out: Path) -> float:
        calls.append(run.row)
        if run.row == fail:
            raise RuntimeError("no luck")
        (out / run.name).mkdir(parents=True, exist_ok=True)
        (out / run.name / "adapter_config.json").write_text("{}")
        (out / run.name / "report.json").write_text(json.dumps(result(run.row, run.seed, 0.5, 0.5).report))
        return 1.5

    return execute


class Here:
    """Runs in this process what would run in others."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: Any) -> None: ...

    def shutdown(self, **_: Any) -> None: ...

    def submit(self, function: Any, *arguments: Any) -> Any:
        from concurrent.futures import Future

        future: Any = Future()
        try:
            future.set_result(function(*arguments))
        except RuntimeError as error:
            future.set_exception(error)
        return future


def test_what_is_known_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(running, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(running, "execute", fake(tmp_path, calls))
    runs = plan(["count"], ["sft_rarl", "sft_median"], [0], recipes=RECIPES)
    results, failures = run_all(runs, tmp_path)
    assert calls == ["sft", "sft_rarl", "sft_median"] and not failures and len(results) == 3
    assert run_all(runs, tmp_path)[0] == results and len(calls) == 3
    # A result of another command is no result; a start whose adapter is gone is made again where it is needed.
    known = read_results(tmp_path / RESULTS)
    known["count/seed0/sft_rarl"] = replace(known["count/seed0/sft_rarl"], command="another")
    write_results(list(known.values()), tmp_path / RESULTS)
    (tmp_path / "count/seed0/sft/adapter_config.json").unlink()
    run_all(runs, tmp_path)
    assert calls[3:] == ["sft", "sft_rarl"]
    # Where all folders are gone, a new row wants the whole chain again.
    for name in ("sft", "sft_rarl"):
        (tmp_path / f"count/seed0/{name}/adapter_config.json").unlink()
    more = plan(["count"], ["sft_rarl_median"], [0], recipes=RECIPES)
    run_all(more, tmp_path)
    assert calls[5:] == ["sft", "sft_rarl", "sft_rarl_median"]


def test_numbers_that_are_none_are_left_out_of_curves(tmp_path: Path) -> None:
    [run] = plan(["count"], ["sft"], [0], recipes=RECIPES)
    (tmp_path / run.name).mkdir(parents=True)
    (tmp_path / run.name / "report.json").write_text(json.dumps(result("sft", 0, 0.5, 0.5).report))
    log = [{"step": 5, "loss": 1.0, "grad_norm": math.inf}, {"step": 10, "loss": 1.0, "grad_norm": 0.123456}]
    (tmp_path / run.name / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    found = running.result_of(run, tmp_path, 1.0)
    assert found.curve == {"step": [5, 10], "grad_norm": [None, 0.1235]}
    write_results([found], tmp_path / RESULTS)


def test_what_starts_from_a_failure_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(running, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(running, "execute", fake(tmp_path, calls, fail="sft"))
    runs = plan(["count"], ["sft_rarl", "sft_rarl_median", "stage1"], [0], recipes=RECIPES)
    results, failures = run_all(runs, tmp_path)
    assert calls == ["sft", "stage1"] and list(results) == ["count/seed0/stage1"]
    assert failures["count/seed0/sft"].startswith("no luck (see ")
    assert failures["count/seed0/sft_rarl_median"] == "it starts from count/seed0/sft_rarl, which failed"


def test_command_refuses_what_cannot_be_meant(tmp_path: Path) -> None:
    for words, message in (
        (["--seeds", "a"], "seeds: wanted whole numbers with commas"),
        (["--reference", "best"], "reference: wanted one of the rows cold_start, few_shot, sft"),
        (["--rows", "sft,best"], "rows: unknown best"),
    ):
        outcome = CliRunner().invoke(app, ["ablate", "--output", str(tmp_path), *words])
        assert outcome.exit_code == 2 and message in outcome.output


def test_real_runs_of_the_command(tmp_path: Path) -> None:
    """SFT of two steps and RARL of one from it, in processes of their own, and a second call that has nothing to do."""
    small = ["--num_prompts", "16", "--size", "120", "--eval_prompts", "4", "--eval_num_images", "1", "2"]
    words = ["ablate", "--output", str(tmp_path), "--rows", "sft,sft_rarl,sft_median", "--seeds", "0", "--jobs", "2"]
    words += ["--settings", "own", "--", *small, "--task", "count", "--rater_noise", "2", "--max_steps", "1"]
    outcome = CliRunner().invoke(app, words)
    assert outcome.exit_code == 0, outcome.output
    results = read_results(tmp_path / RESULTS)
    assert sorted(results) == ["own/seed0/sft", "own/seed0/sft_median", "own/seed0/sft_rarl"]
    assert (results["own/seed0/sft_rarl"].train_seconds or 0) > 0
    assert results["own/seed0/sft_median"].train_seconds is None
    assert (tmp_path / "figure.png").is_file() and "SFT → RARL" in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in (tmp_path / RESULTS).read_text()
    before = (tmp_path / RESULTS).stat().st_mtime_ns
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0 and "0 of 0 runs" in again.output
    assert (tmp_path / RESULTS).stat().st_mtime_ns == before


def test_a_stopped_run_goes_on_from_the_checkpoint_of_the_same_command(tmp_path: Path) -> None:
    run, other = plan(["count"], ["sft"], [0, 1], recipes=RECIPES)
    assert resumed(run, tmp_path) == []  # nothing is there
    assert resumed(run, tmp_path) == []  # no checkpoint is

    def checkpoint(step: int, whole: bool = True) -> Path:
        path = tmp_path / f"checkpoint-{step}"
        path.mkdir()
        (path / "trainer_state.json").write_text("{}")
        if whole:
            (path / "rng_state.pth").write_bytes(b"")
        return path

    first, cut = checkpoint(4), checkpoint(8, whole=False)
    assert resumed(run, tmp_path) == ["--resume_from_checkpoint", str(first)]
    assert not cut.exists()  # it was cut off while it was written
    assert resumed(other, tmp_path) == []  # a checkpoint of another command
    assert not first.exists()
    assert resumed(other, tmp_path) == []  # nor when that command is called again, before it has one of its own
    [cold] = plan(["count"], ["cold_start"], [0], recipes=RECIPES)
    checkpoint(5)
    assert [resumed(cold, tmp_path) for _ in range(2)] == [[], []]  # which trains nothing


def test_distributions_are_read_on_the_grid_of_the_setting() -> None:
    runs = {run.row: run for run in plan(["film_reviews"], ["sft_mean", "few_shot"], [0], **REVIEWS)}
    assert (runs["sft_mean"].resolution, runs["few_shot"].resolution, runs["sft"].resolution) == (0.1, None, None)
    assert "evaluate mean 0.1 sft_film_reviews@" in runs["sft_mean"].command
    assert "evaluate greedy sft_film_reviews@" in runs["few_shot"].command
    assert "--shots 2" in runs["few_shot"].command
    plain = plan(["count"], ["sft_mean"], [0], recipes=RECIPES)
    assert plain[-1].resolution is None and "evaluate mean sft_tiny@" in plain[-1].command
