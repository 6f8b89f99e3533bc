"""Where the time of a training step goes, on a CPU.

    python -m benchmarks.profile

Run it where `dvc repro` or `dvc pull` has made data/features. PyTorch's profiler takes the time of each operator, less
that of the operators that it calls, over the steps of stages/train.py after as many to warm up. A step takes longer
with the profiler than without: the shares are a hint. Prints a table with the operators that take 1 % or more, and
writes benchmarks/results/profile.json.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, schedule
from transformers import TrainerCallback

from benchmarks.machine import machine
from benchmarks.train import Work, one_epoch, part, peak, timed
from tweets import errors, files, model
from tweets.split import TRAIN

RESULT = Path("benchmarks/results/profile.json")
PRODUCTS = ("aten::addmm", "aten::mm", "aten::bmm")
SHOWN = 0.01  # share of the time


class Steps(TrainerCallback):  # type: ignore[misc]
    """Tell the profiler where a step ends."""

    def __init__(self, profiler: Any) -> None:
        self.profiler = profiler

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.profiler.step()


def measure(work: Work, steps: int) -> list[dict[str, Any]]:
    """Return for each operator its calls and milliseconds in a step, and FLOP where the profiler knows them."""
    rows = 2 * steps * work.settings.batch_size
    work = dataclasses.replace(work, split={**work.split, TRAIN: part(work.split[TRAIN], rows)})
    with tempfile.TemporaryDirectory() as folder:
        trainer = one_epoch(work, Path(folder))
        plan = schedule(wait=steps - 1, warmup=1, active=steps - 1)
        with profile(activities=[ProfilerActivity.CPU], schedule=plan, with_flops=True) as profiler:
            trainer.add_callback(Steps(profiler))
            timed(trainer)
    found = [
        {
            "operator": event.key,
            "calls": event.count / (steps - 1),
            "milliseconds": event.self_cpu_time_total / 1000 / (steps - 1),
            "flop": event.flops / (steps - 1),
        }
        for event in profiler.key_averages()
    ]
    return sorted(found, key=lambda row: -row["milliseconds"])


def table(found: list[dict[str, Any]]) -> str:
    """Return the operators as Markdown."""
    total = sum(row["milliseconds"] for row in found)
    shown = [row for row in found if row["milliseconds"] >= SHOWN * total]
    rest = total - sum(row["milliseconds"] for row in shown)
    rows = [(row["operator"], f"{row['calls']:.0f}", row["milliseconds"]) for row in shown]
    rows.append((f"{len(found) - len(shown)} others", "", rest))
    lines = [f"| {name} | {calls} | {spent:.1f} | {spent / total:.0%} |" for name, calls, spent in rows]
    return "\n".join(["| operator | calls a step | ms a step | share |", "|---|---|---|---|", *lines])


def products(found: list[dict[str, Any]]) -> dict[str, float]:
    """Return milliseconds and FLOP of the matrix products in a step."""
    rows = [row for row in found if row["operator"] in PRODUCTS]
    return {name: sum(row[name] for row in rows) for name in ("milliseconds", "flop")}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--steps", type=int, default=20)
    steps = parser.parse_args().steps
    work = Work.load(device="cpu")
    with model.threads(work.settings.threads):
        found = measure(work, steps)
        best = peak("cpu")
    total = sum(row["milliseconds"] for row in found)
    part_of = products(found)
    rate = part_of["flop"] / part_of["milliseconds"] * 1000
    print(table(found))
    print(
        f"\nmatrix products: {part_of['milliseconds']:.0f} of {total:.0f} ms, at {rate / 1e9:.0f} GFLOP/s;"
        f" the peak: {best / 1e9:.0f}"
    )
    report = {"machine": machine(), "steps": steps, "peak_flops": best, "operators": found, "products": part_of}
    files.write_json(RESULT, report)


if __name__ == "__main__":
    errors.run("profile", main)
