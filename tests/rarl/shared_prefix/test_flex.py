"""FlexAttention over shared prompts, against the dense mask; on a CPU in torch's unfused form."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import flex_attention
from torch.nn.attention.flex_attention import create_mask
from transformers import AttentionInterface, AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config
from trl.trainer.utils import add_fused_lm_head

from rarl import tiny
from rarl.datasets.builtin import BuiltinSource
from rarl.prompt import build_prompt
from rarl.shared_prefix import answer_log_probs, innermost, split_images
from rarl.shared_prefix.flex import NAME, block_mask, packed_attention, take_block_masks, unsupported_flex, visible
from rarl.trainer import RARLConfig, RARLTrainer, SharedPrefixTrainer

GROUP, LENGTH = 4, 10
NUM_IMAGES = (1, 2, 4)
TEXTS: dict[str, Any] = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig}


def randomize(model: Any) -> Any:
    """Norms and biases, too, so that nothing cancels by symmetry."""
    for parameter in model.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model.train()


def build_vision_model(processor: Any) -> Any:
    torch.manual_seed(0)
    model = tiny.build_model(processor, width=64, layers=2, vision_layers=2)
    assert model.config.get_text_config().num_key_value_heads == 2, "grouped-query attention is wanted"
    return randomize(model)


def build_text_model(family: str, heads: tuple[int, int]) -> Any:
    """Query and key-value heads of width 16."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 16 * heads[0], "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": heads[0], "num_key_value_heads": heads[1], "head_dim": 16}
    return randomize(AutoModelForCausalLM.from_config(TEXTS[family](**sizes)))


def with_answers(prompts: dict[str, torch.Tensor], vocabulary: int) -> dict[str, Any]:
    """Arguments of `answer_log_probs`: random answers of 0 to `LENGTH` tokens to prompts padded on the left."""
    rows = len(prompts["input_ids"])
    generator = torch.Generator().manual_seed(0)
    answers = torch.randint(10, vocabulary, (rows, LENGTH), generator=generator)
    lengths = torch.randint(1, LENGTH + 1, (rows,), generator=generator)
    lengths[:2] = torch.tensor([0, LENGTH])
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    return {
        "input_ids": torch.cat([prompts["input_ids"], answers], dim=1),
        "attention_mask": torch.cat([prompts["attention_mask"], mask], dim=1),
        "completion_length": LENGTH,
    }


