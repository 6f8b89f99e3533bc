"""Run one trial of a search: a DVC experiment, in a Git clone of its own that is thrown away.

The clone stands at the search's commit and shares DVC's cache with this repository. The experiment comes over by
`git fetch`, which is atomic. So this repository's workspace and locks are never touched, and what a trial leaves when
it is stopped, fails or is killed goes with its clone.
"""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tweets.errors import UserError

TARGET = "train"
# What HEAD says of the test split would stand in `dvc exp show` as a trial's own score.
TEST_SCORES = (
    "metrics/evaluate.json",
    "metrics/slices.json",
    "metrics/behaviour.json",
    "metrics/export.json",
    "plots/evaluate",
)
CURVE = Path("dvclive/plots/metrics/valid/macro_f1.tsv")
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_END = 30  # for DVC, after its stage was ended


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a search runs."""

    root: Path  # of this repository, absolute
    folder: Path  # of the study, absolute
    commit: str  # that the trials start from
    cache: str  # DVC's cache of this repository
    local: tuple[str, ...]  # paths in params or the space that Git may not track

    @property
    def clone(self) -> Path:
        return self.folder / "clone"

    @property
    def checkpoints(self) -> Path:
        """The trial's checkpoints, which outlive a clone so that a trial that was killed goes on."""
        return self.folder / "checkpoints"


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a trial ended: as an experiment, stopped, or (neither) with an error."""

    complete: bool
    stopped: bool
    error: str


def git(folder: Path, *arguments: str) -> str:
    """Return what a Git command prints. Raises UserError with its last line when it fails."""
    return _output(folder, ["git", *arguments], f"git {arguments[0]}")


def dvc(folder: Path, *arguments: str) -> str:
    """Return what a DVC command prints. Raises UserError with its last line when it fails."""
    return _output(folder, [sys.executable, "-m", "dvc", *arguments], f"dvc {arguments[0]}")


def _output(folder: Path, command: list[str], title: str) -> str:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(f"{title}: {(result.stderr.strip() or 'failed').splitlines()[-1]}")
    return result.stdout


def experiments(root: Path) -> dict[str, str]:
    """Return the ref of each DVC experiment, of whatever commit, by its name."""
    refs = git(root, "for-each-ref", "--format=%(refname)", "refs/exps").split()
    # refs/exps/2 digits/38 digits/name; DVC keeps other things below refs/exps too.
    return {ref.split("/")[4]: ref for ref in refs if re.fullmatch(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38,}/[^/]+", ref)}


def result(root: Path, ref: str) -> tuple[float, list[float]]:
    """Return an experiment's best macro-F1 on validation, and that of each of its evaluations."""
    report = json.loads(git(root, "show", f"{ref}:metrics/train.json"))
    points = json.loads(git(root, "show", f"{ref}:plots/train/scores.json"))
    return report["valid"]["macro_f1"], [point["score"] for point in points if point["group"] == "macro-F1"]


def run(place: Place, name: str, values: dict[str, Any], is_hopeless: Callable[[int, float], bool]) -> Ended:
    """Run an experiment with these values of params, and fetch it when it is complete.

    `is_hopeless` is called with the number of each evaluation, from 1, and its macro-F1; when it says so, the training
    is ended. Whatever is raised, KeyboardInterrupt too, leaves no process.
    """
    make_clone(place)
    log = place.folder / "logs" / f"{name}.txt"
    log.parent.mkdir(exist_ok=True)
    overrides = [word for key, value in values.items() for word in ("-S", f"{key}={override(value)}")]
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", "exp", "run", "--name", name, *overrides, TARGET],
            cwd=place.clone,
            env={**os.environ, "DVC_EXP_AUTO_PUSH": "false", "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            stopped = follow(process, place.clone, is_hopeless)
        finally:
            end(process)
    complete = process.returncode == 0
    if complete:
        ref = experiments(place.clone)[name]
        git(place.root, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", str(place.clone), f"{ref}:{ref}")
    for done in (place.clone, place.checkpoints):
        shutil.rmtree(done)
    return Ended(complete, stopped and not complete, "" if complete or stopped else error_in(log.read_text()))


def make_clone(place: Place) -> None:
    """Make the clone anew, with what a killed trial may have left in its place removed."""
    end_leftovers(place.clone)
    shutil.rmtree(place.clone, ignore_errors=True)
    git(place.root, "clone", "--quiet", "--no-checkout", str(place.root), str(place.clone))
    git(place.clone, "checkout", "--quiet", "--detach", place.commit)
    dvc(place.clone, "config", "--local", "cache.dir", place.cache)
    for name in TEST_SCORES:
        path = place.clone / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
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
    found = [value for value in values if isinstance(value, str) and not Path(value).is_absolute()]
    found = [value for value in found if value and (root / value).exists()]
    for value in found:
        if not (root / value).resolve().is_relative_to(root.resolve()):
            raise UserError(f"params.yaml: {value}: leads elsewhere from the clone of a trial; make it absolute")
    return tuple(found)


def override(value: Any) -> str:
    """Return a value in the grammar of `dvc exp run -S`."""
    if isinstance(value, str):
        escaped = value.replace("'", r"\'")
        return f"'{escaped}'"
    return json.dumps(value)


def curve(clone: Path) -> list[float]:
    """Return the macro-F1 of each evaluation so far, from what DVCLive has written."""
    with suppress(FileNotFoundError):
        text = (clone / CURVE).read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1].splitlines()[1:]  # the last line may be half written
        return [float(line.split("\t")[1]) for line in whole]
    return []


def follow(process: subprocess.Popen[bytes], clone: Path, is_hopeless: Callable[[int, float], bool]) -> bool:
    """Watch the curve until the process ends, and tell whether the training was ended as hopeless."""
    seen = 0
    while process.poll() is None:
        points = curve(clone)
        for number, score in enumerate(points[seen:], seen + 1):
            if is_hopeless(number, score) and end_stage(process):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(SECONDS_TO_END)
                return True
        seen = len(points)
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_BETWEEN_LOOKS)
    return False


def end(process: subprocess.Popen[bytes]) -> None:
    """End DVC and all that it started, if it still runs: its stage first, for DVC to clean up; then what is left."""
    started = family(process)
    try:
        if process.poll() is None and not end_stage(process):
            process.terminate()
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
        process.wait()
        kill(started)


def end_stage(process: subprocess.Popen[bytes]) -> bool:
    """End the stage that DVC runs, and tell whether there was one: a training that has just ended is complete."""
    stages = [child for child in family(process) if is_stage(child)]
    for stage in stages:
        with suppress(psutil.NoSuchProcess):
            stage.terminate()
    return bool(stages)


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


def end_leftovers(clone: Path) -> None:
    """End a trial that outlived its search: somebody killed that alone."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd() == str(clone) and (is_stage(process) or {"dvc", "exp", "run"} <= set(process.cmdline())):
                found += [process, *process.children(recursive=True)]
    kill(found)


def error_in(log: str) -> str:
    """Return the line of `dvc exp run`'s output that says why it failed: the stage's own where there is one."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", log) if line.strip()]
    at = next((at for at, line in enumerate(lines) if line.startswith("ERROR:")), None)
    if at is None:
        return lines[-1] if lines else "dvc exp run ended without a word"
    return lines[at - 1] if at and "failed to run:" in lines[at] else lines[at].removeprefix("ERROR: ")
