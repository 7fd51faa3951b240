"""Both stages by the recipes, from the command line, on other families than the built-in model's, with LoRA."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests import families
from tests.e2e.launching import launch, rarl, succeeded

SHORT = ["--size", "100", "--num_prompts", "8", "--per_device_train_batch_size", "8", "--num_generations", "4"]
SHORT += ["--max_steps", "2", "--max_completion_length", "48", "--learning_rate", "0.01", "--rmo_probability", "1"]
SHORT += ["--eval_prompts", "3", "--eval_num_images", "1", "2", "--eval_max_new_tokens", "24", "--logging_steps", "1"]


@pytest.mark.parametrize("family", ["qwen3_vl", "gemma3", "smolvlm"])
def test_both_stages_from_the_command_line(tmp_path: Path, family: str) -> None:
    model = str(families.save(family, tmp_path / family))
    lora = ["--use_peft", "true", "--lora_r", "4"]
    first = launch("rarl_stage1.py", tmp_path, "--model_name_or_path", model, "--output_dir", "one", *lora, *SHORT)
    assert "not shared" not in succeeded(first).stderr
    more = ["--adapter", "one", "--num_images", "1", "2"]
    succeeded(launch("rarl_stage2.py", tmp_path, "--model_name_or_path", model, "--output_dir", "two", *more, *SHORT))
    one, two = (load_file(tmp_path / stage / "adapter_model.safetensors") for stage in ("one", "two"))
    assert one.keys() == two.keys() and not any("vision" in name or "visual" in name for name in one)
    assert any((one[name] != two[name]).any() for name in one)
    for stage in ("one", "two"):
        log = json.loads((tmp_path / stage / "trainer_state.json").read_text())["log_history"]
        assert sum(entry.get("rmo/mutated", 0) for entry in log) == 2 * 2
        report = json.loads((tmp_path / stage / "report.json").read_text())
        assert report["num_prompts"] == {"1": 3, "2": 3}
    again = rarl(
        *(tmp_path, "evaluate", "--model", model, "--adapter", "two", "--size", "100", "--num-images", "1"),
        *("--num-prompts", "3", "--max-new-tokens", "24", "--output", "again.json"),
    )
    succeeded(again)
