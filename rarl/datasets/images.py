"""The one place where image bytes become bounded RGB pixels.

Reading and bounding are two steps: [`decode`][rarl.datasets.images.decode] gives an upright image in full size,
[`bound`][rarl.datasets.images.bound] resizes it with qwen-vl-utils as Qwen2.5-VL does. Bounds are arguments of every
call and never kept between images.
"""

import re
from io import BytesIO
from pathlib import Path

import numpy as np
import requests
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile
from qwen_vl_utils import fetch_image, smart_resize
from qwen_vl_utils.vision_process import IMAGE_MAX_TOKEN_NUM, IMAGE_MIN_TOKEN_NUM

from rarl.datasets.files import Names

PATCH_FACTOR = 28
"""Side in pixels of the square that becomes one token in Qwen2.5-VL: 14-pixel patches, merged 2 x 2."""

URL_TIMEOUT = 30.0
"""Seconds without a byte from the server after which a download fails."""


def said(error: BaseException) -> str:
    """What an error of an image says, without the place in memory of what it was read from."""
    return re.sub(r"<_io\.\w+ object at 0x[0-9a-f]+>", "it", str(error))


UNREADABLE = Exception
"""What reading and decoding raise on missing, broken or hostile images: Pillow's plugins raise whatever comes up."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""

REMARK = "remark"
"""Key in `info` of a decoded image: what had to be assumed or left out, in words."""

MAX_SAMPLE_VALUE, PHOTOMETRIC_INTERPRETATION = 281, 262
"""Numbers of the TIFF tags that say which is the largest pixel, and whether it is white (1) or black (0)."""

DARK = 16
"""Grey level of 256 below which an image of 16 bits has lost nearly all its range."""


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
        return Path(Names(Path()).find(location) or location).read_bytes()
    response = requests.get(location, timeout=URL_TIMEOUT)
    response.raise_for_status()
    return response.content


def decode(data: bytes) -> Image.Image:
    """Image bytes as a fully decoded, upright image in mode RGB or RGBA.

    The EXIF orientation is applied, transparency of any mode (palette and grey included) becomes an alpha channel, and
    16-bit grey is scaled to 8 bits, where Pillow alone would clip it to white: from the file's own maximum if it is a
    TIFF that states one, else from 65535. If that would leave the image all but black, 12 bits (or 8) are assumed. Of
    several frames or pages the first is taken. What was assumed or left out is `info["remark"]` of the image.

    Raises:
        Exception: Whatever Pillow raises, if the bytes are not a whole image.
    """
    with Image.open(BytesIO(data)) as opened:
        remarks = [_of_frames(opened)]
    with Image.open(BytesIO(data)) as opened:  # anew: whoever has counted frames has left the first one
        deep = ";16" in str(opened.tile)  # which Pillow cuts to 8 bits, if it has several channels
        opened.load()
        turn = _orientation(opened)
        image = opened if turn is None else opened.transpose(turn)
        if image.mode == "F":
            raise ValueError("floating-point pixels have no known range; wanted an image of 8 or 16 bits per channel")
        if image.mode.startswith("I"):
            top, remark = _white(np.asarray(image), _stated_maximum(opened))
            remarks.append(remark)
            grey = np.rint(np.asarray(image) * (255 / top)).astype(np.uint8)
            image = Image.fromarray(255 - grey if _white_is_zero(opened) else grey)
        elif deep and (brightest := int(np.asarray(image.convert("RGB")).max())) < DARK:
            remarks.append(f"its brightest pixel is {brightest} of 255: little of its 16 bits is used")
        decoded = image.convert("RGBA" if image.has_transparency_data else "RGB")
    decoded.info[REMARK] = "; ".join(filter(None, remarks))
    return decoded


def _of_frames(opened: Image.Image) -> str:
    """Remark on a file of several frames or pages. Previews in a photo (MPO) and layers (PSD) are none."""
    frames = 1 if opened.format in ("MPO", "PSD") else getattr(opened, "n_frames", 1)
    return f"{frames} frames or pages, of which the first is used" if frames > 1 else ""


def _orientation(opened: Image.Image) -> Image.Transpose | None:
    """What makes a decoded image upright, `None` if it is so. No other entry of its metadata is looked at; what cannot
    be read there has turned it for nobody."""
    try:
        return TURNS.get(opened.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # of metadata, not of the image
        return None


def _white_is_zero(opened: Image.Image) -> bool:
    """Whether a TIFF counts from white to black, which Pillow heeds up to 8 bits."""
    return isinstance(opened, TiffImageFile) and opened.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0


def _stated_maximum(opened: Image.Image) -> int | None:
    """Which pixel is white, if the file says so."""
    stated = opened.tag_v2.get(MAX_SAMPLE_VALUE) if isinstance(opened, TiffImageFile) else None
    try:
        return int(max(stated) if isinstance(stated, tuple) else stated)  # type: ignore[arg-type]  # whatever a file holds
    except (TypeError, ValueError):
        return None


def _white(pixels: np.ndarray, stated: int | None) -> tuple[int, str]:
    """Which value of grey pixels with more than 8 bits is white, and a remark if that is a guess."""
    low, high = int(pixels.min()), int(pixels.max())
    if stated is not None and 0 <= low <= high <= stated and stated > 0:
        lost = 0 < high * 255 / stated < DARK
        return stated, f"its pixels end at {high} of {stated}, which it states as maximum" if lost else ""
    if low < 0 or high > 65535:
        raise ValueError(f"pixels from {low} to {high} have no known range; wanted 0 to 65535, or a stated maximum")
    if high == 0 or high * 255 / 65535 >= DARK:
        return 65535, ""
    bits = 8 if high < 256 else 12
    return 2**bits - 1, f"its pixels end at {high} of 65535, so {bits} bits are assumed"


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


def bounded_size(height: int, width: int, *, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """`(height, width)` that [`bound`][rarl.datasets.images.bound] gives an image: multiples of 28 whose product is
    within the bounds.

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
    """`image` over white where it is transparent, resized to [`bounded_size`][rarl.datasets.images.bounded_size], in
    RGB; its remark stays with it."""
    bounded = fetch_image({"image": image, "min_pixels": min_pixels, "max_pixels": max_pixels})
    bounded.info[REMARK] = image.info.get(REMARK, "")
    return bounded
