import copy
import csv
import logging
import struct
import threading
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from qwen_vl_utils import smart_resize
from trl import SFTConfig

from rarl.datasets import (
    SOURCES,
    BuiltinSource,
    FolderSource,
    ImageError,
    SourceEntry,
    UTKFaceSource,
    load_source,
    verify,
)
from rarl.datasets.builtin import render_area
from rarl.datasets.images import TURNS, bound, bounded_size, decode, pixel_bounds, read_bytes
from rarl.recipe import RecipeArguments
from rarl.recipe.effects import check_effects
from rarl.task import OrdinalTask, get_task
from tests.paths import DATA

UTKFACE = DATA / "utkface_dev"


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "www").mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(tmp_path / "www")))
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_csv(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "value"), *rows])
    return path


def face(folder: Path, name: str, seed: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    picture(40, 40, seed).save(folder / name, format="JPEG")


# Image bytes to pixels


def encode(image: Image.Image, path: Path, **options: Any) -> bytes:
    image.save(path, **options)
    return path.read_bytes()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    upright = picture(30, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned by 90 degrees clockwise on display.
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    image = decode(encode(stored, tmp_path / "a.png", exif=exif))
    assert image.size == (60, 30)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(upright))


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_every_orientation_of_every_kind_of_file(kind: str, number: int) -> None:
    """An odd entry beside the orientation, an infinite resolution, is nobody's business (Pillow#8965)."""
    corners = np.zeros((32, 64, 3), np.uint8)
    corners[:16, :32], corners[:16, 32:], corners[16:, :32] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    upright = Image.fromarray(corners)
    undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270} | {
        number: turn for number, turn in TURNS.items() if number not in (6, 8)
    }
    stored = upright.transpose(undo[number]) if number > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = number
    stream = BytesIO()
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    if kind == "MPO":
        options = {"save_all": True, "append_images": [stored]}
    stored.save(stream, kind, exif=exif, **options)
    image = decode(stream.getvalue())
    assert image.size == (64, 32) and not image.info["remark"]
    centres = np.asarray(image)[8::16, 16::32].astype(int)
    assert np.abs(centres - corners[8::16, 16::32]).max() < 20


def exif_jpeg(entries: bytes, count: int) -> bytes:
    """A JPEG of 60 x 40 whose metadata hold raw entries."""
    stream = BytesIO()
    picture(40, 60).save(stream, "JPEG")
    segment = b"Exif\0\0II*\0" + struct.pack("<LH", 8, count) + entries
    jpeg = stream.getvalue()
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def test_odd_metadata_are_no_content() -> None:
    turned = struct.pack("<HHL", 0x0112, 3, 1) + struct.pack("<H", 6).ljust(4, b"\0")
    resolution = struct.pack("<HHLL", 282, 10, 1, 38) + b"\0" * 4 + struct.pack("<2l", -1, 0)
    assert decode(exif_jpeg(turned + resolution, 2)).size == (40, 60)
    no_number = struct.pack("<HHL", 0x0112, 2, 4) + b"six\0"
    beyond = struct.pack("<HHL", 0x0112, 3, 1) + struct.pack("<H", 9).ljust(4, b"\0")
    for entry in (no_number, beyond, b"\xff" * 12, b""):
        assert decode(exif_jpeg(entry, 1)).size == (60, 40)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L;tRNS"])
def test_transparent_pixels_become_white(tmp_path: Path, mode: str) -> None:
    if mode in ("RGBA", "LA"):
        data = encode(Image.new(mode, (56, 56), 0), tmp_path / "a.png")
    else:
        data = encode(Image.new(mode[0], (56, 56), 0), tmp_path / "a.png", transparency=0)
    image = bound(decode(data), *pixel_bounds(None, None))
    assert image.mode == "RGB"
    assert np.asarray(image).min() == 255


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_opaque_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    image = decode(encode(picture(56, 56).convert(mode), tmp_path / f"a.{suffix}"))
    assert image.mode == "RGB"
    assert np.asarray(image).std() > 10


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 56 * 56).reshape(56, 56).astype(np.uint16)
    pixels = np.asarray(decode(encode(Image.fromarray(deep), tmp_path / "a.png")))
    assert pixels.shape == (56, 56, 3)
    np.testing.assert_array_equal(pixels[:, :, 0], np.rint(deep / 257))


