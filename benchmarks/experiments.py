"""How long `dvc exp show` takes with 50 experiments, and what `dvc exp run` adds to its stages.

    python -m benchmarks.experiments

Run it from a clone that `dvc repro` has brought up to date and that is committed. It works in a temporary clone with
a copy of the cache. The stage is `fetch`, alone and within `dvc exp run`, by turns: a larger `fetch.max_chars` gives
the same rows, so the other stages are checked and do not run. The 50 experiments each have their own `train.lr` and are
made with `dvc exp save`, which trains nothing: the table reads as much of each as if it had run. Prints a table and
writes benchmarks/results/experiments.json. Times are medians, in seconds.
"""

import json
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from tweets import command, files
from tweets.errors import UserError
from tweets.progress import track

RESULT = Path("benchmarks/results/experiments.json")
EXPERIMENTS = 50
REPEATS = 3
TABLE = ("make", "-s", "-o", "setup", "experiments")
STAGE = ("python", "-m", "stages.fetch")


def timed(folder: Path, *command: str) -> tuple[float, str]:
    """Run a command. Return its wall time in seconds and its stdout. Raises UserError when it fails."""
    begin = time.perf_counter()
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    if result.returncode:
        raise UserError(f"{' '.join(command)}: exit code {result.returncode}: {' '.join(result.stderr.split())[-300:]}")
    return seconds, result.stdout


def copy_of_clone(folder: Path) -> None:
    """Clone this clone as it is committed, with its outputs and data. Raises UserError unless it is up to date."""
    if "up to date" not in timed(Path(), "dvc", "status")[1]:
        raise UserError("the clone is not up to date: `dvc repro` and commit, then measure")
    timed(Path(), "git", "clone", "-q", ".", str(folder))
    for name, value in (("user.name", "benchmark"), ("user.email", "benchmark@example.org")):  # of experiments' commits
        timed(folder, "git", "config", name, value)
    cache = Path(timed(Path(), "dvc", "cache", "dir")[1].strip())
    shutil.copytree(cache / "files", folder / ".dvc/cache/files")  # without the run cache: the stage has to run
    timed(folder, "dvc", "checkout")


def overhead(folder: Path) -> dict[str, float]:
    """Return what `dvc exp run` of one stage takes, here and in a temporary folder, and what the stage takes alone."""
    times: dict[str, list[float]] = {"stage": [], "exp_run": [], "exp_run_temp": []}
    for number in track(range(REPEATS), desc="overhead", unit="rounds"):
        times["stage"].append(timed(folder, *STAGE)[0])
        for name, chars, where in (("exp_run", 11_000, ()), ("exp_run_temp", 12_000, ("--temp",))):
            command = ("dvc", "exp", "run", *where, "-S", f"fetch.max_chars={chars + number}")
            seconds, output = timed(folder, *command)
            if output.count("Running stage") != 1:
                raise UserError(f"{' '.join(command)}: needs to run one stage, ran {output.count('Running stage')}")
            times[name].append(seconds)
    return {name: statistics.median(durations) for name, durations in times.items()}


def show(folder: Path) -> dict[str, Any]:
    """Return what the table of EXPERIMENTS experiments takes. Raises UserError unless it has so many rows."""
    timed(folder, "dvc", "exp", "remove", "--all-commits")
    timed(folder, "git", "restore", ".")
    path = folder / "params.yaml"
    params = files.read_yaml(path)
    for number in track(range(EXPERIMENTS), desc="save", unit="experiments"):
        params["train"]["lr"] = 1e-6 * (number + 1)
        files.write_yaml(path, params)
        timed(folder, "dvc", "exp", "save", "--name", f"e{number}")
    first = timed(folder, *TABLE)[0]  # DVC keeps what it has read of an experiment for the next table
    shown = json.loads(timed(folder, "dvc", "exp", "show", "--json")[1])
    rows = sum(len(commit["experiments"] or []) for commit in shown)
    if rows != EXPERIMENTS:
        raise UserError(f"dvc exp show has {rows} experiments, needs {EXPERIMENTS}")
    seconds = [timed(folder, *TABLE)[0] for _ in range(REPEATS)]
    return {"experiments": rows, "first": first, "again": statistics.median(seconds)}


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "clone"
        copy_of_clone(folder)
        measurements = {"overhead": overhead(folder), "show": show(folder)}
    alone = measurements["overhead"]["stage"]
    table = measurements["show"]
    print(f"the table of {table['experiments']} experiments: {table['first']:.1f} s, again {table['again']:.1f} s")
    print(f"python -m stages.fetch: {alone:.1f} s")
    for name, title in (("exp_run", "dvc exp run"), ("exp_run_temp", "dvc exp run --temp")):
        seconds = measurements["overhead"][name]
        print(f"{title}: {seconds:.1f} s, {seconds - alone:+.1f} s, {seconds / alone:.2f} times the stage")
    files.write_json(RESULT, {"machine": machine(), "repeats": REPEATS, "seconds": measurements})


if __name__ == "__main__":
    command.run("experiments", main, __doc__)
