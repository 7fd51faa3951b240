"""The model card, and pushing an adapter with the real Hub client to a server on loopback."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model

from gor_head.vlm.hub import ADAPTER_FILES, adapter_files, public_name
from rarl import tiny
from rarl.evaluation.reports import Report, Scores, write_report
from rarl.hub import model_card, push_adapter, write_model_card
from tests.hub_server import HubServer, run_client

REPORT = Report("count", Scores({"mae": 1.25, "accuracy": 0.5}, {2: 0.75, 4: None}), failure_rate=0.125)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    processor = tiny.build_processor()
    tiny.build_model(processor, layers=1, vision_layers=1).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def output_folder(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What training with a KL reference leaves: two adapters, a checkpoint, pickled arguments."""
    folder = tmp_path_factory.mktemp("output")
    model = load_base(base_folder)
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.add_adapter("ref", LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.save_pretrained(folder)
    tiny.build_processor().save_pretrained(folder)
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / "optimizer.pt").write_bytes(b"state")
    (folder / "training_args.bin").write_bytes(b"pickle")
    (folder / "events.log").write_text("secret")
    write_report(REPORT, folder / "report.json")
    write_model_card(folder, str(base_folder), "count", stage="stage1", report=REPORT)
    assert (folder / "ref" / "adapter_model.safetensors").is_file()
    return folder


def load_base(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def test_push_and_load_back(hub: HubServer, base_folder: Path, output_folder: Path, tmp_path: Path) -> None:
    code = f"from rarl.hub import push_adapter; print(push_adapter({str(output_folder)!r}, 'me/dots').oid)"
    oid = run_client(code, hub.url, tmp_path / "push").split()[-1]
    assert hub.commits["me/dots"][-1] == oid
    assert hub.visibility["me/dots"] == "private"
    files = hub.repos["me/dots"]
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "report.json"} < set(files)
    assert "tokenizer.json" in files
    assert set(files) <= set(ADAPTER_FILES)
    for name, data in files.items():
        if name != "adapter_config.json":
            assert data == (output_folder / name).read_bytes(), name
        if name != "adapter_model.safetensors":
            for private in (str(base_folder), str(output_folder), str(Path.home()), "hf_loopback"):
                assert private not in data.decode(), f"{name} tells {private}"
    weights = "adapter_model.safetensors"
    assert ("PUT", f"/lfs/{next(oid for oid, data in hub.objects.items() if data == files[weights])}") in hub.requests

    target, logits = tmp_path / "download", tmp_path / "logits.pt"
    run_client(
        f"""
import torch
from huggingface_hub import snapshot_download
from peft import PeftModel
from transformers import AutoModelForImageTextToText
snapshot_download("me/dots", local_dir={str(target)!r})
model = AutoModelForImageTextToText.from_pretrained({str(base_folder)!r}, dtype=torch.float32)
model = PeftModel.from_pretrained(model, "me/dots").eval()
with torch.no_grad():
    torch.save(model(input_ids=torch.arange(20, 40)[None]).logits, {str(logits)!r})
""",
        hub.url,
        tmp_path / "pull",
    )
    for name, data in files.items():
        assert (target / name).read_bytes() == data, name
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        plain = load_base(base_folder)(input_ids=ids).logits
        expected = PeftModel.from_pretrained(load_base(base_folder), str(output_folder)).eval()(input_ids=ids).logits
    received = torch.load(logits)
    assert torch.equal(received, expected)
    assert not torch.allclose(received, plain)


def test_second_push_keeps_what_is_unchanged(hub: HubServer, output_folder: Path, tmp_path: Path) -> None:
    code = f"from rarl.hub import push_adapter; push_adapter({str(output_folder)!r}, 'me/dots', private=False)"
    run_client(f"{code}; {code}", hub.url, tmp_path / "push")
    assert len([request for request in hub.requests if request[0] == "PUT"]) == 1
    assert hub.visibility["me/dots"] == "public"
    assert len(hub.commits["me/dots"]) == 3


def test_push_refuses_a_folder_without_adapter(output_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="adapter_config.json"):
        push_adapter(tmp_path, "me/nothing")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="adapter_model.safetensors"):
        adapter_files(tmp_path)


def test_card_metadata_and_text() -> None:
    card = model_card("Qwen/Qwen2.5-VL-3B-Instruct", "count", "stage2", report=REPORT)
    again = ModelCard(card.content)
    assert again.data.base_model == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert again.data.tags == ["rarl", "trl", "grpo", "ordinal-regression"]
    assert again.data.library_name == "peft"
    metrics = {result.metric_type: result.metric_value for result in again.data.eval_results}
    assert metrics == {"mae": 1.25, "accuracy": 0.5, "kendall_tau_2": 0.75}
    assert "12.5% of all answers were unreadable" in again.text
    assert "integer from 0 to 10" in again.text


def test_card_of_a_local_base_names_no_path(tmp_path: Path) -> None:
    base = tmp_path / "private" / "my-model"
    base.mkdir(parents=True)
    card = model_card(str(base), "age", "sft")
    assert str(tmp_path) not in card.content and "private" not in card.content
    assert "my-model" in card.text
    assert card.data.base_model is None and card.data.eval_results is None
    ModelCard(card.content)


@pytest.mark.parametrize(
    ("name", "public"),
    [("org/model", "org/model"), ("tiny", "tiny"), ("/a/b/c", "c"), ("./b/c", "c"), ("a/b/c", "c"), ("~/m", "m")],
)
def test_public_name(name: str, public: str) -> None:
    assert public_name(name) == public


def test_card_of_words_sends_nobody_to_predict() -> None:
    text = model_card("org/model", "count", "levels_sft").text
    assert "rarl.levels.expected_values" in text and "rarl predict" not in text
    assert "rarl predict" in model_card("org/model", "count", "gor_sft").text


def test_card_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="stage3"):
        model_card("org/model", "count", "stage3")
    with pytest.raises(ValueError, match="'count'.*'age'"):
        model_card("org/model", "age", "stage1", report=REPORT)


def test_card_of_a_path_that_is_no_text_in_utf8(tmp_path: Path) -> None:
    base = str(tmp_path / os.fsdecode(b"model \xff"))
    card = write_model_card(tmp_path, base, "count", stage="stage1", report=REPORT)
    text = card.read_text(encoding="utf-8")
    assert "LoRA adapter of `model ?`" in text and "Kendall τ, 2 items" in text
