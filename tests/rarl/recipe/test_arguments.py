"""What recipes are told: every argument acts, is TRL's own and passed on, or is refused by name."""

import ast
import dataclasses
import inspect
import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import trl.trainer.dpo_trainer
import trl.trainer.grpo_trainer
import trl.trainer.sft_trainer
import yaml
from datasets import Dataset
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from trl import DPOConfig, GRPOConfig, ModelConfig, SFTConfig

from rarl import tiny
from rarl.recipe import Data, RecipeArguments, hub_repository, load_policy, load_processor, parse, prepare_data
from rarl.recipe.effects import LORA, WITHOUT_EFFECT
from rarl.recipe.reading import init_names, read_config
from rarl.recipe.values import BOUNDS, LOSSES, POSITIVE, STEPS, check_numbers
from rarl.task import TASKS, OrdinalTask, get_task, save_task
from rarl.trainer import RARLConfig
from tests.paths import ROOT

RECIPES = ROOT / "recipes"
COUNT = get_task("count")


def config_type(recipe: str) -> Any:
    """The class of a recipe's training arguments."""
    found = runpy.run_path(str(RECIPES / f"{recipe}.py"))
    own = [each for name, each in found.items() if name.endswith("Config") and isinstance(each, type)]
    return max(own, key=lambda each: len(each.__mro__))


