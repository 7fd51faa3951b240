"""Links in docstrings: one syntax, [`name`][path.of.what.it.is], which an API reference renders, and no dead ends."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.paths import ROOT

FILES = [
    path for package in ("rarl", "gor_head", "benchmarks", "recipes") for path in sorted((ROOT / package).rglob("*.py"))
]
LINK = re.compile(r"\[`([^`\n]+)`\](\[[\w.]*\]|\([^)]*\))?")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def assigned(node: ast.AST) -> list[str]:
    """Names that a statement gives values to, as a module or a class does to its constants and fields."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def defined(node: ast.Module | ast.ClassDef, path: str) -> Iterator[str]:
    """Full names of what a module or a class defines, its attributes set in `__init__` and fields included."""
    for each in node.body:
        names = assigned(each)
        if isinstance(each, ast.FunctionDef | ast.ClassDef):
            names = [each.name]
        yield from (f"{path}.{name}" for name in names)
        if isinstance(each, ast.ClassDef):
            yield from defined(each, f"{path}.{each.name}")


@cache
def reference() -> frozenset[str]:
    """Full names of all that both packages define, modules included."""
    names = set()
    for path in FILES:
        module = module_name(path)
        names |= {module, *defined(ast.parse(path.read_text(encoding="utf-8")), module)}
    return frozenset(names)


def docstrings(path: Path) -> Iterator[str]:
    """All texts of a file that stand alone as a statement: docstrings, those of constants included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_links_lead_somewhere(path: Path) -> None:
    """A link that is not to be found would be text in brackets on the page, without an error."""
    for text in docstrings(path):
        for name, target in LINK.findall(text):
            assert target.startswith("["), f"[`{name}`]{target}: wanted [`{name}`][its.full.name]"
            assert target[1:-1] in reference(), f"[`{name}`]{target}: nothing has this full name"
