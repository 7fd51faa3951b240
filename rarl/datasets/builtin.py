"""Rendered images with known values: no file, no network, the same pixels on every machine.

`count` scatters white dots on a dark, noisy ground; `brightness` shades one disc. Image `i` of a source is a pure
function of `(task, seed, i)`, so nothing is kept in memory.
"""

import numpy as np
from PIL import Image

from rarl.task import OrdinalTask, get_task

IMAGE_SIZE = 56


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
    if int(value) > len(cells):
        raise ValueError(f"The built-in count images hold at most {len(cells)} dots, got {value:g}.")
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


RENDERERS = {"count": render_count, "brightness": render_brightness}