NAMES = ("rarl_stage1", "rarl_stage2", "sft", "gor_sft", "expected_error", "levels_sft", "gor_dpo")
TYPES = {name: config_type(name) for name in NAMES}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Reads flags as a recipe does: training arguments, recipe arguments, model arguments."""

    def read(recipe: str, *flags: str) -> tuple[Any, RecipeArguments, ModelConfig]:
        monkeypatch.setattr(sys, "argv", [f"{recipe}.py", "--use_cpu", "true", *flags])
        return parse(TYPES[recipe], RECIPES / f"configs/{recipe}_tiny.yaml")

    return read


# What a field is tried with, where no word or number will do: other flags that it needs come before.
SAMPLES: dict[str, list[str]] = {
    "candidates": ["samples"],
    "expected_error": ["squared"],
    "per_device_train_batch_size": ["32"],
    "max_steps": ["3"],
    "lr_scheduler_type": ["cosine_with_min_lr", "--lr_scheduler_kwargs", '{"min_lr": 0.1}'],
    "lr_scheduler_kwargs": ['{"min_lr": 0.1}', "--lr_scheduler_type", "cosine_with_min_lr"],
    "optim": ["sgd"],
    "optim_args": ["fused=False"],
    "logging_strategy": ["epoch"],
    "include_num_input_tokens_seen": ["true"],
    "log_level": ["error"],
    "log_level_replica": ["error"],
    "save_strategy": ["epoch"],
    "accelerator_config": ['{"split_batches": true}'],
    "dataloader_prefetch_factor": ["3", "--dataloader_num_workers", "1"],
    "dataloader_multiprocessing_context": ["spawn"],
    "train_sampling_strategy": ["sequential"],
    "debug": ["underflow_overflow"],
    "num_generations": ["16"],
    "generation_batch_size": ["128"],
    "pad_to_multiple_of": ["8"],
    "generation_kwargs": ['{"num_beams": 1}'],
    "cache_implementation": ["static"],
    "importance_sampling_level": ["sequence"],
    "multi_objective_aggregation": ["normalize_then_sum"],
    "scale_rewards": ["batch"],
    "f_divergence_type": ["forward_kl"],
    "log_completions_hub_repo": ["me/completions", "--log_completions", "true"],
    "truncation_mode": ["keep_end"],
    "packing_strategy": ["wrapped"],
    "rmo_trigger": ["low_reward"],
    "rmo_importance": ["luffy"],
    "credit": ["item"],
    "number_loss": ["wasserstein"],
    "pairs": ["answers"],
    "own_answer": ["true", "--pairs", "answers"],
    "advantage_baseline": ["leave_one_out"],
    "rmo_threshold": ["0.25"],
    "shared_prefix": ["off"],
    "shared_prefix_attention": ["flex"],
    "eval_strategy": ["steps"],
    "hub_strategy": ["end"],
    "rmo_source": ["ground_truth"],
    "dtype": ["bfloat16"],
    "bnb_4bit_quant_type": ["fp4"],
    "top_p": ["0.5"],
    "loss_weights": ["3", "--loss_type", "hinge"],
    "report_to": ["none"],
    "torch_compile_backend": ["inductor"],
    "torch_compile_mode": ["default"],
}
# Where a machine or a single process is not enough, or a flag cannot say it.
NOT_HERE = {"fp16", "tf32", "use_liger_kernel", "use_vllm", "fsdp", "deepspeed", "parallelism_config"}
NOT_HERE |= {"ddp_backend", "liger_kernel_config", "auto_find_batch_size", "resume_from_checkpoint", "sync_ref_model"}
# Numbers that transformers or argparse give another type, or settings that another one turns on.
ADJUSTED = {
    "include_num_input_tokens_seen",
    "gradient_checkpointing_kwargs",
    "torch_compile_backend",
    "torch_compile_mode",
    "accelerator_config",
}


def sample(field: dataclasses.Field[Any], hint: Any) -> list[str]:
    """Another value than the default, as flags."""
    if field.name in SAMPLES:
        return SAMPLES[field.name]
    text = str(hint)
    if "bool" in text and "str" not in text:
        return ["true" if field.default in (False, None) else "false"]
    number = field.default if isinstance(field.default, int | float) else 0
    if "dict" in text:
        return ['{"a": 1}']
    if hint in (int, int | None):
        return [str(number + 1)]
    if hint in (float, float | None):
        return [str(number / 2 or 0.5)]
    return ["3"] if "list[int]" in text or "list[float]" in text else ["word"]


def says(value: Any, text: str) -> bool:
    """Whether a parsed value is what the flag says."""
    if value == []:
        return text == "none"
    if isinstance(value, list):
        [value] = value
    if isinstance(value, dict):
        return text.replace(" ", "") == str(value).replace("'", '"').replace(" ", "")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(text) == value
    return str(getattr(value, "value", value)).lower() == text.lower()


@pytest.mark.parametrize("recipe", [name for name in TYPES if name != "rarl_stage2"])  # which has those of stage 1
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of fields on their way out
def test_every_field_of_the_trainer_is_passed_on_or_refused(recipe: str, given: Callable[..., Any]) -> None:
    """TRL's and transformers' own arrive as they were given; what would do nothing is refused by its name."""
    wrong = []
    hints = get_type_hints(TYPES[recipe])
    tried = init_names(SFTConfig) if issubclass(TYPES[recipe], SFTConfig) else set()
    learns_from_rewards = issubclass(TYPES[recipe], GRPOConfig)
    for field in dataclasses.fields(TYPES[recipe]):
        if not field.init or field.name in NOT_HERE or (TYPES[recipe] is not SFTConfig and field.name in tried):
            continue
        flags = sample(field, hints[field.name])
        if field.name == "loss_type":
            flags = ["grpo"] if learns_from_rewards else ["dft"]
            if issubclass(TYPES[recipe], DPOConfig):
                flags = ["hinge", "--loss_weights", "1"]
        refused = field.name in WITHOUT_EFFECT or field.name == "max_length"
        refused |= field.name == "pad_to_multiple_of" and not learns_from_rewards
        try:
            training_args, _, _ = given(recipe, f"--{field.name}", *flags)
        except ValueError as error:
            if not refused or not str(error).startswith(f"{field.name}: "):
                wrong.append(f"{field.name}: refused with {error}")
            continue
        if refused:
            wrong.append(f"{field.name}: not refused")
        elif field.name not in ADJUSTED and not says(getattr(training_args, field.name), flags[0]):
            wrong.append(f"{field.name}: {getattr(training_args, field.name)!r} for {flags}")
    assert not wrong, "\n".join(wrong)


def assigned(tree: ast.AST, owner: str) -> set[str]:
    """Attributes of `owner` that a program sets."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == owner
    }


def test_nothing_is_overwritten() -> None:
    """No recipe changes what it was told, but for what is refused before or comes out of what was told."""
    trees = [ast.parse((RECIPES / f"{name}.py").read_text()) for name in TYPES]
    trees += [ast.parse(path.read_text()) for path in (ROOT / "rarl/recipe").glob("*.py")]
    found = [set().union(*(assigned(tree, owner) for tree in trees)) for owner in ("training_args", "arguments")]
    assert found[0] == {"max_length", "reward_weights", "push_to_hub", "resume_from_checkpoint"}
    assert found[1] == {"adapter", "given", "gor_vocabulary"}
    for owner in ("model_args", "a"):
        assert set().union(*(assigned(tree, owner) for tree in trees)) <= {"lora_target_modules"}


