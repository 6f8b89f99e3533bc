"""Clones of this repository, shrunk to the size of a test, and the commands that run in them."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
# A name for commits, which a new machine has not told Git, and nothing of what else a user has: signatures, for one.
IDENTITY = {
    "GIT_AUTHOR_NAME": "Test",
    "GIT_AUTHOR_EMAIL": "test@example.org",
    "GIT_COMMITTER_NAME": "Test",
    "GIT_COMMITTER_EMAIL": "test@example.org",
}
os.environ |= {**IDENTITY, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
# Of commands in a clone: tests/bin and this Python first, wide tables, and nothing of a `make test` around these tests
# or of what tests/__init__.py sets for this process.
ARITHMETIC = ("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "NPY_DISABLE_CPU_FEATURES", "OMP_WAIT_POLICY")
ELSEWHERE = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", *ARITHMETIC)
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in ELSEWHERE},
    "COLUMNS": "500",
    "PATH": os.pathsep.join([str(ROOT / "tests/bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
}

# What lets coverage measure a process that tests start. Others' commands are as fast as without it.
MEASURED = {name: ENVIRONMENT.pop(name) for name in ("COVERAGE_PROCESS_CONFIG",) if name in ENVIRONMENT}
NOT_OURS = ("dvc", "git", "gto", "pre-commit")

BUCKET = "tweets-dvc"
STAGES = sorted(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])


def kill_stage(stage: str, *, at: str) -> None:
    """Run a stage in the current folder; it kills itself where it would call a function, named as seen from it."""
    code = (
        f"import os, signal; from stages import {stage}\n"
        "def kill(*_):\n os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{stage}.{at} = kill\n{stage}.main()"
    )
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr


def run(folder: Path, *command: str, check: bool = True, **changed: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a clone, in this environment; without `check`, whatever its exit code."""
    environment = {**ENVIRONMENT, **({} if command[0] in NOT_OURS else MEASURED), **changed}
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1200, check=False
    )
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


def stages_run(result: subprocess.CompletedProcess[str]) -> list[str]:
    return sorted(re.findall(r"Running stage '(\w+)'", result.stdout))


def copy_of_this_tree(folder: Path) -> None:
    """Copy what Git tracks or would track, as it is now, and commit it."""
    listed = run(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").stdout.split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    commit(folder, "init", "-q")
    commit(folder, "add", "-A")
    commit(folder, "commit", "-qm", "Begin")


def commit(folder: Path, *arguments: str) -> None:
    run(folder, "git", *arguments)


def unconfigured(home: Path) -> dict[str, str]:
    """Return what makes ENVIRONMENT a new machine, on which nobody has told Git a name."""
    home.mkdir(exist_ok=True)
    return {**dict.fromkeys(IDENTITY, ""), "HOME": str(home), "LC_ALL": "C"}


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    """Look until a condition holds. Looking takes at most a quarter of the time: what is waited for needs the rest."""
    begin = time.monotonic()
    end = begin + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(max(0.05, 3 * (time.monotonic() - begin)))
        begin = time.monotonic()


def empty_repository(folder: Path) -> None:
    """Make a folder a DVC repository with this one's configuration and tools, and nothing to track."""
    run(folder, "git", "init", "-q")
    run(folder, "dvc", "init", "-q")
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    for package in ("repository", "tools", "tweets"):
        shutil.copytree(ROOT / package, folder / package)


def point_at(folder: Path, endpoint: str, prefix: str = "pipeline", **more: str) -> None:
    """Let the default remote of a clone be a folder of the bucket at an endpoint, with other settings."""
    settings = {"url": f"gs://{BUCKET}/{prefix}", "endpointurl": endpoint, "allow_anonymous_login": "true", **more}
    own = [f"    {name} = {value}" for name, value in settings.items()]
    lines = ["[core]", "    remote = gcs", "['remote \"gcs\"']", *own, ""]
    (folder / ".dvc/config.local").write_text("\n".join(lines))


def linked_environment(folder: Path) -> None:
    """Give a clone this environment as its .venv, set up as far as make can tell."""
    (folder / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        if not path.name.startswith("requirements"):
            (folder / ".venv" / path.name).symlink_to(path)
    for stamp in ("requirements", "requirements-dev"):
        (folder / ".venv" / stamp).touch()
