"""Run a DVC experiment in a Git clone of its own that is thrown away.

The clone stands at a commit and shares DVC's cache with this repository. The experiment comes over by `git fetch`,
which is atomic. So this repository's workspace and locks are never touched, and what an experiment leaves when it is
stopped, fails or is killed goes with its clone.
"""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import psutil

from repository import rwlock
from repository.git import git
from tweets import params
from tweets.errors import UserError

CURVE = Path("dvclive/plots/metrics/valid/macro_f1.tsv")
SECONDS_TO_END = 30  # for DVC, after its stage was ended


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an experiment runs."""

    root: Path  # of this repository, absolute
    folder: Path  # that holds the clone, absolute
    commit: str  # that the experiment starts from
    cache: str  # DVC's cache of this repository
    local: tuple[str, ...]  # paths in params that Git may not track

    @property
    def clone(self) -> Path:
        return self.folder / "clone"

    @property
    def checkpoints(self) -> Path:
        """The experiment's checkpoints, which outlive a clone so that a training that was killed goes on."""
        return self.folder / "checkpoints"


def dvc(folder: Path, *arguments: str) -> str:
    """Return what a DVC command prints. Raises UserError with its last line when it fails."""
    rwlock.heal(folder)
    command = [sys.executable, "-m", "dvc", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(f"dvc {arguments[0]}: {(result.stderr.strip() or 'failed').splitlines()[-1]}")
    return result.stdout


def check_identity(root: Path) -> None:
    """Raise UserError unless Git knows who commits here: DVC makes a commit of each experiment."""
    known = {
        part: os.environ.get(f"GIT_COMMITTER_{part.upper()}")
        or git("config", "--get", "--default", "", f"user.{part}", folder=root)
        for part in ("name", "email")
    }
    if missing := [f"user.{part}" for part, value in known.items() if not value]:
        raise UserError(
            f"Git has no {' and no '.join(missing)}, and DVC makes a commit of each experiment: type"
            ' `git config --global user.name "Your Name"` and `git config --global user.email you@example.org`'
        )


def experiments(root: Path) -> dict[str, str]:
    """Return the ref of each DVC experiment, of whatever commit, by its name."""
    refs = git("for-each-ref", "--format=%(refname)", "refs/exps", folder=root).split()
    # refs/exps/2 digits/38 digits/name; DVC keeps other things below refs/exps too.
    return {ref.split("/")[4]: ref for ref in refs if re.fullmatch(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38,}/[^/]+", ref)}


def make_clone(place: Place) -> None:
    """Make the clone anew, with what a killed experiment may have left in its place removed."""
    end_leftovers(place.clone)
    shutil.rmtree(place.clone, ignore_errors=True)
    git("clone", "--quiet", "--no-checkout", str(place.root), str(place.clone))
    git("checkout", "--quiet", "--detach", place.commit, folder=place.clone)
    dvc(place.clone, "config", "--local", "cache.dir", place.cache)
    (place.clone / ".cache").mkdir()
    place.checkpoints.mkdir(exist_ok=True)
    (place.clone / ".cache/train").symlink_to(place.checkpoints)
    link_local(place)


def link_local(place: Place) -> None:
    """Link into the clone the files of local paths that neither Git nor DVC tracks: data of the user's own."""
    for name in place.local:
        source = place.root / name
        for file in source.rglob("*") if source.is_dir() else [source]:
            path = file.relative_to(place.root)
            # What a .dvc file names DVC puts there itself: it must not meet a link into the user's workspace.
            in_dvc = any((place.clone / f"{parent}.dvc").exists() for parent in (path, *path.parents))
            if file.is_file() and not in_dvc and not (place.clone / path).exists():
                (place.clone / path).parent.mkdir(parents=True, exist_ok=True)
                (place.clone / path).symlink_to(file)


def local_paths(root: Path, values: Iterable[Any]) -> tuple[str, ...]:
    """Return those of the values of params that are relative paths of something in this repository.

    Raises UserError for one that leads out of it, which would lead elsewhere from a clone.
    """
    paths = [value for value in values if isinstance(value, str) and not Path(value).is_absolute()]
    paths = [value for value in paths if value and (root / value).exists()]
    for value in paths:
        if not (root / value).resolve().is_relative_to(root.resolve()):
            raise UserError(f"params.yaml: {value}: leads elsewhere from the clone of an experiment; make it absolute")
    return tuple(paths)


def start(
    place: Place, name: str, values: dict[str, Any], log: IO[Any], *targets: str, **options: Any
) -> subprocess.Popen[bytes]:
    """Start an experiment in the clone, with these values of params; all stages, or what the targets need."""
    overrides = [word for key, value in values.items() for word in ("-S", params.override(key, value))]
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", "exp", "run", "--name", name, *overrides, *targets],
        cwd=place.clone,
        env={**_environment(), "DVC_EXP_AUTO_PUSH": "false", "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        **options,
    )


def _environment() -> dict[str, str]:
    """Return the variables for DVC: its stages run with this Python, and no hash of a key is in them."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TWEETS_")}
    return {**kept, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


def fetch(place: Place, name: str) -> None:
    """Take a complete experiment over from the clone."""
    ref = experiments(place.clone)[name]
    quiet = ("--quiet", "--no-tags", "--no-write-fetch-head")
    git("fetch", *quiet, str(place.clone), f"{ref}:{ref}", folder=place.root)


def curve(clone: Path) -> list[float]:
    """Return the macro-F1 of each evaluation so far, from what DVCLive has written."""
    with suppress(FileNotFoundError):
        text = (clone / CURVE).read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1].splitlines()[1:]  # the last line may be half written
        return [float(line.split("\t")[1]) for line in whole]
    return []


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the running descendants of a process."""
    if process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(process.pid).children(recursive=True)
    return []


def is_stage(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return any(word.startswith("stages.") for word in process.cmdline())
    return False


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=SECONDS_TO_END)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a group, and the whole group with it; none of them is left, for SECONDS_TO_END."""
    until = time.monotonic() + SECONDS_TO_END
    with suppress(ProcessLookupError):  # the group is empty
        while time.monotonic() < until:
            os.killpg(process.pid, signal.SIGKILL)
            process.poll()  # which takes the leader out of the group once it is dead
            time.sleep(0.02)


def end_leftovers(clone: Path) -> None:
    """End an experiment that outlived what had started it: somebody killed that alone."""
    processes = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd() == str(clone) and (is_stage(process) or {"dvc", "exp", "run"} <= set(process.cmdline())):
                processes += [process, *process.children(recursive=True)]
    kill(processes)


def killed_in(log: str) -> str:
    """Return which stage a signal ended, as `dvc exp run`'s output tells it, and which signal; "" where none did."""
    pattern = r"^ERROR: failed to reproduce '(\w+)': failed to run: .*, exited with (-?\d+)$"
    match = re.search(pattern, log, re.MULTILINE)
    if match:
        stage, status = match[1], int(match[2])
        number = -status if status < 0 else status - 128  # a shell around the stage adds 128
        if number in signal.valid_signals():
            return f"the stage {stage} was ended by signal {number}"
    return ""


def error_in(log: str) -> str:
    """Return the line of `dvc exp run`'s output that says why it failed: the stage's own where there is one."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", log) if line.strip()]
    at = next((at for at, line in enumerate(lines) if line.startswith("ERROR:")), None)
    if at is None:
        return lines[-1] if lines else "dvc exp run ended without a word"
    return lines[at - 1] if at and "failed to run:" in lines[at] else lines[at].removeprefix("ERROR: ")
