"""Shared prompts in TRL's training loop, against TRL's own layout on the same batch of the same trainer.

Compared are log-probabilities, entropies, the loss and the gradient of every parameter.
"""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    LlamaConfig,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen3Config,
    Qwen3VLConfig,
)
from trl import GRPOConfig, GRPOTrainer

from rarl import tiny
from rarl.datasets.builtin import BuiltinSource
from rarl.lora import language_lora_targets
from rarl.prompt import build_prompt
from rarl.rewards import REWARDS
from rarl.shared_prefix import innermost
from rarl.trainer import RARLConfig, RARLTrainer, SharedPrefixTrainer

GROUP = 4
LENGTH = 10  # of an answer, at most
LOG_PROB_TOLERANCE, LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-6, 1e-4
IMAGE_MODELS = ["qwen2_5_vl", "qwen2_vl", "qwen3_vl"]
TEXT_MODELS = ["qwen2", "qwen3", "llama"]
LANGUAGE = language_lora_targets(tiny.load()[0])  # of every model of the Qwen-VL family


def model_config(family: str, processor: Any) -> Any:
    """Two layers of width 64 in the shape of a family: grouped-query attention, and its own rotary positions."""
    qwen2_5_vl = tiny.build_config(processor, width=64, layers=2, vision_layers=2)
    if family == "qwen2_5_vl":
        return qwen2_5_vl
    tokens = {key: getattr(qwen2_5_vl, key) for key in ("image_token_id", "video_token_id", "vision_start_token_id")}
    tokens["vision_end_token_id"] = processor.tokenizer.convert_tokens_to_ids("<|vision_end|>")
    text = qwen2_5_vl.text_config.to_dict()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "max_position_embeddings", "eos_token_id", "pad_token_id", "bos_token_id")
    text = {name: text[name] for name in names}
    mrope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    if family == "qwen2_vl":
        vision = {"depth": 2, "embed_dim": 64, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2}
        text |= {"rope_parameters": mrope}
        return Qwen2VLConfig(text_config=text, vision_config=vision, **tokens)
    if family == "qwen3_vl":
        vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "patch_size": 14}
        vision |= {"out_hidden_size": 64, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
        text |= {"head_dim": 16, "rope_parameters": mrope | {"mrope_interleaved": True}}
        return Qwen3VLConfig(text_config=text, vision_config=vision, **tokens)
    return {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig}[family](**text)


@pytest.fixture(scope="module")
def load(processor: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Loads a random model of a family; from a folder, since TRL loads the reference model from there."""
    folders: dict[str, Path] = {}

    def load_model(family: str = "qwen2_5_vl", attention: str = "sdpa") -> Any:
        auto: Any = AutoModelForImageTextToText if family in IMAGE_MODELS else AutoModelForCausalLM
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp(family)
            torch.manual_seed(0)
            model = auto.from_config(model_config(family, processor))
            for parameter in model.parameters():  # norms and biases, too, so that no gradient is small for symmetry
                parameter.data.add_(0.05 * torch.randn_like(parameter))
            model.save_pretrained(folders[family])
        return auto.from_pretrained(folders[family], attn_implementation=attention)

    return load_model


def image_rows(num_images: tuple[int, ...] = (1, 2, 4)) -> Dataset:
    """One prompt for each entry of `num_images`."""
    source = BuiltinSource("count", size=8)
    return Dataset.from_list(
        [
            {
                "prompt": build_prompt(source.task, number),
                "images": [source.load(index) for index in range(number)],
                "values": source.values[:number].tolist(),
                "task": "count",
            }
            for number in num_images
        ]
    )


def text_rows() -> Dataset:
    return Dataset.from_list([{"prompt": text} for text in ("value", "Give the count of dots.", "images " * 6)])


def sample(monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> None:
    """Let the rollout return random answers of 1 to `LENGTH` tokens, some of them without an end."""

    def rollout(trainer: Any, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(1, LENGTH + 1, (len(prompt_ids),), generator=generator)
        lengths[:3] = torch.tensor([1, LENGTH, 4])
        answers = [torch.randint(10, 400, (int(n),), generator=generator).tolist() for n in lengths]
        end = trainer._tokenizer.eos_token_id
        return [ids if len(ids) == LENGTH else [*ids[:-1], end] for ids in answers], None

    for cls in (GRPOTrainer, SharedPrefixTrainer):
        monkeypatch.setattr(cls, "_generate_single_turn", rollout)


ON, FLEX = {"shared_prefix": "on"}, {"shared_prefix_attention": "flex"}
QWEN2_WINDOWS: dict[str, Any] = {"vocab_size": 800, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
QWEN2_WINDOWS |= {"num_attention_heads": 2, "num_key_value_heads": 1, "use_sliding_window": True, "sliding_window": 8}
QWEN2_WINDOWS |= {"max_window_layers": 0}
Make = Callable[..., Any]


def reward(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    return [sum(ids) % 7 / 7 for ids in completion_ids]


@pytest.fixture
def make(
    load: Callable[..., Any], processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Builds a trainer whose answers are random; fp32 without checkpointing if not told otherwise."""
    sample(monkeypatch)

    def build(
        cls: Any = SharedPrefixTrainer,
        family: str = "qwen2_5_vl",
        attention: str = "sdpa",
        model: Any = None,
        rows: Any = None,
        peft_config: Any = None,
        reward_funcs: Any = reward,
        **overrides: Any,
    ) -> Any:
        rows = rows if rows is not None else image_rows() if family in IMAGE_MODELS else text_rows()
        ours = {"shared_prefix", "shared_prefix_tokens", "rmo", "rmo_probability"} & overrides.keys()
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path),
            "per_device_train_batch_size": len(rows) * GROUP,
            "num_generations": GROUP,
            "max_completion_length": LENGTH,
            "beta": 0.04,
            "learning_rate": 0.1,
            "lr_scheduler_type": "constant",
            "optim": "sgd",
            "max_steps": 1,
            "logging_steps": 1,
            "use_cpu": True,
            "bf16": False,
            "activation_checkpointing": False,
            "shuffle_dataset": False,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
            "seed": 3,
        }
        config = (RARLConfig if issubclass(cls, RARLTrainer) or ours else GRPOConfig)(**{**settings, **overrides})
        return cls(
            model=load(family, attention) if model is None else model,
            reward_funcs=reward_funcs,
            args=config,
            train_dataset=rows,
            processing_class=processor if family in IMAGE_MODELS else processor.tokenizer,
            peft_config=peft_config,
        )

    return build


