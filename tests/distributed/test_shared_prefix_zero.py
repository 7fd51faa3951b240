"""Shared prompts in two real processes: plain data parallelism and DeepSpeed ZeRO-3 end where TRL's layout does."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rarl import tiny
from tests.distributed.test_two_processes import CONFIG, deepspeed_config, launch

STEPS = 3


@pytest.mark.parametrize(
    ("zero_stage", "lora", "budget"),
    [
        pytest.param(None, False, 90, marks=pytest.mark.long),
        pytest.param(None, True, 90, marks=pytest.mark.long),
        pytest.param(2, True, 90, marks=pytest.mark.long),
        (3, False, 90),
        # TRL forces reentrant checkpointing here, whose gradients ZeRO-3 cannot take from several calls.
        pytest.param(3, True, None, marks=pytest.mark.long),
    ],
)
def test_same_parameters_as_stock(zero_stage: int | None, lora: bool, budget: int | None, tmp_path: Path) -> None:
    """Three groups of unlike N over two processes, the middle one torn; they need unlike numbers of calls."""
    config = CONFIG | {
        "per_device_train_batch_size": 6,
        "max_completion_length": 16,
        "num_iterations": 2,  # old log-probabilities are stored
        "beta": 0.0,
        "max_steps": STEPS,
        "optim": "sgd",
        "learning_rate": 0.1,
        "activation_checkpointing": True,
    }
    del config["rmo_probability"]
    if zero_stage is not None:
        pytest.importorskip("deepspeed")
        if shutil.which("g++") is None:
            pytest.skip("DeepSpeed compiles its CPU communication with g++")
        config["deepspeed"] = deepspeed_config(zero_stage) | {"zero_allow_untested_optimizer": True}
    base = str(tmp_path / "base")
    processor = tiny.build_processor()
    torch.manual_seed(0)
    model = tiny.build_model(processor, width=64, layers=1, vision_layers=1)
    for parameter in model.parameters():  # larger weights, so that gradients reach the vision tower
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(base)
    processor.save_pretrained(base)
    runs = [{"shared_prefix": "off"}, {"shared_prefix": "on", "shared_prefix_tokens": budget}]
    spec = {"num_images": [1, 2, 4], "config": config, "runs": runs, "lora": lora}
    run = launch(base, tmp_path / "run", spec, worker="shared_prefix_worker.py")

    reports: Any = run.reports  # of each rank, of each run
    for stock, shared in reports:
        assert stock["zero_stage"] == shared["zero_stage"] == zero_stage
        assert not stock["planned"] and len(stock["logged"]) == STEPS
        assert all(rows == 6 for rows, _ in stock["calls"])
        assert all(rows * tokens <= (budget or 1000) for rows, tokens in shared["calls"])
        for one, other in zip(stock["logged"], shared["logged"], strict=True):
            for name in ("loss", "grad_norm"):
                assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-6), name
    first, second = (report[1] for report in reports)
    if budget is None:
        assert set(first["planned"] + second["planned"]) == {1}
    else:
        assert first["planned"] != second["planned"], "ranks that plan alike test nothing"
    calls = sum(map(max, zip(first["planned"], second["planned"], strict=True)))
    assert len(first["calls"]) == len(second["calls"]) == calls

    for rank in (0, 1):
        (start, expected), (same_start, found) = torch.load(run.output / f"parameters_{rank}.pt")
        for name, after in expected.items():
            assert torch.equal(start[name], same_start[name])
            torch.testing.assert_close(found[name], after, rtol=0, atol=1e-6, msg=name)
            assert (after - start[name]).abs().max() > 1e-5, name
