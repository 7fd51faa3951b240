"""Prints the oldest versions that pyproject.toml allows, as constraints of pip."""

import re
import tomllib
from pathlib import Path


def oldest(project: dict) -> list[str]:
    """`name==version` of every requirement with a lower bound, the highest where extras differ, without tools."""
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name != "test"}
    lines = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    bounds: dict[str, str] = {}
    for line in lines:
        if found := re.match(r"([\w.-]+)(?:\[[\w,]+\])?>=([\d.]+)", line):
            name, version = found.groups()
            bounds[name] = max(version, bounds.get(name, version), key=lambda text: [int(n) for n in text.split(".")])
    return [f"{name}=={version}" for name, version in sorted(bounds.items())]


if __name__ == "__main__":
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    print("\n".join(oldest(tomllib.loads(text)["project"])))