@pytest.mark.parametrize(
    ("top", "stated", "brightest", "remark"),
    [
        (65535, None, 255, ""),
        (20000, None, 78, ""),
        (0, None, 0, ""),
        (4095, None, 255, "its pixels end at 4095 of 65535, so 12 bits are assumed"),
        (1023, None, 64, "its pixels end at 1023 of 65535, so 12 bits are assumed"),
        (255, None, 255, "its pixels end at 255 of 65535, so 8 bits are assumed"),
        (4095, 4095, 255, ""),
        (1023, 1023, 255, ""),
        (1023, 4095, 64, ""),
        (16383, 16383, 255, ""),
        (20000, 255, 78, ""),  # which cannot be true
        (100, 4095, 6, "its pixels end at 100 of 4095, which it states as maximum"),
    ],
)
def test_range_of_grey_with_more_than_8_bits(top: int, stated: int | None, brightest: int, remark: str) -> None:
    ramp = (np.tile(np.linspace(0, 1, 56), (56, 1)) * top).round().astype(np.uint16)
    stream = BytesIO()
    Image.fromarray(ramp).save(stream, "TIFF", tiffinfo={281: stated} if stated else {})
    image = decode(stream.getvalue())
    assert image.info["remark"] == remark
    assert np.asarray(image).max() == brightest


@pytest.mark.parametrize("pixels", [[-1, 5], [0, 70000]])
def test_grey_pixels_without_a_known_range_are_refused(pixels: list[int]) -> None:
    stream = BytesIO()
    Image.fromarray(np.array([pixels], np.int32)).save(stream, "TIFF")
    with pytest.raises(ValueError, match=f"pixels from {pixels[0]} to {pixels[1]} have no known range"):
        decode(stream.getvalue())
    stream = BytesIO()
    stated = ImageFileDirectory_v2()
    stated.tagtype[281], stated[281] = 4, 140000
    Image.fromarray(np.array([[0, 70000]], np.int32)).save(stream, "TIFF", tiffinfo=stated)
    assert np.asarray(decode(stream.getvalue()))[0, :, 0].tolist() == [0, 128]


@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_that_counts_from_white_to_black(bits: int) -> None:
    stream = BytesIO()
    kind = np.uint8 if bits == 8 else np.uint16
    ramp = np.array([[0, 2**bits - 1]], kind)
    Image.fromarray(ramp).save(stream, "TIFF")
    data = bytearray(stream.getvalue())
    place = data.index(struct.pack("<HHLH", 262, 3, 1, 1))
    data[place : place + 10] = struct.pack("<HHLH", 262, 3, 1, 0)
    assert np.asarray(decode(bytes(data)))[0, :, 0].tolist() == [255, 0]


