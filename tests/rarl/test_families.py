"""Vision-language models of every family: prompts, both stages of RARL with mutation, saved, loaded and evaluated."""

import copy
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.processing_utils import MultiModalData
from trl import GRPOTrainer, SFTConfig
from trl.data_utils import prepare_multimodal_messages

from rarl import inputs as inputs_module
from rarl.datasets import load_source, make_dataset
from rarl.evaluation.protocol import evaluate
from rarl.inputs import batch_inputs, prompt_lengths
from rarl.lora import language_lora_targets
from rarl.models import load_model
from rarl.number_trie import NumberTrie
from rarl.prompt import build_prompt
from rarl.rewards import REWARDS, weights
from rarl.shared_prefix import MODEL_TYPES, answer_log_probs, split_images
from rarl.task import get_task
from rarl.trainer import ExpectedErrorTrainer, RARLConfig, RARLTrainer
from rarl.vision_tokens import vision_token_ids
from tests import families
from tests.families import FAMILIES

SIZE = 24
SHARING = [name for name in FAMILIES if name in MODEL_TYPES]
GROUP = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder of a family's model and processor, made once."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = families.save(family, tmp_path_factory.mktemp(family))
        return made[family]

    return get


def train(model: Any, processor: Any, output: Path, num_images: tuple[int, ...], peft: LoraConfig | None) -> Any:
    """Two steps; every group is mutated, as random text earns nothing."""
    source = load_source("builtin", task="count", size=SIZE)
    trainer = RARLTrainer(
        model,
        list(REWARDS.values()),
        RARLConfig(
            str(output),
            reward_weights=weights(),
            per_device_train_batch_size=2 * GROUP,
            num_generations=GROUP,
            max_completion_length=48,
            max_steps=2,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            warmup_steps=0,
            rmo_probability=1.0,
            logging_steps=1,
            beta=0.04,
            use_cpu=True,
            bf16=False,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
        ),
        make_dataset(source, np.arange(SIZE), 8, mix={number: 1.0 for number in num_images}),
        processing_class=processor,
        peft_config=peft,
    )
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    log = [entry for entry in trainer.state.log_history if "rmo/mutated" in entry]
    assert len(log) == 2 and all(entry["rmo/mutated"] == 2 and entry["grad_norm"] > 0 for entry in log)
    trainer.save_model(str(output))
    processor.save_pretrained(output)
    return moved


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_stages(folder: Any, tmp_path: Path, family: str, kind: str) -> None:
    base = folder(family)
    processor = AutoProcessor.from_pretrained(base, padding_side="left")
    model = AutoModelForImageTextToText.from_pretrained(base)
    config = LoraConfig(r=2, target_modules=language_lora_targets(model)) if kind == "lora" else None
    first, second = tmp_path / "stage1", tmp_path / "stage2"
    moved = train(model, processor, first, (1,), config)
    assert moved
    if kind == "lora":
        assert not any(re.search(r"vis|tower|connector|projector", name) for name in moved)
        model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), first, is_trainable=True)
    else:
        assert any("embed_tokens" in name for name in moved)
        model = AutoModelForImageTextToText.from_pretrained(first)
    assert train(model, processor, second, (1, 2), None)
    trained, processor = load_model(*((str(base), str(second)) if kind == "lora" else (str(second), None)))
    source = load_source("builtin", task="count", size=SIZE)
    rows = {number: make_dataset(source, np.arange(SIZE), 2, mix={number: 1.0}) for number in (1, 2)}
    report = evaluate(trained, processor, rows, task="count", max_new_tokens=12, progress=False)
    assert report.num_prompts == {1: 2, 2: 2} and 0 <= report.failure_rate <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_reaches_the_language_model_and_nothing_else(folder: Any, family: str) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder(family))
    hits = [name for name, _ in model.named_modules() if re.fullmatch(language_lora_targets(model), name)]
    decoder = next(name for name, module in model.named_modules() if module is model.get_decoder())
    assert len(hits) == 7 * 2  # seven products in each of two layers
    assert all(name.startswith(f"{decoder}.layers.") for name in hits)


