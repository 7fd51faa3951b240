"""Files under the names that people give them: accents, case and separators differ between systems."""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path


def composed(name: str) -> str:
    """A name with its accents composed (NFC): macOS unpacks archives to decomposed names (NFD), which look the same."""
    return unicodedata.normalize("NFC", name)


def relaxed(name: str) -> str:
    """A name without what is easily got wrong in it: case, blanks around it, the form of its characters."""
    return unicodedata.normalize("NFKC", name).strip().casefold()


class Names:
    """Finds files whose names are alike. Every folder is listed once.

    Args:
        folder: Folder that relative files are looked up in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listed: dict[tuple[Path, Callable[[str], str]], dict[str, str]] = {}

    def find(self, file: str) -> str | None:
        """The file of this name, as the disk spells it, be its accents composed or not; `None` if there is none."""
        return file if (self.folder / file).is_file() else self._alike(file, composed)

    def near(self, file: str) -> str | None:
        """A file that may be meant: it differs in case, in blanks or in Windows' separators."""
        return self._alike(file.replace("\\", "/"), relaxed)

    def _alike(self, file: str, key: Callable[[str], str]) -> str | None:
        found = Path(Path(file).anchor)
        for part in Path(file).parts[bool(found.anchor) :]:
            if not (self.folder / found / part).exists():
                part = self._names(found, key).get(key(part), "")
                if not part:
                    return None
            found /= part
        return str(found) if (self.folder / found).is_file() else None

    def _names(self, part: Path, key: Callable[[str], str]) -> dict[str, str]:
        if (part, key) not in self._listed:
            folder = self.folder / part
            names = sorted(os.listdir(folder)) if folder.is_dir() else []
            self._listed[part, key] = {key(name): name for name in names}
        return self._listed[part, key]
