"""Errors that a user can mend become one message instead of a traceback, and warnings one line."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

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
        with warnings.catch_warnings():
            warnings.showwarning = _once()
            try:
                return command(*args, **kwargs)
            except ModuleNotFoundError as error:
                typer.echo(f"Error: {not_installed(error, 'tables')}", err=True)
                raise typer.Exit(1) from None
            except (ValueError, OSError) as error:
                typer.echo(f"Error: {error}", err=True)
                raise typer.Exit(2 if isinstance(error, ValueError) else 1) from None

    return wrapped


def _once() -> Callable[..., None]:
    """A `warnings.showwarning` that prints each message once, and not where in the code it arose."""
    seen: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in seen:
            typer.echo(f"Warning: {message}", err=True)
        seen.add(str(message))

    return show
