"""The packages' imports run one way: no circles, `gor_head` knows nothing of `rarl`, the core wants no PyTorch."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.paths import ROOT

REACHED = {"gor_head", "gor_head.metrics", "gor_head.numbers", "gor_head.output", "gor_head.rows", "gor_head.text"}
REACHED |= {"gor_head.compare.significance", "gor_head.extras", "gor_head.versions", "gor_head.vocabulary"}
"""What `rarl` uses of `gor_head` beside `gor_head.vlm`."""

CORE = ("rarl.rewards", "rarl.answer", "rarl.mutation", "rarl.task", "rarl.prompt")
CORE += ("gor_head.vocabulary", "gor_head.construction.fit", "gor_head.metrics", "gor_head.text")
HEAVY = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "PIL", "torchvision")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def graph() -> dict[str, frozenset[str]]:
    """Module → modules of both packages that it imports, wherever the import stands: in functions and in
    `TYPE_CHECKING`, too."""
    files = {module_name(path): path for package in ("rarl", "gor_head") for path in (ROOT / package).rglob("*.py")}
    edges = {}
    for name, path in files.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                assert node.level == 0, f"{name}: wanted imports by full names, got a relative one"
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
        # `from package import name`: the module of that name, or the package that says where the name is.
        modules = {each if each in files else each.rpartition(".")[0] for each in found}
        edges[name] = frozenset(modules & files.keys() - {name})
    return edges


def circle(edges: dict[str, frozenset[str]]) -> list[str] | None:
    """Modules that import each other round, the first one twice; `None` if there is no circle."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return None
        for target in sorted(edges[module]):
            if (found := walk(target, [*path, module])) is not None:
                return found
        done.add(module)
        return None

    return next((found for module in sorted(edges) if (found := walk(module, [])) is not None), None)


def test_circles_are_found() -> None:
    assert circle({"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("b")}) == ["b", "c", "b"]
    assert circle({"a": frozenset("bc"), "b": frozenset("c"), "c": frozenset()}) is None


def test_no_module_imports_itself_by_way_of_others() -> None:
    found = circle(graph())
    print(f"{len(graph())} modules, {sum(map(len, graph().values()))} imports, circle: {found}")
    assert found is None, " → ".join(found)


def test_gor_head_knows_nothing_of_rarl() -> None:
    arrows = [(one, other) for one, others in graph().items() for other in others]
    assert len(arrows) > 300
    assert [arrow for arrow in arrows if arrow[0].startswith("gor_head") and arrow[1].startswith("rarl")] == []


def test_rarl_reaches_gor_head_by_few_doors() -> None:
    found = {other for one, others in graph().items() if one.startswith("rarl") for other in others}
    assert {name for name in found if name.startswith("gor_head") and "vlm" not in name.split(".")} <= REACHED


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_no_pytorch(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
