"""Options that several subcommands share, and how they are read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gor_head.output import check_output_file

Drop = Annotated[list[str], typer.Option(help="Column that is no feature; give it once for each.")]
Category = Annotated[
    list[str], typer.Option(help="Column to read as categories whatever it holds; give it once for each.")
]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Setting of the estimator, its value as JSON or a word: max_steps=500, decoder=gru, "
        "'vocabulary={\"beta\": 0.5}'; give it once for each.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Model = Annotated[Path, typer.Argument(help="Folder that `gor train` wrote.", show_default=False)]


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`["max_steps=500", "decoder=gru"]` → `{"max_steps": 500, "decoder": "gru"}`.

    Raises:
        ValueError: If a pair has no name or no `=`, or a name comes twice.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise ValueError(f"--set wants NAME=VALUE, got {pair!r}.")
        if name in settings:
            raise ValueError(f"--set has the name {name!r} twice.")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings


def check_image(path: Path | None, option: str = "--plot") -> None:
    """Make sure that a figure can be written under its name, before anything is computed for it.

    Args:
        path: The image; `None` if there is to be none.
        option: What it was given with.

    Raises:
        ValueError: If matplotlib does not know the kind of image.
        OSError: If the file cannot be written.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if path is not None and path.suffix and path.suffix[1:].lower() not in known:
        raise ValueError(f"{option}: wanted an image of the kind {', '.join(sorted(known))}, got {path.name!r}.")
    if path is not None:
        check_output_file(path if path.suffix else path.with_name(f"{path.name}.png"))  # as matplotlib names it


def check_columns(drop: Sequence[str], category: Sequence[str], columns: Sequence[str], *, where: str) -> None:
    """Make sure that columns named by options exist: one with a typing error would be read as if it were not named.

    Raises:
        ValueError: If one does not.
    """
    for option, names in (("--drop", drop), ("--category", category)):
        unknown = [name for name in names if name not in columns]
        if unknown:
            raise ValueError(f"{option}: no column {unknown[0]!r} in {where}.")
