import copy
import csv
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from qwen_vl_utils import smart_resize

from rarl.datasets import BuiltinSource, FolderSource, ImageError, UTKFaceSource, load_source, verify
from rarl.datasets.images import bound, bounded_size, decode, pixel_bounds
from rarl.task import OrdinalTask, get_task

UTKFACE = Path(__file__).parents[3] / "shared/data/utkface_dev"


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


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    data = encode(Image.new("F", (8, 8), 0.5), tmp_path / "a.tiff")
    with pytest.raises(ValueError, match="floating-point"):
        decode(data)


@pytest.mark.parametrize("shape", [(1, 1), (20, 300), (200, 200), (3000, 50), (57, 83)])
@pytest.mark.parametrize("bounds", [(None, None), (56 * 56, 100 * 100), (None, 56 * 56), (200 * 200, 300 * 300)])
def test_bounded_size_is_the_size_of_the_image(shape: tuple[int, int], bounds: tuple[int | None, int | None]) -> None:
    smallest, largest = pixel_bounds(*bounds)
    try:
        height, width = bounded_size(*shape, smallest, largest)
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


@pytest.mark.parametrize("task", ["count", "brightness"])
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


def test_builtin_refuses_other_tasks_and_sizes() -> None:
    with pytest.raises(ValueError, match="'age'.*count, brightness"):
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
        ("many", "'many' is not a number"),
        ("", "'' is not a number"),
        ("nan", "not finite"),
        ("inf", "not finite"),
        ("11", "11 is outside the range"),
        ("-1", "-1 is outside the range"),
        ("2.5", "2.5 is not an integer"),
    ],
)
def test_bad_values_name_line_file_value_and_want(tmp_path: Path, value: str, message: str) -> None:
    picture(30, 30).save(tmp_path / "a.png")
    table = write_csv(tmp_path / "t.csv", [("a.png", "1"), ("a.png", value)])
    with pytest.raises(ValueError, match=rf"t\.csv line 3, file 'a\.png': value.*{message}"):
        FolderSource(tmp_path, table, "count")


def test_missing_file_names_line_and_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"t\.csv line 2, file 'lost\.png'"):
        FolderSource(tmp_path, write_csv(tmp_path / "t.csv", [("lost.png", "1")]), "count")


@pytest.mark.parametrize("text", ["", "path,label\na.png,1\n", "file,value\n"])
def test_wrong_header_or_no_rows(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=r"t\.csv: (wanted a header|no images)"):
        FolderSource(tmp_path, tmp_path / "t.csv", "count")


@pytest.mark.parametrize("row", ["a.png", "a.png,1,2"])
def test_rows_with_another_number_of_fields(tmp_path: Path, row: str) -> None:
    picture(30, 30).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text(f"file,value\n{row}\n")
    with pytest.raises(ValueError, match=r"t\.csv line 2, file 'a\.png': wanted 2 fields"):
        FolderSource(tmp_path, tmp_path / "t.csv", "count")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("b\xe4r.png,1".encode("latin-1"), r"t\.csv: wanted a CSV in UTF-8.*0xe4"),
        (b"x" * 200_000 + b",1", r"t\.csv behind line 2: wanted a CSV, but field larger"),
        (b"a.png,2", r"t\.csv line 3, file 'a\.png': listed in line 2 already; wanted each file once"),
    ],
)
def test_what_is_no_csv_of_distinct_files(tmp_path: Path, row: bytes, message: str) -> None:
    """A file with two lines would stand twice in a prompt, with two values."""
    picture(30, 30).save(tmp_path / "a.png")
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


def test_same_images_for_another_task() -> None:
    source = load_source("builtin", "count", size=4)
    task = replace(source.task, name="dots", tolerance=1)
    other = source.with_task(task)
    assert other.task is task and source.task.name == "count"
    assert other.values is source.values
    with pytest.raises(ValueError, match="'age': wanted integer from 0 to 10, for which .* got integer from 0 to 116"):
        source.with_task(get_task("age"))
