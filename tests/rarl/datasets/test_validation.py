from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from trl.data_utils import prepare_multimodal_messages

from rarl.datasets import BuiltinSource, FolderSource, check_context, check_groups, make_dataset
from rarl.inputs import prompt_lengths

SHAPES = [(20, 30), (56, 56), (100, 333), (900, 640), (57, 83), (700, 90), (448, 448), (1200, 1300)]


def photos(folder: Path, **bounds: int) -> FolderSource:
    lines = ["file,value"]
    for number, (height, width) in enumerate(SHAPES):
        Image.new("RGB", (width, height), (number, 0, 0)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{number}")
    (folder / "t.csv").write_text("\n".join(lines))
    return FolderSource(folder, folder / "t.csv", "count", **bounds)


def real_length(row: dict[str, Any], processor: Any) -> int:
    messages = prepare_multimodal_messages(row["prompt"], images=row["images"])
    inputs = processor.apply_chat_template(
        [messages], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return inputs["input_ids"].shape[1]


@pytest.mark.parametrize("bounds", [{}, {"max_pixels": 200 * 200}, {"min_pixels": 500 * 500, "max_pixels": 600 * 600}])
def test_lengths_are_those_of_the_processor(tmp_path: Path, processor: Any, bounds: dict[str, int]) -> None:
    # The tiny processor has bounds of its own, tighter than the first and the last of these.
    source = photos(tmp_path, **bounds)
    dataset = make_dataset(source, np.arange(8), 6, mix={1: 1.0, 2: 1.0, 4: 1.0})
    groups = dataset.with_format(None)["images"]
    lengths = prompt_lengths(source.task, [[source.size(i) for i in group] for group in groups], processor)
    assert lengths.tolist() == [real_length(row, processor) for row in dataset]
    assert len(set(lengths)) > 3


def test_context_limit_is_exact_and_names_the_sample(tmp_path: Path, processor: Any) -> None:
    source = photos(tmp_path)
    dataset = make_dataset(source, np.arange(8), 5, mix={1: 1.0, 3: 1.0}, seed=1)
    lengths = [real_length(row, processor) for row in dataset]
    longest = int(np.argmax(lengths))
    context = lengths[longest] + 50
    check_context(dataset, processor, context, max_completion_length=50)
    with pytest.raises(ValueError) as caught:
        check_context(dataset, processor, context, max_completion_length=51)
    message = str(caught.value)
    files = ", ".join(source.name(i) for i in dataset.with_format(None)["images"][longest])
    assert message.startswith(f"Row {longest} ({files}): the prompt has {lengths[longest]} tokens")
    assert f"at most {lengths[longest] - 1} fit beside 51 tokens" in message
    assert f"a context of {context}" in message
    check_context(dataset.select([lengths.index(min(lengths))]), processor, min(lengths) + 51, max_completion_length=51)


def test_groups_of_a_stream(processor: Any) -> None:
    source = BuiltinSource(size=10)
    check_groups(source, [[0, 1], [2]], processor, max_position_embeddings=4096, max_completion_length=256)
    with pytest.raises(ValueError, match=r"Row 0 \(count-0-0\.png, count-0-1\.png\).*2 of 2 rows"):
        check_groups(source, [[0, 1], [2]], processor, max_position_embeddings=270, max_completion_length=256)


def test_context_of_a_foreign_dataset_is_a_type_error(processor: Any) -> None:
    with pytest.raises(TypeError, match="make_dataset"):
        check_context(Dataset.from_dict({"prompt": ["a"]}), processor, 10, max_completion_length=1)
