"""Is drift told where it is, and only there? Windows of texts against the reference of the exported model.

    python -m benchmarks.drift [--covid19 FOLDER]

Draws windows of held-out tweets, as they are and changed, and of other sources, and prints for each source in how many
of them something alarms, and what. --covid19 names the folder of the two files from Kaggle. Writes
benchmarks/results/drift.json.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import datasets
from benchmarks.machine import machine
from serve import models
from serve.settings import ServiceSettings
from tweets import command, files, markdown
from tweets.data import tables
from tweets.data.dataset import TEST
from tweets.errors import UserError
from tweets.evaluation import drift_statistics
from tweets.evaluation.perturbations import move_words
from tweets.progress import track

RESULT = Path("benchmarks/results/drift.json")
HELD_OUT = "held-out tweets"
WINDOWS, SHIFTED = 200, 50  # of them, and of each shifted source
ROWS = 3_000  # of a shifted source, at most
MIX = 0.5  # of a window, where the mix of labels is another: the share of what is the rarest label elsewhere
SEED = 0

Source = dict[str, Any]


def sources(held_out: list[str], covid19: Path | None) -> dict[str, list[str]]:
    """Return the texts of each shifted source but the mix of labels, ROWS at most."""
    rng = random.Random(SEED)  # noqa: S311
    some = rng.sample(held_out, min(ROWS, len(held_out)))
    shifted = {
        f"{HELD_OUT}, words shuffled": [move_words(1.0)(text, rng) for text in some],
        f"{HELD_OUT} in upper case": [text.upper() for text in some],
        "comments in Indonesian": rng.sample(datasets.indonesian(), ROWS),
    }
    if covid19:
        texts = datasets.covid19(covid19, labels=3)["text"].tolist()
        shifted["tweets on COVID-19"] = rng.sample(texts, min(ROWS, len(texts)))
    return shifted


def measure(served: models.Served, draw: Callable[[], drift_statistics.Texts], windows: int) -> Source:
    """Return in how many windows something alarms, and each statistic alone."""
    comparison = drift_statistics.Comparison(served.reference.axes, served.reference.sample)
    alarmed = [
        drift_statistics.alarms(comparison.statistics(draw()), served.reference.thresholds)
        for _ in track(range(windows), desc="draw", unit="windows", leave=False)
    ]
    each = {name: sum(name in names for names in alarmed) for name in drift_statistics.STATISTICS}
    return {"windows": windows, "alarms": sum(map(bool, alarmed)), "statistics": each}


def of_another_mix(
    texts: drift_statistics.Texts, truth: drift_statistics.Ints, size: int, rng: np.random.Generator
) -> drift_statistics.Texts:
    """Return a window of texts in which the rarest of their true labels, (N,), makes up MIX."""
    rare = np.bincount(truth).argmin()
    one, others = np.flatnonzero(truth == rare), np.flatnonzero(truth != rare)
    number = min(round(MIX * size), len(one))
    rows = [rng.choice(one, number, replace=False), rng.choice(others, size - number, replace=False)]
    return texts.take(np.concatenate(rows))


def table(report: dict[str, Any]) -> str:
    """Return the report as a Markdown table: of each source the share of the windows that alarm, and on what."""
    rows = []
    for name, counts in sorted(report["sources"].items(), key=lambda source: not source[0].startswith(HELD_OUT)):
        each = sorted(counts["statistics"].items(), key=lambda item: -item[1])
        told = ", ".join(f"{statistic} {count / counts['windows']:.0%}" for statistic, count in each if count)
        rows.append((name, counts["windows"], f"{counts['alarms'] / counts['windows']:.1%}", told))
    return markdown.table(("windows of", "windows", "with an alarm", "on what, in how many of them"), rows)


def run(covid19: Path | None) -> dict[str, Any]:
    """Return the report: of each source, in how many windows what alarms."""
    served = models.load(ServiceSettings())
    size, rng = served.reference.window, np.random.default_rng(SEED)
    rows = tables.read_parquet(Path(f"data/prepared/{TEST}.parquet"))
    if len(rows) < size:
        raise UserError(f"data/prepared/{TEST}.parquet: {len(rows)} rows; a window has {size}")
    texts, truth = rows["raw"].tolist(), rows["label"].map(served.labels.index).to_numpy(np.int64)

    def described(name: str, texts: list[str]) -> drift_statistics.Texts:
        parts = [texts[start : start + 256] for start in range(0, len(texts), 256)]
        seen = [drift_statistics.describe(part, served.predict(part)) for part in track(parts, desc=name, unit="parts")]
        return drift_statistics.concatenate(seen)

    def window_of(seen: drift_statistics.Texts) -> Callable[[], drift_statistics.Texts]:
        return lambda: seen.take(rng.choice(len(seen), size, replace=False))

    held_out = described(HELD_OUT, texts)
    measurements = {HELD_OUT: measure(served, window_of(held_out), WINDOWS)}
    for name, shifted in sources(texts, covid19).items():
        measurements[name] = measure(served, window_of(described(name, shifted)), SHIFTED)
    mix = f"{HELD_OUT}, {MIX:.0%} of them {served.labels[np.bincount(truth).argmin()]}"
    measurements[mix] = measure(served, lambda: of_another_mix(held_out, truth, size, rng), SHIFTED)
    return {"machine": machine(), "window": size, "sources": measurements}


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--covid19", type=Path, metavar="FOLDER")
    report = run(parser.parse_args().covid19)
    files.write_json(RESULT, report)
    print(table(report))


if __name__ == "__main__":
    command.run("drift", main)
