import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer

from gor_head import CoDiVocabulary
from gor_head.vlm import ValueTokens, add_tokens, attach, write_value
from gor_head.vlm.tokens import check_lora, grow, number_tokens
from rarl import tiny
from rarl.lora import language_lora_targets
from tests.gor_head.vlm.models import qwen3_vl, text_model
from tests.paths import DATA

AGES = CoDiVocabulary([1, 2, 5, 10, 50], tolerance=0)
ROWS = 7
QWEN = DATA / "qwen2_5_vl_tokenizer"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("spare", [0, 3, 20])
def test_spare_rows_are_used_first_and_other_rows_stay(spare: int, tied: bool) -> None:
    model, tokenizer = text_model(spare, tied)
    size = len(tokenizer)
    before = copy.deepcopy(model.state_dict())
    tokens = attach(model, tokenizer, AGES)
    assert tokens.all_ids == list(range(size, size + ROWS))
    assert model.config.vocab_size == max(size + spare, size + ROWS)
    for get in (model.get_input_embeddings, model.get_output_embeddings):
        matrix = get().weight
        assert len(matrix) == max(size + spare, size + ROWS)
        assert torch.isfinite(matrix).all()
        new = matrix[tokens.all_ids]
        assert torch.pdist(new).min() > 0  # no two rows alike
    after = model.state_dict()
    untouched = [row for row in range(size + spare) if row not in tokens.all_ids]
    for name, tensor in before.items():
        same = untouched if tensor.shape[:1] == (size + spare,) else slice(None)
        assert torch.equal(after[name][same], tensor[same]), name


def test_rows_begin_by_value() -> None:
    model, tokenizer = text_model()
    vocabulary = CoDiVocabulary([11, 111, 1111, 11111], tolerance=0)  # the same digits: only the value differs
    tokens = attach(model, tokenizer, vocabulary)
    rows = model.get_input_embeddings().weight[list(tokens.ids)]
    distance = torch.cdist(rows, rows)
    assert distance[0, 1] < distance[0, 2] < distance[0, 3]