def photos(*sizes: tuple[int, int]) -> list[Image.Image]:
    """Random images of given widths and heights; each is darker than the next."""
    rng = np.random.default_rng(0)
    shades = [rng.integers(60 * number, 60 * number + 60, (*size[::-1], 3)) for number, size in enumerate(sizes)]
    return [Image.fromarray(pixels.astype(np.uint8)) for pixels in shades]


def two_kinds(folder: Path, family: str, output: Path, **settings: Any) -> Any:
    """A trainer on prompts of one, two and three images of two shapes, and TRL's layout beside ours."""
    model = AutoModelForImageTextToText.from_pretrained(folder)
    torch.manual_seed(1)
    for parameter in model.parameters():  # norms and biases, too, so that nothing is small for symmetry
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    rows = [
        {"prompt": build_prompt(get_task("count"), len(images)), "images": images}
        for images in (photos((56, 56)), photos((112, 56), (56, 56)), photos((56, 112), (56, 56), (112, 56)))
    ]
    args = RARLConfig(
        str(output),
        rmo=False,
        num_generations=GROUP,
        per_device_train_batch_size=3 * GROUP,
        max_completion_length=12,
        shuffle_dataset=False,
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        activation_checkpointing=False,
        **settings,
    )
    return RARLTrainer(
        model,
        lambda completion_ids, **_: [sum(ids) % 7 / 7 for ids in completion_ids],
        args,
        Dataset.from_list(rows),
        processing_class=AutoProcessor.from_pretrained(folder, padding_side="left"),
    )


def first_batch(trainer: Any) -> Any:
    trainer.model.train()
    return next(iter(trainer.get_train_dataloader()))


@pytest.mark.parametrize("family", SHARING)
def test_shared_prompts_give_log_probabilities_and_gradients_of_trl(folder: Any, tmp_path: Path, family: str) -> None:
    trainer = two_kinds(folder(family), family, tmp_path, shared_prefix="on", beta=0.0, temperature=0.7)
    rows = first_batch(trainer)
    results = []
    for shares in (False, True):
        trainer._shares_prefix = trainer._shares_generation = shares
        seen: list[Any] = []
        inner = trainer._get_per_token_logps_and_entropies
        trainer._get_per_token_logps_and_entropies = lambda *a, inner=inner, seen=seen, **k: (
            seen.append(inner(*a, **k)) or seen[-1]
        )
        torch.manual_seed(0)
        batch = trainer._generate_and_score_completions(rows) if not shares else results[0][0]
        trainer.current_gradient_accumulation_steps = 1
        batch = batch | {"advantages": torch.linspace(-1, 1, 3 * GROUP)}
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        del trainer._get_per_token_logps_and_entropies
        gradients = {
            name: value.grad.clone() for name, value in trainer.model.named_parameters() if value.grad is not None
        }
        results.append((batch, seen[-1], loss.detach(), gradients))
    (batch, stock, stock_loss, expected), (_, ours, loss, found) = results
    mask = batch["completion_mask"].bool()
    torch.testing.assert_close(ours[0][mask], stock[0][mask], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours[1][mask], stock[1][mask], rtol=0, atol=1e-5)
    torch.testing.assert_close(loss, stock_loss, rtol=0, atol=1e-6)
    assert found.keys() == expected.keys()
    scale = max(float(value.abs().max()) for value in expected.values())
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5 * scale, msg=name)


