"""Preprocess each image once, however often a step of training asks for it.

GRPO repeats a prompt for each of its answers and preprocesses the images of all of them twice, to sample and to score.
"""

import contextlib
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature

FIELDS = ["pixel_values", "image_grid_thw"]
"""What image processors of the Qwen-VL family give: patches of all images in a row, and a grid for each."""


class ImageMemo:
    """An image processor that remembers what it made of each image. Anything but calls goes to the processor.

    Images are the same if they are one object, or have the same pixels. It holds all it was given: drop it soon.

    Args:
        image_processor: One that gives [`FIELDS`][rarl.shared_prefix.image_memo.FIELDS].
    """

    def __init__(self, image_processor: Any) -> None:
        self._image_processor = image_processor
        self._keys: dict[int, tuple[Image.Image, Any]] = {}  # the image is held, so that its id stays its own
        self._made: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._image_processor, name)

    def __call__(self, images: Any, **kwargs: Any) -> Any:
        """What the image processor gives for images, PIL, in a list or a list of lists."""
        flat = _flat(images)
        if not flat or not all(isinstance(image, Image.Image) for image in flat):
            return self._image_processor(images, **kwargs)
        settings = repr(sorted((name, value) for name, value in kwargs.items() if name != "return_tensors"))
        keys = [(self._key(image), settings) for image in flat]
        new = {key: image for key, image in zip(keys, flat, strict=True) if key not in self._made}
        if new:
            made = self._image_processor(list(new.values()), **{**kwargs, "return_tensors": "pt"})
            grids = made["image_grid_thw"]
            pixels = torch.split(made["pixel_values"], grids.prod(dim=-1).tolist())
            self._made.update(zip(new, zip(pixels, grids, strict=True), strict=True))
        pixel_values, grids = zip(*(self._made[key] for key in keys), strict=True)
        data = {"pixel_values": torch.cat(pixel_values), "image_grid_thw": torch.stack(grids)}
        return BatchFeature(data, tensor_type=kwargs.get("return_tensors"))

    def _key(self, image: Image.Image) -> Any:
        if id(image) not in self._keys:
            # Other modes have palettes or transparency beside their pixels.
            same = (image.size, blake2b(image.tobytes()).digest()) if image.mode == "RGB" else id(image)
            self._keys[id(image)] = image, same
        return self._keys[id(image)][1]


def _flat(images: Any) -> list[Any]:
    return [leaf for part in images for leaf in _flat(part)] if isinstance(images, (list, tuple)) else [images]


@contextlib.contextmanager
def images_processed_once(processor: Any) -> Iterator[None]:
    """Within the context, a processor whose image processor gives [`FIELDS`][rarl.shared_prefix.image_memo.FIELDS]
    preprocesses each image once."""
    image_processor = getattr(processor, "image_processor", None)
    if getattr(image_processor, "model_input_names", None) != FIELDS:
        yield
        return
    processor.image_processor = ImageMemo(image_processor)
    try:
        yield
    finally:
        processor.image_processor = image_processor
