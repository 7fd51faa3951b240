"""The recipes as a user starts them: real launches on the embedded default, shortened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from peft import PeftModel
from safetensors.torch import load_file

from rarl import tiny

ROOT = Path(__file__).parents[2]
SHORT = ["--max_steps", "2", "--num_prompts", "32", "--size", "200", "--eval_prompts", "4"]
SHORT += ["--per_device_train_batch_size", "16"]


def launch(recipe: str, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu"]
    command += [str(ROOT / "recipes" / recipe), *flags]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_stages_follow_each_other(tmp_path):
    """Stage 1 leaves an adapter in output_dir, stage 2 finds it, and both leave reports; only `default` is kept."""
    first = launch("rarl_stage1.py", tmp_path, *SHORT)
    assert first.returncode == 0, first.stderr[-3000:]
    second = launch("rarl_stage2.py", tmp_path, *SHORT)
    assert second.returncode == 0, second.stderr[-3000:]
    assert "Stage 2 starts from outputs/rarl_stage1." in second.stdout
    for stage in ("rarl_stage1", "rarl_stage2"):
        folder = tmp_path / "outputs" / stage
        report = json.loads((folder / "report.json").read_text())
        assert set(report["tau"]) == {"2", "4", "8"} and report["num_prompts"]["1"] == 4
        assert not (folder / "ref").exists()
    before = load_file(tmp_path / "outputs/rarl_stage1/adapter_model.safetensors")
    after = load_file(tmp_path / "outputs/rarl_stage2/adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert any(not before[name].equal(after[name]) for name in before)
    model, _ = tiny.load()
    assert isinstance(PeftModel.from_pretrained(model, tmp_path / "outputs/rarl_stage2"), PeftModel)


def test_stage2_alone_starts_from_the_built_in_adapter(tmp_path):
    result = launch("rarl_stage2.py", tmp_path, *SHORT, "--eval_prompts", "0")
    assert result.returncode == 0, result.stderr[-3000:]
    assert f"Stage 2 starts from {tiny.adapter_path()}." in result.stdout


def test_sft_runs(tmp_path):
    result = launch("sft.py", tmp_path, *SHORT)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "outputs/sft/adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--no_such_flag", "1"], "no_such_flag"),
        (["--task", "beauty"], "Unknown task 'beauty'"),
        (["--source", "utkface", "--folder", "nowhere"], "nowhere"),
        (["--num_images", "500", "--size", "200"], "500"),
        (["--per_device_train_batch_size", "12"], "divisible"),
        (["--max_completion_length", "5000"], "context of 4096"),
        (["--model_name_or_path", "tests"], "config.json"),
    ],
)
def test_bad_input_is_one_clear_error(tmp_path, flags, message):
    (tmp_path / "tests").mkdir()
    result = launch("rarl_stage1.py", tmp_path, *flags)
    assert result.returncode != 0
    assert message in result.stderr
