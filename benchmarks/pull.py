"""How long `dvc push` and `dvc pull` of the whole pipeline's outputs take, to and from a bucket on this machine.

    python -m benchmarks.pull

Run it from a clone that `dvc repro` has brought up to date. It starts the server of `make gcs` in a temporary clone,
pushes to it, and pulls into further temporary clones with an empty cache. Prints a table and writes
benchmarks/results/pull.json. Times are medians, in seconds; MB are 10^6 bytes.
"""

import statistics
import tempfile
from pathlib import Path

from benchmarks.experiments import copy_of_clone, timed
from benchmarks.machine import machine
from tweets import command, files

RESULT = Path("benchmarks/results/pull.json")
REPEATS = 3


def size(folder: Path) -> float:
    """Return the size of all files in a folder, in MB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "source"
        copy_of_clone(source)
        timed(source, "python", "-m", "tools.gcs", "start")
        try:
            push = timed(source, "dvc", "push")[0]
            url = timed(source, "dvc", "config", "--local", "remote.gcs.endpointurl")[1].strip()
            pulls, again = [], []
            for number in range(REPEATS):
                clone = Path(temporary) / f"clone{number}"
                timed(source, "git", "clone", "-q", str(source), str(clone))
                timed(clone, "dvc", "remote", "modify", "--local", "gcs", "endpointurl", url)
                timed(clone, "dvc", "remote", "modify", "--local", "gcs", "allow_anonymous_login", "true")
                timed(clone, "dvc", "remote", "default", "--local", "gcs")
                pulls.append(timed(clone, "dvc", "pull")[0])
                again.append(timed(clone, "dvc", "pull")[0])
                pulled = size(clone / ".dvc/cache/files")
        finally:
            timed(source, "python", "-m", "tools.gcs", "stop")
    seconds = {"push": push, "pull": statistics.median(pulls), "pull_again": statistics.median(again)}
    print(
        f"{pulled:.1f} MB: dvc push {push:.1f} s, dvc pull {seconds['pull']:.1f} s, again {seconds['pull_again']:.1f} s"
    )
    files.write_json(RESULT, {"machine": machine(), "repeats": REPEATS, "megabytes": pulled, "seconds": seconds})


if __name__ == "__main__":
    command.run("pull", main, __doc__)
