"""The one place where image bytes become bounded RGB pixels.

Reading and bounding are two steps: [`decode`] gives an upright image in full size, [`bound`] resizes it with
qwen-vl-utils as Qwen2.5-VL does. Bounds are arguments of every call and never kept between images.
"""

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import requests
from PIL import Image, ImageOps
from qwen_vl_utils import fetch_image, smart_resize
from qwen_vl_utils.vision_process import IMAGE_MAX_TOKEN_NUM, IMAGE_MIN_TOKEN_NUM

PATCH_FACTOR = 28
"""Side in pixels of the square that becomes one token in Qwen2.5-VL: 14-pixel patches, merged 2 x 2."""

URL_TIMEOUT = 30.0
"""Seconds without a byte from the server after which a download fails."""

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow and a download raise on missing, broken or hostile images."""


class ImageError(ValueError):
    """An image that cannot be read or bounded; the message names it."""


def is_url(location: str) -> bool:
    """Whether a location is an http(s) address; anything else is a path."""
    return location.lower().startswith(("http://", "https://"))


def read_bytes(location: str) -> bytes:
    """The bytes behind a path or an http(s) URL.

    Raises:
        OSError: If the file is missing or the server does not answer with it (requests' errors are `OSError`s).
    """
    if not is_url(location):
        return Path(location).read_bytes()
    response = requests.get(location, timeout=URL_TIMEOUT)
    response.raise_for_status()
    return response.content


def decode(data: bytes) -> Image.Image:
    """Image bytes as a fully decoded, upright image in mode RGB or RGBA.

    The EXIF orientation is applied, transparency of any mode (palette and grey included) becomes an alpha channel, and
    16-bit grey is scaled to 8 bits, where Pillow alone would clip it to white.

    Raises:
        OSError, SyntaxError, ValueError, ...: Any of `UNREADABLE`, if the bytes are not a whole image.
    """
    with Image.open(BytesIO(data)) as opened:
        image = ImageOps.exif_transpose(opened)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; wanted an image of 8 or 16 bits per channel")
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64)
        image = Image.fromarray(np.clip(np.rint(deep / 257), 0, 255).astype(np.uint8))
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def pixel_bounds(min_pixels: int | None, max_pixels: int | None) -> tuple[int, int]:
    """Both bounds with their defaults: 4 tokens and 16 384 tokens, as in qwen-vl-utils.

    Raises:
        ValueError: If no image can satisfy them.
    """
    largest = IMAGE_MAX_TOKEN_NUM * PATCH_FACTOR**2 if max_pixels is None else max_pixels
    smallest = min(IMAGE_MIN_TOKEN_NUM * PATCH_FACTOR**2, largest) if min_pixels is None else min_pixels
    if largest < PATCH_FACTOR**2 or not 0 < smallest <= largest:
        raise ValueError(
            f"Image bounds must satisfy 0 < min_pixels <= max_pixels and max_pixels >= {PATCH_FACTOR**2} (one token), "
            f"got min_pixels={smallest}, max_pixels={largest}."
        )
    return smallest, largest


def bounded_size(height: int, width: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """`(height, width)` that [`bound`] gives an image: multiples of 28 whose product is within the bounds.

    Raises:
        ValueError: If the image is too elongated for the bounds.
    """
    rows, columns = smart_resize(height, width, PATCH_FACTOR, min_pixels=min_pixels, max_pixels=max_pixels)
    if not rows or not columns:
        raise ValueError(
            f"an image of {height} x {width} is too elongated for max_pixels={max_pixels}: one side would be 0"
        )
    return rows, columns


def bound(image: Image.Image, min_pixels: int, max_pixels: int) -> Image.Image:
    """`image` over white where it is transparent, resized to [`bounded_size`], in RGB."""
    return fetch_image({"image": image, "min_pixels": min_pixels, "max_pixels": max_pixels})
