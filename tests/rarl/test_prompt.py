"""Prompts, and the perfect completions that belong to them."""

import json

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from rarl.answer import is_formatted, parse_answer
from rarl.prompt import SYSTEM_PROMPT, answer_list, build_completion, build_prompt, list_reasoning
from rarl.task import get_task


@pytest.mark.parametrize("num_images", [1, 2, 8])
def test_prompt_labels_each_image_in_place(num_images: int) -> None:
    system, user = build_prompt(get_task("age"), num_images)
    assert (system["role"], user["role"]) == ("system", "user")
    assert system["content"] == [{"type": "text", "text": SYSTEM_PROMPT}]
    blocks = user["content"]
    assert [block["type"] for block in blocks] == ["text", "image"] * num_images + ["text"]
    for index in range(num_images):
        assert blocks[2 * index]["text"] == f"Image {index + 1}: "
    instruction = blocks[-1]["text"]
    assert instruction.count("age in years") == 3 and "(integer from 0 to 116)" in instruction
    assert '[{"image_id": number, "value": value}, ...]' in instruction


def test_prompt_refuses_no_images() -> None:
    with pytest.raises(ValueError, match="got 0"):
        build_prompt(get_task("age"), 0)


def test_prompts_go_through_arrow_unchanged() -> None:
    prompts = [build_prompt(get_task(name), num_images) for name in ("age", "count") for num_images in (1, 4)]
    assert list(Dataset.from_list([{"prompt": prompt} for prompt in prompts])["prompt"]) == prompts


def test_completion_by_hand() -> None:
    task = get_task("age")
    assert list_reasoning([30, 4], task) == "Image 1: 30, Image 2: 4"
    assert build_completion([30, 4], task) == (
        "<think>Image 1: 30, Image 2: 4</think>"
        '<answer>[{"image_id": 2, "value": 4}, {"image_id": 1, "value": 30}]</answer>'
    )
    assert build_completion([4], task, reasoning="") == '<think></think><answer>[{"image_id": 1, "value": 4}]</answer>'
    assert [item["image_id"] for item in json.loads(answer_list([5, 3, 5, 3], task))] == [2, 4, 1, 3]


@given(st.lists(st.integers(0, 116), min_size=1, max_size=12))
def test_completion_reads_back(values: list[int]) -> None:
    text = build_completion(values, get_task("age"))
    answer = parse_answer(text, len(values))
    assert is_formatted(text, len(values)) and answer.values() == values
    assert answer.order is not None
    listed = [values[image_id - 1] for image_id in answer.order]
    assert listed == sorted(values)


@given(st.lists(st.floats(1, 10).map(lambda value: round(value, 6)), min_size=1, max_size=12))
def test_float_completion_reads_back(values: list[float]) -> None:
    text = build_completion(values, get_task("aesthetics"))
    assert parse_answer(text, len(values)).values() == values
