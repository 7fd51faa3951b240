"""Medians and means of numbers in digits, against distributions from scoring whole answers."""

import json
import math
import re
import statistics
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer
from typer.testing import CliRunner

from gor_head.vocabulary import CoDiVocabulary
from rarl import tiny
from rarl.answer import parse_answer
from rarl.answer_format import write_completion, write_list
from rarl.cli import app
from rarl.datasets import load_source
from rarl.evaluation.codes import chosen_decode
from rarl.evaluation.decoding import (
    CHOICES,
    NumberLogits,
    choose_answers,
    mean,
    median,
    median_of_samples,
    mode,
    sampled_medians,
    write_values,
)
from rarl.evaluation.generate import generate_answers
from rarl.evaluation.heldout import heldout_prompts
from rarl.evaluation.protocol import evaluate
from rarl.evaluation.reports import Report
from rarl.inputs import batch_inputs
from rarl.number_trie import NumberTrie
from rarl.prompt import build_completion
from rarl.task import get_task
from tests.paths import DATA

COUNT = get_task("count")
FILES = DATA / "qwen2_5_vl_tokenizer"
SETTINGS: dict[str, Any] = {"max_new_tokens": 160, "progress": False}


@cache
def loaded() -> tuple[Any, Any]:
    return tiny.load(dtype=torch.float32)


@cache
def prompts(num_images: int, num_prompts: int = 3) -> list[dict[str, Any]]:
    images = load_source("builtin", "count", size=100, seed=0)
    datasets, _ = heldout_prompts(images, "test", [num_images], num_prompts=num_prompts, min_gap=0, seed=1)
    return list(datasets[num_images])


@torch.no_grad()
def scored(row: dict[str, Any], answer: str) -> tuple[list[int], torch.Tensor]:
    """Ids of an answer, and the log-probabilities of the next token before each of them, in one plain pass."""
    model, processor = loaded()
    model.model.rope_deltas = None
    ids = processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
    inputs = batch_inputs(processor, [row], [answer])
    logits = model.eval()(**inputs).logits[0, -len(ids) - 1 : -1].double()
    return ids, logits.log_softmax(dim=-1)


def brute_force(row: dict[str, Any], before: list[int], image: int) -> torch.Tensor:
    """The distribution over all numbers of `count` of one image, from a whole answer for each of them; where a number
    is a prefix of another one, the restriction to legal numbers is spelt out."""
    _, processor = loaded()
    size = len(row["images"])
    one = processor.tokenizer.convert_tokens_to_ids("Ġ1")
    zero = processor.tokenizer.convert_tokens_to_ids("0")
    tokens = processor.tokenizer.convert_ids_to_tokens(range(processor.tokenizer.vocab_size))
    digits = [number for number, token in enumerate(tokens) if re.match(r"[0-9]|\.[0-9]*$", token)]
    joint = []
    for number in range(11):
        ids, log_probs = scored(row, build_completion([*before, number, *[5] * (size - image)], COUNT))
        start = [place for place, token in enumerate(processor.tokenizer.convert_ids_to_tokens(ids)) if token == ":"][
            image - 1
        ] + 1
        probability = float(log_probs[start, ids[start]])
        if ids[start] == one:
            after = log_probs[start + 1].exp()
            no_number = float(after.sum() - after[digits].sum())
            chosen = float(after[zero]) if number == 10 else no_number
            probability += math.log(chosen / (float(after[zero]) + no_number))
        joint.append(probability)
    return torch.tensor(joint, dtype=torch.float64).log_softmax(dim=0)


def chosen_by_brute_force(row: dict[str, Any], decode: str) -> list[float]:
    """Values of all images of a prompt, each number given those before it."""
    numbers = torch.arange(11, dtype=torch.float64)
    before: list[int] = []
    values = []
    for image in range(1, len(row["images"]) + 1):
        log_probs = brute_force(row, before, image)
        if decode == "mode":
            number = int(log_probs.argmax())
            values.append(float(number))
        elif decode == "median":
            number = next(n for n in range(11) if float(log_probs[: n + 1].exp().sum()) >= 0.5)
            values.append(float(number))
        else:
            exact = float(log_probs.exp() @ numbers)
            number = round(exact)
            values.append(float(f"{exact:.4g}"))
        before.append(number)
    return values


