"""What is installed: every import is declared, every package is listed, versions are checked."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import rarl
from gor_head.versions import ALLOW, check_versions
from tests.oldest import oldest
from tests.paths import ROOT
from tests.test_architecture import CORE, module_name

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
OWN = {"rarl", "gor_head", "recipes", "benchmarks", "tests"}


def declared(*extras: str) -> set[str]:
    """Distributions of the core and of some extras, those that extras bring along included."""
    lines = [*PYPROJECT["project"]["dependencies"]]
    waiting = list(extras)
    while waiting:
        for line in EXTRAS[waiting.pop()]:
            if line.startswith("rarl["):
                waiting += line.removeprefix("rarl[").removesuffix("]").split(",")
            else:
                lines.append(line)
    return {Requirement(line).name.lower().replace("_", "-") for line in lines}


@cache
def distributions() -> dict[str, list[str]]:
    """Package → distributions that bring it, of all that is installed."""
    return dict(metadata.packages_distributions())


def imported(path: Path) -> set[str]:
    """Distributions that a file imports from, wherever the import stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module.partition(".")[0])
    names -= sys.stdlib_module_names | OWN
    # A package may be optional, such as deepspeed: it is then known by its own name.
    return {distributions().get(name, [name])[0].lower().replace("_", "-") for name in names}


def files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize(
    ("paths", "extras"),
    [
        ([path for path in files("gor_head") if path.parent.name != "vlm"], ("tables",)),
        (files("gor_head/vlm"), ("train",)),
        (files("rarl", "recipes"), ("vlm", "deepspeed", "fetch")),
        (files("benchmarks", "tests"), ("test", "deepspeed")),
    ],
    ids=["gor_head", "gor_head.vlm", "rarl", "tests"],
)
def test_every_import_is_declared(paths: list[Path], extras: tuple[str, ...]) -> None:
    assert {str(path.relative_to(ROOT)): rest for path in paths if (rest := imported(path) - declared(*extras))} == {}


def test_the_core_imports_the_core_only() -> None:
    """But for PyTorch where a tensor is at hand, and for estimators that are asked for by name."""
    assert {"torch", "trl", "transformers"} & declared() == set()
    modules = {module_name(path): path for path in files("rarl", "gor_head")}
    direct = {*CORE, "gor_head", "rarl", "rarl.rewards.scoring", "gor_head.grid", "gor_head.numbers"}
    assert direct <= modules.keys()
    for name in direct:
        assert imported(modules[name]) - declared() <= {"torch"}, name


def test_packages_are_listed() -> None:
    """By name, since recipes lie beside the packages: a new folder must be entered."""
    listed = set(PYPROJECT["tool"]["setuptools"]["packages"])
    found = {module_name(path) for path in files("rarl", "gor_head") if path.name == "__init__.py"}
    assert found == {name for name in listed if "assets" not in name and "shipped" not in name}
    folders = {path.parent for path in (ROOT / "rarl/assets").rglob("*") if path.is_file()}
    assert {".".join(path.relative_to(ROOT).parts) for path in folders} == {name for name in listed if "assets" in name}


def test_the_version_is_written_once() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", rarl.__version__)
    assert f"version: {rarl.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {rarl.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_oldest_versions() -> None:
    project = {
        "dependencies": ["a>=1.2", "b"],
        "optional-dependencies": {"x": ["a>=1.10,<2", "rarl[y]"], "y": ["c_d>=0.1.2,<0.2"]},
    }
    assert oldest(project) == ["a==1.10", "c_d==0.1.2"]


def fake(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    """Other versions of some distributions, as far as the check can see; `""` for none."""
    real = metadata.version

    def version(name: str) -> str:
        if versions.get(name) == "":
            raise metadata.PackageNotFoundError(name)
        return versions.get(name) or real(name)

    monkeypatch.setattr(metadata, "version", version)


def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above, below, and not there: each says what is installed, what is supported, and what to do."""
    monkeypatch.delenv(ALLOW, raising=False)
    fake(monkeypatch, {"trl": "1.16.0", "peft": "0.21.2"})
    check_versions("trl", "peft")
    supported = r"trl(<1\.17,>=1\.16|>=1\.16,<1\.17) is supported: pip install 'trl.*'"
    for seen in ("1.15.9", "1.17.0", "2.0"):
        fake(monkeypatch, {"trl": seen, "peft": "0.21.2"})
        with pytest.raises(ImportError, match=rf"^trl {re.escape(seen)} is installed, .*{supported}.*{ALLOW}=allow"):
            check_versions("peft", "trl")
        check_versions("peft")
        with monkeypatch.context() as context:
            context.setenv(ALLOW, "allow")
            check_versions("trl")
    fake(monkeypatch, {"trl": ""})
    with pytest.raises(ImportError, match=r"^trl is not installed: pip install 'rarl\[train\]'$"):
        check_versions("trl")


def test_a_checkout_that_is_not_installed_has_no_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.delenv(ALLOW, raising=False)
    fake(monkeypatch, {"trl": "2.0"})
    with pytest.raises(ImportError, match="trl 2.0 is installed"):
        check_versions("trl")
    monkeypatch.setattr(metadata, "requires", requires)
    check_versions("trl")
