"""What the recipes share: their arguments, where they start from, what they leave behind."""

import ast
import dataclasses
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments
from trl import ModelConfig

from gor_head import CoDiVocabulary
from rarl import tiny
from rarl.datasets import load_source, split_by_content
from rarl.inputs import prompt_lengths
from rarl.models import resolve_model, trained_task
from rarl.prompt import build_completion
from rarl.recipe import (
    RecipeArguments,
    check_lengths,
    hub_repository,
    load_policy,
    longest_reference,
    parse,
    prepare_data,
    setting_up,
    starting_adapter,
    train,
)
from rarl.recipe.arguments import resume_from
from rarl.rewards import REGISTRY, REWARDS, Reward, graded_length_reward, weights
from rarl.task import TASKS, OrdinalTask, get_task, read_task, save_task
from rarl.trainer import RARLConfig
from tests.families import build_processor
from tests.hub_server import HubServer
from tests.outputs import unwritable
from tests.paths import ROOT

CONFIG = ROOT / "recipes/configs/rarl_stage2_tiny.yaml"
RECIPES = sorted(path for path in CONFIG.parents[1].glob("*.py") if path.stem != "tiny_cold_start")
RUST = OrdinalTask("rust", "rusted area in percent", 0, 100, 8)


def write_adapter(folder: Path, task: OrdinalTask | None = None) -> str:
    """A folder that looks like an adapter."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    if task is not None:
        save_task(task, folder)
    return str(folder)


def test_mix() -> None:
    assert RecipeArguments(num_images=[1, 4]).mix() == {1: 1.0, 4: 1.0}
    assert RecipeArguments(num_images=[1, 4], num_images_weights=[1, 3]).mix() == {1: 1, 4: 3}
    with pytest.raises(ValueError, match="num_images has 2 numbers, num_images_weights 1"):
        RecipeArguments(num_images=[1, 4], num_images_weights=[1]).mix()
    with pytest.raises(ValueError, match=r"each number once.*\[2, 1, 2\]"):
        RecipeArguments(num_images=[2, 1, 2]).mix()


def test_reward_functions_agree_with_weights() -> None:
    arguments = RecipeArguments(weight_regression=2, weight_ranking=3, weight_format=5)
    functions, numbers = arguments.reward_functions(list(REWARDS))
    assert functions == list(REWARDS.values()) and numbers == weights(2, 3, 5)
    assert RecipeArguments().reward_functions(list(REWARDS))[1] == weights()
    stage1 = arguments.reward_functions(["regression", "format"])
    assert stage1 == ([REWARDS["regression"], REWARDS["format"]], [2, 5])


def test_rewards_given_by_name_go_first() -> None:
    arguments = RecipeArguments(rewards=["format", "graded_length", "accuracy"], weight_ranking=3)
    assert arguments.reward_functions(["regression"]) == (
        [REWARDS["format"], graded_length_reward, REWARDS["accuracy"]],
        [0.5, 3, 3],
    )
    with pytest.raises(ValueError, match="'beauty'.*regression, length"):
        RecipeArguments(rewards=["beauty"]).reward_functions([])


def test_a_reward_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def shortness_reward(completions: list[str], **kwargs: Any) -> list[float]:
        return [1 / (1 + len(completion)) for completion in completions]

    monkeypatch.setitem(REGISTRY, "shortness", Reward(shortness_reward, "format", in_total=False))
    arguments = RecipeArguments(rewards=["regression", "shortness"], weight_format=0.25)
    assert arguments.reward_functions([]) == ([REWARDS["regression"], shortness_reward], [1.0, 0.25])
    assert weights() == [1.0, 1.0, 1.0, 1.0, 0.5]
    with pytest.raises(ValueError, match="Unknown reward 'short'; known rewards: regression, .*, shortness"):
        RecipeArguments(rewards=["short"]).reward_functions([])


def test_reward_weights_go_with_the_rewards() -> None:
    assert RecipeArguments().reward_functions(["regression", "format"], [5, 7])[1] == [5, 7]
    with pytest.raises(ValueError, match=r"reward_weights: wanted 2 numbers, for regression, format, got \[5\]"):
        RecipeArguments().reward_functions(["regression", "format"], [5])
    arguments = RecipeArguments(weight_format=2)
    arguments.given = {"weight_format": 2}
    with pytest.raises(ValueError, match="weight_format and reward_weights are both given"):
        arguments.reward_functions(["regression", "format"], [5, 7])
    assert arguments.reward_functions(["regression", "format"])[1] == [1, 2]
    with pytest.raises(ValueError, match="weight_format: none of the rewards regression is weighted by it"):
        arguments.reward_functions(["regression"])


def test_new_task() -> None:
    arguments = RecipeArguments(
        task="rust", task_rule=RUST.rule, task_minimum=0, task_maximum=100, task_tolerance=8, task_metric="srcc"
    )
    assert arguments.build_task() == "rust"
    assert get_task("rust") == OrdinalTask("rust", RUST.rule, 0, 100, 8, integer=False, metric="srcc")


def test_changed_task_keeps_the_rest() -> None:
    count = get_task("count")
    assert RecipeArguments(task="count", task_maximum=30, task_integer=False).build_task() == "count"
    changed = get_task("count")
    assert (changed.maximum, changed.integer) == (30, False)
    assert (changed.rule, changed.minimum, changed.tolerance, changed.metric) == (
        count.rule,
        count.minimum,
        count.tolerance,
        count.metric,
    )


def test_task_as_it_is() -> None:
    before = dict(TASKS)
    assert RecipeArguments().build_task() is None
    assert RecipeArguments(task="age").build_task() == "age"
    assert TASKS == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "beauty"}, "Unknown task 'beauty'; registered tasks: aesthetics, age"),
        ({"task_minimum": 0.0}, "task_minimum is given without task"),
        (
            {"task": "rust", "task_rule": "rust", "task_minimum": 0},
            "'rust' also needs task_maximum, task_tolerance",
        ),
        ({"task": "count", "task_maximum": -1}, "'count'.*minimum=0, maximum=-1"),
        ({"task": "count", "task_metric": "f1"}, "'mae', 'accuracy' or 'srcc', got 'f1'"),
    ],
)
def test_task_errors(given: dict[str, Any], message: str) -> None:
    before = dict(TASKS)
    with pytest.raises(ValueError, match=message):
        RecipeArguments(**given).build_task()
    assert TASKS == before


def test_task_of_the_adapter(tmp_path: Path) -> None:
    """It is known by its name, is the task if none is named, and flags change it."""
    adapter = write_adapter(tmp_path / "adapter", RUST)
    assert RecipeArguments(adapter=adapter).build_task() == "rust"
    assert get_task("rust") == RUST
    assert RecipeArguments(adapter=adapter, task="count").build_task() == "count"
    TASKS.pop("rust")
    assert RecipeArguments(adapter=adapter, task="rust", task_tolerance=3).build_task() == "rust"
    assert (get_task("rust").tolerance, get_task("rust").rule) == (3, RUST.rule)
    plain = write_adapter(tmp_path / "plain")
    assert RecipeArguments(adapter=plain).build_task() is None


def test_starting_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The one given, else outputs/rarl_stage1, else the tiny model's own, else an error; it says which."""
    with pytest.raises(FileNotFoundError, match="of stage 1 or of SFT: give --adapter, or run one first"):
        starting_adapter(RecipeArguments(), "org/model")
    assert starting_adapter(RecipeArguments(), tiny.path()) == tiny.adapter_path()
    (tmp_path / "outputs/rarl_stage1").mkdir(parents=True)  # a run that has not ended yet
    assert starting_adapter(RecipeArguments(), tiny.path()) == tiny.adapter_path()
    (tmp_path / "outputs/rarl_stage1/adapter_config.json").write_text("{}")
    assert starting_adapter(RecipeArguments(), tiny.path()) == "outputs/rarl_stage1"
    capsys.readouterr()
    assert starting_adapter(RecipeArguments(adapter="me/adapter"), tiny.path()) == "me/adapter"
    assert capsys.readouterr().out == "Stage 2 starts from me/adapter.\n"


