"""The launch configurations, through accelerate's own loader and launcher arguments."""

from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from tests.paths import ROOT

FOLDER = ROOT / "accelerate_configs"

# File: distributed type, ZeRO stage, mixed precision, machines, processes.
FACTS: dict[str, tuple[str, int | None, str, int, int]] = {
    "cpu": ("NO", None, "no", 1, 1),
    "single_gpu": ("NO", None, "bf16", 1, 1),
    "zero1": ("DEEPSPEED", 1, "bf16", 1, 8),
    "zero2": ("DEEPSPEED", 2, "bf16", 1, 8),
    "zero3": ("DEEPSPEED", 3, "bf16", 1, 8),
    "zero3_offload": ("DEEPSPEED", 3, "bf16", 1, 8),
    "fsdp2": ("FSDP", None, "bf16", 1, 8),
    "multi_node_zero3": ("DEEPSPEED", 3, "bf16", 2, 16),
}


def load(name: str) -> Any:
    return load_config_from_file(str(FOLDER / f"{name}.yaml"))


def test_every_file_is_covered() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(FACTS)


@pytest.mark.parametrize("name", FACTS)
def test_facts(name: str) -> None:
    config = load(name)
    stage = config.deepspeed_config.get("zero_stage")
    found = (config.distributed_type.value, stage, config.mixed_precision, config.num_machines, config.num_processes)
    assert found == FACTS[name]
    assert config.use_cpu == (name == "cpu")
    head = (FOLDER / f"{name}.yaml").read_text().split("compute_environment")[0]
    assert f"accelerate launch --config_file accelerate_configs/{name}.yaml" in head


@pytest.mark.parametrize("name", FACTS)
def test_launcher_knows_every_key(name: str) -> None:
    """Keys that the launcher has no argument for would be set and never read."""
    parser = launch_command_parser()
    arguments = vars(parser.parse_args(["script.py"]))
    config = load(name)
    unknown = {*config.deepspeed_config, *config.fsdp_config} - set(arguments)
    assert not unknown


@pytest.mark.parametrize("name", [name for name, facts in FACTS.items() if facts[0] == "DEEPSPEED"])
def test_launcher_reads_deepspeed(name: str) -> None:
    pytest.importorskip("deepspeed")
    parser = launch_command_parser()
    args, _, _ = _validate_launch_command(
        parser.parse_args(["--config_file", str(FOLDER / f"{name}.yaml"), "script.py"])
    )
    assert args.use_deepspeed and args.zero_stage == FACTS[name][1]
    assert args.gradient_accumulation_steps == args.gradient_clipping == "auto"
    assert args.zero3_init_flag is (args.zero_stage == 3)
    if args.zero_stage == 3:
        assert args.zero3_save_16bit_model is True
    offload = "cpu" if name == "zero3_offload" else "none"
    if args.zero_stage > 1:
        assert (args.offload_optimizer_device, args.offload_param_device) == (offload, offload)
    if args.num_machines > 1:
        assert args.deepspeed_multinode_launcher == "standard"
        assert args.num_processes % args.num_machines == 0


def test_fsdp_is_version_2() -> None:
    settings = load("fsdp2").fsdp_config
    assert settings["fsdp_version"] == 2
    assert settings["fsdp_reshard_after_forward"] is True
    assert settings["fsdp_auto_wrap_policy"] == "TRANSFORMER_BASED_WRAP"
    # Arguments of FSDP 1 that version 2 warns about or ignores.
    assert not {"fsdp_sharding_strategy", "fsdp_use_orig_params", "fsdp_sync_module_states"} & set(settings)
