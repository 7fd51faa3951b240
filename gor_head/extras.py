"""What is said of packages that come with an extra of the distribution and are not there."""


def not_installed(error: ModuleNotFoundError, extra: str) -> str:
    """What to say of a package that is not installed; a module of these packages that is missing is a defect.

    Args:
        error: The error of the import.
        extra: Name of the extra of the distribution that brings it.

    Raises:
        ModuleNotFoundError: The error itself, if it is a defect.
    """
    package = (error.name or "").partition(".")[0]
    if package in ("rarl", "gor_head", ""):
        raise error
    return f"this wants the package {package}, which is not installed: pip install 'rarl[{extra}]'"
