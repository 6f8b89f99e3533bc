"""Call git."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tweets.errors import UserError


def attempt(
    *arguments: str, folder: Path | None = None, changed: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run git in a folder, or in the current one, with changes to the environment, whatever its exit code."""
    environment = {**os.environ, "LC_ALL": "C", **(changed or {})}
    return subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def git(*arguments: str, folder: Path | None = None, changed: Mapping[str, str] | None = None) -> str:
    """Return what a git command prints, without the line breaks at its end. Raises UserError when it fails."""
    result = attempt(*arguments, folder=folder, changed=changed)
    if result.returncode:
        raise UserError(
            f"`git {' '.join(arguments)}` ended with exit code {result.returncode}: {result.stderr.strip()}"
        )
    return result.stdout.rstrip("\n")
