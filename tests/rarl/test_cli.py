"""The `rarl` command on a tiny model that was trained to give one fixed answer."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from PIL import Image
from typer.testing import CliRunner

from rarl import tiny
from rarl.cli import app
from rarl.datasets import load_source, make_dataset
from rarl.evaluation.generate import generate_answers
from rarl.lora import language_lora_targets
from rarl.models import load_model
from rarl.task import TASKS, OrdinalTask, save_task
from tests.outputs import call_with_encoding, unwritable
from tests.paths import ROOT

FIXED_ANSWER = '<answer>[{"image_id": 2, "value": 3}, {"image_id": 1, "value": 7}]</answer>'
TRAIN_IMAGES = 8


def fit_fixed_answer(model: Any, processor: Any, steps: int = 60) -> None:
    """Train until the model writes FIXED_ANSWER, whatever the images."""
    source = load_source("builtin", task="count", size=TRAIN_IMAGES)
    rows = [make_dataset(source, range(TRAIN_IMAGES), 1, mix={number: 1.0})[0] for number in (1, 2)]
    texts = [processor.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True) for row in rows]
    texts = [text + FIXED_ANSWER + "<|im_end|>" for text in texts]
    inputs = processor(
        text=texts, images=[row["images"] for row in rows], padding=True, padding_side="left", return_tensors="pt"
    )
    length = len(processor.tokenizer(FIXED_ANSWER + "<|im_end|>")["input_ids"])
    labels = inputs["input_ids"].clone()
    labels[:, :-length] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05, "the fixture did not learn its answer"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    processor = tiny.build_processor()
    torch.manual_seed(0)
    model = tiny.build_model(processor, layers=1, vision_layers=1)
    fit_fixed_answer(model, processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    source = load_source("builtin", task="count", size=2)
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for number, path in enumerate(paths):
        source.load(number).save(path)
    return [str(path) for path in paths]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def fails(code: int, *arguments: object) -> str:
    """The message of a call that must fail plainly: one error, no traceback."""
    result = call(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    [message] = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert result.stderr.endswith(message + "\n")
    return message


def test_predict_prints_values_and_ranks(model_folder: Path, pictures: list[str]) -> None:
    result = call("predict", "--model", model_folder, "--task", "count", *pictures, "--json", "--max-new-tokens", 80)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == [
        {"image": pictures[0], "value": 7, "rank": 2},
        {"image": pictures[1], "value": 3, "rank": 1},
    ]
    table = call("predict", "--model", model_folder, "--task", "count", *pictures, "--max-new-tokens", 80)
    assert table.exit_code == 0 and "rank" in table.stdout and "1.png" in table.stdout


def test_predict_says_what_it_leaves_out(model_folder: Path, pictures: list[str], tmp_path: Path) -> None:
    first, second = (Image.open(picture) for picture in pictures)
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[second])
    given = ("--model", model_folder, "--task", "count", "--max-new-tokens", 80, "--json")
    result = call("predict", *given, tmp_path / "moving.gif", pictures[1])
    assert result.exit_code == 0, result.output
    assert f"Warning: {tmp_path / 'moving.gif'}: 2 frames or pages, of which the first is used\n" in result.stderr
    assert result.stderr.count("Warning: /") == 1 and len(json.loads(result.stdout)) == 2


def test_names_are_shown_as_they_are(model_folder: Path, pictures: list[str], tmp_path: Path) -> None:
    names = [str(Path(pictures[0]).rename(tmp_path / name)) for name in ["scan [final].png"]]
    common = ("--model", model_folder, "--task", "count", "--max-new-tokens", 80)
    assert names[0] in call("predict", *common, *names).stdout
    output = tmp_path / "[bold].json"
    result = call("evaluate", *common, "--size", 60, "--num-images", 1, "--num-prompts", 2, "--output", output)
    assert result.exit_code == 0 and "[bold]" in result.stdout, result.output
    log = json.dumps({"log_history": [{"step": 1, "reward": 0.5}]})
    (tmp_path / "trainer_state.json").write_text(log)
    runs = ["--run", f"[/red]={output}", "--curves", f"$\\red$={tmp_path}", "--output", tmp_path / "[out]"]
    result = call("report", *runs)
    assert result.exit_code == 0 and "[/red]" in result.stdout, result.output
    assert "'[/no]'" in fails(2, "predict", "--model", model_folder, "--task", "[/no]", names[0])
    result = call("predict", *common, names[0], "--decode", "[/no]")
    assert result.exit_code == 2 and "[/no]" in result.stderr, result.output


def test_outputs_are_tried_before_the_work(tmp_path: Path) -> None:
    """No model is there, and none is looked for."""
    model = ("--model", tmp_path / "none")
    with unwritable() as folder:
        for output in (folder / "report.json", folder / "new" / "report.json", folder):
            message = fails(1, "evaluate", *model, "--output", output)
            assert message.startswith(f"Error: {output}: wanted a file that can be written, got ")
        message = fails(1, "report", "--run", "a=none.json", "--output", folder)
        assert message.startswith(f"Error: {folder}: wanted a folder that files can be written into, got Permission")
    output = tmp_path / "new" / "report.json"
    data = ("--size", 60, "--num-images", 1)
    assert "config.json" in fails(1, "evaluate", "--model", tmp_path, "--output", output, *data)
    assert not output.parent.exists()
    (tmp_path / "curves.png").mkdir()
    curves = ("--curves", "a=none")
    assert "curves.png: wanted a file" in fails(1, "report", "--run", "a=x", *curves, "--output", tmp_path)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_stdout_of_another_encoding(encoding: str, model_folder: Path, pictures: list[str], tmp_path: Path) -> None:
    """Tables have arrows and Greek letters, and so may names."""
    name = str(Path(pictures[0]).rename(tmp_path / "τάξη → 1.png"))
    common = ("--model", model_folder, "--task", "count", "--max-new-tokens", 80)
    code, text = call_with_encoding(encoding, app, "predict", *common, name)
    assert code == 0 and "???? ? 1.png" in "".join(text.split("|")).replace("\n", "")
    code, text = call_with_encoding(encoding, app, "predict", *common, name, "--json")
    assert code == 0 and json.loads(text)[0]["image"] == name
    output = tmp_path / "τ.json"
    numbers = ("--num-images", 1, "--num-images", 2, "--size", 60, "--num-prompts", 2)
    code, text = call_with_encoding(encoding, app, "evaluate", *common, *numbers, "--output", output)
    assert code == 0 and "MAE ?" in text and output.is_file()
    code, text = call_with_encoding(encoding, app, "report", "--run", f"α={output}", "--output", tmp_path / "out")
    assert code == 0 and "MAE ?" in text
    for command in ([], ["evaluate"], ["predict"], ["report"]):
        assert call_with_encoding(encoding, app, *command, "--help")[0] == 0


def test_predict_errors(model_folder: Path, pictures: list[str], tmp_path: Path) -> None:
    common = ("predict", "--model", model_folder, "--task")
    assert "no readable answer within 4 tokens" in fails(2, *common, "count", pictures[0], "--max-new-tokens", 4)
    assert "'weight'" in fails(2, *common, "weight", pictures[0])
    assert "missing.png" in fails(2, *common, "count", tmp_path / "missing.png")
    (tmp_path / "text.png").write_text("no image")
    assert "text.png" in fails(2, *common, "count", tmp_path / "text.png")
    assert "config.json" in fails(1, "predict", "--model", tmp_path, "--task", "count", pictures[0])
    assert "adapter_config.json" in fails(1, *common, "count", pictures[0], "--adapter", tmp_path)


def test_evaluate_writes_the_report(model_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "report.json"
    arguments = ["evaluate", "--model", model_folder, "--output", output, "--size", 60, "--num-prompts", 4]
    arguments += ["--num-images", 1, "--num-images", 2, "--max-new-tokens", 80, "--batch-size", 3]
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(output.read_text())
    assert report["task"] == "count" and report["num_prompts"] == {"1": 4, "2": 4}
    assert set(report["tau"]) == {"2"} and report["failure_rate"] == 0
    assert report["constant"]["mae"] > 0
    assert "MAE" in result.stdout and f"{report['mae']:.3f}" in result.stdout
    assert str(model_folder) not in output.read_text()
    again = tmp_path / "again.json"
    assert call(*[again if argument == output else argument for argument in arguments]).exit_code == 0
    assert json.loads(again.read_text()) == report


def test_evaluate_with_an_adapter_of_a_folder_source(model_folder: Path, pictures: list[str], tmp_path: Path) -> None:
    base, processor = load_model(str(model_folder))
    adapter = get_peft_model(base, LoraConfig(r=2, target_modules=language_lora_targets(base), init_lora_weights=False))
    torch.manual_seed(0)
    for name, parameter in adapter.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=3.0)  # far enough from the base model to spoil its answer
    adapter.save_pretrained(tmp_path / "adapter")
    source = load_source("builtin", task="count", size=40)
    lines = []
    for number in range(40):
        source.load(number).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{source.values[number]:g}")
    (tmp_path / "labels.csv").write_text("\n".join(["file,value", *lines]))
    arguments = ["evaluate", "--model", model_folder, "--source", "folder", "--folder", tmp_path, "--task", "count"]
    arguments += ["--csv", tmp_path / "labels.csv", "--num-images", 1, "--num-prompts", 2, "--max-new-tokens", 80]
    rates = {}
    for name, extra in {"plain": [], "adapter": ["--adapter", tmp_path / "adapter"]}.items():
        result = call(*arguments, "--output", tmp_path / f"{name}.json", *extra)
        assert result.exit_code == 0, result.output
        rates[name] = json.loads((tmp_path / f"{name}.json").read_text())["failure_rate"]
    assert rates == {"plain": 0.0, "adapter": 1.0}


def test_evaluate_errors(model_folder: Path, tmp_path: Path) -> None:
    common = ("evaluate", "--model", model_folder, "--output", tmp_path / "report.json")
    assert "'imagenet'" in fails(2, *common, "--source", "imagenet")
    assert "no such folder" in fails(
        1, *common, "--source", "folder", "--folder", tmp_path / "no", "--csv", "x.csv", "--task", "age"
    )
    assert "'dev'" in fails(2, *common, "--size", 30, "--split", "dev")
    message = fails(2, *common, "--size", 200, "--num-images", 2, "--num-prompts", 2, "--max-new-tokens", 5000)
    assert "prompts of 2 items" in message and "context of 4096" in message
    assert not (tmp_path / "report.json").exists()


def test_the_task_that_was_trained_is_known_by_its_name(
    model_folder: Path, pictures: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rarl.task.TASKS", dict(TASKS))  # what is registered here stays here
    model = load_model(str(model_folder))[0]
    adapter = get_peft_model(model, LoraConfig(target_modules=language_lora_targets(model)))
    adapter.save_pretrained(tmp_path)
    save_task(OrdinalTask("grey", "number of grey dots", 0, 10, tolerance=3), tmp_path)
    given = ("--model", model_folder, "--adapter", tmp_path)
    result = call("predict", *given, "--task", "grey", *pictures, "--max-new-tokens", 80)
    assert result.exit_code == 0, result.output
    ages = ("evaluate", *given, "--source", "utkface", "--folder", tmp_path, "--output", tmp_path / "report.json")
    assert "utkface has ages" in (message := fails(2, *ages)) and "'grey'" in message


def test_report_gathers_runs_and_draws_curves(tmp_path: Path) -> None:
    metrics = {"mae": 1.5, "accuracy": 0.25, "tau": {"2": 0.5}}
    report = {"task": "count", **metrics, "failure_rate": 0.0, "strict": metrics}
    for name in ("sft", "stage2"):
        (tmp_path / name).mkdir()
        run = {**report, "constant": {"value": 5.0, "mae": 2.75}}
        (tmp_path / name / "report.json").write_text(json.dumps(run))
    log = [{"step": step, "reward": step / 9, "rewards/format_reward/mean": 0.5} for step in range(9)]
    (tmp_path / "stage2" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    output = tmp_path / "demo"
    runs = ("report", "--run", f"sft={tmp_path / 'sft'}", "--run", f"stage2={tmp_path / 'stage2' / 'report.json'}")
    result = call(*runs, "--curves", f"stage 2={tmp_path / 'stage2'}", "--output", output)
    assert result.exit_code == 0, result.output
    assert json.loads((output / "report.json").read_text()) == {
        "sft": report,
        "stage2": report,
        "constant": {"value": 5.0, "mae": 2.75},
    }
    assert Image.open(output / "curves.png").width > 300
    assert "2.750" in result.stdout and "stage2" in result.stdout

    assert "NAME=PATH" in fails(2, "report", "--run", "sft", "--output", output)
    assert "twice" in fails(2, *runs, "--run", "sft=x", "--output", output)
    assert "does not exist" in fails(1, "report", "--run", "a=nowhere.json", "--output", output)
    assert "No reward" in fails(2, *runs, "--curves", f"a={_empty_log(tmp_path)}", "--output", tmp_path / "other")


def _empty_log(folder: Path) -> Path:
    path = folder / "trainer_state.json"
    path.write_text('{"log_history": [{"step": 1, "loss": 2.0}]}')
    return path


@pytest.mark.parametrize("text", ["1_0", "０.５", "nan", "inf"])
def test_options_take_plain_digits_only(tmp_path: Path, text: str) -> None:
    for option in ("--min-gap", "--interval"):
        result = call("evaluate", "--model", "tiny", "--output", tmp_path / "report.json", option, text)
        assert result.exit_code == 2 and f"got '{text}'" in " ".join(result.stderr.replace("│", "").split())


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from rarl.cli import app\n"
        "result = CliRunner().invoke(app, ['--help']); print(result.output)\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'matplotlib', 'scipy', 'numpy'} & set(sys.modules)\n"
        "assert result.exit_code == 0 and not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for name in ("evaluate", "predict", "report"):
        assert name in done.stdout


def test_load_model_names_what_a_folder_lacks(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="no config.json.*adapter_config.json"):
        load_model(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no adapter_config.json"):
        load_model(str(model_folder), adapter=str(model_folder))


def test_load_model_dtype_mode_and_answer(model_folder: Path) -> None:
    model, processor = load_model(str(model_folder), dtype=torch.float64)
    assert next(model.parameters()).dtype is torch.float64 and not model.training
    source = load_source("builtin", task="count", size=2)
    rows = make_dataset(source, range(2), 1, mix={2: 1.0})
    settings = {"batch_size": 1, "max_new_tokens": 80, "progress": False}
    assert generate_answers(model, processor, rows, **settings) == [FIXED_ANSWER]


def test_an_adapter_that_is_nowhere_is_named(pictures: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # no waiting for a network that is not there
    for command in (["predict", *pictures], ["evaluate", "--output", "report.json"]):
        message = fails(2, *command, "--model", "tiny", "--adapter", "nowhere")
        assert "nowhere is no folder of a LoRA adapter" in message


def test_what_is_no_image_is_said_without_a_place_in_memory(tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no image")
    message = fails(2, "predict", tmp_path / "no.png", "--model", "tiny", "--task", "count")
    assert "no.png: wanted a readable image, got UnidentifiedImageError: cannot identify image file it" in message


def test_recipes_are_listed_and_copied(tmp_path: Path) -> None:
    listed = call("recipes", "list")
    names = [line.partition(": ")[0] for line in listed.stdout.splitlines()]
    assert listed.exit_code == 0 and names == sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))
    assert "gor_dpo: DPO on the policy's own answers" in listed.stdout
    assert call("recipes", "copy", "rarl_stage2", tmp_path / "mine").exit_code == 0
    copied = {str(path.relative_to(tmp_path / "mine")) for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    assert {"rarl_stage2.py", "configs/rarl_stage2_tiny.yaml", "accelerate_configs/zero2.yaml"} <= copied
    assert not any("stage1" in name for name in copied)
    assert call("recipes", "copy", "rarl_stage1", tmp_path / "mine").exit_code == 0
    for name in copied:
        source = ROOT / name if name.startswith("accelerate_configs") else ROOT / "recipes" / name
        assert (tmp_path / "mine" / name).read_bytes() == source.read_bytes()


def test_nothing_is_overwritten_by_a_copy(tmp_path: Path) -> None:
    (tmp_path / "sft.py").write_text("mine")
    assert f"{tmp_path / 'sft.py'}: there already" in fails(2, "recipes", "copy", "sft", tmp_path)
    assert (tmp_path / "sft.py").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
    (tmp_path / "sft.py").unlink()
    assert call("recipes", "copy", "sft", tmp_path).exit_code == 0
    (tmp_path / "accelerate_configs/cpu.yaml").write_text("mine")
    assert "cpu.yaml: there already" in fails(2, "recipes", "copy", "gor_sft", tmp_path)
    assert (tmp_path / "accelerate_configs/cpu.yaml").read_text() == "mine"
    message = fails(2, "recipes", "copy", "sft.py", tmp_path)
    assert "There is no recipe 'sft.py'; there are expected_error, gor_dpo, gor_sft, levels_sft, rarl_stage1" in message