def generate(trainer: Any, shares: bool) -> dict[str, Any]:
    """The first generation batch, old and reference log-probabilities included."""
    trainer.model.train()
    trainer._shares_prefix = shares
    return trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))


def relative(expected: torch.Tensor, found: torch.Tensor) -> float:
    return float((expected - found).abs().max() / expected.abs().max().clamp(min=1e-12))


def measure(trainer: Any, batch: dict[str, Any], shares: bool) -> tuple[torch.Tensor, ...]:
    """Log-probabilities and entropies as the loss sees them, and the loss, whose gradients stay in the parameters."""
    seen: list[Any] = []
    trainer._shares_prefix = shares
    trainer.current_gradient_accumulation_steps = 1
    inner = trainer._get_per_token_logps_and_entropies
    trainer._get_per_token_logps_and_entropies = lambda *a, **k: seen.append(inner(*a, **k)) or seen[-1]
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    del trainer._get_per_token_logps_and_entropies  # the method shows again
    ((log_probs, entropies, _),) = seen
    return log_probs.detach(), entropies.detach(), loss.detach()


def check(
    trainer: Any,
    batch: dict[str, Any] | None = None,
    log_probs: float = LOG_PROB_TOLERANCE,
    loss: float = LOSS_TOLERANCE,
    gradient: float = GRADIENT_TOLERANCE,
) -> dict[str, Any]:
    """Compare both layouts; returns the batch."""
    assert trainer._shares_prefix
    if batch is None:
        stock, batch = generate(trainer, False), generate(trainer, True)
        assert torch.equal(stock["completion_ids"], batch["completion_ids"])
        mask = batch["completion_mask"].bool()
        for name in {"old_per_token_logps", "ref_per_token_logps"} & batch.keys():
            torch.testing.assert_close(batch[name][mask], stock[name][mask], rtol=0, atol=log_probs)
    # TRL's layout takes the pixels of all rows in one tensor.
    images = {name: batch[name] for name in ("pixel_values", "image_grid_thw") if name in batch}
    batch = batch | {name: torch.cat(list(value)) for name, value in images.items() if isinstance(value, list | tuple)}
    mask = batch["completion_mask"].bool()
    generator = torch.Generator().manual_seed(1)
    noise = 0.1 * torch.randn(2, *mask.shape, generator=generator)
    current = measure(trainer, batch, False)[0]
    # Ratios beside 1, a KL term beside 0 and advantages beside 0 make every token count.
    changes = {"old_per_token_logps": current + noise[0], "ref_per_token_logps": current + noise[1]}
    changes["advantages"] = torch.randn(len(mask), generator=generator)
    batch = {**batch, **changes}
    expected = measure(trainer, batch, False)
    gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    found = measure(trainer, batch, True)
    torch.testing.assert_close(found[0][mask], expected[0][mask], rtol=0, atol=log_probs)
    torch.testing.assert_close(found[1][mask], expected[1][mask], rtol=0, atol=log_probs)
    torch.testing.assert_close(found[2], expected[2], rtol=0, atol=loss)
    trained = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    assert sorted(gradients) == sorted(trained)
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            assert gradients[name].abs().max() > 0, name
            assert relative(gradients[name], parameter.grad) < gradient, name
    return batch


