"""The version of the package, and of what else is installed."""

from __future__ import annotations

from collections.abc import Iterable

__version__ = "0.1.0"


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Of Python, and of those of these packages that are installed."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = __version__ if package == "xlstm-export" else version(package)
        except PackageNotFoundError:
            continue
    return found
