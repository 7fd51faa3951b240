"""One of two processes: trains with and without shared prompts. Started by test_shared_prefix_zero.py.

Usage: `python -m torch.distributed.run --nproc_per_node 2 shared_prefix_worker.py base_model output_folder spec.json`;
the spec holds `num_images` (one row for each entry), `config` (arguments of `RARLConfig`), `runs` (for each run what it
changes there) and `lora` (whether only adapters are trained).
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import GRPOTrainer

import rarl.shared_prefix.scoring
from rarl.lora import language_lora_targets
from rarl.trainer import RARLConfig, SharedPrefixTrainer
from tests.distributed.worker import make_rows


class Replaying(SharedPrefixTrainer):
    """Answers at random instead of sampling them: each row its own, of unlike lengths."""

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        rank = self.accelerator.process_index
        generator = torch.Generator().manual_seed(100 * self.state.global_step + rank)
        lengths = torch.randint(1, self.max_completion_length, (len(prompt_ids),), generator=generator).tolist()
        end = self._tokenizer.eos_token_id
        return [[*torch.randint(10, 400, (n,), generator=generator).tolist(), end] for n in lengths], None


def reward(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    return [sum(ids) % 7 / 7 for ids in completion_ids]


def whole_parameters(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Of all processes together."""
    gathered: Any = contextlib.nullcontext()
    if any(hasattr(parameter, "ds_numel") for parameter in model.parameters()):
        import deepspeed

        gathered = deepspeed.zero.GatheredParameters(list(model.parameters()))
    with gathered:
        return {
            name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad
        }


def train(
    base: str, output: str, num_images: list[int], lora: bool, config: dict[str, Any]
) -> tuple[dict[str, Any], Any]:
    """Report of one run, and parameters before and after it."""
    planned: list[int] = []
    plan = rarl.shared_prefix.scoring.plan_calls

    def recorded(*args: Any) -> Any:
        calls = plan(*args)
        planned.append(len(calls))
        return calls

    rarl.shared_prefix.scoring.plan_calls = recorded
    args = RARLConfig(output_dir=output, **config)
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    lora_config = LoraConfig(r=4, target_modules=language_lora_targets(model), init_lora_weights=False)
    trainer: GRPOTrainer = Replaying(
        model=model,
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_list(make_rows(num_images)),
        processing_class=AutoProcessor.from_pretrained(base),
        # B random instead of 0, as gradients of A would be 0 otherwise.
        peft_config=lora_config if lora else None,
    )
    if trainer.accelerator.num_processes != 2 or torch.distributed.get_world_size() != 2:
        raise RuntimeError(f"Two processes were started, this one is of {trainer.accelerator.num_processes}.")
    before = whole_parameters(trainer.model)
    calls: list[list[int]] = []
    trainer.model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(list(kwargs["input_ids"].shape)), with_kwargs=True
    )
    trainer.train()
    rarl.shared_prefix.scoring.plan_calls = plan
    after = whole_parameters(trainer.model)
    engine: Any = trainer.model_wrapped
    report = {
        "planned": planned,
        "calls": calls,
        "logged": [entry for entry in trainer.state.log_history if "grad_norm" in entry],
        "zero_stage": engine.zero_optimization_stage() if trainer.is_deepspeed_enabled else None,
    }
    return report, (before, after)


def main(base: str, output: str, spec_file: str) -> None:
    spec = json.loads(Path(spec_file).read_text())
    if spec["config"].get("deepspeed"):
        import deepspeed

        deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)  # before ZeRO-3 loads a model
    reports, parameters = [], []
    for changes in spec["runs"]:
        report, moved = train(base, output, spec["num_images"], spec["lora"], spec["config"] | changes)
        reports.append(report)
        parameters.append(moved)
    rank = torch.distributed.get_rank()
    torch.save(parameters, Path(output) / f"parameters_{rank}.pt")
    (Path(output) / f"report_{rank}.json").write_text(json.dumps(reports))


if __name__ == "__main__":
    main(*sys.argv[1:])
