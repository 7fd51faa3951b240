"""The recipes as a user starts them: real launches on the embedded default, shortened."""

import json
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file

from gor_head.vlm.hub import ADAPTER_FILES
from rarl import tiny
from rarl.task import TASKS, OrdinalTask
from tests.e2e.launching import OWN_SHORT, SHORT, error_line, launch, rarl, succeeded
from tests.hub_server import HubServer
from tests.paths import ROOT

Result = CompletedProcess[str]

FOLDER = ["--source", "folder", "--folder", "images", "--csv", "values.csv"]
RUST = ["--task", "rust", "--task_rule", "rusted area in percent", "--task_minimum", "0", "--task_maximum", "100"]
RUST += ["--task_tolerance", "30", "--task_integer", "false", "--task_metric", "srcc"]
TWO = ["--eval_num_images", "1", "2"]
STAGE2 = ["--task", "rust", "--num_images", "1", "2", *TWO, "--warmup_steps", "0", "--max_steps", "4"]
STAGE2 += ["--save_strategy", "steps", "--save_steps", "2", "--logging_steps", "1"]
WEIGHTS = "adapter_model.safetensors"


def draw_images(folder: Path, number: int = 60) -> list[str]:
    """Squares whose rusted share grows from file to file, and the CSV that says so; returns the lines of the CSV."""
    (folder / "images").mkdir(parents=True)
    lines = ["file,value"]
    for i in range(number):
        width = round(56 * i / number)
        image = Image.new("RGB", (56, 56), "silver")
        image.paste("saddlebrown", (0, 0, width, 56))
        image.putpixel((55, 55), (i, 0, 0))  # no two alike
        image.save(folder / "images" / f"{i}.bmp")
        lines.append(f"{i}.bmp,{100 * width / 56:.1f}")
    (folder / "values.csv").write_text("\n".join(lines) + "\n")
    return lines


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def pushes_to(hub: HubServer, home: Path) -> dict[str, str]:
    """Environment of a launch that pushes to `hub`."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_loopback",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


@pytest.fixture(scope="module")
def stage1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working folder after stage 1 on one's own images, with a task defined by flags."""
    folder = tmp_path_factory.mktemp("own")
    draw_images(folder)
    succeeded(launch("rarl_stage1.py", folder, *OWN_SHORT, *FOLDER, *RUST, *TWO, "--warmup_steps", "0"))
    return folder


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def stage2(stage1: Path, hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Stage 2 after it: four steps, checkpoints at 2 and 4, pushed at the end. It knows the task by its name, and
    what it prints at the end has characters that its stdout lacks."""
    push = ["--push_to_hub", "true", "--hub_model_id", "me/rust", "--hub_private_repo", "true"]
    environment = pushes_to(hub, tmp_path_factory.mktemp("hf")) | {"PYTHONIOENCODING": "ascii"}
    return succeeded(launch("rarl_stage2.py", stage1, *OWN_SHORT, *FOLDER, *STAGE2, *push, **environment))


def test_stages_follow_each_other(stage1: Path, stage2: Result) -> None:
    """Stage 1 leaves an adapter in output_dir, stage 2 finds it, and both leave reports; only `default` is kept."""
    assert "Stage 2 starts from outputs/rarl_stage1." in stage2.stdout and "MAE ?" in stage2.stdout
    for stage in ("rarl_stage1", "rarl_stage2"):
        folder = stage1 / "outputs" / stage
        report = read_json(folder / "report.json")
        assert set(report["tau"]) == {"2"} and report["num_prompts"]["1"] == 4
        assert not (folder / "ref").exists()
        assert OrdinalTask(**read_json(folder / "task.json")) == OrdinalTask(
            "rust", "rusted area in percent", 0, 100, 30, integer=False, metric="srcc"
        )
    before = load_file(stage1 / "outputs/rarl_stage1" / WEIGHTS)
    after = load_file(stage1 / "outputs/rarl_stage2" / WEIGHTS)
    assert before.keys() == after.keys()
    assert any(not before[name].equal(after[name]) for name in before)
    model, _ = tiny.load()
    assert isinstance(PeftModel.from_pretrained(model, stage1 / "outputs/rarl_stage2"), PeftModel)


def test_adapter_is_evaluated_and_asked_without_naming_its_task(stage1: Path) -> None:
    """The same prompts give the report that the recipe wrote; a prediction is of the task, for every image."""
    adapter = ["--model", "tiny", "--adapter", "outputs/rarl_stage1"]
    options = ["--num-images", "1", "--num-images", "2", "--num-prompts", "4", "--max-new-tokens", "128"]
    succeeded(rarl(stage1, "evaluate", *adapter, *FOLDER, *options, "--output", "again.json"))
    assert read_json(stage1 / "again.json") == read_json(stage1 / "outputs/rarl_stage1/report.json")
    images = ["images/3.bmp", "images/50.bmp"]
    predicted = json.loads(succeeded(rarl(stage1, "predict", *adapter, *images, "--json")).stdout)
    assert [row["image"] for row in predicted] == images
    assert sorted(row["rank"] for row in predicted) == [1, 2]


def test_reference_is_the_stage1_policy(stage1: Path, stage2: Result) -> None:
    """To the bit, in every checkpoint, while `default` moves on."""
    policy = load_file(stage1 / "outputs/rarl_stage1" / WEIGHTS)
    for step in (2, 4):
        checkpoint = stage1 / f"outputs/rarl_stage2/checkpoint-{step}"
        reference = load_file(checkpoint / "ref" / WEIGHTS)
        assert reference.keys() == policy.keys()
        assert all(reference[name].equal(policy[name]) for name in policy)
        assert any(not tensor.equal(policy[name]) for name, tensor in load_file(checkpoint / WEIGHTS).items())


def test_resumed_run_ends_as_the_uninterrupted_one(stage1: Path, stage2: Result) -> None:
    """A run that was ended after its checkpoint of step 2 goes on to the same weights, rewards and report.

    Optimiser, schedule, order of the data and random state come from the checkpoint. The tolerance is for kernels that
    sum in another order; on one machine the weights are equal.
    """
    whole, resumed = stage1 / "outputs/rarl_stage2", stage1 / "outputs/resumed"
    shutil.copytree(whole / "checkpoint-2", resumed / "checkpoint-2")
    flags = ["--output_dir", "outputs/resumed", "--resume_from_checkpoint", "true"]
    succeeded(launch("rarl_stage2.py", stage1, *OWN_SHORT, *FOLDER, *STAGE2, *flags))
    expected, weights = load_file(whole / WEIGHTS), load_file(resumed / WEIGHTS)
    checkpoint = load_file(whole / "checkpoint-2" / WEIGHTS)
    assert any((expected[name] - checkpoint[name]).abs().max() > 1e-4 for name in expected), "nothing to tell"
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], rtol=0, atol=1e-6)
    logged, again = (
        [entry for entry in read_json(run / "trainer_state.json")["log_history"] if "loss" in entry]
        for run in (whole, resumed)
    )
    assert [entry["step"] for entry in again] == [1, 2, 3, 4]
    assert again[:2] == logged[:2], "steps 1 and 2 were taken again: even their times are in the checkpoint"
    for name in ("reward", "kl", "grad_norm", "rmo/mutated"):
        assert [entry[name] for entry in again] == pytest.approx([entry[name] for entry in logged], rel=1e-4, abs=1e-6)
    policy = load_file(stage1 / "outputs/rarl_stage1" / WEIGHTS)
    reference = load_file(resumed / "checkpoint-4/ref" / WEIGHTS)
    assert all(reference[name].equal(policy[name]) for name in policy)
    assert read_json(resumed / "report.json") == read_json(whole / "report.json")


def test_only_the_adapter_is_pushed(stage1: Path, stage2: Result, hub: HubServer) -> None:
    """One commit with the files of the `default` adapter; no reference, no checkpoint, no optimiser state."""
    output = stage1 / "outputs/rarl_stage2"
    files = hub.repos["me/rust"]
    assert {WEIGHTS, "adapter_config.json", "README.md", "task.json", "report.json"} <= set(files)
    assert set(files) <= set(ADAPTER_FILES)
    assert files[WEIGHTS] == (output / WEIGHTS).read_bytes()
    assert len(hub.commits["me/rust"]) == 2, "wanted the creation and one commit"
    assert hub.visibility["me/rust"] == "private"
    assert list(hub.repos) == ["me/rust"]
    assert {path for method, path in hub.requests if method == "PUT"} == {
        f"/lfs/{oid}" for oid, data in hub.objects.items() if data == files[WEIGHTS]
    }


def test_refused_push_loses_nothing(tmp_path: Path) -> None:
    """Stage 2 alone, from the built-in adapter: what the Hub does not take stays here, and the error says so."""
    with HubServer() as full:
        full.is_full = True
        flags = ["--eval_prompts", "0", "--push_to_hub", "true"]
        result = launch("rarl_stage2.py", tmp_path, *SHORT, *flags, **pushes_to(full, tmp_path / "hf"))
        assert full.repos == {"me/rarl_stage2": {}}
    assert f"Stage 2 starts from {tiny.adapter_path()}." in result.stdout
    assert result.returncode != 0
    assert "Error: The adapter in outputs/rarl_stage2 could not be pushed to 'me/rarl_stage2'" in result.stderr
    assert {WEIGHTS, "adapter_config.json", "README.md", "task.json"} <= {
        path.name for path in (tmp_path / "outputs/rarl_stage2").iterdir()
    }


def test_sft_runs(tmp_path: Path) -> None:
    succeeded(launch("sft.py", tmp_path, *SHORT))
    assert (tmp_path / "outputs/sft" / WEIGHTS).is_file()


def test_luffy_is_a_flag_that_acts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the same samples, and the same mutation of all of them, the first update is another one."""
    monkeypatch.chdir(tmp_path)
    flags = [*SHORT, "--max_steps", "1", "--eval_prompts", "0", "--logging_steps", "1", "--use_cpu", "true"]
    flags += ["--rmo_trigger", "low_reward", "--rmo_threshold", "9", "--rmo_probability", "1", "--warmup_steps", "0"]
    logged = {}
    for importance in ("on_policy", "luffy"):
        monkeypatch.setattr(
            sys, "argv", ["rarl_stage1.py", *flags, "--rmo_importance", importance, "--output_dir", importance]
        )
        runpy.run_path(str(ROOT / "recipes/rarl_stage1.py"), run_name="__main__")
        logged[importance] = read_json(tmp_path / importance / "trainer_state.json")["log_history"][0]
    assert logged["luffy"]["rmo/mutated"] == logged["on_policy"]["rmo/mutated"] > 0
    assert logged["luffy"]["reward"] == logged["on_policy"]["reward"]
    assert logged["luffy"]["grad_norm"] != pytest.approx(logged["on_policy"]["grad_norm"], rel=1e-3)


BAD_FLAGS: dict[str, tuple[list[str], list[str]]] = {
    "flag": (["--no_such_flag", "1"], ["no_such_flag"]),
    "abbreviated flag": (["--num_prompt", "8"], ["num_prompt"]),
    "task": (["--task", "beauty"], ["Unknown task 'beauty'"]),
    "folder": (["--source", "utkface", "--folder", "nowhere"], ["nowhere"]),
    "too many images": (["--num_images", "500", "--size", "200"], ["500"]),
    "batch": (["--per_device_train_batch_size", "12"], ["divisible"]),
    "context": (["--max_completion_length", "5000"], ["context of 4096"]),
    "model": (["--model_name_or_path", "images"], ["config.json", "images"]),
    "adapter": (["--adapter", "images"], ["adapter_config.json", "images"]),
    "no adapter to push": (["--push_to_hub", "true", "--use_peft", "false"], ["use_peft is false"]),
}
OWN = ["--source", "folder", "--folder", "images", *RUST, "--csv"]
# What the eighth line of the CSV becomes, and the words of the error: where, value seen, what was wanted.
BAD_LINES: dict[str, tuple[str, list[str]]] = {
    "not finite": ("6.bmp,NaN", ["line 8", "'6.bmp'", "NaN", "number from 0 to 100"]),
    "out of range": ("6.bmp,100.5", ["line 8", "'6.bmp'", "100.5", "0 to 100"]),
    "no number": ("6.bmp,", ["line 8", "'6.bmp'", "''", "number"]),
    "missing image": ("gone.bmp,5", ["line 8", "'gone.bmp'", "no such file in images"]),
    "unreadable image": ("text.bmp,5", ["line 8", "'text.bmp'", "wanted a readable image", "1 of 60"]),
}


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and CSVs, each with one thing wrong."""
    folder = tmp_path_factory.mktemp("bad")
    lines = draw_images(folder)
    (folder / "images/text.bmp").write_text("no image")
    (folder / "missing column.csv").write_text("\n".join(["file,rust", *lines[1:]]))
    for name, (line, _) in BAD_LINES.items():
        (folder / f"{name}.csv").write_text("\n".join([*lines[:7], line, *lines[8:]]))
    return folder


@pytest.fixture
def error_of(bad: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Runs the script of stage 1 here, as a launch takes seconds, and gives what it exits with."""

    def run(flags: list[str]) -> str:
        monkeypatch.chdir(bad)
        monkeypatch.setattr(sys, "argv", ["rarl_stage1.py", *flags])
        with pytest.raises(SystemExit) as exit:
            runpy.run_path(str(ROOT / "recipes/rarl_stage1.py"), run_name="__main__")
        assert "Loading weights" not in capfd.readouterr().err, "the model was loaded first"
        return str(exit.value.code)

    tasks = dict(TASKS)
    yield run
    TASKS.clear()
    TASKS.update(tasks)


@pytest.mark.parametrize("name", BAD_FLAGS)
def test_bad_flags_are_one_clear_error(error_of: Any, name: str) -> None:
    flags, words = BAD_FLAGS[name]
    message = error_of(flags)
    assert message.startswith("Error: ")
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_csv_is_one_clear_error(error_of: Any, name: str) -> None:
    message = error_of([*OWN, f"{name}.csv"])
    assert message.startswith("Error: ")
    assert [word for word in (f"{name}.csv", *BAD_LINES[name][1]) if word not in message] == []


def test_csv_without_the_column_is_one_clear_error(error_of: Any) -> None:
    message = error_of([*OWN, "missing column.csv"])
    assert message == "Error: missing column.csv: wanted a header with file,value, got 'file', 'rust'."


def test_launch_ends_with_the_error(bad: Path) -> None:
    """What the cases above exit with is, in a launch, a line on stderr without a traceback of the recipe."""
    message = error_line(launch("rarl_stage1.py", bad, *OWN, "out of range.csv"))
    assert "line 8, file '6.bmp': value 100.5 is outside the range of task 'rust', which is 0 to 100." in message


def test_missing_token_shows_before_the_model_loads(bad: Path, tmp_path: Path) -> None:
    with HubServer() as server:
        environment = pushes_to(server, tmp_path) | {"HF_TOKEN": ""}
        message = error_line(launch("rarl_stage1.py", bad, "--push_to_hub", "true", **environment))
        assert server.repos == {}
    assert "'rarl_stage1'" in message and "401" in message
