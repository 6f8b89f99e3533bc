"""Run one trial of a search: a DVC experiment in a clone of its own, stopped when it is hopeless."""

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from repository import isolated
from repository.git import git
from repository.isolated import Place

TARGET = "train"
# What HEAD says of the test split would stand in `dvc exp show` as a trial's own score.
TEST_SCORES = (
    "metrics/evaluate.json",
    "metrics/slices.json",
    "metrics/behaviour.json",
    "metrics/export.json",
    "plots/evaluate",
)
SECONDS_BETWEEN_LOOKS = 0.5


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a trial ended: as an experiment, stopped, or (neither) with an error."""

    complete: bool
    stopped: bool
    error: str


def validation_scores(root: Path, ref: str) -> tuple[float, list[float]]:
    """Return an experiment's best macro-F1 on validation, and that of each of its evaluations."""
    report = json.loads(git("show", f"{ref}:metrics/train.json", folder=root))
    points = json.loads(git("show", f"{ref}:plots/train/scores.json", folder=root))
    return report["valid"]["macro_f1"], [point["score"] for point in points if point["group"] == "macro-F1"]


def run_experiment(place: Place, name: str, values: dict[str, Any], is_hopeless: Callable[[int, float], bool]) -> Ended:
    """Run an experiment with these values of params, and fetch it when it is complete.

    `is_hopeless` is called with the number of each evaluation, from 1, and its macro-F1; when it says so, the training
    is ended. Whatever is raised, KeyboardInterrupt too, leaves no process.
    """
    isolated.make_clone(place)
    for path in (place.clone / score for score in TEST_SCORES):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    log = place.folder / "logs" / f"{name}.txt"
    log.parent.mkdir(exist_ok=True)
    with log.open("w", encoding="utf-8") as out:
        process = isolated.start(place, name, values, out, TARGET)
        try:
            stopped = follow(process, place.clone, is_hopeless)
        finally:
            end(process)
    complete = process.returncode == 0
    if complete:
        isolated.fetch(place, name)
    for done in (place.clone, place.checkpoints):
        shutil.rmtree(done)
    return Ended(complete, stopped and not complete, "" if complete or stopped else isolated.error_in(log.read_text()))


def follow(process: subprocess.Popen[bytes], clone: Path, is_hopeless: Callable[[int, float], bool]) -> bool:
    """Watch the curve until the process ends, and tell whether the training was ended as hopeless."""
    seen = 0
    while process.poll() is None:
        points = isolated.curve(clone)
        for number, score in enumerate(points[seen:], seen + 1):
            if is_hopeless(number, score) and end_stage(process):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(isolated.SECONDS_TO_END)
                return True
        seen = len(points)
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_BETWEEN_LOOKS)
    return False


def end(process: subprocess.Popen[bytes]) -> None:
    """End DVC and all that it started, if it still runs: its stage first, for DVC to clean up; then what is left."""
    started = isolated.family(process)
    try:
        if process.poll() is None and not end_stage(process):
            process.terminate()
        process.wait(isolated.SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
        process.wait()
        isolated.kill(started)


def end_stage(process: subprocess.Popen[bytes]) -> bool:
    """End the stage that DVC runs, and tell whether there was one: a training that has just ended is complete."""
    stages = [child for child in isolated.family(process) if isolated.is_stage(child)]
    for stage in stages:
        with suppress(psutil.NoSuchProcess):
            stage.terminate()
    return bool(stages)
