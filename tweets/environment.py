"""Refuse to make results with other library versions than the ones that requirements.txt pins."""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from tweets.errors import UserError


def check(requirements: Path = Path("requirements.txt")) -> None:
    """Compare the installed public versions with the pins. Raises UserError that names each difference."""
    wrong = [line for line in map(_difference, pins(requirements)) if line]
    if wrong:
        raise UserError(
            f"{sys.executable} has {', '.join(wrong)} ({requirements}): `make setup`, then"
            " `source .venv/bin/activate`, gives the environment that decides the results"
        )


def pins(requirements: Path) -> list[Requirement]:
    """Return the requirements in the file, comments left out. Raises UserError when there is no such file."""
    try:
        lines = requirements.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{requirements}: no such file; run this from the root of the repository") from None
    return [Requirement(line) for line in (line.split("#")[0].strip() for line in lines) if line]


def _difference(pin: Requirement) -> str | None:
    """Return what is installed in place of `pin`, or None where it fits; a local tag such as +cpu is no difference."""
    try:
        installed = Version(version(pin.name)).public
    except PackageNotFoundError:
        return f"no {pin.name}, needs {pin.specifier}"
    return None if pin.specifier.contains(installed) else f"{pin.name} {installed}, needs {pin.specifier}"