def forward_calls(model: Any) -> list[tuple[int, ...]]:
    """Shapes of the ids that go through the model from now on."""
    shapes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return shapes


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", IMAGE_MODELS + TEXT_MODELS)
def test_equals_stock(make: Make, family: str, attention: str) -> None:
    batch = check(make(family=family, attention=attention))
    assert batch["completion_mask"].sum(dim=1).unique().numel() > 3
    assert (batch["prompt_mask"] == 0).any(), "prompts of unlike length are wanted, so that one is padded"
    if family in IMAGE_MODELS:
        assert batch["num_images"] == [1] * GROUP + [2] * GROUP + [4] * GROUP


def test_answers_without_tokens(make: Make) -> None:
    batch = check(make(mask_truncated_completions=True, temperature=0.6))
    lengths = batch["completion_mask"].sum(dim=1)
    assert (lengths == 0).any() and (lengths > 0).any()


def test_only_answers_without_tokens(make: Make) -> None:
    trainer = make()
    batch = generate(trainer, True)
    batch["completion_mask"] = torch.zeros_like(batch["completion_mask"])
    log_probs, _, loss = measure(trainer, batch, True)
    assert not log_probs.any() and loss == 0
    gradients = [parameter.grad for parameter in trainer.model.parameters()]
    assert all(gradient is None or not gradient.any() for gradient in gradients)


def test_mutated_answers(make: Make) -> None:
    batch = check(make(RARLTrainer, rmo_probability=1.0, reward_funcs=list(REWARDS.values()), max_completion_length=64))
    assert batch["mutated"].view(-1, GROUP).sum(dim=1).tolist() == [1, 1, 1]


def lora(**settings: Any) -> LoraConfig:
    # B random instead of 0, as gradients of A would be 0 otherwise.
    return LoraConfig(r=4, target_modules=LANGUAGE, init_lora_weights=False, **settings)


@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["", "checkpointing", "reentrant"])
@pytest.mark.parametrize("reference", ["disabled", "ref"])
def test_lora(make: Make, load: Callable[..., Any], reference: str, checkpointing: bool | None) -> None:
    settings: dict[str, Any] = {"model": get_peft_model(load(), lora())} if reference == "ref" else {}
    trainer = make(**(settings or {"peft_config": lora()}), **checkpointed(checkpointing))
    assert ("ref" in trainer.model.peft_config) is (reference == "ref")
    enable_checkpointing(trainer)
    check(trainer)


def checkpointed(use_reentrant: bool | None) -> dict[str, Any]:
    if use_reentrant is None:
        return {}
    return {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": use_reentrant}}


def enable_checkpointing(trainer: Any) -> None:
    if trainer.args.activation_checkpointing:  # `train` does it
        trainer.model.activation_checkpointing_enable(trainer.args.activation_checkpointing_kwargs)
        assert trainer.model.is_activation_checkpointing


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "qwen3"])
def test_gradient_checkpointing(make: Make, family: str, use_reentrant: bool) -> None:
    trainer = make(family=family, **checkpointed(use_reentrant))
    enable_checkpointing(trainer)
    check(trainer)


@pytest.mark.parametrize("trained", ["language", "all"])
def test_gradients_reach_the_vision_tower_only_if_it_is_trained(make: Make, trained: str) -> None:
    """TRL's checkpointing of LoRA asks for gradients of all embeddings, those of images too."""
    targets = LANGUAGE if trained == "language" else "all-linear"
    trainer = make(peft_config=LoraConfig(r=4, target_modules=targets, init_lora_weights=False), **checkpointed(False))
    batch = generate(trainer, True)
    features: list[bool] = []
    merger = innermost(trainer.model).visual.merger
    merger.register_forward_hook(lambda module, inputs, output: features.append(inputs[0].requires_grad))
    measure(trainer, batch, True)
    assert features and set(features) == {trained == "all"}