def stated(answer: str, num_images: int) -> list[float]:
    values: list[float] = [math.nan] * num_images
    for item in json.loads(answer.split("<answer>")[1].removesuffix("</answer>")):
        values[item["image_id"] - 1] = item["value"]
    return values


def chosen(*args: Any, **settings: Any) -> list[str]:
    return choose_answers(*args, **settings).texts


@pytest.mark.parametrize("decode", ["mode", "median", "mean"])
@pytest.mark.parametrize("num_images", [1, 4])
def test_choices_equal_brute_force(decode: Any, num_images: int) -> None:
    rows = prompts(num_images)
    answers = chosen(*loaded(), rows, task="count", decode=decode, batch_size=2, **SETTINGS)
    for row, answer in zip(rows, answers, strict=True):
        assert stated(answer, num_images) == pytest.approx(chosen_by_brute_force(row, decode), abs=2e-3)


def test_distributions_equal_whole_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = prompts(1)
    seen: list[torch.Tensor] = []

    def keep(log_probs: torch.Tensor, numbers: torch.Tensor) -> tuple[int, float]:
        seen.append(log_probs)
        return median(log_probs, numbers)

    monkeypatch.setitem(CHOICES, "median", keep)
    chosen(*loaded(), rows, task="count", decode="median", batch_size=3, **SETTINGS)
    wanted = [brute_force(row, [], 1) for row in rows]
    assert len(seen) == 3
    for log_probs in seen:  # batches are of like size, so in another order
        gaps = [float((log_probs.double() - other).abs().max()) for other in wanted]
        assert min(gaps) < 1e-4


@pytest.mark.parametrize("decode", ["median", "mean"])
def test_batches_do_not_matter(decode: Any) -> None:
    rows = [*prompts(1), *prompts(4), *prompts(2)]
    answers = [chosen(*loaded(), rows, task="count", decode=decode, batch_size=size, **SETTINGS) for size in (1, 4, 9)]
    assert answers[0] == answers[1] == answers[2]


def test_copies_of_the_cache_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = prompts(2)
    whole = chosen(*loaded(), rows, task="brightness", decode="median", **SETTINGS)
    monkeypatch.setattr("rarl.evaluation.decoding.PAIRS", 5)
    assert chosen(*loaded(), rows, task="brightness", decode="median", **SETTINGS) == whole


def test_a_resolution_is_kept() -> None:
    answers = chosen(*loaded(), prompts(2), task="brightness", decode="median", resolution=0.25, **SETTINGS)
    assert {value for answer in answers for value in stated(answer, 2)} <= {0, 0.25, 0.5, 0.75, 1}


def test_answers_are_built_of_the_values() -> None:
    for answer in chosen(*loaded(), prompts(4), task="count", decode="median", **SETTINGS):
        values = stated(answer, 4)
        assert answer == build_completion(values, COUNT)


def test_an_answer_that_states_too_little_stays_as_it_is() -> None:
    """Cut off after the first number: greedy up to there, then the median."""
    rows = prompts(2)
    [whole] = chosen(*loaded(), rows[:1], task="count", decode="median", **SETTINGS)
    [cut] = chosen(*loaded(), rows[:1], task="count", decode="median", max_new_tokens=5, progress=False)
    assert cut != whole and whole.startswith(cut)
    [greedy] = generate_answers(*loaded(), rows[:1], max_new_tokens=3, progress=False)
    assert cut.startswith(greedy)


