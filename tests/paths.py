"""Where the repository lies, and the data beside it that some tests read and skip without."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The repository."""

DATA = ROOT.parent / "shared" / "data"
"""Data that is not part of the project; it may be absent."""
