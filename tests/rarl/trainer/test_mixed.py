"""Which rows have images is known before training."""

import numpy as np
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature

from rarl.datasets import BuiltinSource, make_dataset
from rarl.trainer.mixed import rows_with_images


def rows_with(images: list[list[str] | None]) -> Dataset:
    # The paths lead nowhere: decoding any of them would fail.
    features = Features({"prompt": Value("string"), "images": List(ImageFeature())})
    return Dataset.from_dict({"prompt": ["x"] * len(images), "images": images}, features=features)


def test_which_rows_have_images_is_known_without_decoding() -> None:
    rows = rows_with([["/nowhere/a.png"], [], ["/nowhere/a.png", "/nowhere/b.png"], None])
    assert rows_with_images(rows).tolist() == [True, False, True, False]
    assert rows_with_images(rows.select([2, 3])).tolist() == [True, False]
    assert rows_with_images(Dataset.from_dict({"prompt": ["text", "only"]})).tolist() == [False, False]
    assert rows_with_images(make_dataset(BuiltinSource(size=4), np.arange(4), 3, mix={1: 1.0, 2: 1.0})).all()
    features = Features({"image": ImageFeature()})
    images = Dataset.from_dict({"image": [None, "/nowhere/a.png"]}, features=features)
    assert rows_with_images(images).tolist() == [False, True]
    many = rows_with([[]] * 1500 + [["/nowhere/a.png"]])
    assert rows_with_images(many).tolist() == [False] * 1500 + [True]
    assert rows_with_images(Dataset.from_dict({"images": [None, None]})).tolist() == [False, False]
