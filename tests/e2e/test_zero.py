"""Stage 2 as a user starts it with DeepSpeed, in two processes on the CPU."""

import json
import os
import shutil
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from safetensors.torch import load_file

from gor_head import CoDiVocabulary
from gor_head.vlm import attach
from rarl import tiny
from tests.e2e.launching import SHORT, start, succeeded, two_processes
from tests.e2e.launching import launch as launch_one
from tests.paths import ROOT

WEIGHTS = "adapter_model.safetensors"
EIGHT = ["--per_device_train_batch_size", "8", "--warmup_steps", "0"]


def start_two(folder: Path, stage: int, recipe: str, *flags: str) -> CompletedProcess[str]:
    """A recipe in two processes under a ZeRO stage."""
    zero = {"stage": stage} | ({"stage3_param_persistence_threshold": 0} if stage == 3 else {})
    names = ("gradient_accumulation_steps", "gradient_clipping", "train_batch_size", "train_micro_batch_size_per_gpu")
    (folder / "zero.json").write_text(json.dumps({"zero_optimization": zero} | dict.fromkeys(names, "auto")))
    # `accelerate launch --cpu` starts one process, whatever it is asked for.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "recipes" / recipe), *SHORT, "--per_device_train_batch_size", "4"]
    command += ["--use_cpu", "true", "--deepspeed", "zero.json", "--output_dir", "output", "--warmup_steps", "0"]
    # DeepSpeed compiles its communication on first use, and looks for ninja on the path.
    with two_processes:
        return start(
            [*command, *flags],
            folder,
            DS_ACCELERATOR="cpu",
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        )


def launch(folder: Path, stage: int) -> Path:
    """Three steps of stage 2, groups across both processes; returns the output folder."""
    # Lists of four leave something to learn: a group that agrees has no gradient.
    flags = ["--num_images", "2", "4", "--eval_num_images", "1", "2", "--logging_steps", "1"]
    flags += ["--max_steps", "3", "--save_strategy", "steps", "--save_steps", "3"]
    result = start_two(folder, stage, "rarl_stage2.py", *flags)
    assert "Stage 2 starts from" in succeeded(result).stdout
    assert result.stdout.count("Stage 2 starts from") == 1, "the second process is a run of its own"
    assert result.stdout.count("in brackets") == 1, "wanted one report"
    return folder / "output"


@pytest.fixture(scope="module")
def deepspeed() -> None:
    pytest.importorskip("deepspeed")
    if shutil.which("g++") is None:
        pytest.skip("DeepSpeed compiles its CPU communication with g++")


@pytest.fixture(scope="module")
def outputs(deepspeed: None, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Output folder of each ZeRO stage."""
    return {stage: launch(tmp_path_factory.mktemp(f"zero{stage}"), stage) for stage in (2, 3)}


@pytest.mark.parametrize("stage", [2, 3])
def test_two_processes_leave_one_adapter_and_one_report(outputs: dict[int, Path], stage: int) -> None:
    output = outputs[stage]
    sharded = {2: "optim_states", 3: "model_states"}[stage]
    for rank in (0, 1):
        assert (output / f"checkpoint-3/global_step3/zero_pp_rank_{rank}_mp_rank_00_{sharded}.pt").is_file()
    policy, trained = load_file(Path(tiny.adapter_path()) / WEIGHTS), load_file(output / WEIGHTS)
    assert {name: tensor.shape for name, tensor in trained.items()} == {
        name: tensor.shape for name, tensor in policy.items()
    }
    assert all(not trained[name].equal(policy[name]) for name in policy), "an adapted layer did not move"
    assert not (output / "ref").exists()
    report = json.loads((output / "report.json").read_text())
    assert report["num_prompts"] == {"1": 4, "2": 4}
    assert json.loads((output / "trainer_state.json").read_text())["global_step"] == 3


def test_kl_reference_is_the_stage1_policy(outputs: dict[int, Path]) -> None:
    """ZeRO-2 writes it down; ZeRO-3 leaves frozen weights out of its checkpoints, but measures the same KL to it."""
    policy = load_file(Path(tiny.adapter_path()) / WEIGHTS)
    reference = load_file(outputs[2] / "checkpoint-3/ref" / WEIGHTS)
    assert all(reference[name].equal(policy[name]) for name in policy)
    kl = {
        stage: [entry["kl"] for entry in json.loads((output / "trainer_state.json").read_text())["log_history"][:3]]
        for stage, output in outputs.items()
    }
    assert kl[2][0] == pytest.approx(0, abs=1e-6) and kl[2][2] > 1e-4
    assert kl[3] == pytest.approx(kl[2], rel=1e-2, abs=1e-6)


def test_zero3_learns_what_zero2_learns(outputs: dict[int, Path]) -> None:
    """Sharding the weights changes nothing but rounding, which Adam enlarges where a gradient is next to zero: the
    weights are apart by a hundredth of the way that they went at most, on average."""
    policy = load_file(Path(tiny.adapter_path()) / WEIGHTS)
    second, third = (load_file(outputs[stage] / WEIGHTS) for stage in (2, 3))
    moved = torch.cat([(second[name] - policy[name]).flatten() for name in policy])
    apart = torch.cat([(second[name] - third[name]).flatten() for name in policy])
    assert apart.abs().mean() < 0.01 * moved.abs().mean()


@pytest.mark.usefixtures("deepspeed")
def test_value_tokens_are_trained_under_zero2(tmp_path: Path) -> None:
    result = start_two(tmp_path, 2, "gor_sft.py", "--num_images", "1", "--eval_num_images", "1", "--logging_steps", "1")
    assert succeeded(result).stdout.count("in brackets") == 1
    output = tmp_path / "output"
    model, processor = tiny.load()
    tokens = attach(model, processor, CoDiVocabulary.from_pretrained(output))
    weights = load_file(output / WEIGHTS)
    [name] = [name for name in weights if "trainable_tokens_delta" in name]
    before = model.get_input_embeddings().weight[tokens.all_ids]
    assert weights[name].shape == before.shape
    moved = (weights[name] - before).abs().amax(dim=1)
    assert bool((moved > 1e-4).all()), f"rows that did not move: {moved.tolist()}"
    # Then their expected errors, laid behind answers, in two processes.
    again = tmp_path / "again"
    again.mkdir()
    flags = ["--num_images", "1", "2", "--eval_num_images", "1", "--logging_steps", "1", "--adapter", str(output)]
    succeeded(start_two(again, 2, "expected_error.py", *flags))
    # One process that has the rows of both takes the same step: ranks have different numbers of numbers.
    succeeded(launch_one("expected_error.py", again, *SHORT, *flags, *EIGHT, "--output_dir", "single"))
    both, alone = (
        json.loads((again / name / "trainer_state.json").read_text())["log_history"][0] for name in ("output", "single")
    )
    assert 1 < both["numbers_per_answer"] < 2
    for figure in ("numbers_per_answer", "number_error", "loss"):
        assert both[figure] == pytest.approx(alone[figure], rel=1e-3), figure
    two, one = (load_file(again / folder / WEIGHTS) for folder in ("output", "single"))
    moved = torch.cat([(one[key] - weights[key]).flatten() for key in weights])
    apart = torch.cat([(one[key] - two[key]).flatten() for key in weights])
    assert moved.abs().mean() > 1e-5 and apart.abs().mean() < 0.05 * moved.abs().mean()