def test_folder_without_adapter_is_refused_before_the_data(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no adapter_config.json.*it holds nothing"):
        prepare_data(RecipeArguments(adapter="empty"))


def test_adapter_that_is_nowhere_is_refused_before_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises((ValueError, OSError), match="nowhere"):
        prepare_data(RecipeArguments(adapter="outputs/nowhere", folder="unused"))


def write_checkpoint(folder: Path, *files: str) -> None:
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).touch()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("true", "output/checkpoint-10"),
        (True, "output/checkpoint-10"),
        ("last", "output/checkpoint-10"),
        ("output/checkpoint-9", "output/checkpoint-9"),
        (None, None),
    ],
)
def test_resume_from(given: Any, expected: Any) -> None:
    write_checkpoint(Path("output/checkpoint-9"), "trainer_state.json", "rng_state.pth")
    write_checkpoint(Path("output/checkpoint-10"), "trainer_state.json", "rng_state_0.pth", "rng_state_1.pth")
    assert resume_from(TrainingArguments("output", resume_from_checkpoint=given, use_cpu=True)) == expected


def test_resume_from_what_is_no_whole_checkpoint() -> None:
    """Weights alone would be trained on with a new optimiser, without a word."""

    def fails(given: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            resume_from(TrainingArguments("output", resume_from_checkpoint=given, use_cpu=True))

    fails("true", "output holds no checkpoint-")
    write_checkpoint(Path("output/checkpoint-2"), "trainer_state.json", "adapter_model.safetensors")
    fails("true", "output/checkpoint-2 holds no .*saved without save_only_model")
    fails("elsewhere", "elsewhere holds no trainer_state.json")


def test_test_prompts_must_fit_the_context_too() -> None:
    """Stage 1 trains on short prompts, and is evaluated on long ones at its end."""
    _, processor = tiny.load()
    data = prepare_data(RecipeArguments(size=200, num_prompts=4, eval_prompts=[2], eval_num_images=[1, 8]))
    sizes = [[data.source.size(i) for i in group] for group in data.test[8].with_format(None)["images"]]
    longest = int(prompt_lengths(data.source.task, sizes, processor).max())
    check_lengths(data, tiny.path(), processor, max_completion_length=32, eval_max_new_tokens=4096 - longest)
    with pytest.raises(ValueError, match=rf"prompts of 8 items: Row \d.* {longest} tokens, but at most {longest - 1}"):
        check_lengths(data, tiny.path(), processor, max_completion_length=32, eval_max_new_tokens=4097 - longest)


def test_flags_go_over_the_config_and_over_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["recipe.py", "--max_steps", "3", "--use_cpu", "true", "--task", "brightness"])
    training_args, arguments, model_args = parse(RARLConfig, CONFIG)
    assert (training_args.max_steps, arguments.task, arguments.num_images) == (3, "brightness", [1, 2, 4, 8])
    assert model_args.model_name_or_path == "tiny"
    (tmp_path / "own.yaml").write_text("output_dir: own\nuse_cpu: true\nnum_images: [2]\nnum_generations: 4\n")
    for config in (["--config", "own.yaml"], ["--config=own.yaml"]):
        monkeypatch.setattr(sys, "argv", ["recipe.py", *config, "--num_images", "4", "8"])
        training_args, arguments, _ = parse(RARLConfig, CONFIG)
        assert (training_args.output_dir, training_args.num_generations, arguments.num_images) == ("own", 4, [4, 8])
        assert arguments.task is None, "the default config was read beside the one given"


