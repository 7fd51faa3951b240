"""What every data source gives: values, names, items and content hashes, and sizes of images, each by position."""

import copy
import logging
import unicodedata
from abc import ABC, abstractmethod
from hashlib import blake2b
from typing import Any, Self

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from rarl.answer_format import Kind
from rarl.datasets.images import REMARK, UNREADABLE, ImageError, bound, bounded_size, pixel_bounds, said
from rarl.task import OrdinalTask

logger = logging.getLogger(__name__)

_DIGEST_BYTES = 16
_LISTED = 10


def text_identity(text: str) -> bytes:
    """What identifies a text: it without what makes no other one of it, case, blanks, the form of its characters."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).encode("utf-8", "replace")


class ItemSource(ABC):
    """Items with one value each, images or texts, opened one at a time.

    In memory are values and, once known, 16 bytes of hash an item, and whatever else a source keeps. A source does not
    change after it was made, except that it learns hashes, sizes and `remarks`, what had to be assumed about an item or
    left out, such as all frames but the first; [`verify`][rarl.datasets.source.verify] learns all of them in one pass.

    `values` are the truth, which tests go by. `labels` are what raters said, which training sees where there are any:
    [`rated`][rarl.datasets.source.ItemSource.rated] is the source that training reads.

    Args:
        task: What the values measure; of the kind of the source.
        values: Float [n], already checked against the task's range.
        labels: Float [n], what raters said of each item, within the task's range; `None` if that is the values.

    Raises:
        ValueError: If there is no item, or the task judges items of another kind.
    """

    kind: Kind

    def __init__(self, task: OrdinalTask, values: Any, labels: Any = None) -> None:
        self.check_kind(task)
        self.task = task
        self.values = np.asarray(values, dtype=np.float64)
        self.labels = self.values if labels is None else np.asarray(labels, dtype=np.float64)
        self.is_rated = False
        if not len(self.values):
            raise ValueError(
                f"{type(self).__name__} for task {task.name!r} holds no {self.kind}s; wanted at least one."
            )
        self._digests = np.zeros((len(self.values), _DIGEST_BYTES), dtype=np.uint8)
        self._known = np.zeros(len(self.values), dtype=bool)
        self.remarks: dict[int, str] = {}

    @classmethod
    def check_kind(cls, task: OrdinalTask) -> None:
        """Refuse a task that judges items of another kind.

        Raises:
            ValueError: Names the source, the task and both kinds.
        """
        if task.kind != cls.kind:
            raise ValueError(
                f"{cls.__name__} holds {cls.kind}s, but task {task.name!r} judges {task.kind}s; wanted a task of kind "
                f"{cls.kind!r}."
            )

    def __len__(self) -> int:
        return len(self.values)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ItemSource":
        # `datasets` deep-copies a dataset, transform and source included, whenever its columns change.
        return self

    def with_task(self, task: OrdinalTask) -> Self:
        """The same items and values for another task.

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

    def rated(self) -> Self:
        """The same items with their labels for values: what training reads. No test can be made of it, as
        [`heldout_prompts`][rarl.evaluation.heldout.heldout_prompts] wants the truth; the source itself if nobody rated
        its items."""
        if self.labels is self.values:
            return self
        other = copy.copy(self)
        other.values, other.is_rated = self.labels, True
        return other

    @abstractmethod
    def name(self, i: int) -> str:
        """Name of item `i`, for messages."""

    @abstractmethod
    def load(self, i: int) -> Any:
        """Item `i` as prompts have it: an image, or a text."""

    @abstractmethod
    def identify(self, i: int) -> bytes:
        """The bytes that identify the content of item `i`, once it was opened and found to be usable."""

    def where(self, i: int) -> str:
        """Where item `i` comes from, as error messages begin."""
        return self.name(i)

    def content_hash(self, i: int) -> str:
        """Hash of the content of item `i` (32 hexadecimal digits), equal for equal ones under different names."""
        self._learn(i)
        return self._digests[i].tobytes().hex()

    def _learn(self, i: int) -> None:
        if not self._known[i]:
            digest = blake2b(self.identify(i), digest_size=_DIGEST_BYTES).digest()
            self._digests[i], self._known[i] = np.frombuffer(digest, dtype=np.uint8), True