@pytest.mark.parametrize("recipe", TYPES)
def test_every_field_of_the_model_acts_or_is_refused(recipe: str, given: Callable[..., Any]) -> None:
    hints = get_type_hints(ModelConfig)
    wrong = []
    for field in dataclasses.fields(ModelConfig):
        flags = sample(field, hints[field.name])
        adapter = ["--use_peft", "true"]
        try:
            _, _, model_args = given(recipe, *adapter, f"--{field.name}", *flags)
        except ValueError as error:
            if field.name not in WITHOUT_EFFECT or not str(error).startswith(f"{field.name}: "):
                wrong.append(f"{field.name}: refused with {error}")
            continue
        acts = {"model_name_or_path", "dtype", "attn_implementation", "use_peft", *LORA}
        if field.name not in acts or not says(getattr(model_args, field.name), flags[0]):
            wrong.append(f"{field.name}: {getattr(model_args, field.name)!r} for {flags}")
    assert not wrong, "\n".join(wrong)


def state(data: Data) -> Any:
    """All that a run has of its data."""
    rows = [data.train, *data.test.values()]
    images = [(rows[0][0]["images"][0].size, rows[0][0]["prompt"])]
    stored = [(each.with_format(None)["images"], each.with_format(None)["values"]) for each in rows]
    return images, stored, sorted(data.test), data.labels, dataclasses.asdict(data.source.task)


DATA = ["--num_prompts", "64", "--size", "90", "--eval_prompts", "8", "--eval_num_images", "1", "2"]
DATA += ["--num_images", "1", "2", "--num_images_weights", "1", "1"]
ACTS_ON_DATA = {
    "size": ["80"],
    "split_seed": ["1"],
    "min_pixels": ["10000"],
    "max_pixels": ["1000"],
    "task": ["brightness"],
    "task_rule": ["spots", "--task", "count"],
    "task_minimum": ["1", "--task", "count"],
    "task_maximum": ["11", "--task", "count"],
    "task_tolerance": ["2", "--task", "count"],
    "task_integer": ["false", "--task", "count"],
    "task_metric": ["srcc", "--task", "count"],
    "task_words": ["few", "many", "--task", "count"],
    "num_images": ["1", "3"],
    "num_images_weights": ["1", "9"],
    "num_prompts": ["65"],
    "min_gap": ["3"],
    "rater_noise": ["2"],
    "raters": ["3", "--rater_noise", "2"],
    "gor_vocabulary": ["fit"],
    "eval_prompts": ["4"],
    "eval_num_images": ["1"],
}
ACTS_ELSEWHERE = {
    "source": "test_sources_take_their_own_arguments",
    "folder": "test_sources_take_their_own_arguments",
    "csv": "test_sources_take_their_own_arguments",
    "adapter": "test_lora_arguments_of_an_adapter_are_its_own",
    "rewards": "test_rewards_given_by_name_go_first",
    "weight_regression": "test_reward_functions_agree_with_weights",
    "weight_ranking": "test_reward_functions_agree_with_weights",
    "weight_format": "test_reward_functions_agree_with_weights",
    "gor_constrained": "test_constrained_rollouts_from_the_command_line",
    "eval_batch_size": "test_evaluation_takes_its_arguments",
    "eval_max_new_tokens": "test_evaluation_takes_its_arguments",
    "eval_interval": "test_evaluation_takes_its_arguments",
    **dict.fromkeys(
        ("table", "table_split", "text_column", "value_column", "votes_column", "std_column"),
        "test_recipes_pass_on_what_a_table_wants",
    ),
    "shots": "test_recipes_show_solved_examples_first",
}


def test_every_field_of_a_recipe_is_tried() -> None:
    names = {field.name for field in dataclasses.fields(RecipeArguments) if field.init}
    assert set(ACTS_ON_DATA) | set(ACTS_ELSEWHERE) == names
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in ACTS_ELSEWHERE.values() if f"def {name}(" not in tests] == []


@pytest.mark.parametrize("name", ACTS_ON_DATA)
def test_arguments_of_the_data_act(name: str, given: Callable[..., Any]) -> None:
    before = state(prepare_data(given("rarl_stage2", *DATA)[1], with_completion=True))
    TASKS["count"] = COUNT
    after = state(prepare_data(given("rarl_stage2", *DATA, f"--{name}", *ACTS_ON_DATA[name])[1], with_completion=True))
    assert before != after


def test_training_rows_have_labels_and_test_rows_the_truth(given: Callable[..., Any]) -> None:
    data = prepare_data(given("rarl_stage2", *DATA, "--rater_noise", "2")[1], with_completion=True)
    source = data.source
    for rows, values in ((data.train, source.labels), (data.test[1], source.values), (data.test[2], source.values)):
        stored = rows.with_format(None)
        assert [row["values"] for row in stored] == [[values[i] for i in row["images"]] for row in stored]
    completions = data.train.with_format(None)
    assert completions["completion"] == completions["values"], "the answers to learn are the labels"