@pytest.mark.parametrize("on", [True, False])
def test_checkpointing_is_known_by_its_old_name_too(on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers lets the old name give way to the new one, whether on the command line or in the file."""
    (tmp_path / "own.yaml").write_text(f"output_dir: own\nuse_cpu: true\nactivation_checkpointing: {not on}\n")
    flags = [
        ["--gradient_checkpointing", str(on)],
        [f"--gradient-checkpointing={on}"],
        [f"--activation_checkpointing={on}"],
    ]
    flags.append(["--gradient_checkpointing"] if on else ["--no_gradient_checkpointing"])
    for flag in flags:
        monkeypatch.setattr(sys, "argv", ["recipe.py", "--config", "own.yaml", *flag])
        assert parse(RARLConfig, CONFIG)[0].gradient_checkpointing is on, flag
    monkeypatch.setattr(sys, "argv", ["recipe.py", "--config", "own.yaml"])
    assert parse(RARLConfig, CONFIG)[0].gradient_checkpointing is not on


def test_set_up_says_what_the_user_can_mend_and_shows_defects() -> None:
    for error in (ValueError("so"), FileNotFoundError("so"), OSError("so"), ImportError("so")):
        with pytest.raises(SystemExit, match="^Error: so$"), setting_up():
            raise error
    with pytest.raises(SystemExit, match="^Error: two lines$"), setting_up():
        raise ValueError("two\nlines")
    with pytest.raises(KeyError), setting_up():
        raise KeyError("so")


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_and_what_follows_stand_outside_of_set_up(recipe: Path) -> None:
    """An error there keeps its traceback, whatever its type: no recipe catches it."""
    [main] = [node for node in ast.parse(recipe.read_text()).body if getattr(node, "name", "") == "main"]
    assert isinstance(main, ast.FunctionDef)
    outside = [ast.unparse(node) for node in main.body]
    assert outside[0].startswith("with setting_up():")
    assert outside[-2] == "train(trainer)" and outside[-1].startswith("finish(")
    assert "train(" not in outside[0] and "finish(" not in outside[0] and "build_preferences(" not in outside[0]


class Line(torch.nn.Module):
    """A model that a trainer trains in no time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.layer(x).square().mean()}


