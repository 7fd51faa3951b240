"""What tests of recipes share: a folder of their own to work in."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes write to `outputs`, relative to where they run."""
    monkeypatch.chdir(tmp_path)
