"""Where results go, made ready before the work: a terminal of any encoding, and files that can be written."""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from typer.core import TyperGroup


def replace_unprintable() -> None:
    """Let a terminal, pipe or log of another encoding than UTF-8 show `?` for arrows, Greek letters and any name that
    it cannot show, where printing would end in a `UnicodeEncodeError`. Every entry point calls it first."""
    for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        reconfigure = getattr(stream, "reconfigure", None)  # not there where a notebook or test has its own stream
        if reconfigure is not None:
            reconfigure(errors=errors)


class Commands(TyperGroup):
    """Subcommands, for `typer.Typer(cls=…)`, that call [`replace_unprintable`][gor_head.output.replace_unprintable]
    before anything is printed, help and usage errors included."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the arguments and run a subcommand."""
        replace_unprintable()
        return super().main(*args, **kwargs)


def check_output_file(path: str | Path) -> None:
    """Make sure that a file can be written, by opening it: permissions alone do not tell on every file system.

    What is in the file stays as it is; a file, and folders on the way, that are not there are gone again afterwards.

    Raises:
        OSError: If the file cannot be written; the message names it and says why.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_dir() and not path.is_file():
            return  # a pipe or a device, which notices that it is opened
        real = Path(os.path.realpath(path))  # of a link to nothing the file, not the link, is made and removed
        with _folder(real.parent):
            is_new = not real.exists()
            with real.open("ab") as file:
                if is_new:
                    file.write(b"\n")
            if is_new:
                real.unlink()
    except OSError as error:
        raise OSError(f"{path}: wanted a file that can be written, got {_reason(error)}.") from None


def check_output_folder(folder: str | Path, names: Sequence[str] = ()) -> None:
    """Make sure that files can be written into a folder, by writing one without a name; nothing stays of it.

    Args:
        folder: Where it is missing, it and those above it are made, and removed again.
        names: Files that will be written there: those that are there must allow it.

    Raises:
        OSError: If the folder or a file cannot be written; the message names it and says why.
    """
    folder = Path(folder)
    try:
        with _folder(folder), tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\n")
            file.flush()
        existing = [folder / name for name in names if (folder / name).exists()]
    except OSError as error:
        raise OSError(f"{folder}: wanted a folder that files can be written into, got {_reason(error)}.") from None
    for path in existing:
        check_output_file(path)


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """A folder that is there; those that had to be made are removed at the end."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for one in missing:
            with suppress(OSError):  # another process may write there by now
                one.rmdir()


def _reason(error: OSError) -> str:
    return f"{type(error).__name__}: {error.strerror or error}"