@pytest.mark.parametrize("family", SHARING)
def test_expected_errors_are_those_of_numbers_written_out(folder: Any, tmp_path: Path, family: str) -> None:
    """Likelihoods are the plain model's, and so are the chances of every number behind an answer."""
    model = AutoModelForImageTextToText.from_pretrained(folder(family))
    processor, task = AutoProcessor.from_pretrained(folder(family)), get_task("count")
    source = load_source("builtin", task="count", size=SIZE)
    rows = make_dataset(source, np.arange(SIZE), 3, mix={1: 1.0, 2: 1.0}, with_completion=True)
    trie = NumberTrie.of(processor, task)
    config = SFTConfig(
        str(tmp_path), max_length=None, use_cpu=True, bf16=False, report_to=[], gradient_checkpointing=False
    )
    trainer = ExpectedErrorTrainer(model, config, train_dataset=rows, processing_class=processor, trie=trie)
    model.eval()

    ours = ("labels", "num_images", "number_places", "numbers")

    def fields_of(*chosen: int) -> dict[str, Any]:
        return dict(trainer.data_collator([copy.deepcopy(rows[index]) for index in chosen]))

    with torch.no_grad():
        batch = fields_of(0, 1, 2)
        logits, tokens, log_probs = trainer._scores(model, batch)
        plain = {name: field for name, field in batch.items() if name not in ours}
        wanted = torch.nn.functional.cross_entropy(
            model(**plain).logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum"
        )
        assert torch.nn.functional.cross_entropy(logits, tokens, reduction="sum").item() == pytest.approx(
            wanted.item(), rel=1e-4
        )
        assert batch["numbers"].tolist() == [value for row in rows for value in row["values"]]
        place = 0
        for index in range(len(rows)):
            alone = fields_of(index)
            answer = int((alone["labels"] != -100).nonzero()[0, 1])
            stated = [each for each in trie.find(alone["input_ids"][0, answer:].tolist()) if each.place == "reasoning"]
            for each in stated:
                nodes = []
                for prefix in trie.prefixes:
                    whole = {name: field for name, field in alone.items() if name not in ours}
                    start = answer + each.start
                    for name in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"):
                        if name in whole:
                            filler = {"input_ids": prefix, "attention_mask": [1] * len(prefix)}.get(
                                name, [0] * len(prefix)
                            )
                            tail = torch.tensor([list(filler)], dtype=whole[name].dtype)
                            whole[name] = torch.cat([whole[name][:, :start], tail], dim=1)
                    nodes.append(model(**whole).logits[0, -1])
                torch.testing.assert_close(log_probs[place], trie.log_probs(torch.stack(nodes)), rtol=1e-3, atol=1e-4)
                place += 1
        assert place == len(log_probs) == sum(len(row["values"]) for row in rows)


@pytest.mark.parametrize("family", SHARING)
def test_shared_prompts_are_sampled_as_by_trl(folder: Any, tmp_path: Path, family: str) -> None:
    trainer = two_kinds(folder(family), family, tmp_path, generation_kwargs={"do_sample": False, "temperature": None})
    assert trainer._shares_generation
    rows = first_batch(trainer)
    taken: list[Any] = []
    inner = trainer._generate_single_turn
    trainer._generate_single_turn = lambda *args: taken.append(args) or inner(*args)
    trainer._generate_and_score_completions(rows)
    expected, _ = GRPOTrainer._generate_single_turn(trainer, *taken[0])
    lengths = []
    embeddings = trainer.model.get_input_embeddings()
    embeddings.register_forward_hook(lambda _, inputs, __: lengths.append(len(inputs[0])))
    assert inner(*taken[0])[0] == expected
    assert lengths[0] == 3 and 3 * GROUP in lengths  # three prompts, then their answers