def test_numbers_of_the_list_count_where_the_reasoning_states_none() -> None:
    """Which place is the beginning of a number, text by text."""
    _, processor = loaded()
    trie = NumberTrie.of(processor, COUNT)

    def begun(*texts: str, num_images: int = 2) -> list[int | None]:
        numbers = NumberLogits(None, trie, median, num_images=[num_images], cache=None, mask=torch.ones(1, 1), end=0)
        images = []
        for text in texts:
            image = numbers._begun(0, processor.tokenizer(text, add_special_tokens=False)["input_ids"])
            images.append(image)
            if image is not None:
                numbers.values[0][image] = 0.0
        return images

    item = '[{{"image_id": {}, "value":'.format
    assert begun("<think>Image 1:", ", Image 2:", item(1)) == [1, 2, None]
    assert begun("<think>It is so.", item(2), item(1)) == [None, 2, 1]
    assert begun("<think>Image 1:", item(1), item(2)) == [1, None, None]
    assert begun("Image 1:", "Image 1:", "Image 3:", "Image 0:", "image 2:", "Image 2: ") == [1, *[None] * 5]


@pytest.mark.skipif(not FILES.is_dir(), reason="Qwen2.5-VL's tokenizer files not present")
def test_a_blank_of_its_own_comes_before_the_number() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FILES)
    trie = NumberTrie.of(tokenizer, COUNT)
    numbers = NumberLogits(None, trie, median, num_images=[2], cache=None, mask=torch.ones(1, 1), end=0)
    texts = ("Image 2:", "Image 2: ", '[{"image_id": 1, "value":', '[{"image_id": 1, "value": ')
    assert [numbers._begun(0, tokenizer(text)["input_ids"]) for text in texts] == [None, 2, None, 1]


def test_mode_median_and_mean_by_hand() -> None:
    numbers = torch.tensor([0.0, 1, 2, 10], dtype=torch.float64)
    even = torch.tensor([0.25, 0.25, 0.25, 0.25]).log()
    assert median(even, numbers) == (1, 1.0)
    assert mean(even, numbers) == (2, 3.25)
    assert median(torch.tensor([0.1, 0.2, 0.2, 0.5], dtype=torch.float64).log(), numbers) == (2, 2.0)
    assert median(torch.tensor([0.0, 0, 0, 1]).log(), numbers) == (3, 10.0)
    assert mean(torch.tensor([0.5, 0.5, 0, 0]).log(), numbers) == (0, 0.5)
    third = torch.tensor([1 / 3, 1 / 3, 1 / 3, 0], dtype=torch.float64).log()
    assert mean(torch.tensor([2 / 3, 1 / 3, 0, 0], dtype=torch.float64).log(), numbers) == (0, 0.3333)
    assert median(third, numbers) == (1, 1.0)
    assert mode(third, numbers) == (0, 0.0)
    assert mode(torch.tensor([0.3, 0.2, 0.5, 0]).log(), numbers) == (2, 2.0)


def test_median_of_samples_by_hand() -> None:
    texts = [build_completion(values, COUNT) for values in ([1, 9], [2, 7], [8, 8])]
    assert median_of_samples(texts, 2, COUNT) == (build_completion([2, 8], COUNT), 0)
    assert median_of_samples([*texts, "nothing"], 2, COUNT) == (build_completion([2, 8], COUNT), 1)
    assert median_of_samples(["no", "none"], 2, COUNT) == ("no", 2)
    part = '<think></think><answer>[{"image_id": 2, "value": 4}]</answer>'
    assert median_of_samples([part, "x", part], 2, COUNT) == (part, 1)
    assert median_of_samples([part, texts[0]], 2, COUNT) == (build_completion([1, 4], COUNT), 0)


def test_written_values() -> None:
    assert write_values([3, 1], COUNT) == build_completion([3, 1], COUNT)
    assert write_values([5, None, 2], COUNT) == (
        '<think></think><answer>[{"image_id": 3, "value": 2}, {"image_id": 1, "value": 5}]</answer>'
    )


