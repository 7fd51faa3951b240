"""`rarl recipes list` and `rarl recipes copy`: the training scripts that come with the package."""

import ast
import shutil
from pathlib import Path
from typing import Annotated

import typer

import rarl
from rarl.cli.errors import plain_errors

recipes = typer.Typer(help="The training recipes that come with this package.", no_args_is_help=True)


def shipped(folder: str) -> Path:
    """`recipes` or `accelerate_configs`, as they came with the package, or beside it in a checkout."""
    package = Path(rarl.__file__).parent
    installed = package / "shipped" / folder
    return installed if installed.is_dir() else package.parent / folder


@recipes.command("list")
@plain_errors
def list_recipes() -> None:
    """Name the recipes, and say what each does."""
    for path in sorted(shipped("recipes").glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        typer.echo(f"{path.stem}: {text.partition(chr(10))[0]}")


@recipes.command("copy")
@plain_errors
def copy_recipe(
    name: Annotated[str, typer.Argument(help="Name of the recipe, as `rarl recipes list` has it.", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="Where to; made if it is not there.", show_default=False)],
) -> None:
    """Copy a recipe with its configurations and accelerate's, to change them: `accelerate launch FOLDER/NAME.py`."""
    scripts = {path.stem: path for path in shipped("recipes").glob("*.py")}
    if name not in scripts:
        raise ValueError(f"There is no recipe {name!r}; there are {', '.join(sorted(scripts))}.")
    copies = {scripts[name]: folder / f"{name}.py"}
    # Configurations are named after the recipe and the model.
    for path in sorted(shipped("recipes").glob(f"configs/{name}_*.yaml")):
        copies[path] = folder / "configs" / path.name
    for path in sorted(shipped("accelerate_configs").glob("*.yaml")):
        copies[path] = folder / "accelerate_configs" / path.name
    # Accelerate's configurations are those of all recipes: one folder may hold several.
    shared = {target for target in copies.values() if target.parent.name == "accelerate_configs"}
    there = [
        str(target)
        for source, target in copies.items()
        if target.exists() and not (target in shared and target.read_bytes() == source.read_bytes())
    ]
    if there:
        raise ValueError(f"{', '.join(there)}: there already; wanted a folder without, so that nothing is overwritten.")
    for source, target in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        typer.echo(target)