ASK = "Which has more?"
QWEN_IMAGES = (
    "Image 1: <|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>"
    "Image 2: <|vision_start|>" + "<|image_pad|>" * 2 + "<|vision_end|>"
)  # 56 x 56 pixels are 2 x 2 merged patches, 112 x 56 are resized to 1 x 2
TILE = "<image>" * 4
IDEFICS_IMAGES = (  # the longest side becomes 112: 2 x 2 tiles and the whole, then 1 x 2 tiles and the whole
    f"Image 1: <fake_token_around_image><row_1_col_1>{TILE}<fake_token_around_image><row_1_col_2>{TILE}\n"
    f"<fake_token_around_image><row_2_col_1>{TILE}<fake_token_around_image><row_2_col_2>{TILE}\n\n"
    f"<fake_token_around_image><global-img>{TILE}<fake_token_around_image>"
    f"Image 2: <fake_token_around_image><row_1_col_1>{TILE}<fake_token_around_image><row_1_col_2>{TILE}\n\n"
    f"<fake_token_around_image><global-img>{TILE}<fake_token_around_image>"
)
GEMMA_IMAGE = "\n\n<start_of_image>" + "<image_soft_token>" * 4 + "<end_of_image>\n\n"
PROMPTS = {  # of two images of 56 x 56 and 112 x 56 pixels, written by hand
    "qwen2_vl": f"<|im_start|>system\nJudge.<|im_end|>\n<|im_start|>user\n{QWEN_IMAGES}{ASK}<|im_end|>\n"
    "<|im_start|>assistant\n",
    "qwen2_5_vl": f"<|im_start|>system\nJudge.<|im_end|>\n<|im_start|>user\n{QWEN_IMAGES}{ASK}<|im_end|>\n"
    "<|im_start|>assistant\n",
    "qwen3_vl": f"<|im_start|>system\nJudge.<|im_end|>\n<|im_start|>user\n{QWEN_IMAGES}{ASK}<|im_end|>\n"
    "<|im_start|>assistant\n",
    "gemma3": f"<bos><start_of_turn>user\nJudge.\n\nImage 1:{GEMMA_IMAGE}Image 2:{GEMMA_IMAGE}{ASK}<end_of_turn>\n"
    "<start_of_turn>model\n",
    # Its template writes all images first. 56 x 56: 4 x 4 patches of the base, and of one tile with 4 row ends;
    # 112 x 56: 4 x 4 of the base, and 4 x 8 of two tiles with 4 row ends.
    "llava_next": "<s><<SYS>>\nJudge.\n<</SYS>>\n\n[INST] " + "<image>" * 36 + "\n" + "<image>" * 52 + "\n"
    f"Image 1: Image 2: {ASK} [/INST]",
    "idefics3": f"<|begin_of_text|>System: Judge.<end_of_utterance>\nUser: {IDEFICS_IMAGES}{ASK}<end_of_utterance>\n"
    "Assistant:",
    "smolvlm": f"<|im_start|>System: Judge.<end_of_utterance>\nUser: {IDEFICS_IMAGES}{ASK}<end_of_utterance>\n"
    "Assistant:",
    # 56 x 56 is a tile; 112 x 56 is two, and the whole.
    "internvl": "<|im_start|>system\nJudge.<|im_end|>\n<|im_start|>user\nImage 1: <img>"
    + "<IMG_CONTEXT>" * 4
    + "</img>\n"
    "Image 2: <img>" + "<IMG_CONTEXT>" * 12 + f"</img>\n{ASK}<|im_end|>\n<|im_start|>assistant\n",
}


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def question() -> list[dict[str, Any]]:
    blocks = [text("Image 1: "), {"type": "image"}, text("Image 2: "), {"type": "image"}, text(ASK)]
    return [{"role": "system", "content": [text("Judge.")]}, {"role": "user", "content": blocks}]