def text_batch() -> dict[str, Any]:
    """Prompts of 3, 1 and 200 tokens, so that some rows are of several blocks, with 4, 1 and 3 answers."""
    prompts = [list(range(10, 13))] * 4 + [[20]] + [[1 + index % 40 for index in range(200)]] * 3
    ids = torch.tensor([[0] * (200 - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (200 - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return with_answers({"input_ids": ids, "attention_mask": mask}, 64)


def image_rows() -> Dataset:
    source = BuiltinSource("count", size=8)
    return Dataset.from_list(
        [
            {
                "prompt": build_prompt(source.task, number),
                "images": [source.load(index) for index in range(number)],
                "values": source.values[:number].tolist(),
                "task": "count",
            }
            for number in NUM_IMAGES
        ]
    )


def image_batch(processor: Any) -> dict[str, Any]:
    """Prompts of 1, 2 and 4 images with 4 answers each."""
    rows = [row for row in image_rows() for _ in range(GROUP)]
    texts = [processor.apply_chat_template(row["prompt"], add_generation_prompt=True) for row in rows]
    images = [row["images"] for row in rows]
    kwargs: dict[str, Any] = {"return_tensors": "pt", "padding": True, "return_mm_token_type_ids": True}
    prompts = processor(text=texts, images=images, **kwargs)
    batch = with_answers(prompts, 400)
    types = torch.cat([prompts["mm_token_type_ids"], torch.zeros(len(rows), LENGTH, dtype=torch.long)], dim=1)
    shown = split_images(prompts, [len(own) for own in images])
    return batch | {"images": shown, "mm_token_type_ids": types}


def score(model: Any, batch: dict[str, Any], **settings: Any) -> torch.Tensor:
    if not hasattr(model, "fused_for_tests"):
        add_fused_lm_head(model)
        model.fused_for_tests = True
    settings = {"dtype": torch.float32} | settings
    return answer_log_probs(model, innermost(model), **batch, **settings)[0]


def attentions(model: Any) -> dict[str, Any]:
    """Implementations that the configurations name, vision tower included."""
    parts = {"whole": model.config, "text": model.config.get_text_config()}
    return {name: part._attn_implementation for name, part in parts.items()} | (
        {"vision": model.config.vision_config._attn_implementation} if hasattr(model.config, "vision_config") else {}
    )


@pytest.fixture
def flex_calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.nn.Module]:
    """Modules whose attention goes through flex from now on."""
    seen: list[torch.nn.Module] = []

    def spy(module: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(module)
        return packed_attention(module, *args, **kwargs)

    monkeypatch.setitem(AttentionInterface._global_mapping, NAME, spy)
    return seen


segments = st.lists(
    st.lists(st.integers(0, 5), min_size=1, max_size=5), min_size=1, max_size=3
)  # of each row the tokens of the prompt and of each answer


def segment_of(rows: list[list[int]], padding: int) -> torch.Tensor:
    width = max(1, max(map(sum, rows)) + padding)
    lines = [[number for number, tokens in enumerate(row) for _ in range(tokens)] for row in rows]
    return torch.tensor([line + [-1] * (width - len(line)) for line in lines])


@given(segments, st.integers(0, 3))
def test_mask_mod_by_brute_force(rows: list[list[int]], padding: int) -> None:
    segment = segment_of(rows, padding)
    g, length = segment.shape
    found = create_mask(visible(segment), g, 1, length, length, device="cpu")
    assert found.shape == (g, 1, length, length)
    for row, line in enumerate(segment.tolist()):
        for query in range(length):
            seen = [key for key in range(query + 1) if line[key] in (0, line[query])]
            assert found[row, 0, query].nonzero().flatten().tolist() == seen


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 150), min_size=1, max_size=4), min_size=1, max_size=2), st.integers(1, 140))
def test_blocks_hold_every_visible_pair(rows: list[list[int]], padding: int) -> None:
    segment = segment_of(rows, padding)
    g, length = segment.shape
    mask = block_mask(segment)
    assert tuple(mask.shape) == (g, 1, length, length)
    blocks = mask.to_dense()[:, 0]
    dense = create_mask(visible(segment), g, 1, length, length, device="cpu")[:, 0]
    for row, query, key in dense.nonzero()[:: max(1, length // 7)].tolist():
        assert blocks[row, query // 128, key // 128]
    if (hidden := (length // 128)) > 1:
        assert not blocks[:, 0, hidden - 1].any(), "later keys are skipped"


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 2), (4, 1)], ids=str)
@pytest.mark.parametrize("family", TEXTS)
def test_text_equals_sdpa(family: str, heads: tuple[int, int], flex_calls: list[Any]) -> None:
    model, batch = build_text_model(family, heads), text_batch()
    with torch.no_grad():
        expected, found = score(model, batch), score(model, batch, flex=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert expected[1].abs().min() > 0 and not expected[0].any()
    assert flex_calls == [layer.self_attn for layer in model.model.layers]


@pytest.mark.parametrize("budget", [None, 60])
def test_images_equal_sdpa(processor: Any, flex_calls: list[Any], budget: int | None) -> None:
    model, batch = build_vision_model(processor), image_batch(processor)
    with torch.no_grad():
        expected = score(model, batch, budget=budget)
        assert not flex_calls
        found = score(model, batch, budget=budget, flex=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    layers = [layer.self_attn for layer in model.model.language_model.layers]
    calls = len(flex_calls) // len(layers)
    assert flex_calls == layers * calls and (calls == 1 if budget is None else calls > 2)


@pytest.mark.parametrize("family", TEXTS)
def test_autocast(family: str) -> None:
    """Queries and keys are fp32 there, values bf16; the error beside fp32 is that of sdpa, give or take a half."""
    model, batch = build_text_model(family, (4, 2)), text_batch()
    with torch.no_grad():
        exact = score(model, batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            errors = [
                (score(model, batch, dtype=torch.bfloat16, flex=flex) - exact).square().mean().sqrt()
                for flex in (False, True)
            ]
    assert 0 < errors[1] < 1.5 * errors[0] < 0.02


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_own_attention_stays_the_models(processor: Any, flex_calls: list[Any], attention: str) -> None:
    model, batch = build_vision_model(processor).eval(), image_batch(processor)
    model.set_attn_implementation(attention)
    before = attentions(model)
    ids = batch["input_ids"][:2, -LENGTH:]
    kwargs: dict[str, Any] = {"do_sample": False, "max_new_tokens": 5, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        score(model, batch)  # puts the fused head on
        expected = model.generate(input_ids=ids, **kwargs)
        score(model, batch, flex=True)
        assert attentions(model) == before and set(before.values()) == {attention}
        hooks = [len(layer.self_attn._forward_hooks) for layer in model.model.language_model.layers]
        score(model, batch, flex=True)
        assert hooks == [len(layer.self_attn._forward_hooks) for layer in model.model.language_model.layers] == [1, 1]
        flex_calls.clear()
        assert torch.equal(model.generate(input_ids=ids, **kwargs), expected)
        assert not flex_calls
    assert NAME not in str(model.config.to_dict())
    assert all("own_attention" not in vars(module) for module in model.modules())


def test_own_attention_is_back_after_an_error() -> None:
    model, batch = build_text_model("qwen2", (4, 2)), text_batch()
    take_block_masks(model)
    model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(lambda *_: [][0])
    with torch.no_grad(), pytest.raises(IndexError):
        score(model, batch, flex=True)
    assert attentions(model) == {"whole": "sdpa", "text": "sdpa"}
    assert all("own_attention" not in vars(module) for module in model.modules())


@pytest.fixture
def unfused_gradients(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Torch refuses gradients on a CPU although its unfused form has them: enough to check the wiring of layers."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    yield


def gradients(model: Any, batch: dict[str, Any], flex: bool) -> dict[str, torch.Tensor]:
    model.zero_grad()
    log_probs = score(model, batch, flex=flex)
    weights = torch.randn(log_probs.shape, generator=torch.Generator().manual_seed(1)).to(log_probs.device)
    (log_probs * weights).mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_gradients(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor], bound: float) -> None:
    assert expected.keys() == found.keys() and len(found) > 20
    for name, gradient in expected.items():
        assert (gradient - found[name]).abs().max() <= bound * gradient.abs().max(), name


@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["", "checkpointing", "reentrant"])
def test_gradients(processor: Any, unfused_gradients: None, flex_calls: list[Any], checkpointing: bool | None) -> None:
    """With checkpointing layers run again in the backward pass, when the packed forward pass is over."""
    model, batch = build_vision_model(processor), image_batch(processor)
    if checkpointing is not None:
        model.activation_checkpointing_enable({"use_reentrant": checkpointing})
        model.enable_input_require_grads()
    expected = gradients(model, batch, flex=False)
    assert not flex_calls
    found = gradients(model, batch, flex=True)
    check_gradients(expected, found, 1e-4)
    assert len(flex_calls) == 2 * (1 if checkpointing is None else 2)
    assert set(attentions(model).values()) == {"sdpa"}


def build_trainer(cls: Any, folder: Path, **overrides: Any) -> Any:
    """On the cold-started model, which TRL loads again as the reference."""
    model, processor = tiny.load()
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": len(NUM_IMAGES) * GROUP,
        "num_generations": GROUP,
        "max_completion_length": LENGTH,
        "max_steps": 2,
        "beta": 0.04,
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "activation_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    return cls(
        model,
        lambda completion_ids, **_: [sum(ids) % 7 / 7 for ids in completion_ids],
        args=RARLConfig(**{**settings, **overrides}),
        train_dataset=image_rows(),
        processing_class=processor,
    )


def check_steps(trainers: tuple[Any, Any], bound: float) -> None:
    """Two steps of both, the second with flex, end in the same parameters."""
    ends = []
    for trainer in trainers:
        start = [parameter.detach().clone() for parameter in trainer.model.parameters()]
        torch.manual_seed(0)
        trainer.train()
        assert set(attentions(trainer.model).values()) == {"sdpa"}
        ends.append([parameter.detach() for parameter in trainer.model.parameters()])
        assert max((one - old).abs().max() for one, old in zip(ends[-1], start, strict=True)) > 1e-4
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=bound)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_steps(tmp_path: Path, unfused_gradients: None, flex_calls: list[Any], checkpointing: bool) -> None:
    """Sampling, reference and current log-probabilities, backward pass and update."""
    settings: dict[str, Any] = {"use_cpu": True, "activation_checkpointing": checkpointing}
    stock, flex = (build_trainer(RARLTrainer, tmp_path, **settings) for _ in range(2))
    flex._flex = True  # asked for in the arguments it is refused
    check_steps((stock, flex), 1e-6)
    references = {layer.self_attn for layer in flex.ref_model.model.language_model.layers}
    assert references < set(flex_calls) and len(set(flex_calls)) == 2 * len(references)


@pytest.mark.parametrize("cls", [SharedPrefixTrainer, RARLTrainer])
@pytest.mark.parametrize("shared_prefix", ["auto", "on"])
def test_training_on_a_cpu_is_refused(tmp_path: Path, cls: Any, shared_prefix: str) -> None:
    message = "shared_prefix_attention='flex', but FlexAttention has gradients on CUDA only, and this run is on 'cpu'"
    with pytest.raises(ValueError, match=message):
        build_trainer(cls, tmp_path, use_cpu=True, shared_prefix=shared_prefix, shared_prefix_attention="flex")


def test_dropout_is_refused() -> None:
    config = Qwen2Config(attention_dropout=0.1)
    assert "attention_dropout is 0.1" in str(unsupported_flex(config, torch.device("cuda")))
    assert unsupported_flex(Qwen2Config(), torch.device("cuda")) is None
    model, batch = build_text_model("qwen2", (4, 2)), text_batch()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    with torch.no_grad(), pytest.raises(ValueError, match="attention_dropout must be 0 in training, got 0.1"):
        score(model, batch, flex=True)


def test_settings_are_checked(tmp_path: Path) -> None:
    def make(**settings: Any) -> RARLConfig:
        return RARLConfig(str(tmp_path), use_cpu=True, bf16=False, **settings)

    assert make().shared_prefix_attention == "sdpa"
    with pytest.raises(ValueError, match="shared_prefix_attention must be one of sdpa, flex, got 'flex_attention'"):
        make(shared_prefix_attention="flex_attention")
    with pytest.raises(ValueError, match="needs shared prompts, but shared_prefix is 'off'"):
        make(shared_prefix_attention="flex", shared_prefix="off")


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention has gradients on CUDA only")


@needs_gpu
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_on_a_gpu(processor: Any, flex_calls: list[Any], checkpointing: bool) -> None:
    model = build_vision_model(processor).cuda()
    batch = {name: value.cuda() if hasattr(value, "cuda") else value for name, value in image_batch(processor).items()}
    batch["images"] = [(grid.cuda(), pixels.cuda()) for grid, pixels in batch["images"]]
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    check_gradients(gradients(model, batch, flex=False), gradients(model, batch, flex=True), 1e-3)
    assert flex_calls


@needs_gpu
@pytest.mark.parametrize("checkpointing", [False, True])
def test_steps_on_a_gpu(tmp_path: Path, checkpointing: bool) -> None:
    settings: dict[str, Any] = {"activation_checkpointing": checkpointing, "shared_prefix": "on"}
    stock, flex = (
        build_trainer(RARLTrainer, tmp_path, shared_prefix_attention=attention, **settings)
        for attention in ("sdpa", "flex")
    )
    check_steps((stock, flex), 1e-4)