def line_trainer(**given: Any) -> Trainer:
    settings: dict[str, Any] = {"per_device_train_batch_size": 1, "save_steps": 1, "logging_steps": 1, "use_cpu": True}
    settings |= {"learning_rate": 0.1, "lr_scheduler_type": "constant", "disable_tqdm": True, "report_to": "none"}
    args = TrainingArguments("out", **settings | given)
    return Trainer(Line(), args, train_dataset=[{"x": torch.ones(1)}] * 4)  # type: ignore[arg-type]  # a list will do


@pytest.mark.parametrize("length", [{"max_steps": 2}, {"num_train_epochs": 1}])
def test_finished_run_is_not_trained_on(length: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Resumed, it has its last weights and its whole log, and says so; with more steps to do it goes on."""
    first = line_trainer(**length)
    train(first)
    first.save_state()
    steps, state = first.state.global_step, Path("out/trainer_state.json").read_bytes()
    capsys.readouterr()
    checkpoint = f"out/checkpoint-{steps}"
    again = line_trainer(**length, resume_from_checkpoint=checkpoint)
    train(again)
    assert capsys.readouterr().out == f"{checkpoint} has {steps} of {steps} steps: nothing is left to train.\n"
    assert again.model.layer.weight.equal(first.model.layer.weight)  # type: ignore[union-attr]
    again.save_state()
    assert Path("out/trainer_state.json").read_bytes() == state
    assert not Path(f"out/checkpoint-{steps + 1}").exists()
    longer = line_trainer(max_steps=steps + 1, resume_from_checkpoint=checkpoint)
    train(longer)
    assert longer.state.global_step == steps + 1 and "nothing is left" not in capsys.readouterr().out
    assert not longer.model.layer.weight.equal(first.model.layer.weight)  # type: ignore[union-attr]


def test_labels_of_other_splits_do_not_reach_training() -> None:
    """Whatever they are, training has the same rows, the same vocabulary and the same labels to count errors in."""
    drawn = load_source("builtin", "count", size=200)
    Path("images").mkdir()
    for i in range(len(drawn)):
        drawn.load(i).save(f"images/{i}.png")

    def write(values: Sequence[float]) -> None:
        lines = ["file,value", *(f"{i}.png,{value:g}" for i, value in enumerate(values))]
        Path("values.csv").write_text("\n".join(lines))

    write(drawn.values)
    splits = split_by_content(load_source("folder", "count", folder="images", csv="values.csv"), seed=0)
    others = drawn.values.copy()
    for name in ("validation", "test"):
        others[splits[name]] = 10
    tasks = dict(TASKS)
    found = []
    for values in (drawn.values, others):
        TASKS.clear()
        TASKS.update(tasks)
        write(values)
        arguments = RecipeArguments("folder", "images", "values.csv", task="count", gor_vocabulary="fit")
        arguments.num_prompts, arguments.eval_num_images = 20, [1]
        data = prepare_data(arguments, with_completion=True)
        rows = data.train.with_format(None)
        found.append((rows["images"], rows["values"], data.source.task.vocabulary, data.labels, data.spread))
    assert found[0] == found[1]
    assert sorted(found[0][3]) == sorted(drawn.values[splits["train"]])


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_take_labels_of_the_training_split(recipe: Path) -> None:
    assert "source.values" not in recipe.read_text()


def test_spread() -> None:
    data = prepare_data(RecipeArguments(size=60, num_prompts=4, eval_prompts=[0]))
    assert data.spread == pytest.approx(statistics.pstdev(data.labels))
    assert dataclasses.replace(data, labels=[3.0, 3.0]).spread == 1


def test_prepared_data() -> None:
    """Rows of training and test never share an image, and the same arguments give the same rows."""
    arguments = RecipeArguments(size=60, num_prompts=20, num_images=[1, 2], eval_prompts=[4], eval_num_images=[1, 2])
    data, again = prepare_data(arguments), prepare_data(arguments)
    assert len(data.train) == 20 and {number: len(rows) for number, rows in data.test.items()} == {1: 4, 2: 4}
    assert data.train[:]["values"] == again.train[:]["values"]
    train = {i for group in data.train.with_format(None)["images"] for i in group}
    test = {i for rows in data.test.values() for group in rows.with_format(None)["images"] for i in group}
    assert train and test and not train & test
    assert prepare_data(RecipeArguments(size=60, num_prompts=4, eval_prompts=[0])).test == {}


def test_longest_reference_is_the_longest_completion() -> None:
    _, processor = tiny.load()
    data = prepare_data(RecipeArguments(size=60, num_prompts=20, num_images=[1, 4], eval_prompts=[0]), True)
    texts = [row["completion"][0]["content"] for row in data.train]
    texts = [text if isinstance(text, str) else text[0]["text"] for text in texts]
    longest = max(len(processor.tokenizer(text + "<|im_end|>")["input_ids"]) for text in texts)
    assert longest_reference(data, processor) == longest


def test_an_answer_has_no_token_of_the_beginning() -> None:
    processor = build_processor("gemma3")  # whose tokenizer begins every text with one
    data = prepare_data(RecipeArguments(size=60, num_prompts=4, eval_prompts=[0]))
    answers = [build_completion(values, data.source.task) for values in data.train.with_format(None)["values"]]
    plain = [processor.tokenizer.encode(answer, add_special_tokens=False) for answer in answers]
    assert longest_reference(data, processor) == 1 + max(map(len, plain))


def test_resolve_model(tmp_path: Path) -> None:
    assert resolve_model("tiny") == resolve_model(None) == tiny.path()
    assert resolve_model("org/model") == "org/model"
    (tmp_path / "model").mkdir()
    for name in "ba":
        (tmp_path / "model" / name).touch()
    with pytest.raises(FileNotFoundError, match="model holds no config.json .*it holds a, b"):
        resolve_model("model")
    (tmp_path / "model/config.json").touch()
    assert resolve_model("model") == "model"


def test_task_file(tmp_path: Path) -> None:
    """What is saved is read back, and registers nothing; a file that is no task is named."""
    task = OrdinalTask("rust", "Rost in %", 0, 1.5, 0.25, metric="srcc")
    save_task(task, tmp_path)
    assert "rust" not in TASKS
    assert read_task(tmp_path) == task
    assert "rust" not in TASKS
    for text in ("no json", "[1]", '{"name": "rust"}', '{"name": "r", "minimum": 1, "unit": "cm"}'):
        (tmp_path / "task.json").write_text(text)
        with pytest.raises(ValueError, match="task.json holds no ordinal task"):
            read_task(tmp_path)


def test_changed_task_stays_changed_when_the_adapter_is_read_again(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", RUST)
    arguments = RecipeArguments(adapter=adapter, task="rust", task_tolerance=1.0)
    assert arguments.build_task() == "rust"
    assert trained_task(adapter) == RUST and RUST.tolerance != 1  # the processor is loaded by what the adapter says
    assert get_task("rust").tolerance == 1


def test_trained_task(tmp_path: Path) -> None:
    assert trained_task(write_adapter(tmp_path / "with", RUST)) == RUST
    assert trained_task(write_adapter(tmp_path / "without")) is None
    assert trained_task("tiny") is None
    assert trained_task(tiny.adapter_path()) == get_task("count")
    assert trained_task("a path/that is/no repository") is None


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub on loopback, for this process; the client reads its settings once, at import."""
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_loopback")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


def push_arguments(**given: Any) -> TrainingArguments:
    return TrainingArguments("outputs/dots", push_to_hub=True, use_cpu=True, report_to="none", **given)


def test_hub_repository(hub: HubServer) -> None:
    """Made before training, in the user's namespace; the trainer has nothing to push any more."""
    training_args = push_arguments(hub_private_repo=True)
    assert hub_repository(training_args, ModelConfig(use_peft=True), RecipeArguments()) == "me/dots"
    assert not training_args.push_to_hub
    assert hub.repos == {"me/dots": {}} and hub.visibility["me/dots"] == "private"
    # Stage 2 and continued runs train an adapter whatever use_peft says; a repository that is there is no error.
    named = push_arguments(hub_model_id="me/dots")
    assert hub_repository(named, ModelConfig(use_peft=False), RecipeArguments(adapter="a")) == "me/dots"
    plain = TrainingArguments("outputs/other", use_cpu=True)
    assert hub_repository(plain, ModelConfig(use_peft=True), RecipeArguments()) is None
    assert list(hub.repos) == ["me/dots"]


def test_hub_errors_come_before_training(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    peft = ModelConfig(use_peft=True)
    with pytest.raises(ValueError, match="use_peft is false; wanted use_peft"):
        hub_repository(push_arguments(), ModelConfig(use_peft=False), RecipeArguments())
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(OSError, match="'dots'.*401"):
        hub_repository(push_arguments(), peft, RecipeArguments())
    assert hub_repository(push_arguments(hub_token="hf_given"), peft, RecipeArguments()) == "me/dots"
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="'dots'"):
        hub_repository(push_arguments(), peft, RecipeArguments())


def test_output_dir_is_tried_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(output_dir: Path) -> str:
        monkeypatch.setattr(sys, "argv", ["recipe.py", "--use_cpu", "true", "--output_dir", str(output_dir)])
        with pytest.raises(OSError) as caught:
            parse(RARLConfig, CONFIG)
        return str(caught.value)

    with unwritable() as folder:
        wanted = "wanted a folder that files can be written into, got PermissionError: Permission denied."
        assert fails(folder) == f"{folder}: {wanted}" and fails(folder / "new") == f"{folder / 'new'}: {wanted}"
    (tmp_path / "file").touch()
    assert "got NotADirectoryError" in fails(tmp_path / "file" / "out")
    (tmp_path / "report.json").touch()
    with unwritable(tmp_path / "report.json") as folder:
        folder.chmod(0o755)
        assert fails(folder).startswith(f"{folder / 'report.json'}: wanted a file that can be written, got Permission")
    monkeypatch.setattr(sys, "argv", ["recipe.py", "--use_cpu", "true", "--output_dir", str(tmp_path / "new" / "out")])
    parse(RARLConfig, CONFIG)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("setting", ["modules_to_save", "target_modules"])
@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_rows_of_value_tokens_are_trained_in_one_way_only(setting: str, name: str, tmp_path: Path) -> None:
    """Refused before the model loads: this one has no weights."""
    for file in ("config.json", "tokenizer.json"):
        shutil.copy(Path(tiny.path()) / file, tmp_path)
    task = get_task("count").with_vocabulary(CoDiVocabulary([1, 2, 5], tolerance=0))
    args = TrainingArguments("output", use_cpu=True)
    model_args = ModelConfig(use_peft=True, **{f"lora_{setting}": ["q_proj", name]})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"^{setting}: \S*{name} holds the rows of value tokens"):
        load_policy(str(tmp_path), model_args, args, processor=None, task=task)
    config = LoraConfig(**{"target_modules": ["q_proj"], setting: ["q_proj", name]})  # type: ignore[arg-type]
    config.save_pretrained(str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match=rf"^{setting}: \S*{name} holds the rows of value tokens"):
        load_policy(str(tmp_path), model_args, args, processor=None, task=task, adapter=str(tmp_path / "adapter"))