@pytest.mark.parametrize("use_reentrant", [None, False, True], ids=["", "checkpointing", "reentrant"])
@pytest.mark.parametrize(("budget", "calls"), [(1000, 1), (110, 3), (1, 3 * GROUP)])
def test_token_budget(make: Make, budget: int, calls: int, use_reentrant: bool | None) -> None:
    trainer = make(shared_prefix_tokens=budget, **checkpointed(use_reentrant))
    enable_checkpointing(trainer)
    batch = check(trainer)
    shapes = forward_calls(trainer.model)
    measure(trainer, batch, True)
    assert len(shapes) == calls
    if calls < 3 * GROUP:
        assert all(rows * tokens <= budget for rows, tokens in shapes)


def test_each_prompt_goes_through_the_model_once(make: Make) -> None:
    trainer = make()
    batch = generate(trainer, True)
    patches: list[int] = []
    trainer.model.model.visual.register_forward_pre_hook(lambda module, args: patches.append(len(args[0])))
    shapes = forward_calls(trainer.model)
    measure(trainer, batch, False)
    measure(trainer, batch, True)
    answers = batch["completion_mask"].sum(dim=1).view(-1, GROUP).sum(dim=1)
    prompts = batch["prompt_mask"].sum(dim=1)[::GROUP]
    assert shapes[1] == (3, int((prompts - 1 + answers).max()))
    assert patches[0] == GROUP * patches[1]


def test_several_micro_batches_of_a_generation_batch(make: Make) -> None:
    # Two prompts a micro-batch, twice, used two times each: old log-probabilities are stored, and rows are shuffled.
    trainer = make(
        rows=image_rows((1, 2, 4, 2)), per_device_train_batch_size=2 * GROUP, steps_per_generation=2, num_iterations=2
    )
    trainer.model.train()
    rows = next(iter(trainer.get_train_dataloader()))
    seen = []
    for step in range(2):
        trainer._step = step
        batch = trainer._prepare_inputs(rows)
        assert "old_per_token_logps" in batch
        counts = batch["num_images"]
        assert [len(set(counts[start : start + GROUP])) for start in (0, GROUP)] == [1, 1]
        seen += counts
        check(trainer, batch)
    assert sorted(seen) == [1] * 4 + [2] * 8 + [4] * 4
    trainer._step = 0
    check(trainer)


@pytest.mark.parametrize("budget", [None, 110])
def test_torn_groups_in_any_order(make: Make, budget: int | None) -> None:
    """TRL's own shuffle of single rows, over two micro-batches."""
    trainer = make(
        rows=image_rows((1, 2, 4, 2)),
        per_device_train_batch_size=2 * GROUP,
        steps_per_generation=2,
        shared_prefix_tokens=budget,
    )
    trainer.model.train()
    trainer._shares_prefix = False
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer._shares_prefix = True
    counts = batch["num_images"]
    assert any(len(set(counts[start : start + GROUP])) > 1 for start in (0, GROUP))
    check(trainer, batch)


def test_equal_ids_with_other_pixels_stay_apart(make: Make) -> None:
    trainer = make(rows=image_rows((2, 2)).map(lambda row, index: {"images": row["images"][:: 1 - 2 * index]}, True))
    batch = check(trainer)
    assert (batch["prompt_ids"] == batch["prompt_ids"][0]).all(), "the same two images in another order"
    shapes = forward_calls(trainer.model)
    measure(trainer, batch, True)
    assert len(shapes) == 1 and shapes[0][0] == 2


def test_an_image_in_an_answer_is_refused(make: Make) -> None:
    trainer = make()
    batch = generate(trainer, True)
    batch["mm_token_type_ids"][2, -3] = 1
    with pytest.raises(ValueError, match="Answers must be text to share a prompt"):
        measure(trainer, batch, True)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llama"])
def test_bf16(make: Make, family: str) -> None:
    """Autocast rounds each layout in its own way: neither is farther from fp32 than the other, give or take a half."""
    trainer = make(family=family)
    batch = check(trainer)
    mask = batch["completion_mask"].bool()

    def flat(trainer: Any) -> torch.Tensor:
        return torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()])

    exact, _, exact_loss = measure(trainer, batch, False)
    exact_gradient = flat(trainer)
    trainer = make(family=family, bf16=True)
    errors = []
    for shares in (False, True):
        log_probs, _, loss = measure(trainer, batch, shares)
        assert (log_probs - exact)[mask].abs().max() < 0.02
        assert (loss - exact_loss).abs() < 0.002
        gradient_error = (flat(trainer) - exact_gradient).norm() / exact_gradient.norm()
        errors.append(((log_probs - exact)[mask].square().mean().sqrt(), gradient_error))
    (stock, stock_gradient), (ours, our_gradient) = errors
    assert 0 < ours < 1.5 * stock
    assert 0 < our_gradient < 1.5 * stock_gradient < 0.05


