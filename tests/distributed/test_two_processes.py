"""RARL in two real processes on the CPU, groups across both: plain data parallelism, DeepSpeed ZeRO-2 and ZeRO-3."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from rarl import tiny
from rarl.mutation import MutationSettings, choose_mutated, total_rewards
from rarl.prompt import build_completion
from rarl.task import get_task
from tests.distributed.worker import fixed_batch, make_rows
from tests.e2e.launching import TIMEOUT, two_processes
from tests.paths import ROOT

GROUP_SIZE = 4
SEED = 3

CONFIG: dict[str, Any] = {
    "per_device_train_batch_size": 2,
    "num_generations": GROUP_SIZE,
    "rmo_probability": 1.0,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "shuffle_dataset": False,
    "activation_checkpointing": False,
    "beta": 0.04,
    "seed": SEED,
    "model_init_kwargs": {"dtype": "float32"},
    "use_cpu": True,
    "bf16": False,
    "ddp_backend": "gloo",
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


def deepspeed_config(stage: int) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": stage}
    if stage == 3:
        zero["stage3_param_persistence_threshold"] = 0  # shard the small weights, too
    return {
        "zero_optimization": zero,
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
    }


@dataclass(frozen=True)
class Run:
    output: Path
    reports: list[dict[str, Any]]  # one for each rank

    def records(self, rank: int) -> list[dict[str, Any]]:
        return self.reports[rank]["records"]

    def logged(self, name: str) -> list[float]:
        return [entry[name] for entry in self.reports[0]["log_history"] if name in entry]


def launch(base: str, output: Path, spec: dict[str, Any], worker: str = "worker.py") -> Run:
    """Run a worker of this folder in two processes, and read what both wrote."""
    output.mkdir()
    spec_file = output / "spec.json"
    spec_file.write_text(json.dumps(spec))
    environment = os.environ | {
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",  # two processes that spin against each other are ten times slower
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(ROOT),
        # DeepSpeed compiles its communication on first use, and looks for ninja on the path.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command.append(str(Path(__file__).with_name(worker)))
    log = output / "log.txt"
    with two_processes, log.open("w") as stream:
        process = subprocess.Popen(
            [*command, base, str(output), str(spec_file)], env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
        try:
            returncode = process.wait(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.terminate()  # not killed: the launcher has to end its workers
            process.wait()
            pytest.fail(f"the processes wait for each other:\n{log.read_text()[-6000:]}")
    assert returncode == 0, log.read_text()[-6000:]
    files = sorted(output.glob("report_*.json"))
    assert len(files) == 2, "the launcher did not start two processes"
    return Run(output, [json.loads(file.read_text()) for file in files])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny model with random weights: its answers are unreadable, so every group is stagnant."""
    folder = tmp_path_factory.mktemp("base")
    processor = tiny.build_processor()
    torch.manual_seed(0)
    tiny.build_model(processor, width=64, layers=2, vision_layers=1).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def reference_tokens(processor: Any, num_images: int) -> int:
    """Length of a mutated response, its end token included."""
    (row,) = make_rows([num_images])
    return len(processor.tokenizer.encode(build_completion(row["values"], get_task(row["task"])))) + 1


@pytest.fixture(scope="module", params=[2, 3], ids=["zero2", "zero3"])
def zero(request: pytest.FixtureRequest, base: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two steps; a generation batch has three groups of unlike N, the middle one half on each process."""
    pytest.importorskip("deepspeed")
    if shutil.which("g++") is None:
        pytest.skip("DeepSpeed compiles its CPU communication with g++")
    config = CONFIG | {
        "gradient_accumulation_steps": 3,
        "max_steps": 2,
        "max_completion_length": 64,
        "deepspeed": deepspeed_config(request.param),
    }
    run = launch(base, tmp_path_factory.mktemp("zero") / "run", {"num_images": [1, 2, 4], "config": config})
    for report in run.reports:
        assert report["zero_stage"] == request.param
        assert report["sharded_over"] == 2
        assert report["halved"] == (report["num_parameters"] if request.param == 3 else 0)
    return run


@pytest.fixture(scope="module")
def ddp(base: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three steps of one group, half on each process; the second step's reference answer does not fit."""
    processor = AutoProcessor.from_pretrained(base)
    limit = reference_tokens(processor, 2)
    assert reference_tokens(processor, 1) <= limit < reference_tokens(processor, 4)
    config = CONFIG | {"max_steps": 3, "max_completion_length": limit}
    return launch(base, tmp_path_factory.mktemp("ddp") / "run", {"num_images": [1, 4, 2], "config": config})


def check_decisions(run: Run, batches_per_step: int) -> list[dict[str, Any]]:
    """Both ranks saw the same rewards and chose what one process chooses; returns batches joined over ranks."""
    joined = []
    for first, second in zip(run.records(0), run.records(1), strict=True):
        for name in ("rewards_before", "rewards", "chosen", "step"):
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        batch = first | {name: first[name] + second[name] for name in ("mutated", "advantages", "num_images")}
        groups = np.array(batch["rewards_before"], dtype=float).reshape(-1, GROUP_SIZE, 5)
        settings = MutationSettings(probability=1.0, seed=SEED)
        expected = [
            row + index * GROUP_SIZE
            for index, group in enumerate(groups)
            for row in choose_mutated(
                group, run.reports[0]["reward_weights"], settings, step=batch["step"] * batches_per_step, group=index
            )
        ]
        assert batch["chosen"] == expected
        joined.append(batch)
    return joined


def check_advantages(run: Run, batch: dict[str, Any]) -> None:
    """Advantages of both ranks are those of the whole group (equation 2), whichever process holds a row."""
    rewards = np.array(batch["rewards"], dtype=float)
    totals = total_rewards(rewards, run.reports[0]["reward_weights"]).reshape(-1, GROUP_SIZE)
    centred = totals - totals.mean(axis=1, keepdims=True)
    expected = centred / (totals.std(axis=1, ddof=1, keepdims=True) + 1e-4)
    np.testing.assert_allclose(batch["advantages"], expected.ravel(), rtol=1e-4, atol=1e-5)


def test_zero_mutates_the_same_rows_on_every_rank(zero: Run) -> None:
    batches = check_decisions(zero, batches_per_step=3)
    assert len(batches) == 2
    for batch in batches:
        assert batch["num_images"] == [1] * 4 + [2] * 4 + [4] * 4  # each rank holds six: the middle group spans both
        assert np.flatnonzero(batch["mutated"]).tolist() == batch["chosen"]
        check_advantages(zero, batch)
    assert [len(batch["chosen"]) for batch in batches][0] == 3, "a random model gives three stagnant groups"
    assert zero.logged("rmo/mutated") == [len(batch["chosen"]) for batch in batches]
    assert zero.logged("rmo/stagnant_fraction")[0] == 1.0
    assert zero.logged("rmo/reward_std_before")[0] == 0.0
    assert zero.logged("rmo/reward_std_after")[0] > 0.1


def test_zero_adapter_reloads_to_the_trained_outputs(zero: Run, base: str) -> None:
    saved = load_file(zero.output / "adapter_model.safetensors")
    outputs = {name: tensor for name, tensor in saved.items() if "lora_B" in name}
    assert len(outputs) == 2 * 7, "two layers of seven adapted projections"
    assert all(tensor.abs().max() > 0 for tensor in outputs.values()), "B starts at zero: an adapter did not move"

    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32).eval()
    batch = fixed_batch(AutoProcessor.from_pretrained(base))
    with torch.no_grad():
        untrained = model(**batch).logits
        reloaded = PeftModel.from_pretrained(model, str(zero.output)).eval()(**batch).logits
    for rank in (0, 1):
        trained = torch.load(zero.output / f"logits_{rank}.pt")
        torch.testing.assert_close(reloaded, trained, rtol=1e-4, atol=1e-4)
    assert (reloaded - untrained).abs().max() > 0.01


