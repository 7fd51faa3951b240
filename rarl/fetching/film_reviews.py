"""Film-review snippets and product sentences with the votes of 15 to 99 people each (Hutto and Gilbert 2014).

Votes from −4 to 4 become a scale from 0 to 10.
"""

import ast
import csv
from pathlib import Path

import numpy as np

from gor_head.numbers import write_number
from rarl.fetching.packages import FetchError, Package, download, member

PACKAGE = Package(
    "vaderSentiment",
    "3.3.2",
    "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    wheel=False,
)
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
TABLES = {"reviews.csv": "movieReviewSnippets", "products.csv": "amazonReviewSnippets"}
"""File that is written → what its two source files are called."""


def from_package(folder: Path) -> None:
    """`reviews.csv` and `products.csv`, each with the columns `id`, `text`, `value`, `std` and `votes`.

    Raises:
        FetchError: If texts and votes do not belong together.
    """
    archive = download(PACKAGE, folder)
    inner = member(archive, INNER, folder)
    for target, name in TABLES.items():
        texts, votes = (
            member(inner, f"hutto_ICWSM_2014/{name}_{part}.txt", folder) for part in ("GroundTruth", "anonDataRatings")
        )
        _write(folder / target, _lines(texts), _lines(votes))
        texts.unlink()
        votes.unlink()
    archive.unlink()
    inner.unlink()


def _lines(path: Path) -> dict[str, list[str]]:
    """Fields of each line of a file parted by tabs, by the first of them."""
    rows = (line.split("\t") for line in path.read_text(encoding="utf-8-sig").splitlines())
    return {row[0]: row[1:] for row in rows if len(row) > 2}


def _write(path: Path, texts: dict[str, list[str]], votes: dict[str, list[str]]) -> None:
    if texts.keys() != votes.keys():
        raise FetchError(f"{path.name}: {len(texts.keys() ^ votes.keys())} texts are without votes, or votes without.")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "value", "std", "votes"])
        for key, fields in texts.items():
            scaled = scale(ast.literal_eval(votes[key][-1]))
            listed = f"[{', '.join(map(write_number, scaled))}]"
            value, std = (write_number(float(round(number, 1))) for number in (scaled.mean(), scaled.std()))
            writer.writerow([key, fields[-1].strip(), value, std, listed])


def scale(votes: list[int]) -> np.ndarray:
    """Votes from −4 to 4 on a scale from 0 to 10."""
    return (np.asarray(votes, dtype=np.float64) + 4) * 1.25
