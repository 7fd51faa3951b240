"""Commands on a stdout of another encoding, and outputs that cannot be written."""

import ctypes
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any


def call_with_encoding(encoding: str, app: Any, *arguments: object) -> tuple[int, str]:
    """Exit code of a command, and what it writes to a stdout and stderr that are strict about their encoding."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        try:
            app([str(argument) for argument in arguments])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    out.flush()
    # click takes ASCII for a mistake, and writes UTF-8.
    return code, out.buffer.getvalue().decode(encoding, errors="replace")  # type: ignore[attr-defined]


@contextmanager
def unwritable(*copied: Path) -> Iterator[Path]:
    """A folder, with copies, that may be read but not written into, also by root, who obeys permissions meanwhile."""
    folder = Path(tempfile.mkdtemp())
    for path in copied:
        copy: Callable[..., Any] = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, folder / path.name)
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with _obeying_permissions():
            yield folder
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)
        shutil.rmtree(folder)


@contextmanager
def _obeying_permissions() -> Iterator[None]:
    """Without the capability of root (and of nobody else) to read and write whatever there is."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    held = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, twice
    assert libc.capget(header, held) == 0, os.strerror(ctypes.get_errno())
    fewer = (ctypes.c_uint32 * 6)(*held)
    fewer[0] &= ~0b111  # CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, fewer) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0, os.strerror(ctypes.get_errno())
