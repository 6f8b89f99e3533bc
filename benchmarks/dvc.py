"""What `dvc repro` costs beyond the stages: with nothing to do, and with one changed param.

    python -m benchmarks.dvc

Run it from a clone that `dvc repro` has brought up to date and that is committed. It works in a temporary clone with
a copy of the cache. The changed param is `fetch.max_chars`: `fetch` runs and gives the same rows, so the other stages
are checked and do not run. By turns: `python -m stages.fetch` alone, `dvc repro` with the changed param, and
`dvc repro` again. Prints a table and writes benchmarks/results/dvc.json.
"""

import itertools
import tempfile
from pathlib import Path

from benchmarks import turns
from benchmarks.experiments import STAGE, copy_of_clone, timed
from benchmarks.machine import machine
from tweets import command, files, markdown
from tweets.errors import UserError

RESULT = Path("benchmarks/results/dvc.json")
ROUNDS = 5
REPRO = ("dvc", "repro")
ALONE, CHANGED, NOTHING = "python -m stages.fetch", "dvc repro, one changed param", "dvc repro, nothing to do"


def repro(folder: Path, stages: int) -> float:
    """Return the seconds of `dvc repro`. Raises UserError unless it runs so many stages."""
    seconds, output = timed(folder, *REPRO)
    ran = output.count("Running stage")
    if ran != stages:
        raise UserError(f"{' '.join(REPRO)}: needs to run {stages} stages, ran {ran}")
    return seconds


def set_max_chars(folder: Path, value: int) -> None:
    path = folder / "params.yaml"
    params = files.read_yaml(path)
    params["fetch"]["max_chars"] = value
    files.write_yaml(path, params)


def measure(folder: Path) -> dict[str, list[float]]:
    """Return the seconds of each way in each round."""
    unseen = itertools.count(11_000)  # a value that was run before would come from the run cache

    def changed() -> float:
        set_max_chars(folder, next(unseen))
        return repro(folder, 1)

    ways = {ALONE: lambda: timed(folder, *STAGE)[0], CHANGED: changed, NOTHING: lambda: repro(folder, 0)}
    return turns.by_turns(ways, ROUNDS)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "clone"
        copy_of_clone(folder)
        seconds = measure(folder)
    extra = [changed - alone for changed, alone in zip(seconds[CHANGED], seconds[ALONE], strict=True)]
    beyond = {CHANGED: turns.Spread.of(extra), NOTHING: turns.Spread.of(seconds[NOTHING])}
    rows = [(name, turns.Spread.of(values), beyond.get(name, "")) for name, values in seconds.items()]
    print(markdown.table(("", "s", "s beyond the stages"), rows))
    report = {
        "machine": machine(),
        "seconds": {name: {"runs": values, **vars(turns.Spread.of(values))} for name, values in seconds.items()},
        "seconds_beyond_the_stages": {name: vars(spread) for name, spread in beyond.items()},
    }
    files.write_json(RESULT, report)


if __name__ == "__main__":
    command.run("dvc", main, __doc__)