@pytest.mark.parametrize("wanted", [["q_proj"], ["q_proj", "v_proj"], "all-linear", r".*\.q_proj"])
def test_one_layer_for_lora_is_a_name(wanted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On its own, too, where TRL would make a regular expression of it; of the others nothing changes."""
    flags = [wanted] if isinstance(wanted, str) else wanted
    monkeypatch.setattr(sys, "argv", ["recipe.py", "--use_cpu", "true", "--lora_target_modules", *flags])
    args, _, model_args = parse(RARLConfig, CONFIG.with_name("rarl_stage1_tiny.yaml"))
    assert model_args.lora_target_modules == wanted
    model, config = load_policy(tiny.path(), model_args, args, processor=tiny.load()[1], task=get_task("count"))
    adapted = [name for name, _ in get_peft_model(model, config).named_modules() if name.endswith(".lora_A")]
    assert adapted and all("q_proj" in name for name in adapted) == ("v_proj" not in flags and wanted != "all-linear")


def test_the_task_of_an_adapter_goes_over_that_of_the_built_in_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = write_adapter(tmp_path / "adapter", RUST)
    for flags, wanted in (([], "rust"), (["--task", "count"], "count")):
        monkeypatch.setattr(sys, "argv", ["recipe.py", "--use_cpu", "true", "--adapter", adapter, *flags])
        assert parse(RARLConfig, CONFIG)[1].build_task() == wanted
