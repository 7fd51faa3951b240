"""Value tokens from supervised fine-tuning over DPO to reinforcement learning, as a user starts it; and the errors."""

import json
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from safetensors.torch import load_file

from gor_head.vlm import ValueTokens
from rarl.datasets import load_source
from rarl.models import load_model, trained_task
from tests.e2e.launching import SHORT, error_line, launch, rarl, succeeded
from tests.hub_server import HubServer, run_client

Result = CompletedProcess[str]
ONE = ["--eval_num_images", "1", "--warmup_steps", "0", "--logging_steps", "1"]
ROWS = "trainable_tokens_delta"
STAGES = ("gor_sft", "expected_error", "gor_dpo", "rarl_stage2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working folder after the recipes, each on the adapter of the one before."""
    folder = tmp_path_factory.mktemp("gor")
    succeeded(launch("gor_sft.py", folder, *SHORT, *ONE, "--num_images", "1"))
    succeeded(launch("expected_error.py", folder, *SHORT, *ONE, "--num_images", "1", "--eval_interval", "0.8"))
    adapter = ["--adapter", "outputs/expected_error", "--num_images", "1"]
    succeeded(launch("gor_dpo.py", folder, *SHORT, *ONE, *adapter, "--num_prompts", "24"))
    adapter = ["--adapter", "outputs/gor_dpo", "--num_images", "1"]
    succeeded(launch("rarl_stage2.py", folder, *SHORT, *ONE, *adapter))
    return folder


def test_every_stage_keeps_the_vocabulary_and_moves_the_rows(trained: Path) -> None:
    tasks = [trained_task(str(trained / "outputs" / stage)) for stage in STAGES]
    assert tasks[0] is not None and tasks[0].vocabulary is not None
    assert all(task == tasks[0] for task in tasks)
    weights = [load_file(trained / "outputs" / stage / "adapter_model.safetensors") for stage in STAGES]
    rows = [name for name in weights[0] if ROWS in name]
    assert rows and all(each.keys() == weights[0].keys() for each in weights)
    for before, after in zip(weights[:-1], weights[1:], strict=True):
        assert any(not before[name].equal(after[name]) for name in rows)


def test_reference_is_the_policy_before_the_first_step(trained: Path) -> None:
    dpo = json.loads((trained / "outputs/gor_dpo/trainer_state.json").read_text())["log_history"][0]
    assert dpo["rewards/chosen"] == pytest.approx(0, abs=1e-5)  # β·(log π − log π_ref)
    assert dpo["rewards/rejected"] == pytest.approx(0, abs=1e-5)
    rarl_state = json.loads((trained / "outputs/rarl_stage2/trainer_state.json").read_text())["log_history"][0]
    assert rarl_state["kl"] == pytest.approx(0, abs=1e-6)


def test_expected_errors_are_logged_and_intervals_reported(trained: Path) -> None:
    output = trained / "outputs/expected_error"
    logged = json.loads((output / "trainer_state.json").read_text())["log_history"][0]
    assert logged["numbers_per_answer"] == 1 and 0 < logged["number_error"] <= 10
    interval = json.loads((output / "report.json").read_text())["interval"]
    assert interval["interval"] == 0.8 and (interval["coverage"] is None) == (interval["unreadable"] == 4)
    assert "the expected error of the numbers" in (output / "README.md").read_text()


def test_pairs_have_a_card(trained: Path) -> None:
    card = (trained / "outputs/gor_dpo/preferences/README.md").read_text()
    assert "prompts: 24" in card and "ties skipped" in card


def test_adapter_is_evaluated_with_its_own_processor(trained: Path) -> None:
    model, processor = load_model("tiny", str(trained / "outputs/rarl_stage2"))
    task = trained_task(str(trained / "outputs/rarl_stage2"))
    assert task is not None
    tokens = ValueTokens.of(processor, task.codi_vocabulary)
    assert max(tokens.all_ids) < model.get_input_embeddings().weight.shape[0]
    options = ["--size", "200", "--num-images", "1", "--num-prompts", "4"]
    options += ["--max-new-tokens", "128", "--output", "again.json"]
    succeeded(rarl(trained, "evaluate", "--model", "tiny", "--adapter", "outputs/rarl_stage2", *options))
    again = json.loads((trained / "again.json").read_text())
    assert again == json.loads((trained / "outputs/rarl_stage2/report.json").read_text())


def test_errors_come_before_training(trained: Path) -> None:
    digits = launch("rarl_stage2.py", trained, *SHORT, "--gor_vocabulary", "fit", "--adapter", "outputs/gor_sft2")
    assert "outputs/gor_sft2" in error_line(digits)
    other = launch("sft.py", trained, *SHORT, "--gor_vocabulary", "fit")
    assert "recipes/gor_sft.py trains value tokens" in error_line(other)
    interval = launch("sft.py", trained, *SHORT, "--eval_interval", "0.8")
    assert "eval_interval: wanted value tokens, but task 'count' writes digits" in error_line(interval)
    missing = launch("gor_sft.py", trained, *SHORT, "--gor_vocabulary", "nowhere")
    assert "nowhere/vocabulary.json: no such file" in error_line(missing)


def test_words_are_trained_and_rated(tmp_path: Path) -> None:
    succeeded(launch("levels_sft.py", tmp_path, *SHORT, "--eval_num_images", "1", "2"))
    report = json.loads((tmp_path / "outputs/levels_sft/report.json").read_text())
    assert report["mae"] >= 0 and report["failures"] == {"1": 0, "2": 0}
    assert "fine-tuning on words" in (tmp_path / "outputs/levels_sft/README.md").read_text()
    refused = launch("levels_sft.py", tmp_path, *SHORT, "--num_images", "2")
    assert "rated one by one; wanted 1, got [2]" in error_line(refused)


def test_pushed_adapter_answers_the_same_elsewhere(trained: Path, tmp_path: Path) -> None:
    """The vocabulary goes with it: pushed and pulled by the real client, into an empty cache."""
    adapter = trained / "outputs/rarl_stage2"
    with HubServer() as hub:
        run_client(
            f"from rarl.hub import push_adapter; push_adapter({str(adapter)!r}, 'me/dots')", hub.url, tmp_path / "push"
        )
        assert "vocabulary.json" in hub.repos["me/dots"]
        options = [
            "--model",
            "tiny",
            "--adapter",
            "me/dots",
            "--size",
            "200",
            "--num-images",
            "1",
            "--num-prompts",
            "4",
        ]
        options += ["--max-new-tokens", "128", "--output", str(tmp_path / "report.json")]
        run_client(f"from rarl.cli import app; app(['evaluate', *{options!r}])", hub.url, tmp_path / "pull")
        del hub.repos["me/dots"]["vocabulary.json"]
        with pytest.raises(AssertionError, match="vocabulary.json: no such file"):
            run_client(f"from rarl.cli import app; app(['evaluate', *{options!r}])", hub.url, tmp_path / "without")
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads((adapter / "report.json").read_text())


def test_constrained_rollouts_from_the_command_line(trained: Path) -> None:
    """Of codes of several tokens, here CoDi's; where each token is a number, nothing could be constrained."""
    one = ["--num_images", "1", "--output_dir"]
    succeeded(launch("gor_sft.py", trained, *SHORT, *ONE, *one, "outputs/codi", "--gor_vocabulary", "codi"))
    constrained = [*one, "outputs/constrained", "--gor_constrained", "true", "--adapter"]
    succeeded(launch("rarl_stage2.py", trained, *SHORT, *ONE, *constrained, "outputs/codi"))
    state = json.loads((trained / "outputs/constrained/trainer_state.json").read_text())["log_history"][0]
    assert state["kl"] == pytest.approx(0, abs=1e-6)
    whole = launch("rarl_stage2.py", trained, *SHORT, *ONE, *constrained, "outputs/gor_sft")
    assert "gor_constrained: has no effect where every value token is a whole number" in error_line(whole)
    digits = launch("rarl_stage1.py", trained, *SHORT, "--gor_constrained", "true")
    assert "gor_constrained: task 'count' writes digits" in error_line(digits)


def test_medians_and_intervals_from_the_command_line(tmp_path: Path) -> None:
    """A model that has learnt a little: its medians lie in its intervals, wider ones hold more."""
    flags = ["--max_steps", "60", "--num_prompts", "960", "--num_images", "1", "--learning_rate", "6e-3"]
    succeeded(launch("gor_sft.py", tmp_path, *flags, "--eval_prompts", "0"))
    load_source("builtin", "count", size=1).load(0).save(tmp_path / "dots.png")
    common = ["--model", "tiny", "--adapter", "outputs/gor_sft", "--max-new-tokens", "64", "--decode", "median"]
    reports = {}
    for share in ("0.2", "0.9"):
        options = ["--size", "2000", "--num-images", "1", "--num-prompts", "20", "--output", f"{share}.json"]
        succeeded(rarl(tmp_path, "evaluate", *common, *options, "--interval", share))
        reports[share] = json.loads((tmp_path / f"{share}.json").read_text())
        [predicted] = json.loads(
            succeeded(rarl(tmp_path, "predict", "dots.png", *common, "--json", "--interval", share)).stdout
        )
        low, high = predicted["interval"]
        assert low <= predicted["value"] <= high
    assert reports["0.9"]["failure_rate"] == 0 and reports["0.9"]["mae"] < reports["0.9"]["constant"]["mae"]
    narrow, wide = (reports[share]["interval"] for share in ("0.2", "0.9"))
    assert narrow["width"] < wide["width"]
    assert wide["coverage"] > 0.5