def test_own_maximum_of_a_portable_greymap() -> None:
    data = b"P5 2 1 4095\n" + np.array([0, 4095], ">u2").tobytes()
    image = decode(data)
    assert np.asarray(image)[0, :, 0].tolist() == [0, 255] and not image.info["remark"]


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_12_bits_in_16_of_several_channels_are_said(colour: int, channels: int) -> None:
    """Pillow keeps the upper eight of sixteen bits, so that little is left."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    def png(value: int) -> bytes:
        line = b"\0" + struct.pack(">H", value) * 2 * channels
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, colour, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(line)) + chunk(b"IEND", b"")

    assert decode(png(4095)).info["remark"] == "its brightest pixel is 15 of 255: little of its 16 bits is used"
    assert not decode(png(65535)).info["remark"]


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tif", "avif"])
def test_files_of_several_frames_are_counted(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    blank, drawn = Image.new("RGB", (64, 64), "white"), picture(64, 64)
    for number in range(12):
        blank.save(tmp_path / f"{number}.{kind}", save_all=True, append_images=[drawn, picture(64, 64, 1)])
    blank.save(tmp_path / f"one.{kind}")
    names = [*(f"{number}.{kind}" for number in range(12)), f"one.{kind}"]
    source = FolderSource(tmp_path, write_csv(tmp_path / "t.csv", [(name, "1") for name in names]), "count")
    with caplog.at_level(logging.WARNING):
        verify(source, progress=False)
    assert len(caplog.records) == 1 and sorted(source.remarks) == list(range(12))
    assert caplog.text.count("3 frames or pages, of which the first is used") == 10
    assert "12 of 13 images are not used as they are" in caplog.text and "and 2 more" in caplog.text
    assert f"t.csv line 2, file '0.{kind}': 3 frames" in caplog.text and f"one.{kind}" not in caplog.text
    assert np.asarray(source.load(0)).min() > 250  # the first frame, blank as it is
    caplog.clear()
    verify(source, progress=False)
    assert not caplog.records


def test_any_failure_to_decode_names_the_file(tmp_path: Path) -> None:
    """Pillow raises `NotImplementedError` here, and other plugins whatever comes up."""
    picture(30, 30).save(tmp_path / "a.dds")
    data = bytearray((tmp_path / "a.dds").read_bytes())
    data[80:84] = bytes(4)  # flags of the pixel format
    (tmp_path / "a.dds").write_bytes(data)
    with pytest.raises(NotImplementedError):
        decode(bytes(data))
    source = FolderSource(tmp_path, write_csv(tmp_path / "t.csv", [("a.dds", "1")]), "count")
    for use in (source.load, source.size, source.content_hash):
        with pytest.raises(ImageError, match=r"t\.csv line 2, file 'a\.dds': wanted a readable image, got NotImpl"):
            use(0)
    with pytest.raises(ImageError, match="1 of 1 images cannot be read"):
        verify(source, progress=False)


@pytest.mark.parametrize("kind", ["jpg", "png", "gif", "webp", "tif", "bmp"])
def test_truncated_images_are_refused(tmp_path: Path, kind: str) -> None:
    picture(80, 80).save(tmp_path / f"a.{kind}")
    data = (tmp_path / f"a.{kind}").read_bytes()
    (tmp_path / f"a.{kind}").write_bytes(data[: len(data) * 2 // 3])
    source = FolderSource(tmp_path, write_csv(tmp_path / "t.csv", [(f"a.{kind}", "1")]), "count")
    with pytest.raises(ImageError, match=rf"file 'a\.{kind}'"):
        verify(source, progress=False)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    data = encode(Image.new("F", (8, 8), 0.5), tmp_path / "a.tiff")
    with pytest.raises(ValueError, match="floating-point"):
        decode(data)


@pytest.mark.parametrize("shape", [(1, 1), (20, 300), (200, 200), (3000, 50), (57, 83)])
@pytest.mark.parametrize("bounds", [(None, None), (56 * 56, 100 * 100), (None, 56 * 56), (200 * 200, 300 * 300)])
def test_bounded_size_is_the_size_of_the_image(shape: tuple[int, int], bounds: tuple[int | None, int | None]) -> None:
    smallest, largest = pixel_bounds(*bounds)
    try:
        height, width = bounded_size(*shape, min_pixels=smallest, max_pixels=largest)
    except ValueError as error:
        assert "elongated" in str(error)
        assert max(shape) / min(shape) > 10
        return
    image = bound(picture(*shape), smallest, largest)
    assert (image.height, image.width) == (height, width)
    assert height % 28 == width % 28 == 0
    assert height * width <= largest


@pytest.mark.parametrize("bounds", [(5000, 4000), (None, 700), (0, None), (-1, 1000)])
def test_contradictory_bounds_are_refused(bounds: tuple[int | None, int | None]) -> None:
    with pytest.raises(ValueError, match="min_pixels"):
        BuiltinSource(size=1, min_pixels=bounds[0], max_pixels=bounds[1])


def test_a_tiny_image_does_not_change_how_the_next_one_is_resized(tmp_path: Path) -> None:
    shapes = {"a.png": (300, 200), "tiny.png": (2, 3), "b.png": (300, 200)}
    for name, shape in shapes.items():
        picture(*shape).save(tmp_path / name)
    table = write_csv(tmp_path / "t.csv", [(name, "1") for name in shapes])
    source = FolderSource(tmp_path, table, "count", min_pixels=56 * 56, max_pixels=150 * 150)
    first, tiny, second = source.load(0), source.load(1), source.load(2)
    np.testing.assert_array_equal(np.asarray(first), np.asarray(second))
    assert (first.height, first.width) == smart_resize(300, 200, 28, 56 * 56, 150 * 150)
    assert (tiny.height, tiny.width) == smart_resize(2, 3, 28, 56 * 56, 150 * 150)


# Built-in images


@pytest.mark.parametrize("task", ["count", "brightness", "area"])
def test_builtin_is_a_pure_function_of_task_seed_and_index(task: str) -> None:
    small, large = BuiltinSource(task, size=5, seed=3), BuiltinSource(task, size=50, seed=3)
    np.testing.assert_array_equal(small.values, large.values[:5])
    assert [small.content_hash(i) for i in range(5)] == [large.content_hash(i) for i in range(5)]
    np.testing.assert_array_equal(np.asarray(small.load(4)), np.asarray(large.load(4)))
    other = BuiltinSource(task, size=50, seed=4)
    assert len({source.content_hash(i) for source in (large, other) for i in range(50)}) == 100
    assert large.size(0) == (56, 56)
    for value in large.values:
        assert large.task.check_value(value) == round(value, 2)
    assert len(set(large.values)) > 5


def test_builtin_count_values_cover_the_range() -> None:
    assert set(BuiltinSource("count", size=500).values) == set(range(11))


def test_areas_have_a_long_tail_and_show_as_many_pixels() -> None:
    source = BuiltinSource("area", size=4000)
    logs = np.log(source.values)
    assert abs(logs.mean() - 4.8) < 0.06 and abs(logs.std() - 1.1) < 0.06
    assert source.values.min() >= 4 and source.values.max() == 2000
    dark = render_area(4, np.random.default_rng(1))
    for area in (4, 30, 122, 500, 2000):
        image = np.asarray(render_area(area, np.random.default_rng(1)).convert("L"), dtype=np.float64)
        ground, disc = float(np.median(np.asarray(dark.convert("L")))), image.max()
        seen = ((image - ground) / (disc - ground)).clip(0, 1)
        assert seen[seen > 0.4].sum() == pytest.approx(area, rel=0.1, abs=3)


@pytest.mark.parametrize(
    ("name", "largest", "change"),
    [
        ("count", 25, {"maximum": 26}),
        ("count", 25, {"minimum": -1}),
        ("area", 2463, {"maximum": 5000}),
        ("brightness", 1, {"maximum": 2}),
    ],
)
def test_builtin_images_show_no_other_values(name: str, largest: int, change: dict[str, Any]) -> None:
    task = replace(get_task(name), **change)
    with pytest.raises(ValueError, match=rf"task '{name}' show values from 0 to {largest}, got a range of"):
        BuiltinSource(task)
    whole = BuiltinSource(replace(get_task(name), minimum=0, maximum=largest), size=200)
    whole.load(int(np.argmax(whole.values)))


def test_builtin_refuses_other_tasks_and_sizes() -> None:
    with pytest.raises(ValueError, match="'age'.*count, brightness, area"):
        BuiltinSource("age")
    with pytest.raises(ValueError, match="size=0"):
        BuiltinSource(size=0)


def test_sources_are_shared_and_not_copied_by_deepcopy() -> None:
    source = BuiltinSource(size=2)
    assert copy.deepcopy({"source": source})["source"] is source


# UTKFace


def test_utkface_ages_from_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "faces"
    face(folder, "100_1_0_20170112213500903.jpg.chip.jpg", 1)
    face(folder, "7_0_4_20170112213500904.jpg", 2)
    face(folder, "61_1_20170109142408075.jpg.chip.jpg")
    (folder / ".hidden").write_text("")
    (folder / "notes.txt").write_text("")
    with caplog.at_level(logging.WARNING):
        source = UTKFaceSource(folder)
    assert {source.name(i): source.values[i] for i in range(len(source))} == {
        "100_1_0_20170112213500903.jpg.chip.jpg": 100.0,
        "7_0_4_20170112213500904.jpg": 7.0,
    }
    assert source.skipped == ["61_1_20170109142408075.jpg.chip.jpg", "notes.txt"]
    assert "skipped 2 files" in caplog.text and "61_1_20170109142408075" in caplog.text
    assert source.values.dtype == np.float64
    verify(source, progress=False)
    assert source.size(0) == (56, 56)
    assert source.load(0).mode == "RGB"


def test_utkface_digits_of_other_scripts_are_no_age(tmp_path: Path) -> None:
    face(tmp_path / "faces", "7_0_4_20170112213500904.jpg")
    face(tmp_path / "faces", "٣_0_4_20170112213500904.jpg")
    source = UTKFaceSource(tmp_path / "faces")
    assert source.values.tolist() == [7] and source.skipped == ["٣_0_4_20170112213500904.jpg"]


def test_utkface_age_out_of_range_names_the_file(tmp_path: Path) -> None:
    face(tmp_path / "faces", "117_1_0_20170112213500903.jpg")
    with pytest.raises(ValueError, match=r"117_1_0_20170112213500903\.jpg.*117.*0 to 116"):
        UTKFaceSource(tmp_path / "faces")


def test_utkface_empty_or_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no image named"):
        UTKFaceSource(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        UTKFaceSource(tmp_path / "nowhere")


@pytest.mark.skipif(not UTKFACE.is_dir(), reason="UTKFace sample not present")
def test_real_utkface() -> None:
    source = UTKFaceSource(UTKFACE / "images")
    with (UTKFACE / "labels.csv").open() as stream:
        truth = {row["file"].split("/")[-1]: float(row["age"]) for row in csv.DictReader(stream)}
    assert {source.name(i): source.values[i] for i in range(len(source))} == truth
    assert source.skipped == []
    verify(source, progress=False)
    assert source.size(0) == smart_resize(200, 200, 28)
    assert len({source.content_hash(i) for i in range(len(source))}) == len(source)


@pytest.mark.skipif(not UTKFACE.is_dir(), reason="UTKFace sample not present")
def test_real_malformed_names_are_all_skipped(tmp_path: Path) -> None:
    for path in (UTKFACE / "malformed_names").iterdir():
        (tmp_path / path.name).write_bytes(b"")
    face(tmp_path, "30_1_0_20170112213500903.jpg.chip.jpg")
    source = UTKFaceSource(tmp_path)
    assert len(source) == 1
    assert len(source.skipped) == 6


# A folder with a CSV


def test_folder_reads_relative_absolute_and_url(tmp_path: Path, server: str) -> None:
    for number, name in enumerate(["here.png", "www/web.png"]):
        picture(60, 90, number).save(tmp_path / name)
    (tmp_path / "far").mkdir()
    picture(30, 30, 5).save(tmp_path / "far/there.png")
    absolute = str(tmp_path / "far/there.png")
    rows = [("here.png", "1"), (absolute, "2"), (f"{server}/web.png", " 3.0")]
    source = FolderSource(tmp_path, write_csv(tmp_path / "t.csv", rows), "count")
    verify(source, progress=False)
    assert source.values.tolist() == [1, 2, 3]
    assert [source.name(i) for i in range(3)] == ["here.png", absolute, f"{server}/web.png"]
    assert [source.size(i) for i in range(3)] == [(56, 84), (56, 56), (56, 84)]
    expected = picture(60, 90, 1).resize((84, 56))
    np.testing.assert_array_equal(np.asarray(source.load(2)), np.asarray(expected))


def test_missing_url_names_line_and_file(tmp_path: Path, server: str) -> None:
    source = FolderSource(tmp_path, write_csv(tmp_path / "t.csv", [(f"{server}/gone.png", "1")]), "count")
    with pytest.raises(ImageError, match=r"t\.csv line 2, file 'http://127\.0\.0\.1.*gone\.png'.*404"):
        source.load(0)


def test_closed_port_names_line_and_file(tmp_path: Path) -> None:
    source = FolderSource(tmp_path, write_csv(tmp_path / "t.csv", [("http://127.0.0.1:9/a.png", "1")]), "count")
    with pytest.raises(ImageError, match=r"t\.csv line 2, file 'http://127\.0\.0\.1:9/a\.png'"):
        verify(source, progress=False)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        *(
            (text, f"'{text}' is not a finite number")
            for text in ("many", "", "nan", "inf", "1e999", "NA", "null", "-")
        ),
        *((text, f"'{text}' is not a finite number") for text in (".", "2_5", "1_0", "１", "٣", "1,5", "0x1", "True")),
        ("0.1e2_0", "'0.1e2_0' is not a finite number"),
        ("11", "11 is outside the range"),
        ("-1", "-1 is outside the range"),
        ("2.5", "2.5 is not an integer"),
    ],
)
def test_bad_values_name_line_file_value_and_want(tmp_path: Path, value: str, message: str) -> None:
    picture(30, 30).save(tmp_path / "a.png")
    table = write_csv(tmp_path / "t.csv", [("a.png", "1"), ("a.png", value)])
    with pytest.raises(ValueError, match=rf"t\.csv line 3, file 'a\.png': value {message}"):
        FolderSource(tmp_path, table, "count")


def test_absolute_and_relative_are_one_file_but_links_are_two(tmp_path: Path) -> None:
    """Stores by content link many names to one file: `without_copies` counts those."""
    picture(30, 30).save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    rows = [("a.png", "1"), ("b.png", "1")]
    assert len(FolderSource(tmp_path, write_csv(tmp_path / "t.csv", rows), "count")) == 2
    rows.append((str(tmp_path / "b.png"), "2"))
    with pytest.raises(ValueError, match=r"line 4, .*: listed in line 3 already, as 'b\.png' with value 1 \(here 2\)"):
        FolderSource(tmp_path, write_csv(tmp_path / "t.csv", rows), "count")


@pytest.mark.parametrize(("on_disk", "listed"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_may_be_composed_or_not(tmp_path: Path, on_disk: str, listed: str) -> None:
    """macOS unpacks to decomposed names, which look the same as those in the CSV."""
    names = [f"Zürich/caf\u00e9 {number}.png" for number in range(3)]
    for number, name in enumerate(names):
        path = tmp_path / unicodedata.normalize(on_disk, name)  # type: ignore[arg-type]
        path.parent.mkdir(exist_ok=True)
        picture(30, 30, number).save(path)
    rows = [(unicodedata.normalize(listed, name), "1") for name in names]  # type: ignore[arg-type]
    source = FolderSource(tmp_path, write_csv(tmp_path / "t.csv", rows), "count")
    verify(source, progress=False)
    assert len({source.content_hash(i) for i in range(3)}) == 3
    assert read_bytes(str(tmp_path / rows[0][0])) == read_bytes(str(tmp_path / source.name(0)))
    both = write_csv(tmp_path / "t.csv", [*rows, (unicodedata.normalize(on_disk, names[2]), "3")])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"line 5, .*: listed in line 4 already, .* with value 1 \(here 3\)"):
        FolderSource(tmp_path, both, "count")


def test_two_files_whose_names_look_the_same_are_two(tmp_path: Path) -> None:
    names = [unicodedata.normalize("NFC", "caf\u00e9.png"), unicodedata.normalize("NFD", "caf\u00e9.png")]
    for number, name in enumerate(names):
        picture(30, 30, number).save(tmp_path / name)
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system takes them for one")
    source = FolderSource(tmp_path, write_csv(tmp_path / "t.csv", [(name, "1") for name in names]), "count")
    assert [source.name(i) for i in range(2)] == names


@pytest.mark.parametrize("listed", ["IMG.JPG", "sub\\img.jpg", " sub/img.jpg", "sub/img.jpg ", "SUB/img.jpg"])
def test_a_file_that_may_be_meant_is_named(tmp_path: Path, listed: str) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("img.jpg", "sub/img.jpg"):
        picture(30, 30).save(tmp_path / name)
    if (tmp_path / listed).is_file():
        pytest.skip("this file system finds it")
    meant = "img.jpg" if listed == "IMG.JPG" else "sub/img.jpg"
    with pytest.raises(FileNotFoundError, match=rf"line 2, file .*: no such file in .* \(there is '{meant}'\); wanted"):
        FolderSource(tmp_path, write_csv(tmp_path / "t.csv", [(listed, "1")]), "count")


def test_missing_file_names_line_and_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"t\.csv line 2, file 'lost\.png'"):
        FolderSource(tmp_path, write_csv(tmp_path / "t.csv", [("lost.png", "1")]), "count")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty; a header and rows are wanted"),
        ("path,label\na.png,1\n", "wanted a header with file,value, got 'path', 'label'"),
        ("file;value\na.png;1\n", r"got 'file;value'; are its fields parted by ';'\? Commas are wanted"),
        ("file\tvalue\na.png\t1\n", r"got 'file\\tvalue'; are its fields parted by '\\t'\? Commas are wanted"),
        ("file, value\na.png,1\n", "got 'file', ' value'; mind the blank in ' value'"),
        ("File,Value\na.png,1\n", "got 'File', 'Value'; mind the case of 'File'"),
        ("file,value\n", "no images listed below the header"),
        ("file,value,rater,value\na.png,1,anna,9\n", "the column 'value' is there more than once"),
        ("file,value,file\na.png,1,b.png\n", "the column 'file' is there more than once"),
        ("file,value,note,note\na.png,1,x,y\n", "the column 'note' is there more than once"),
    ],
)
def test_wrong_header_or_no_rows(tmp_path: Path, text: str, message: str) -> None:
    picture(30, 30).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"t\.csv: .*{message}"):
        FolderSource(tmp_path, tmp_path / "t.csv", "count")


def test_columns_without_a_name_and_blank_lines_are_ignored(tmp_path: Path) -> None:
    """As pandas writes an index; spreadsheets leave two such columns."""
    picture(30, 30).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text(",file,value,\n\n0,a.png, 2 ,\n  \n\n")
    assert FolderSource(tmp_path, tmp_path / "t.csv", "count").values.tolist() == [2]


@pytest.mark.parametrize("row", ["a.png", "a.png,1,2"])
def test_rows_with_another_number_of_fields(tmp_path: Path, row: str) -> None:
    picture(30, 30).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text(f"file,value\n{row}\n")
    with pytest.raises(
        ValueError, match=rf"t\.csv, line 2: wanted 2 fields as in the header, got {row.count(',') + 1}"
    ):
        FolderSource(tmp_path, tmp_path / "t.csv", "count")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("b\xe4r.png,1".encode("latin-1"), r"t\.csv: not text in UTF-8 \(byte 0xe4"),
        (b"x" * 200_000 + b",1", r"t\.csv, line 3: not a CSV \(field larger"),
        (b'"b.png,1\nc.png,2', r"t\.csv, line 4: not a CSV \(unexpected end of data\)"),
        (
            b"a.png,2",
            r"line 3, file 'a\.png': listed in line 2 already, as 'a\.png' with value 1 \(here 2\); wanted",
        ),
        (b"./a.png,1", r"line 3, file '\./a\.png': listed in line 2 already, as 'a\.png' with value 1 \(here 1\)"),
        (b"sub/../a.png,2", r"line 3, file 'sub/\.\./a\.png': listed in line 2 already, as 'a\.png'"),
    ],
)
def test_what_is_no_csv_of_distinct_files(tmp_path: Path, row: bytes, message: str) -> None:
    """A file with two lines would stand twice in a prompt, with two values."""
    picture(30, 30).save(tmp_path / "a.png")
    (tmp_path / "sub").mkdir()
    (tmp_path / "t.csv").write_bytes(b"file,value\na.png,1\n" + row + b"\n")
    with pytest.raises(ValueError, match=message):
        FolderSource(tmp_path, tmp_path / "t.csv", "count")


def test_byte_order_mark_and_other_columns(tmp_path: Path) -> None:
    picture(30, 30).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("\ufefffile,note,value\na.png,x,4\n", encoding="utf-8")
    assert FolderSource(tmp_path, tmp_path / "t.csv", "count").values.tolist() == [4]


def test_verify_names_every_broken_image_and_counts(tmp_path: Path) -> None:
    picture(30, 30).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "zero.png").write_bytes(b"")
    names = ["good.png", "cut.png", "text.png", "zero.png"]
    source = FolderSource(tmp_path, write_csv(tmp_path / "t.csv", [(name, "1") for name in names]), "count")
    with pytest.raises(ImageError) as caught:
        verify(source, progress=False)
    message = str(caught.value)
    assert message.startswith("3 of 4 images cannot be read")
    for line, name in enumerate(names[1:], start=3):
        assert f"line {line}, file '{name}'" in message
    assert "good.png" not in message


def test_too_elongated_image_is_named(tmp_path: Path) -> None:
    picture(2, 1000).save(tmp_path / "thin.png")
    source = FolderSource(tmp_path, write_csv(tmp_path / "t.csv", [("thin.png", "1")]), "count")
    for use in (source.load, source.size):
        with pytest.raises(ImageError, match="thin.png"):
            use(0)


def test_equal_files_hash_equally_and_verify_reads_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "b.png"):
        picture(30, 30).save(tmp_path / name)
    picture(30, 30, 9).save(tmp_path / "c.png")
    table = write_csv(tmp_path / "t.csv", [(name, "1") for name in ("a.png", "b.png", "c.png")])
    source = FolderSource(tmp_path, table, "count")
    verify(source)
    assert capfd.readouterr() == ("", "")  # No progress bar without a terminal.
    for path in tmp_path.glob("*.png"):
        path.unlink()
    hashes = [source.content_hash(i) for i in range(3)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert source.size(2) == (56, 56)


# By name


def test_load_source_by_name(tmp_path: Path) -> None:
    face(tmp_path / "faces", "30_1_0_20170112213500903.jpg")
    table = write_csv(tmp_path / "t.csv", [("faces/30_1_0_20170112213500903.jpg", "3.5")])
    grey = OrdinalTask("grey", "greyness", 0, 5, tolerance=1)
    assert isinstance(load_source("builtin", size=7, seed=2), BuiltinSource)
    assert load_source("builtin", task="brightness").task.name == "brightness"
    utkface = load_source("utkface", folder=tmp_path / "faces", max_pixels=28 * 28)
    assert (utkface.task.name, utkface.size(0), utkface.load(0).size) == ("age", (28, 28), (28, 28))
    own = load_source("folder", task=grey, folder=tmp_path, csv=table)
    assert (own.task, own.values.tolist()) == (grey, [3.5])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "imagenet"}, "'imagenet'; known sources: builtin, utkface, folder"),
        ({"name": "utkface"}, "needs folder"),
        ({"name": "folder", "folder": "x", "task": "count"}, "needs csv"),
        ({"name": "folder", "folder": "x", "csv": "y"}, "needs task"),
        ({"name": "builtin", "folder": "x"}, "does not use folder, got 'x'"),
        ({"name": "builtin", "task": "colour"}, "Unknown task 'colour'"),
    ],
)
def test_load_source_errors(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_source(**arguments)  # type: ignore[arg-type]


def test_a_source_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(BuiltinSource):
        """Half as many images as asked for."""

        def __init__(self, task: Any, size: int = 4, **settings: Any) -> None:
            super().__init__(task, size // 2, **settings)

    monkeypatch.setitem(SOURCES, "twice", SourceEntry(Twice, needs=("size",), task="brightness"))
    source = load_source("twice", size=10, max_pixels=28 * 28)
    assert (len(source), source.task.name, source.load(0).size) == (5, "brightness", (28, 28))
    given = {"source": "twice", "size": 10}
    check_effects(given, given, [SFTConfig, RecipeArguments])  # a recipe passes the size on
    with pytest.raises(ValueError, match="size: source folder has as many images as it holds"):
        check_effects(given | {"source": "folder"}, given | {"source": "folder"}, [SFTConfig, RecipeArguments])
    for arguments, message in (({}, "'twice' needs size"), ({"size": 2, "csv": "x"}, "does not use csv, got 'x'")):
        with pytest.raises(ValueError, match=message):
            load_source("twice", **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="known sources: builtin, .*twice"):
        load_source("thrice")


def test_same_images_for_another_task() -> None:
    source = load_source("builtin", "count", size=4)
    task = replace(source.task, name="dots", tolerance=1)
    other = source.with_task(task)
    assert other.task is task and source.task.name == "count"
    assert other.values is source.values
    with pytest.raises(ValueError, match="'age': wanted integer from 0 to 10, for which .* got integer from 0 to 116"):
        source.with_task(get_task("age"))