@pytest.mark.parametrize("make", [lambda: tiny.load(), qwen3_vl, text_model])
def test_a_code_is_one_token_a_value_and_survives_decoding(make: Any) -> None:
    model, processor = make()
    attach(model, processor, AGES)
    tokenizer = getattr(processor, "tokenizer", processor)
    text = f'[{{"image_id": 1, "value": {write_value(AGES, 58)}}}]'
    ids = tokenizer(text)["input_ids"]
    known = tokenizer.get_vocab()
    start = ids.index(known["<gor>"])
    names = ("<gor>", "<+50>", "<+5>", "<+2>", "<+1>", "</gor>")
    assert ids[start : start + len(names)] == [known[name] for name in names]
    # The tag has taken the blank before it along.
    assert ids[:start] == tokenizer('[{"image_id": 1, "value":')["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text.replace(" <gor>", "<gor>")


@pytest.mark.parametrize("tied", [True, False])
def test_lora_trains_just_the_rows(tied: bool) -> None:
    model, tokenizer = text_model(tied=tied)
    tokens = attach(model, tokenizer, AGES)
    settings = tokens.lora_settings(model)["trainable_token_indices"]
    assert settings.keys() == ({"embed_tokens"} if tied else {"embed_tokens", "lm_head"})
    before = [get().weight.detach().clone() for get in (model.get_input_embeddings, model.get_output_embeddings)]
    peft = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], **tokens.lora_settings(model)))
    rows = [p for name, p in peft.named_parameters() if p.requires_grad and "trainable_tokens" in name]
    assert sum(len(parameter) for parameter in rows) == (1 if tied else 2) * ROWS
    optimizer = torch.optim.SGD([p for p in peft.parameters() if p.requires_grad], lr=10.0)
    ids = tokenizer(f"a {write_value(AGES, 58)} b", return_tensors="pt")["input_ids"]
    peft(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    merged = peft.merge_and_unload()
    others = [row for row in range(len(tokenizer)) if row not in tokens.all_ids]
    used = ids[0, -6:-1].tolist()
    for matrix, get in zip(before, (merged.get_input_embeddings, merged.get_output_embeddings), strict=True):
        assert torch.equal(get().weight[others], matrix[others])
        assert (get().weight[used[1:-1]] - matrix[used[1:-1]]).abs().max() > 0


TWICE: list[dict[str, Any]] = [
    {"target_modules": ["q_proj", "lm_head"]},
    {"target_modules": ["q_proj", "embed_tokens"]},
    {"target_modules": r".*(q_proj|lm_head)"},
    {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    {"target_modules": ["q_proj"], "modules_to_save": ["norm", "embed_tokens"]},
    {"target_modules": ["q_proj"], "modules_to_save": ["model.embed_tokens"], "ensure_weight_tying": True},
]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("settings", TWICE)
def test_rows_are_trained_in_one_way_only(tied: bool, settings: dict[str, Any]) -> None:
    model, tokenizer = text_model(tied=tied)
    tokens = attach(model, tokenizer, AGES)
    name = next(name for name in ("lm_head", "embed_tokens") if name in str(settings))
    setting = "modules_to_save" if "modules_to_save" in settings else "target_modules"
    with pytest.raises(ValueError, match=rf"^{setting}: (model\.)?{name} holds the rows of value tokens.*{name}"):
        check_lora(model, LoraConfig(**settings, **tokens.lora_settings(model)))


@pytest.mark.parametrize("make", [text_model, qwen3_vl])
def test_other_layers_may_be_trained_in_any_way(make: Any) -> None:
    model, processor = make()
    tokens = attach(model, processor, AGES)
    others: list[dict[str, Any]] = [
        {"target_modules": "all-linear"},
        {"target_modules": language_lora_targets(model)},
        {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
        {"target_modules": ["q_proj"], "modules_to_save": []},
        {"target_modules": None},
    ]
    for settings in others:
        check_lora(model, LoraConfig(**settings, **tokens.lora_settings(model)))
    policy = get_peft_model(model, LoraConfig(target_modules="all-linear", **tokens.lora_settings(model)))
    check_lora(policy, policy.peft_config["default"])
    check_lora(model, None)


def test_tokens_are_found_again_in_a_saved_processor(tmp_path: Path) -> None:
    model, tokenizer = text_model()
    tokens = attach(model, tokenizer, AGES)
    tokenizer.save_pretrained(tmp_path)
    loaded = ValueTokens.of(AutoTokenizer.from_pretrained(tmp_path), AGES)
    assert (loaded.open_id, loaded.end_id, loaded.ids) == (tokens.open_id, tokens.end_id, tokens.ids)


def test_errors() -> None:
    model, tokenizer = text_model()
    with pytest.raises(ValueError, match="7 of 7 value tokens are missing, such as '<gor>'"):
        ValueTokens.of(tokenizer, AGES)
    with pytest.raises(ValueError, match="wanted at least 1 value token"):
        attach(model, tokenizer, CoDiVocabulary.fit([0, 0]))
    tokens = add_tokens(tokenizer, AGES)
    assert attach(model, tokenizer, AGES) == tokens
    with pytest.raises(ValueError, match="has value tokens of another vocabulary, such as '<.5>'; .* all 4 of"):
        attach(model, tokenizer, CoDiVocabulary([5, 7], tolerance=0))


def test_matrix_never_shrinks() -> None:
    model, _ = text_model(spare=20)
    size = model.config.vocab_size
    grow(model, size - 5)
    assert model.config.vocab_size == size == len(model.get_input_embeddings().weight)


@pytest.mark.skipif(not QWEN.is_dir(), reason="needs the real tokenizer")
def test_real_tokenizer_has_rows_to_spare() -> None:
    from transformers import AutoConfig, AutoModelForImageTextToText

    tokenizer = AutoTokenizer.from_pretrained(QWEN)
    size = len(tokenizer)
    config = AutoConfig.from_pretrained(next(QWEN.rglob("*3B*/config.json"), QWEN))
    vocabulary = CoDiVocabulary.fit(list(range(1, 117)))
    tokenizer.add_tokens(["<gor>", "</gor>"])
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    rows = model.get_input_embeddings().weight.shape[0]
    assert size + 2 + len(vocabulary.tokens) <= rows
    grow(model, size + 2 + len(vocabulary.tokens))
    assert model.get_input_embeddings().weight.shape[0] == rows


@pytest.mark.parametrize("tied", [True, False])
def test_rows_begin_as_what_stands_at_a_number_s_place(tied: bool) -> None:
    """Of this tokenizer ` 5` is one token, `5` another: a row of the bare number would be that of another token."""
    model, tokenizer = text_model(tied=tied)
    contexts = [("Image 1: ", ", Image 2"), ('"value": ', "}]")]
    matrices = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    known = {token: [matrix[number].clone() for matrix in matrices] for token, number in tokenizer.get_vocab().items()}
    tokens = attach(model, tokenizer, AGES, contexts)
    matrices = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    for place, matrix in enumerate(matrices):
        rows = {token: both[place] for token, both in known.items()}
        begins = torch.stack([rows["Ġ1"], rows["Ġ2"], rows["Ġ5"], rows["Ġ1"], rows["Ġ5"]]).mean(dim=0)
        assert torch.allclose(matrix[tokens.open_id], begins, atol=1e-6)
        behind = torch.stack([rows[",ĠImage"], rows["}"]]).mean(dim=0)
        assert torch.allclose(matrix[tokens.end_id], behind, atol=1e-6)
        bare = [rows["Ġ1"], rows["Ġ2"], rows["Ġ5"], (rows["Ġ1"] + rows["0"]) / 2, (rows["Ġ5"] + rows["0"]) / 2]
        moved = torch.stack([matrix[token] - row for token, row in zip(tokens.ids, bare, strict=True)])
        logs = torch.tensor([1.0, 2, 5, 10, 50]).log()
        heights = moved @ moved[-1] / moved[-1].norm()  # all along one direction, by the logarithm
        assert torch.allclose(heights.abs(), moved.norm(dim=1), atol=1e-5)
        assert torch.allclose((heights - heights.mean()) / heights.std(), (logs - logs.mean()) / logs.std(), atol=1e-3)


@pytest.mark.skipif(not QWEN.is_dir(), reason="needs the real tokenizer")
def test_a_number_s_tokens_in_qwens_tokenizer() -> None:
    tokenizer = AutoTokenizer.from_pretrained(QWEN)
    for context in (("Image 1: ", ", Image 2: 3"), ('{"image_id": 1, "value": ', "}]")):
        inside, after = number_tokens(tokenizer, "58", context)
        assert tokenizer.convert_ids_to_tokens(inside) == ["Ġ", "5", "8"]
        assert tokenizer.decode(after) == context[1]


def test_blanks_of_their_own_belong_to_the_number() -> None:
    """Its token takes them along."""
    _, tokenizer = text_model()
    inside, after = number_tokens(tokenizer, "5", ('"value":  ', "}]"))
    assert tokenizer.decode(inside) == "  5" and len(inside) == 2 and tokenizer.decode(after) == "}]"


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="processor: wanted a fast tokenizer, .* got Slow"):
        number_tokens(Slow(), "5", ("value: ", "}"))
