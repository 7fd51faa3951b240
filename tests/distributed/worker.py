"""One of two processes: trains a LoRA adapter with RARL and writes down what it saw. Started by test_two_processes.py.

Usage: `python -m torch.distributed.run --nproc_per_node 2 worker.py base_model output_folder spec.json`; the spec holds
`num_images` (one row for each entry) and `config` (arguments of `RARLConfig`).
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from rarl.datasets.builtin import BuiltinSource
from rarl.lora import language_lora_targets
from rarl.prompt import build_completion, build_prompt
from rarl.rewards import REWARDS, weights
from rarl.trainer import RARLConfig, RARLTrainer

COLLECTIVES = ("all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce", "broadcast", "barrier")


def make_rows(num_images: Sequence[int]) -> list[dict[str, Any]]:
    """One row for each entry of `num_images`."""
    source = BuiltinSource("count", size=max(num_images))
    return [
        {
            "prompt": build_prompt(source.task, number),
            "images": [source.load(index) for index in range(number)],
            "values": source.values[:number].tolist(),
            "task": "count",
        }
        for number in num_images
    ]


def fixed_batch(processor: Any) -> dict[str, torch.Tensor]:
    """Prompt and perfect answer for two images, as input of the model."""
    (row,) = make_rows([2])
    text = processor.apply_chat_template(row["prompt"], add_generation_prompt=True)
    text += build_completion(row["values"], BuiltinSource("count", size=1).task)
    return dict(processor(text=[text], images=[row["images"]], return_tensors="pt"))


def record_collectives(names: list[str]) -> None:
    """Append the name of every collective of `torch.distributed` that this process enters to `names`."""

    def recorded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            names.append(name)
            return function(*args, **kwargs)

        return call

    for name in COLLECTIVES:
        setattr(torch.distributed, name, recorded(name, getattr(torch.distributed, name)))


class RecordingTrainer(RARLTrainer):
    """Keeps, for every generation batch, what was decided and what came of it."""

    records: list[dict[str, Any]]

    def _choose(self, rewards: np.ndarray, reward_weights: Sequence[float]) -> np.ndarray:
        chosen = super()._choose(rewards, reward_weights)
        record = {"rewards_before": rewards.tolist(), "chosen": chosen.tolist(), "step": self.state.global_step}
        self.records.append(record)
        return chosen

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        self.records[-1] |= {
            "mutated": output["mutated"].tolist(),
            "advantages": output["advantages"].tolist(),
            "rewards": self._last_rewards.tolist(),
            "num_images": [len(row["images"]) for row in inputs],
        }
        return output


def main(base: str, output: str, spec_file: str) -> None:
    spec = json.loads(Path(spec_file).read_text())
    processor = AutoProcessor.from_pretrained(base)
    with torch.device("meta"):
        targets = language_lora_targets(AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(base)))
    args = RARLConfig(output_dir=output, reward_weights=weights(), **spec["config"])
    if args.deepspeed:
        # On GPUs accelerate does it with the arguments; on a CPU it would come after the model, and ZeRO-3 loads the
        # model in shards.
        import deepspeed

        deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    trainer = RecordingTrainer(
        model=base,
        reward_funcs=list(REWARDS.values()),
        args=args,
        train_dataset=Dataset.from_list(make_rows(spec["num_images"])),
        processing_class=processor,
        peft_config=LoraConfig(r=4, target_modules=targets),
    )
    trainer.records = []
    if trainer.accelerator.num_processes != 2 or torch.distributed.get_world_size() != 2:
        raise RuntimeError(f"Two processes were started, this one is of {trainer.accelerator.num_processes}.")
    collectives: list[str] = []
    record_collectives(collectives)
    trainer.train()
    trained_with = list(collectives)
    trainer.save_model(output)

    engine = trainer.model_wrapped
    parameters = list(trainer.model.parameters())
    is_deepspeed = trainer.is_deepspeed_enabled
    engine.eval()
    with torch.no_grad():  # every rank, as ZeRO-3 gathers weights in forward
        logits = engine(**fixed_batch(processor)).logits
    rank = trainer.accelerator.process_index
    torch.save(logits, Path(output) / f"logits_{rank}.pt")
    report = {
        "world_size": torch.distributed.get_world_size(),
        "records": trainer.records,
        "reward_weights": trainer.reward_weights.tolist(),
        "log_history": trainer.state.log_history,
        "collectives": trained_with,
        "zero_stage": engine.zero_optimization_stage() if is_deepspeed else None,
        "sharded_over": engine.dp_world_size if is_deepspeed else None,
        # What a process keeps is half, though the whole may linger after a forward call.
        "halved": sum(
            hasattr(parameter, "ds_tensor") and parameter.ds_tensor.numel() == -(-parameter.ds_numel // 2)
            for parameter in parameters
        ),
        "num_parameters": len(parameters),
    }
    (Path(output) / f"report_{rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
