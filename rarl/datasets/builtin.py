"""Rendered images with known values: no file, no network, the same pixels on every machine.

`count` scatters white dots on a dark, noisy ground; `brightness` shades one disc; `area` is the size of one, and most
are small. Image `i` of a source is a pure function of `(task, seed, i)`, so nothing is kept in memory.
"""

import zlib

import numpy as np
from PIL import Image

from gor_head.numbers import write_number
from rarl.datasets.raters import check_raters, draw_votes, mean_votes
from rarl.datasets.source import ImageSource
from rarl.task import OrdinalTask, get_task

IMAGE_SIZE = 56
RATERS = 1  # parts the random numbers of votes from those of values and images


def _ground(rng: np.random.Generator) -> np.ndarray:
    """A dark ground with a colour cast, a gradient and noise, float [h, w, 3] in 0..255."""
    ramp = np.linspace(-1.0, 1.0, IMAGE_SIZE)
    tilt = rng.uniform(-10, 10, size=2)
    plane = tilt[0] * ramp[:, None] + tilt[1] * ramp[None, :]
    ground = rng.uniform(20, 60, size=3) + plane[:, :, None]
    return ground + rng.normal(0, 6, size=(IMAGE_SIZE, IMAGE_SIZE, 3))


def _disc(centre: tuple[float, float], radius: float) -> np.ndarray:
    """Coverage of a disc with soft edges, float [h, w] in 0..1."""
    rows, columns = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE]
    distance = np.hypot(rows - centre[0], columns - centre[1])
    return np.clip(radius + 0.5 - distance, 0.0, 1.0)


def _blend(image: np.ndarray, coverage: np.ndarray, level: float) -> np.ndarray:
    return image * (1 - coverage[:, :, None]) + level * coverage[:, :, None]


def render_count(value: float, rng: np.random.Generator) -> Image.Image:
    """`value` white dots that do not touch, on a 56 x 56 image."""
    cells = [(row, column) for row in range(5) for column in range(5)]
    chosen = rng.permutation(len(cells))[: int(value)]
    image = _ground(rng)
    for index in chosen:
        row, column = cells[index]
        jitter = rng.uniform(-1.5, 1.5, size=2)
        centre = (row * 10.8 + 6.4 + jitter[0], column * 10.8 + 6.4 + jitter[1])
        image = _blend(image, _disc(centre, rng.uniform(2.2, 3.4)), rng.uniform(200, 255))
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


def render_brightness(value: float, rng: np.random.Generator) -> Image.Image:
    """One disc whose grey level rises linearly with `value` from 0 (darker than the ground) to 1 (white)."""
    image = _ground(rng)
    radius = rng.uniform(12, 22)
    centre = tuple(rng.uniform(radius, IMAGE_SIZE - radius, size=2))
    image = _blend(image, _disc((centre[0], centre[1]), radius), 10 + 245 * value)
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


def render_area(value: float, rng: np.random.Generator) -> Image.Image:
    """One white disc of `value` pixels."""
    image, radius = _ground(rng), np.sqrt(value / np.pi)
    row, column = rng.uniform(radius, IMAGE_SIZE - radius, size=2)
    image = _blend(image, _disc((row, column), radius), rng.uniform(200, 255))
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


RENDERERS = {"count": render_count, "brightness": render_brightness, "area": render_area}

LARGEST = {"count": 25, "brightness": 1, "area": int(np.pi * (IMAGE_SIZE / 2) ** 2)}
"""The largest value that an image can show, by task; the smallest is 0."""

AREA_LOGARITHM = (4.8, 1.1)
"""Mean and standard deviation of the logarithm of an area: half are under 122 pixels, one in fifty over 1 160."""


def draw_values(task: OrdinalTask, size: int, rng: np.random.Generator) -> np.ndarray:
    """True values of images, float64 `[size]`: log-normal and clipped to the range for `area`, else uniform."""
    if task.name == "area":
        return np.clip(np.rint(rng.lognormal(*AREA_LOGARITHM, size=size)), task.minimum, task.maximum)
    if task.integer:
        return rng.integers(int(task.minimum), int(task.maximum), size=size, endpoint=True).astype(np.float64)
    return np.round(rng.uniform(task.minimum, task.maximum, size=size), 2)


class BuiltinSource(ImageSource):
    """Images rendered on access, for tests, demonstrations and sanity checks.

    Value and image `i` depend on `(task, seed, i)` alone, so a larger source begins with the images of a smaller one.
    Values are uniform over the task's range (whole numbers for `count`, multiples of 0.01 for `brightness`), or have a
    long tail (`area`, whole numbers, log-normal). With `rater_noise`, the labels that training sees are means of noisy
    votes, drawn once an image, and depend on `raters` and the noise too; tests go by the values.

    Args:
        task: `"count"`, `"brightness"` or `"area"`.
        size: Number of images, at least 1.
        seed: Seed of values and images, at least 0.
        min_pixels: Least height times width of a loaded image; the images are rendered at 56 x 56.
        max_pixels: Largest height times width of a loaded image.
        rater_noise: Standard deviation of a vote about the true value, in units of the task; `None` for labels that are
            true.
        raters: Votes about each image, one if not given; see [`rarl.datasets.raters`][rarl.datasets.raters].

    Raises:
        ValueError: If the task has no renderer or a range that images cannot show, the size or seed is out of range,
            the noise is negative, or there are raters without noise.
    """

    def __init__(
        self,
        task: str | OrdinalTask = "count",
        size: int = 1000,
        seed: int = 0,
        *,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        rater_noise: float | None = None,
        raters: int | None = None,
    ) -> None:
        task = get_task(task)
        self.check_kind(task)
        check_raters(raters, rater_noise)
        if raters is not None and rater_noise is None:
            raise ValueError(f"raters: without rater_noise all say the same; wanted both, got raters={raters} alone.")
        if task.name not in RENDERERS:
            raise ValueError(f"No built-in images for task {task.name!r}; there are some for {', '.join(RENDERERS)}.")
        if task.minimum < 0 or task.maximum > LARGEST[task.name]:
            raise ValueError(
                f"Built-in images of task {task.name!r} show values from 0 to {LARGEST[task.name]}, got a range of "
                f"{write_number(task.minimum)} to {write_number(task.maximum)}."
            )
        if size < 1 or seed < 0:
            raise ValueError(f"Built-in images need size >= 1 and seed >= 0, got size={size}, seed={seed}.")
        self.seed = seed
        self._task_key = zlib.crc32(task.name.encode())
        rng = np.random.default_rng((seed, self._task_key))
        values = draw_values(task, size, rng)
        self._true_values = values  # the images show these, whatever raters say of them
        labels = None
        if rater_noise is not None:
            key = (seed, self._task_key, RATERS)
            votes = draw_votes(values, rater_noise, task, raters=raters or 1, seed=key)
            labels = mean_votes(votes, task)
        super().__init__(task, values, min_pixels, max_pixels=max_pixels, labels=labels)

    def name(self, i: int) -> str:
        return f"{self.task.name}-{self.seed}-{i}.png"

    def read(self, i: int) -> tuple[Image.Image, bytes]:
        rng = np.random.default_rng((self.seed, self._task_key, int(i)))
        image = RENDERERS[self.task.name](float(self._true_values[i]), rng)
        return image, image.tobytes()