def pixels_of_each(family: str, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Those of the first and of the second image, as the prompts above have them."""
    if family.startswith("qwen"):
        return pixels[: len(pixels) * 2 // 3], pixels[len(pixels) * 2 // 3 :]
    if family in ("idefics3", "smolvlm"):
        return pixels[0, :5], pixels[0, 5:8]
    return (pixels[:1], pixels[1:]) if family == "internvl" else (pixels[0], pixels[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_placeholders_and_order_of_two_images(folder: Any, family: str) -> None:
    """As TRL's trainer tokenizes a prompt, and as answers are generated from it in an evaluation."""
    processor = AutoProcessor.from_pretrained(folder(family), padding_side="left")
    images = photos((56, 56), (112, 56))
    encoded = processor.apply_chat_template(
        [prepare_multimodal_messages(question(), images)], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    wanted = processor.tokenizer.encode(PROMPTS[family], add_special_tokens=False)
    assert list(encoded["input_ids"][0]) == wanted
    inputs = batch_inputs(processor, [{"prompt": question(), "images": images}])
    assert inputs["input_ids"][0].tolist() == wanted
    rows = split_images(inputs | {"num_tiles": [4] if family == "internvl" else None}, [2]) or []
    first, second = pixels_of_each(family, rows[0]["pixel_values"])  # type: ignore[index]
    assert first.mean() < second.mean()  # the second image is the brighter one


@pytest.mark.parametrize("family", FAMILIES)
def test_vision_tokens_are_those_of_the_prompt_and_no_others(folder: Any, family: str) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder(family))
    processor = AutoProcessor.from_pretrained(folder(family))
    found = processor.tokenizer.convert_ids_to_tokens(vision_token_ids(processor, model.config))
    plain = {"<|im_end|>", "<|im_start|>", "<|endoftext|>", "<end_of_utterance>", "<|begin_of_text|>", "</s>", "<s>"}
    plain |= {"<unk>", "<pad>", "<bos>", "<end_of_turn>", "<start_of_turn>"}
    assert set(found) == set(FAMILIES[family].special) - plain


@pytest.mark.parametrize("family", FAMILIES)
def test_lengths_of_prompts_are_those_of_the_processor(folder: Any, family: str) -> None:
    processor = AutoProcessor.from_pretrained(folder(family))
    task = get_task("count")
    shapes = [(56, 56), (112, 56), (56, 112), (80, 200), (300, 310)]  # heights and widths
    groups = [
        [shapes[i] for i in group] for group in ((0,), (1,), (2,), (3,), (0, 1), (2, 4), (3, 3), (4, 1), (1, 2, 3))
    ]
    wanted = []
    for group in groups:
        images = [Image.new("RGB", (width, height)) for height, width in group]
        row = prepare_multimodal_messages(build_prompt(task, len(group)), images)
        encoded = processor.apply_chat_template([row], add_generation_prompt=True, tokenize=True, return_dict=True)
        wanted.append(len(encoded["input_ids"][0]))
    assert prompt_lengths(task, groups, processor).tolist() == wanted


def test_lengths_that_a_processor_only_estimates_are_measured(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = AutoProcessor.from_pretrained(folder("qwen3_vl"))
    groups = [[(64, 64), (64, side)] for side in (64, 128, 192, 64, 320)]
    wanted = prompt_lengths(get_task("count"), groups, processor).tolist()
    assert len(set(wanted)) > 1
    guess = MultiModalData(num_image_tokens=[7], num_image_patches=[1])
    monkeypatch.setattr(type(processor), "_get_num_multimodal_tokens", lambda *_, **__: guess)
    assert prompt_lengths(get_task("count"), groups, processor).tolist() == wanted


def test_an_image_cannot_be_the_last_token_of_a_shared_prompt(folder: Any) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder("internvl"))
    ids = torch.tensor([[5, model.config.image_token_id, 6]])
    images: Any = [{"pixel_values": torch.zeros(1, 3, 56, 56)}]
    with pytest.raises(ValueError, match="last token of a prompt must be text"):
        answer_log_probs(
            model,
            model,
            ids,
            attention_mask=torch.ones_like(ids),
            completion_length=1,
            dtype=torch.float32,
            images=images,
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_that_stand_apart_are_told(folder: Any, family: str, caplog: pytest.LogCaptureFixture) -> None:
    processor = AutoProcessor.from_pretrained(folder(family))
    logging.getLogger("transformers").propagate = True  # transformers keeps its lines to itself
    inputs_module.logger.warning_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        prompt_lengths(get_task("count"), [[(56, 56), (56, 56)]], processor)
    assert ("moves images away from their labels" in caplog.text) == (family == "llava_next")


def test_the_page_of_the_docs_is_up_to_date() -> None:
    """`python -m tests.families` writes it."""
    assert families.PAGE.read_text(encoding="utf-8") == families.page()
