"""Faces named by their age, as the UTKFace collection names them."""

import logging
import re
from pathlib import Path

from PIL import Image

from rarl.datasets.images import decode, read_bytes
from rarl.datasets.source import ImageSource
from rarl.task import OrdinalTask, get_task

logger = logging.getLogger(__name__)

FILE_NAME = re.compile(r"([0-9]{1,3})_[01]_[0-4]_[0-9]{17}\.jpg(?:\.chip\.jpg)?")
"""`age_gender_race_timestamp.jpg`, with `.chip.jpg` behind it for the aligned crops; the time stamp has 17 digits."""


class UTKFaceSource(ImageSource):
    """Images of a folder named `age_gender_race_timestamp.jpg[.chip.jpg]`; the age is the value.

    Files whose names break the pattern are not used: their names are kept in `skipped` and their number is logged as
    a warning. Hidden files and subfolders are no images and are left out.

    Args:
        folder: Folder that holds the images.
        task: Task of the values, `"age"` unless you registered your own.
        min_pixels: Least height times width of a loaded image.
        max_pixels: Largest height times width of a loaded image.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no image with a well-formed name, or an age is outside the task's range.

    Example:

    ```python
    source = UTKFaceSource("UTKFace")
    source.values[0], source.name(0), source.skipped
    ```
    """

    def __init__(
        self,
        folder: str | Path,
        task: str | OrdinalTask = "age",
        min_pixels: int | None = None,
        *,
        max_pixels: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{folder}: wanted a folder of UTKFace images, but there is no such folder.")
        task = get_task(task)
        self._names: list[str] = []
        self.skipped: list[str] = []
        values: list[float] = []
        for name in sorted(path.name for path in self.folder.iterdir() if path.is_file()):
            match = FILE_NAME.fullmatch(name)
            if match:
                values.append(task.check_value(float(match[1]), str(self.folder / name)))
                self._names.append(name)
            elif not name.startswith("."):
                self.skipped.append(name)
        if self.skipped:
            logger.warning(
                "%s: skipped %d files whose names are not age_gender_race_timestamp.jpg[.chip.jpg], such as %s",
                self.folder,
                len(self.skipped),
                ", ".join(repr(name) for name in self.skipped[:6]),
            )
        if not values:
            raise ValueError(
                f"{folder}: no image named age_gender_race_timestamp.jpg[.chip.jpg] in this folder "
                f"({len(self.skipped)} files with other names); wanted at least one."
            )
        super().__init__(task, values, min_pixels, max_pixels=max_pixels)

    def name(self, i: int) -> str:
        return self._names[i]

    def where(self, i: int) -> str:
        return str(self.folder / self._names[i])

    def read(self, i: int) -> tuple[Image.Image, bytes]:
        data = read_bytes(self.where(i))
        return decode(data), data
