"""What every data source gives: values, names, bounded images, content hashes and sizes, each by position."""

import copy
import logging
from abc import ABC, abstractmethod
from hashlib import blake2b
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from rarl.datasets.images import REMARK, UNREADABLE, ImageError, bound, bounded_size, pixel_bounds, said
from rarl.task import OrdinalTask

logger = logging.getLogger(__name__)

_DIGEST_BYTES = 16
_LISTED = 10


class ImageSource(ABC):
    """Images with one value each, opened one at a time.

    In memory are names, values and, once known, 16 bytes of hash and 8 of size per image. A source does not change
    after it was made, except that it learns hashes, sizes and `remarks`, what had to be assumed about an image or left
    out, such as all frames but the first; [`verify`][rarl.datasets.source.verify] learns all of them in one pass.

    `values` are the truth, which tests go by. `labels` are what raters said, which training sees where there are any:
    [`rated`][rarl.datasets.source.ImageSource.rated] is the source that training reads.

    To add a source, subclass: call `super().__init__`, implement [`name`][rarl.datasets.source.ImageSource.name] and
    [`read`][rarl.datasets.source.ImageSource.read], and enter the class in [`SOURCES`][rarl.datasets.SOURCES].

    Args:
        task: What the values measure.
        values: Float [n], already checked against the task's range.
        min_pixels: Least height times width that an image is resized to; `None` is 3136.
        max_pixels: Largest height times width that an image is resized to; `None` is 12 845 056.
        labels: Float [n], what raters said of each image, within the task's range; `None` if that is the values.

    Raises:
        ValueError: If there is no image, or the bounds contradict each other.
    """

    def __init__(
        self,
        task: OrdinalTask,
        values: Any,
        min_pixels: int | None = None,
        *,
        max_pixels: int | None = None,
        labels: Any = None,
    ) -> None:
        self.task = task
        self.values = np.asarray(values, dtype=np.float64)
        self.labels = self.values if labels is None else np.asarray(labels, dtype=np.float64)
        self.is_rated = False
        if not len(self.values):
            raise ValueError(f"{type(self).__name__} for task {task.name!r} holds no images; wanted at least one.")
        self.min_pixels, self.max_pixels = pixel_bounds(min_pixels, max_pixels)
        self._digests = np.zeros((len(self.values), _DIGEST_BYTES), dtype=np.uint8)
        # A height of 0 says that hash and size of the image are not known yet.
        self._sizes = np.zeros((len(self.values), 2), dtype=np.int32)
        self.remarks: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.values)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ImageSource":
        # `datasets` deep-copies a dataset, transform and source included, whenever its columns change.
        return self

    def with_task(self, task: OrdinalTask) -> "ImageSource":
        """The same images and values for another task.

        Raises:
            ValueError: If it has another range: the values were checked against this one.
        """
        if (task.minimum, task.maximum, task.integer) != (self.task.minimum, self.task.maximum, self.task.integer):
            raise ValueError(
                f"Task {task.name!r}: wanted {self.task.value_range}, for which values were checked, got "
                f"{task.value_range}."
            )
        other = copy.copy(self)
        other.task = task
        return other

    def rated(self) -> "ImageSource":
        """The same images with their labels for values: what training reads. No test can be made of it, as
        [`heldout_prompts`][rarl.evaluation.heldout.heldout_prompts] wants the truth; the source itself if nobody rated
        its images."""
        if self.labels is self.values:
            return self
        other = copy.copy(self)
        other.values, other.is_rated = self.labels, True
        return other

    @abstractmethod
    def name(self, i: int) -> str:
        """File name of image `i`, for messages."""

    @abstractmethod
    def read(self, i: int) -> tuple[Image.Image, bytes]:
        """Image `i` upright and in full size (RGB or RGBA), and the bytes that identify its content.

        May raise whatever it likes if it cannot; the caller adds the name.
        """

    def where(self, i: int) -> str:
        """Where image `i` comes from, as error messages begin."""
        return self.name(i)

    def load(self, i: int) -> Image.Image:
        """Image `i` in RGB within the bounds.

        Raises:
            ImageError: If it cannot be read; the message names it.
        """
        try:
            return bound(self.read(i)[0], self.min_pixels, self.max_pixels)
        except UNREADABLE as error:
            raise self._image_error(i, error) from error

    def content_hash(self, i: int) -> str:
        """Hash of the content of image `i` (32 hexadecimal digits), equal for equal files under different names."""
        self._learn(i)
        return self._digests[i].tobytes().hex()

    def size(self, i: int) -> tuple[int, int]:
        """`(height, width)` in pixels of `load(i)`, so as the processor will see it."""
        self._learn(i)
        return int(self._sizes[i, 0]), int(self._sizes[i, 1])

    def _learn(self, i: int) -> None:
        if self._sizes[i, 0]:
            return
        try:
            image, content = self.read(i)
            size = bounded_size(image.height, image.width, min_pixels=self.min_pixels, max_pixels=self.max_pixels)
        except UNREADABLE as error:
            raise self._image_error(i, error) from error
        self._digests[i] = np.frombuffer(blake2b(content, digest_size=_DIGEST_BYTES).digest(), dtype=np.uint8)
        self._sizes[i] = size
        if image.info.get(REMARK):
            self.remarks[i] = image.info[REMARK]

    def _image_error(self, i: int, error: BaseException) -> ImageError:
        return ImageError(f"{self.where(i)}: wanted a readable image, got {type(error).__name__}: {said(error)}")


def verify(source: ImageSource, progress: bool = True) -> None:
    """Open and decode every image once, and keep its content hash and size in the source.

    Images that are not used as they are, such as the first frame of many, are counted in a warning, which names the
    first ten.

    Args:
        source: The images to check.
        progress: Whether to draw a progress bar on stderr when that is a terminal.

    Raises:
        ImageError: If any image cannot be read; names the first ten and counts them all.
    """
    console = Console(stderr=True)
    steps = track(
        range(len(source)), "Checking images", console=console, disable=not (progress and console.is_terminal)
    )
    problems: list[str] = []
    count = 0
    known = set(source.remarks)
    for i in steps:
        try:
            source.size(i)
        except ImageError as error:
            count += 1
            if count <= _LISTED:
                problems.append(str(error))
    if count:
        more = f"\n... and {count - _LISTED} more" if count > _LISTED else ""
        raise ImageError(f"{count} of {len(source)} images cannot be read:\n" + "\n".join(problems) + more)
    remarks = [f"{source.where(i)}: {remark}" for i, remark in source.remarks.items() if i not in known]
    if remarks:
        more = f"\n... and {len(remarks) - _LISTED} more" if len(remarks) > _LISTED else ""
        logger.warning(
            "%d of %d images are not used as they are:\n%s%s",
            len(remarks),
            len(source),
            "\n".join(remarks[:_LISTED]),
            more,
        )
