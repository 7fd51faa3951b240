"""Pages name files that are there."""

import re
from pathlib import Path

import pytest

from tests.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    """As paths of the repository, or short ones of `rarl` and `recipes`; what runs write is none of it."""
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w./<-])((?:\w+/)+[\w.]+\.(?:py|yaml|md|png|sh))(?![\w/])", text)
    bases = [ROOT, page.parent, ROOT / "rarl", ROOT / "recipes"]
    files = [name for name in named if name.split("/")[0] not in ("outputs", "photos")]
    assert [name for name in files if not any((base / name).exists() for base in bases)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
