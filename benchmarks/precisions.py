"""What portable training costs: the same steps with each `train.precision`.

    python -m benchmarks.precisions

Run it where `dvc repro` or `dvc pull` has made data/features. Portable arithmetic is set for a whole process, so each
way runs in one of its own, by turns; its imports do not count. bf16 is left out where the processor has none. Prints a
table and writes benchmarks/results/precisions.json.
"""

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import stages  # noqa: F401  sets up NumPy, which what follows imports
from benchmarks import turns
from benchmarks.machine import machine
from tweets import command, files, markdown

RESULT = Path("benchmarks/results/precisions.json")
OURS = "portable"


def tweets_per_second(precision: str, steps: int) -> float:
    """Train so many batches in a new process, and return its tweets per second."""
    child = [sys.executable, "-m", "benchmarks.precisions", "--only", precision, "--steps", str(steps)]
    done = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def train_here(precision: str, steps: int) -> float:
    """Do that in this process, where PyTorch must not have computed yet."""
    from benchmarks import train  # noqa: PLC0415  takes long, and the process that starts this one needs none of it
    from tweets.model import portable  # noqa: PLC0415
    from tweets.model.device import threads  # noqa: PLC0415

    if precision == OURS:
        portable.use(training=True)
    work = train.Work.load(precision=precision)
    with threads(work.settings.threads):
        return train.speed(train.one_epoch, work, steps * work.settings.batch_size)()


def table(ways: dict[str, Any]) -> str:
    """Return a Markdown table of what was measured: medians [lowest, highest]."""
    rows = []
    for name, way in ways.items():
        longer = turns.ratio(way["runs"], ways[OURS]["runs"])
        rows.append((name, turns.Spread.of(way["runs"]), "" if name == OURS else longer))
    return markdown.table(("precision", "training, tweets/s", "portable takes, times as long"), rows)


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--steps", type=int, default=40, help="of each way in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="measure this one, in this process")
    options = parser.parse_args()
    if options.only:
        print(train_here(options.only, options.steps))
        return
    from tweets.model.device import has_bf16  # noqa: PLC0415  imports torch, as above

    precisions = [OURS, "fp32", *(["bf16"] if has_bf16("cpu") else [])]
    ways = {name: functools.partial(tweets_per_second, name, options.steps) for name in precisions}
    speeds = turns.by_turns(ways, options.rounds)
    measured = turns.summary(speeds, ours=OURS, higher_is_better=True)
    print(table(measured))
    report = {"machine": machine(), "steps": options.steps * options.rounds, "tweets_per_second": measured}
    files.write_json(RESULT, report)


if __name__ == "__main__":
    command.run("precisions", main)
