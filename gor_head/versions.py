"""Versions of the libraries whose private methods are overridden: others than the supported ones are refused."""

import os
from importlib import metadata

from packaging.requirements import Requirement

ALLOW = "RARL_UNSUPPORTED_VERSIONS"
"""Environment variable that lets other versions be tried, where it is `allow`."""


def check_versions(*names: str) -> None:
    """Refuse installed libraries that the requirements of this distribution exclude.

    The ranges are those of `pyproject.toml`, as they were installed; a checkout that is not installed has none.

    Args:
        names: Distributions, such as `trl`.

    Raises:
        ImportError: Names the library, the version that is installed, the ones that are supported, and the way out.
    """
    try:
        required = [Requirement(line) for line in metadata.requires("rarl") or []]
    except metadata.PackageNotFoundError:
        return
    if os.environ.get(ALLOW) == "allow":
        return
    for requirement in required:
        if requirement.name not in names or not requirement.specifier:
            continue
        try:
            seen = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            raise ImportError(f"{requirement.name} is not installed: pip install 'rarl[train]'") from None
        if not requirement.specifier.contains(seen, prereleases=True):
            supported = f"{requirement.name}{requirement.specifier}"
            raise ImportError(
                f"{requirement.name} {seen} is installed, whose private methods may be others; {supported} is "
                f"supported: pip install '{supported}', or try it with {ALLOW}=allow."
            )