def test_ddp_decides_as_one_process(ddp: Run) -> None:
    batches = check_decisions(ddp, batches_per_step=1)
    assert [set(batch["num_images"]) for batch in batches] == [{1}, {4}, {2}]
    for batch in batches:
        assert len(batch["chosen"]) == 1, "a random model gives a stagnant group"
        check_advantages(ddp, batch)
    first, skipped, last = batches
    assert np.flatnonzero(first["mutated"]).tolist() == first["chosen"]
    assert np.flatnonzero(last["mutated"]).tolist() == last["chosen"]
    assert not any(skipped["mutated"])
    assert skipped["advantages"] == [0.0] * GROUP_SIZE
    assert ddp.logged("rmo/mutated") == [1.0, 0.0, 1.0]
    assert ddp.logged("rmo/skipped") == [0.0, 1.0, 0.0]


def test_ddp_enters_the_same_collectives_on_every_rank(ddp: Run) -> None:
    """One rank rewrites a response, the other does not, and one step rewrites none: the order of calls is the same."""
    first, second = (report["collectives"] for report in ddp.reports)
    assert first == second
    assert Counter(first).total() > 10


@pytest.mark.parametrize("stage", [None, 3], ids=["ddp", "zero3"])
def test_redrawn_and_exactly_credited_on_both_ranks(base: str, tmp_path: Path, stage: int | None) -> None:
    """A random model's groups stay wrong however often they are drawn; the one mutated response states numbers, so one
    rank has trees of numbers behind its answers and the other none: both make the same calls."""
    if stage is not None:
        pytest.importorskip("deepspeed")
        if shutil.which("g++") is None:
            pytest.skip("DeepSpeed compiles its CPU communication with g++")
    config = CONFIG | {"dynamic_sampling": 2, "credit": "exact", "max_steps": 2, "max_completion_length": 64}
    config |= {} if stage is None else {"deepspeed": deepspeed_config(stage)}
    run = launch(base, tmp_path / "run", {"num_images": [2, 1], "config": config})
    assert run.reports[0]["collectives"] == run.reports[1]["collectives"]
    assert run.logged("dynamic_sampling/tries") == [2.0, 2.0]
    assert run.logged("dynamic_sampling/redrawn") == [2.0 * GROUP_SIZE] * 2
    assert run.logged("dynamic_sampling/still_stagnant") == [1.0, 1.0]
    assert run.logged("rmo/mutated") == [1.0, 1.0]
    for first, second in zip(run.records(0), run.records(1), strict=True):
        mutated = np.array(first["mutated"] + second["mutated"])
        assert mutated.sum() == 1 and first["chosen"] == second["chosen"] == np.flatnonzero(mutated).tolist()
        rows = [np.array(each) for part in (first, second) for each in part["advantages"]]
        totals = total_rewards(np.array(first["rewards"], dtype=float), run.reports[0]["reward_weights"])
        others = (totals.sum() - totals) / (GROUP_SIZE - 1)
        deviation = totals.std(ddof=1)  # of one group, shrunk towards itself
        for row, total, other in zip(rows, totals, others, strict=True):
            # No number stands before the first token, so nothing is promised yet.
            assert row[0] == pytest.approx((total - other) / deviation, abs=1e-5)
    assert all(np.isfinite(each) for each in run.logged("grad_norm"))