class ImageSource(ItemSource):
    """Images with one value each.

    To add a source, subclass: call `super().__init__`, implement [`name`][rarl.datasets.source.ItemSource.name] and
    [`read`][rarl.datasets.source.ImageSource.read], and enter the class in [`SOURCES`][rarl.datasets.SOURCES].

    Args:
        task: What the values measure.
        values: Float [n], already checked against the task's range.
        min_pixels: Least height times width that an image is resized to; `None` is 3136.
        max_pixels: Largest height times width that an image is resized to; `None` is 12 845 056.
        labels: Float [n], what raters said of each image, within the task's range; `None` if that is the values.

    Raises:
        ValueError: If there is no image, the bounds contradict each other, or the task judges texts.
    """

    kind = "image"

    def __init__(
        self,
        task: OrdinalTask,
        values: Any,
        min_pixels: int | None = None,
        *,
        max_pixels: int | None = None,
        labels: Any = None,
    ) -> None:
        super().__init__(task, values, labels)
        self.min_pixels, self.max_pixels = pixel_bounds(min_pixels, max_pixels)
        self._sizes = np.zeros((len(self.values), 2), dtype=np.int32)

    @abstractmethod
    def read(self, i: int) -> tuple[Image.Image, bytes]:
        """Image `i` upright and in full size (RGB or RGBA), and the bytes that identify its content.

        May raise whatever it likes if it cannot; the caller adds the name.
        """

    def load(self, i: int) -> Image.Image:
        """Image `i` in RGB within the bounds.

        Raises:
            ImageError: If it cannot be read; the message names it.
        """
        try:
            return bound(self.read(i)[0], self.min_pixels, self.max_pixels)
        except UNREADABLE as error:
            raise self._image_error(i, error) from error

    def size(self, i: int) -> tuple[int, int]:
        """`(height, width)` in pixels of `load(i)`, so as the processor will see it."""
        self._learn(i)
        return int(self._sizes[i, 0]), int(self._sizes[i, 1])

    def identify(self, i: int) -> bytes:
        """The bytes of the file of image `i`; its size and remarks are learnt on the way.

        Raises:
            ImageError: If it cannot be read; the message names it.
        """
        try:
            image, content = self.read(i)
            size = bounded_size(image.height, image.width, min_pixels=self.min_pixels, max_pixels=self.max_pixels)
        except UNREADABLE as error:
            raise self._image_error(i, error) from error
        self._sizes[i] = size
        if image.info.get(REMARK):
            self.remarks[i] = image.info[REMARK]
        return content

    def _image_error(self, i: int, error: BaseException) -> ImageError:
        return ImageError(f"{self.where(i)}: wanted a readable image, got {type(error).__name__}: {said(error)}")


def verify(source: ItemSource, progress: bool = True) -> None:
    """Open every item once, and keep its content hash, and the size of an image, in the source.

    Images that are not used as they are, such as the first frame of many, are counted in a warning, which names the
    first ten.

    Args:
        source: The items to check.
        progress: Whether to draw a progress bar on stderr when that is a terminal.

    Raises:
        ImageError: If any image cannot be read; names the first ten and counts them all.
    """
    console = Console(stderr=True)
    steps = track(
        range(len(source)), f"Checking {source.kind}s", console=console, disable=not (progress and console.is_terminal)
    )
    problems: list[str] = []
    count = 0
    known = set(source.remarks)
    for i in steps:
        try:
            source.content_hash(i)
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
            "%d of %d %ss are not used as they are:\n%s%s",
            len(remarks),
            len(source),
            source.kind,
            "\n".join(remarks[:_LISTED]),
            more,
        )
