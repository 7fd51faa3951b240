"""Errors that a user can mend become one message instead of a traceback."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from gor_head.extras import not_installed

P = ParamSpec("P")
R = TypeVar("R")


def plain_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Show a `ValueError` (exit code 2), an `OSError` (missing file and the like) or a package that is not installed
    (exit code 1) of a command plainly.

    Any other exception is a defect, and keeps its traceback.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except ModuleNotFoundError as error:
            typer.echo(f"Error: {not_installed(error, 'vlm')}", err=True)
            raise typer.Exit(1) from None
        except (ValueError, OSError) as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(2 if isinstance(error, ValueError) else 1) from None

    return wrapped