def test_sources_take_their_own_arguments(given: Callable[..., Any]) -> None:
    for flags, message in (
        (["--folder", "a"], "'builtin' does not use folder"),
        (["--csv", "a"], "'builtin' does not use csv"),
        (["--source", "utkface"], "'utkface' needs folder"),
        (["--source", "folder", "--folder", "a", "--task", "count"], "'folder' needs csv"),
        (["--source", "web"], "Unknown data source 'web'"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare_data(given("rarl_stage1", *flags)[1])
    with pytest.raises(ValueError, match="size: source utkface has as many images as it holds; wanted no such"):
        given("rarl_stage1", "--source", "utkface", "--folder", "a", "--size", "9")
    assert given("rarl_stage1", "--source", "utkface", "--folder", "a")[1].size == 2000, (
        "the recipe's own file gives way"
    )


def test_evaluation_takes_its_arguments() -> None:
    """They go into `evaluate` as they are; a recipe that samples no answers refuses the length of one."""
    source = (ROOT / "rarl/recipe/finish.py").read_text()
    wanted = r"evaluate\([^)]*batch_size=arguments\.eval_batch_size,\s+max_new_tokens=arguments\.eval_max_new_tokens"
    assert re.search(wanted, source)
    assert re.search(r"evaluate\([^)]*interval=arguments\.eval_interval,\s+\)", source)


@pytest.mark.parametrize("name", ["num_images", "eval_num_images", "task_words"])
def test_lists_without_anything_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: wanted at least one, got none"):
        check_numbers({name: []})


@pytest.mark.parametrize("recipe", [name for name in TYPES if not name.startswith("rarl")])
def test_rewards_are_refused_where_there_are_none(recipe: str, given: Callable[..., Any]) -> None:
    for name, value in (
        ("rewards", "format"),
        ("weight_regression", "1.0"),
        ("weight_ranking", "0"),
        ("weight_format", "2"),
        ("gor_constrained", "true"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: this recipe learns from given answers"):
            given(recipe, f"--{name}", value)


def run_recipe(recipe: str, monkeypatch: pytest.MonkeyPatch, *flags: str) -> str:
    """What a recipe exits with that refuses its flags."""
    monkeypatch.setattr(sys, "argv", [f"{recipe}.py", "--use_cpu", "true", *flags])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(RECIPES / f"{recipe}.py"), run_name="__main__")
    return str(exit.value.code)


@pytest.mark.parametrize(
    ("recipe", "flags", "message"),
    [
        ("sft", ["--gor_vocabulary", "fit"], "gor_vocabulary: recipes/gor_sft.py trains value tokens"),
        ("levels_sft", ["--gor_vocabulary", "fit"], "gor_vocabulary: answers are rated in words"),
        ("levels_sft", ["--eval_interval", "0.5"], "eval_interval: answers are rated in words"),
        ("gor_sft", ["--eval_interval", "1.5"], "eval_interval: wanted"),
        ("levels_sft", ["--eval_max_new_tokens", "5"], "eval_max_new_tokens: answers are rated in words"),
        ("levels_sft", ["--num_images", "2"], "num_images: images are rated one by one"),
        ("gor_sft", ["--loss_type", "dft"], "loss_type: wanted nll beside the loss of numbers, got dft"),
        (
            "gor_sft",
            ["--number_weight", "0", "--number_loss", "squared"],
            "number_loss: has no effect with number_weight",
        ),
        ("expected_error", ["--loss_type", "dft"], "loss_type: wanted nll beside the loss of numbers, got dft"),
        (
            "expected_error",
            ["--expected_error", "huber"],
            "expected_error: wanted one of absolute, squared, got 'huber'",
        ),
        ("expected_error", ["--number_weight", "0"], "number_weight: wanted a number above 0, got 0"),
        ("gor_dpo", ["--candidates", "best"], "candidates: wanted one of beams, samples, got 'best'"),
        ("gor_dpo", ["--own_answer", "true"], "own_answer: has no effect on pairs of numbers"),
        ("gor_dpo", ["--pairs", "answers", "--margin", "1"], "margin: has no effect on pairs of answers"),
        ("gor_dpo", ["--pairs", "answers", "--chosen_fall", "0"], "chosen_fall: has no effect on pairs of answers"),
        ("gor_dpo", ["--margin", "1", "--beta", "0"], "margin: wanted a beta above 0"),
        ("gor_sft", ["--label_smoothing_factor", "0.1"], "label_smoothing_factor: wanted 0.0 beside"),
        ("rarl_stage1", ["--reward_weights", "5"], "reward_weights: wanted 2 numbers, for regression, format"),
        ("rarl_stage1", ["--weight_ranking", "5"], "weight_ranking: none of the rewards regression, format"),
        ("rarl_stage1", ["--gor_constrained", "true", "--size", "60"], "gor_constrained: task 'count' writes digits"),
        ("rarl_stage2", ["--lora_r", "3", "--use_peft", "true"], "lora_r: the adapter"),
        ("rarl_stage2", ["--sync_ref_model", "true"], "sync_ref_model: TRL keeps no reference"),
    ],
)
def test_recipes_refuse_what_they_do_not_use(
    recipe: str, flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = [*flags, "--eval_prompts", "0", "--num_prompts", "64"]
    assert run_recipe(recipe, monkeypatch, *flags).startswith(f"Error: {message}")
    assert "Loading weights" not in capfd.readouterr().err


def test_reward_weights_are_passed_on(given: Callable[..., Any]) -> None:
    training_args, arguments, _ = given("rarl_stage1", "--reward_weights", "5", "7")
    assert arguments.reward_functions(["regression", "format"], training_args.reward_weights)[1] == [5, 7]


def test_lora_arguments_of_an_adapter_are_its_own(given: Callable[..., Any]) -> None:
    """The same may be said; others, which would not act, are refused; the recipe's own file gives way."""
    adapter = ["--adapter", tiny.adapter_path(), "--size", "60", "--eval_prompts", "0", "--num_prompts", "64"]
    prepare_data(given("rarl_stage1", *adapter)[1])
    prepare_data(given("rarl_stage1", *adapter, "--use_peft", "true", "--lora_r", "16", "--lora_dropout", "0")[1])
    for flags, message in (
        (["--lora_r", "8"], "lora_r: the adapter .* has 16; wanted that or none, got 8"),
        (["--lora_alpha", "8"], "lora_alpha: the adapter .* has 32"),
        (["--lora_dropout", "0.5"], "lora_dropout: the adapter .* has 0.0"),
        (["--use_rslora", "true"], "use_rslora: the adapter .* has False"),
        (["--use_dora", "true"], "use_dora: the adapter .* has False"),
        (["--lora_target_modules", "q_proj"], "lora_target_modules: the adapter"),
        (["--lora_modules_to_save", "lm_head"], "lora_modules_to_save: the adapter"),
        (["--use_peft", "false"], "use_peft: the adapter"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            prepare_data(given("rarl_stage1", *adapter, *flags)[1])


def test_lora_arguments_without_lora_are_refused(given: Callable[..., Any]) -> None:
    assert not given("rarl_stage1", "--use_peft", "false")[2].use_peft, "the recipe's own LoRA settings give way"
    with pytest.raises(ValueError, match="^lora_r: it has an effect with use_peft"):
        given("rarl_stage1", "--use_peft", "false", "--lora_r", "8")
    Path("own.yaml").write_text("output_dir: own\nlora_r: 8\n")
    with pytest.raises(ValueError, match="^lora_r: it has an effect with use_peft"):
        given("rarl_stage1", "--config", "own.yaml")
    Path("own.yaml").write_text("output_dir: own\nuse_peft: true\nlora_r: 8\n")
    assert not given("rarl_stage1", "--config", "own.yaml", "--use_peft", "false")[2].use_peft


LISTS = [
    (recipe, name)
    for recipe in TYPES
    for each in (TYPES[recipe], RecipeArguments, ModelConfig)
    for name, hint in get_type_hints(each).items()
    if str(hint).removeprefix("typing.Optional[").startswith("list[") and name in init_names(each)
]


@pytest.mark.parametrize(("recipe", "name"), LISTS)
def test_one_value_in_yaml_is_a_list_of_it(recipe: str, name: str) -> None:
    types = (TYPES[recipe], RecipeArguments, ModelConfig)
    [hint] = {str(get_type_hints(each)[name]) for each in types if name in init_names(each)}
    text, expected = ("2", 2) if "int" in hint or "float" in hint else ("two", "two")
    Path("own.yaml").write_text(f"{name}: {text}\n")
    assert read_config("own.yaml", types) == {name: [expected]}
    Path("own.yaml").write_text(f"{name}: [{text}, {text}]\n")
    assert read_config("own.yaml", types) == {name: [expected, expected]}


def test_yaml_is_read_as_flags_are(given: Callable[..., Any]) -> None:
    text = "output_dir: 2024\nnum_images: 1\nrewards: format\nlearning_rate: 1e-3\nnum_prompts: 64.0\nbf16: false\n"
    Path("own.yaml").write_text(text + "resume_from_checkpoint: false\nscale_rewards: false\nuse_peft: 'true'\n")
    training_args, arguments, model_args = given("rarl_stage1", "--config", "own.yaml")
    assert (training_args.output_dir, training_args.learning_rate, arguments.num_prompts) == ("2024", 1e-3, 64)
    assert (arguments.num_images, arguments.rewards, model_args.use_peft) == ([1], ["format"], True)
    assert training_args.resume_from_checkpoint is None and training_args.scale_rewards == "none"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size: 2\nsize: 3\n", "own.yaml: line 2: size stands there twice"),
        ("sise: 2\n", "own.yaml: unknown arguments sise"),
        ("- size\n", "own.yaml: wanted a YAML mapping"),
        ("", "own.yaml: wanted a YAML mapping of arguments, got None"),
        ("size: [\n", "own.yaml is no YAML"),
        ("size: many\n", "own.yaml: size: wanted a whole number, got 'many'"),
        ("size: 2.5\n", "own.yaml: size: wanted a whole number, got 2.5"),
        ("size: true\n", "own.yaml: size: wanted a whole number, got True"),
        ("size: [5]\n", r"own.yaml: size: wanted a whole number, got \[5\]"),
        ("num_images: 1, 2\n", "own.yaml: num_images: wanted a whole number, got '1, 2'"),
        ("num_images: [1, two]\n", "own.yaml: num_images: wanted a whole number, got 'two'"),
        ("min_gap: wide\n", "own.yaml: min_gap: wanted a number, got 'wide'"),
        ("use_peft: 3\n", "own.yaml: use_peft: wanted true or false, got 3"),
        ("task: no\n", "own.yaml: task: wanted text, got False; words such as no"),
        ("dtype: float12\n", "own.yaml: dtype: wanted one of auto, bfloat16, .*, got 'float12'"),
    ],
)
def test_yaml_errors_name_the_argument(text: str, message: str, given: Callable[..., Any]) -> None:
    Path("own.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"^{message}"):
        given("rarl_stage1", "--config", "own.yaml")
    with pytest.raises(FileNotFoundError, match="^none.yaml: wanted a YAML file"):
        given("rarl_stage1", "--config", "none.yaml")


def test_shipped_configurations_are_accepted(given: Callable[..., Any]) -> None:
    for path in (RECIPES / "configs").glob("*.yaml"):
        [recipe] = [name for name in TYPES if path.stem.startswith(name)]
        training_args, arguments, _ = given(recipe, "--config", str(path), "--bf16", "false")
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert training_args.output_dir == written["output_dir"] and arguments.task == written["task"]


@pytest.mark.parametrize("name", [name for name in BOUNDS if name not in ("reward_weights",)])
def test_numbers_that_cannot_be_meant_are_refused(name: str, given: Callable[..., Any]) -> None:
    [recipe, *_] = [
        recipe
        for recipe in TYPES
        if any(name in init_names(each) for each in (TYPES[recipe], RecipeArguments, ModelConfig))
    ]
    hint = next(
        get_type_hints(each)[name] for each in (TYPES[recipe], RecipeArguments, ModelConfig) if name in init_names(each)
    )
    whole = "int" in str(hint)
    bad = ["-2"] if BOUNDS[name][0] != "a number" else []
    bad += [] if whole else ["nan"]
    bad += ["0"] if BOUNDS[name] in (POSITIVE, STEPS) else []
    assert bad
    for value in bad:
        with pytest.raises(ValueError, match=f"^{name}: wanted "):
            given(recipe, f"--{name}", value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--no_such_flag", "1"], ".*no_such_flag"),
        (["--output_dir", "list.json/run"], "list.json/run: wanted a folder that files can be written into"),
        (["--size", "many"], "argument --size: invalid int value: 'many'"),
        (["--optim", "best"], "argument --optim: invalid choice: 'best'"),
        (["--num_generations", "5"], r"generation_batch_size \(64\) must be divisible by num_generations"),
        (["--num_prompts", "7"], "num_prompts: 8 prompts are sampled together"),
        (["--report_to", "tensorbord"], "report_to: tensorbord is no tracker of transformers; wanted none"),
        (["--optim", "adamw_bnb_8bit"], "optim: .*bitsandbytes"),
        (["--optim", "galore_adamw"], "optim: .*galore"),
        (["--optim_args", "word"], "optim: .*optim_args 'word'"),
        (["--lr_scheduler_type", "cosine_with_min_lr"], "lr_scheduler_type: .*min_lr"),
        (["--lr_scheduler_kwargs", '{"a": 1}'], "lr_scheduler_type: .*'a'"),
        (["--lr_scheduler_kwargs", "a=1"], "lr_scheduler_kwargs: wanted a JSON object, got 'a=1'"),
        (["--lr_scheduler_type", "reduce_lr_on_plateau"], "lr_scheduler_type: recipes hand .* no evaluation data"),
        (["--deepspeed", "none.json"], "deepspeed: wanted a JSON file, but there is no none.json"),
        (["--deepspeed", "broken.json"], "deepspeed: broken.json: wanted a JSON object, got '{broken'"),
        (["--deepspeed", "list.json"], r"deepspeed: list.json: wanted a JSON object, got '\[1\]'"),
        (["--accelerator_config", '{"a": 1}'], ".*unexpected keyword argument 'a'"),
        (["--use_liger_kernel", "true"], "use_liger_kernel: wanted the package liger-kernel"),
        (["--use_vllm", "true"], "use_vllm: wanted the package vllm"),
        (["--fp16", "true"], "fp16: wanted a GPU, got a CPU"),
        (["--fsdp", "full_shard"], "fsdp: wanted several processes"),
        (["--sync_ref_model", "true"], "sync_ref_model: TRL keeps no reference model beside an adapter"),
        (["--sync_ref_model", "true", "--use_peft", "false", "--beta", "0"], "sync_ref_model: with beta 0"),
        (
            ["--eval_strategy", "steps", "--eval_steps", "1"],
            "eval_st[a-z]+: recipes hand the trainer no evaluation data",
        ),
        (["--save_strategy", "best"], "save_strategy: recipes hand the trainer no evaluation data"),
        (["--rmo_source", "reference"], "rmo_source: rows of recipes have no column 'reference'"),
        (["--loss_type", "ppo"], "loss_type: wanted one of grpo, .*, got 'ppo'"),
        (["--scale_rewards", "all"], "scale_rewards: wanted one of group, batch, none"),
        (["--generation_kwargs", '{"beams": 2}'], "generation_kwargs: beams: transformers knows no such setting"),
        (["--cache_implementation", "none"], "generation_kwargs .*cache_implementation none"),
        (["--min_pixels", "9", "--max_pixels", "4"], "min_pixels: wanted at most max_pixels, 4, got 9"),
        (["--temperature", "0"], "temperature: wanted above 0, got 0"),
    ],
)
def test_what_cannot_work_is_refused_before_the_model_loads(
    flags: list[str], message: str, given: Callable[..., Any]
) -> None:
    Path("broken.json").write_text("{broken")
    Path("list.json").write_text("[1]")
    with pytest.raises((ValueError, OSError), match=f"^{message}"):
        given("rarl_stage1", *flags)


@pytest.mark.parametrize("name", sorted(set(INTEGRATION_TO_CALLBACK) - set(get_available_reporting_integrations())))
def test_trackers_that_are_not_installed_are_refused(name: str, given: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=f"^report_to: {name} is not installed; wanted none"):
        given("sft", "--report_to", name)


def test_losses_are_those_of_trl() -> None:
    for config, module in (
        (GRPOConfig, trl.trainer.grpo_trainer),
        (SFTConfig, trl.trainer.sft_trainer),
        (DPOConfig, trl.trainer.dpo_trainer),
    ):
        source = inspect.getsource(module)
        compared = set(re.findall(r'\bloss_type == "(\w+)"', source))
        for words in re.findall(r"\bloss_type (?:not )?in [\[(]([^\])]*)[\])]", source):
            compared |= set(re.findall(r'"(\w+)"', words))
        assert compared == set(LOSSES[config])


@pytest.mark.parametrize(
    ("given_values", "message"),
    [
        ({"attn_implementation": "flash_attention_2"}, "attn_implementation: flash_attention_2: "),
        ({"attn_implementation": "fast"}, "attn_implementation: fast: "),
        ({"lora_target_modules": ["no_proj"]}, ".*lora_target_modules no_proj.*"),
        ({"lora_target_modules": ["q_proj", "lm_head"]}, "lora_target_modules: TRL trains no LoRA on the output"),
        ({"lora_modules_to_save": ["score"]}, "lora_modules_to_save: Qwen2_5_VL.* has no score"),
    ],
)
def test_models_are_asked_before_their_weights_load(
    given_values: dict[str, Any], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    args = RARLConfig("out", use_cpu=True, bf16=False, report_to="none")
    processor = load_processor(tiny.path(), get_task("count"))
    with pytest.raises(ValueError, match=f"^{message}"):
        load_policy(
            tiny.path(), ModelConfig(use_peft=True, **given_values), args, processor=processor, task=get_task("count")
        )
    assert "Loading weights" not in capfd.readouterr().err
    args.router_aux_loss_coef = 0.1
    with pytest.raises(ValueError, match="^router_aux_loss_coef: .* no experts"):
        load_policy(tiny.path(), ModelConfig(), args, processor=processor, task=get_task("count"))


def test_help_shows_defaults(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["rarl_stage1.py", "--help"])
    with pytest.raises(SystemExit):
        parse(RARLConfig, RECIPES / "configs/rarl_stage1_tiny.yaml")
    shown = " ".join(capsys.readouterr().out.split())
    assert "Prompts in the training data. (default: 2000)" in shown


def test_recipes_pass_on_what_a_table_wants(given: Callable[..., Any], tmp_path: Path) -> None:
    rows = {"words": [f"w{i}" for i in range(60)], "marks": [[i % 10, i % 10] for i in range(60)]}
    rows |= {"mean": [float(i % 10) for i in range(60)], "spread": [1.0] * 60}
    Dataset.from_dict(rows).to_parquet(tmp_path / "t.parquet")
    base = [
        "--source",
        "table",
        "--table",
        str(tmp_path / "t.parquet"),
        "--text_column",
        "words",
        "--task",
        "sentiment",
    ]
    base += ["--num_prompts", "8", "--eval_prompts", "2", "--num_images", "1", "--eval_num_images", "1"]
    arguments = lambda *more: given("sft", *base, *more)[1]  # noqa: E731
    voted = prepare_data(arguments("--votes_column", "marks"))
    assert voted.source.load(3) == "w3" and voted.source.values[3] == 3.0
    valued = prepare_data(arguments("--value_column", "mean", "--std_column", "spread", "--raters", "2"))
    assert valued.source.values.tolist() == voted.source.values.tolist() != valued.source.labels.tolist()
    with pytest.raises(ValueError, match="split: .* has train; wanted one of them, got 'dev'"):
        prepare_data(arguments("--value_column", "mean", "--table_split", "dev"))
    for flag in ("text_column", "table_split"):
        with pytest.raises(ValueError, match=f"Data source 'builtin' does not use {flag}, got 'words'"):
            prepare_data(given("sft", f"--{flag}", "words")[1])


def test_recipes_show_solved_examples_first(given: Callable[..., Any], tmp_path: Path) -> None:
    rows = {"text": [f"text {i}" for i in range(80)], "value": [i % 11 for i in range(80)]}
    Dataset.from_dict(rows).to_csv(tmp_path / "t.csv")
    base = ["--source", "table", "--table", str(tmp_path / "t.csv"), "--num_prompts", "8"]
    base += ["--eval_prompts", "2", "--num_images", "1", "--eval_num_images", "1"]
    data = prepare_data(given("sft", *base, "--shots", "3")[1])
    prompts = [data.train[0]["prompt"], data.test[1][0]["prompt"]]
    assert prompts[0][:-1] == prompts[1][:-1] and len(prompts[0]) == 8
    shown = {text for text, _ in data.source.task.shots}
    asked = prepare_data(given("sft", *base, "--shots", "3", "--num_prompts", "80")[1]).train["prompt"]
    texts = {json.loads(prompt[-1]["content"][8:]) for prompt in asked}
    assert len(texts) > 50 and not texts & shown  # every other text of the split is
    held_out = {json.loads(row["prompt"][-1]["content"][8:]) for row in data.test[1]}
    assert not shown & held_out
    with pytest.raises(ValueError, match="shots: solved examples are texts"):
        prepare_data(given("sft", "--shots", "1")[1])


def test_texts_of_others_are_not_published_as_solved_examples(given: Callable[..., Any], tmp_path: Path) -> None:
    task = OrdinalTask("sentiment", "positive sentiment", 0, 10, 5, kind="text", shots=(("good", 8.0),))
    save_task(task, tmp_path)
    push = ["--push_to_hub", "true", "--table", "film-reviews/reviews.csv"]
    for flags in (["--shots", "4"], ["--adapter", str(tmp_path)]):
        training_args, arguments, model_args = given("sft", *push, *flags)
        with pytest.raises(ValueError, match="push_to_hub: the adapter's task.json would hold texts of film-reviews"):
            hub_repository(training_args, model_args, arguments)
