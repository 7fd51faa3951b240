"""Outputs are tried before the work, and leave no trace."""

import io
import os
import sys
from pathlib import Path

import pytest

from gor_head.output import check_output_file, check_output_folder, replace_unprintable
from tests.outputs import unwritable


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_nothing_is_left_of_a_check(tmp_path: Path) -> None:
    check_output_file(tmp_path / "new" / "deep" / "report.json")
    check_output_folder(tmp_path / "new" / "deep", ["report.json"])
    check_output_folder(tmp_path)
    assert everything(tmp_path) == []


def test_what_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    os.utime(path, ns=(1, 1))
    check_output_file(path)
    check_output_folder(tmp_path, ["report.json", "other.json"])
    assert path.read_text() == "old" and path.stat().st_mtime_ns == 1 and everything(tmp_path) == ["report.json"]


def test_links_and_devices(tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "target.json")
    check_output_file(link)
    assert link.is_symlink() and not (tmp_path / "target.json").exists()
    os.mkfifo(tmp_path / "pipe")
    check_output_file(tmp_path / "pipe")  # whose reader would wait for more, or be told of an end
    check_output_file("/dev/null")
    link.unlink()
    link.symlink_to(tmp_path / "nowhere" / "target.json")
    check_output_file(link)
    assert not (tmp_path / "nowhere").exists()


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file" / "report.json", tmp_path, tmp_path / ("long" * 100)):
        with pytest.raises(OSError, match=r"wanted a file that can be written, got \w+Error: ") as caught:
            check_output_file(wrong)
        assert str(caught.value).startswith(f"{wrong}: ")
    for wrong in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(OSError, match=r"wanted a folder that files can be written into, got \w+Error: ") as caught:
            check_output_folder(wrong)
        assert str(caught.value).startswith(f"{wrong}: ")
    (tmp_path / "report.json").mkdir()
    with pytest.raises(OSError, match=r"report.json: wanted a file .* IsADirectoryError"):
        check_output_folder(tmp_path, ["report.json"])


def test_permissions_of_the_user_count() -> None:
    with unwritable() as folder:
        with pytest.raises(OSError, match="got PermissionError: Permission denied"):
            check_output_folder(folder)
        with pytest.raises(OSError, match="got PermissionError: Permission denied"):
            check_output_folder(folder / "new")
        with pytest.raises(OSError, match="got PermissionError: Permission denied"):
            check_output_file(folder / "report.json")


def test_a_file_that_is_there_must_allow_it(tmp_path: Path) -> None:
    (tmp_path / "report.json").touch()
    with unwritable(tmp_path / "report.json") as folder:
        with pytest.raises(OSError, match="report.json: wanted a file that can be written, got PermissionError"):
            check_output_file(folder / "report.json")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_characters_that_a_terminal_lacks_are_replaced(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    for name, stream in zip(("stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(sys, name, stream)
    replace_unprintable()
    lone = os.fsdecode(b"name of a file \xff")  # what UTF-8 lacks
    print("τ ↓", lone, flush=True)
    print("τ ↓", lone, file=sys.stderr, flush=True)
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams)  # type: ignore[attr-defined]
    known = encoding == "utf-8"
    assert out == ("τ ↓" if known else "? ?") + " name of a file ?\n"
    assert err == ("τ ↓" if known else r"\u03c4 \u2193") + " name of a file \\udcff\n"


def test_streams_that_cannot_be_set_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", None)
    replace_unprintable()
    print("τ ↓", end="")
    assert sys.stdout.getvalue() == "τ ↓" and sys.stderr is None  # type: ignore[attr-defined]