def test_sampled_medians_are_seeded_and_leave_other_random_numbers_alone() -> None:
    rows = prompts(2)

    def sample(seed: int, num_samples: int = 5) -> Any:
        return sampled_medians(*loaded(), rows, task="count", seed=seed, num_samples=num_samples, **SETTINGS)

    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = sample(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert sample(0) == first
    assert any(sample(seed).texts != first.texts for seed in (1, 2, 3))
    assert len(first.texts) == 3
    # One sample is its own median.
    assert all(text == build_completion(stated(text, 2), COUNT) for text in sample(0, 1).texts)


def test_sampled_medians_come_near_the_medians_of_the_distribution() -> None:
    rows = prompts(1, 2)
    sampled = sampled_medians(*loaded(), rows, task="count", num_samples=200, **SETTINGS)
    exact = chosen(*loaded(), rows, task="count", decode="median", **SETTINGS)
    gaps = [abs(stated(one, 1)[0] - stated(other, 1)[0]) for one, other in zip(sampled.texts, exact, strict=True)]
    assert statistics.mean(gaps) <= 1


@pytest.mark.parametrize("decode", ["mode", "median", "mean", "sampled_median"])
def test_reports(decode: Any) -> None:
    images = load_source("builtin", "count", size=100, seed=0)
    datasets, _ = heldout_prompts(images, "test", [1, 2], num_prompts=3, min_gap=0, seed=1)
    report = evaluate(*loaded(), datasets, task="count", decode=decode, num_samples=3, **SETTINGS)
    assert report.failure_rate == 0 and report.num_prompts == {1: 3, 2: 3}
    assert (report.unreadable_samples is not None) == (decode == "sampled_median")
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_ways_to_decode() -> None:
    coded = COUNT.with_vocabulary(CoDiVocabulary([1, 2, 4, 8]))
    for decode in ("expectation", "", "Median"):
        with pytest.raises(
            ValueError, match=f"decode: wanted greedy, mode, median, mean, sampled_median, got '{decode}'"
        ):
            evaluate(None, None, {}, task=coded, decode=decode)  # type: ignore[arg-type]
    assert (chosen_decode(None, COUNT), chosen_decode(None, coded)) == ("greedy", "median")
    assert (chosen_decode("mean", COUNT), chosen_decode("greedy", coded)) == ("mean", "greedy")


def test_resolution_without_effect_is_refused() -> None:
    coded = COUNT.with_vocabulary(CoDiVocabulary([1, 2, 4, 8]))
    for task, decode in ((COUNT, "greedy"), (COUNT, "sampled_median"), (coded, "median"), (coded, None)):
        with pytest.raises(ValueError, match="resolution: has no effect where numbers are read as the model writes"):
            evaluate(None, None, {}, task=task, decode=decode, resolution=2)  # type: ignore[arg-type]


def test_medians_of_samples_are_the_same_in_digits_and_in_value_tokens() -> None:
    """What a sample says is not brought into the range, nor onto the codes."""
    coded = COUNT.with_vocabulary(CoDiVocabulary.for_language_model(range(11)))
    for value in ("60", "-3", "7"):
        texts = [write_completion("", write_list([(1, value)]))] * 3
        assert median_of_samples(texts, 1, COUNT) == median_of_samples(texts, 1, coded)
        assert parse_answer(median_of_samples(texts, 1, coded)[0], 1).values() == [float(value)]


def test_bad_numbers() -> None:
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        sampled_medians(None, None, [], task="count", num_samples=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        chosen(*loaded(), [], task="count", decode="median", batch_size=0)
    with pytest.raises(ValueError, match="resolution: wanted a positive number"):
        chosen(*loaded(), [], task="count", decode="median", resolution=0)


def test_command(tmp_path: Path) -> None:
    command = ["evaluate", "--model", "tiny", "--task", "count", "--size", "100", "--num-prompts", "2"]
    command += ["--num-images", "1", "--max-new-tokens", "60", "--output", str(tmp_path / "report.json")]
    result = CliRunner().invoke(app, [*command, "--decode", "sampled_median", "--num-samples", "2"])
    assert result.exit_code == 0, result.output
    assert "unreadable_samples" in json.loads((tmp_path / "report.json").read_text())
    dots = tmp_path / "dots.png"
    load_source("builtin", "count", size=1).load(0).save(dots)
    result = CliRunner().invoke(app, ["predict", str(dots), "--model", "tiny", "--task", "count", "--decode", "median"])
    assert result.exit_code != 0 and "writes digits" in result.output