@pytest.mark.parametrize(
    "settings",
    [{}, {"shared_prefix_tokens": 110}, {"gradient_accumulation_steps": 3, "per_device_train_batch_size": GROUP}],
    ids=["one call", "several calls", "accumulated micro-batches"],
)
def test_five_steps_end_in_the_same_parameters(make: Make, settings: dict[str, Any]) -> None:
    ends = []
    for shared_prefix in ("off", "on"):
        trainer = make(shared_prefix=shared_prefix, max_steps=5, num_iterations=2, **settings)
        start = [parameter.detach().clone() for parameter in trainer.model.parameters()]
        assert trainer._shares_prefix is (shared_prefix == "on")
        trainer.train()
        ends.append((list(trainer.model.parameters()), [e for e in trainer.state.log_history if "grad_norm" in e]))
    (expected, stock), (found, ours) = ends
    for before, one, other in zip(start, expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-6)
        assert (one - before).abs().max() > 1e-5
    assert len(ours) == 5
    for one, other in zip(stock, ours, strict=True):
        for name in ("loss", "grad_norm"):  # others are means over micro-batches, whose rows differ
            assert other[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name


def test_evaluation_loss(make: Make) -> None:
    losses = []
    for shared_prefix in ("off", "on"):
        trainer = make(shared_prefix=shared_prefix, per_device_eval_batch_size=3 * GROUP)
        losses.append(trainer.evaluate(trainer.train_dataset)["eval_loss"])
    assert losses[1] == pytest.approx(losses[0], abs=LOSS_TOLERANCE)


def sliding(processor: Any) -> Any:
    config = model_config("qwen2", processor).to_dict() | {"use_sliding_window": True, "max_window_layers": 0}
    config.pop("layer_types")
    return AutoModelForCausalLM.from_config(Qwen2Config(**config | {"sliding_window": 8}))


def test_on_raises_where_it_cannot(make: Make, processor: Any) -> None:
    with pytest.raises(ValueError, match="shared_prefix='on', but its layers have sliding windows"):
        make(family="qwen2", model=sliding(processor), shared_prefix="on", beta=0.0)


def test_auto_takes_the_stock_way_where_it_cannot(make: Make, processor: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rarl.trainer")
    torch.manual_seed(0)
    models = [sliding(processor)]
    models.append(copy.deepcopy(models[0]))
    for cls, model in zip((GRPOTrainer, SharedPrefixTrainer), models, strict=True):
        make(cls, "qwen2", model=model, beta=0.0, steps_per_generation=1).train()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("rarl.trainer")]
    assert sum("Prompts are not shared: its layers have sliding windows." in line for line in lines) == 1


def test_off_says_nothing(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rarl.trainer")
    assert not make(shared_prefix="off")._shares_prefix
    assert not [record for record in caplog.records if record.name.startswith("rarl.trainer")]


@pytest.mark.parametrize(("setting", "asked"), [(ON, "shared_prefix='on'"), (FLEX, "shared_prefix_attention='flex'")])
def test_what_cannot_be_shared_is_an_error_where_it_is_asked_for(
    make: Make, setting: dict[str, str], asked: str
) -> None:
    prompts = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    with pytest.raises(ValueError, match=rf"{asked}, but the adapter \(PROMPT_TUNING\) adds tokens to every row"):
        make(RARLTrainer, family="qwen2", peft_config=prompts, rmo=False, **setting)
    windows = Qwen2Config(**QWEN2_WINDOWS)
    with pytest.raises(ValueError, match=f"{asked}, but its layers have sliding windows"):
        make(RARLTrainer, family="qwen2", model=AutoModelForCausalLM.from_config(windows), rmo=False, beta=0, **setting)


def test_one_line_says_why_prompts_are_not_shared(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        make(family="qwen2", peft_config=PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
        make(family="qwen2", generation_kwargs={"min_new_tokens": 2})
    lines = [record.getMessage() for record in caplog.records if "not shared" in record.getMessage()]
    assert len(lines) == 2 and all(line.endswith("Results are TRL's, only slower.") for line in lines)
    assert "not shared: the adapter (PROMPT_TUNING)" in lines[0]
    assert "not shared in generation: generation has min_new_tokens=2" in lines[1]
