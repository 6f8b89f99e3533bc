"""Measure how often the label flips when a tweet is written otherwise.

    python -m tools.robustness

Reads data/prepared and models/onnx, the model that the service runs. Prints a Markdown table, and writes
robustness/robustness.json with the same numbers and robustness/examples.md with tweets. Both stay out of Git.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from tweets import command, files, markdown
from tweets.data import tables
from tweets.data.dataset import TEST
from tweets.errors import UserError
from tweets.evaluation import perturbations
from tweets.evaluation.behaviour import Predict
from tweets.model import exported
from tweets.progress import track

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FOLDER = Path("robustness")
MODEL = Path("models/onnx")
ROWS = 1500  # of the test split, drawn by SEED
SEED = 0
EXAMPLES = 3  # of each perturbation
THREADS = 2


def measure(
    predict: Predict, texts: list[str], truth: Ints, kind: perturbations.Kind, before: Floats
) -> dict[str, Any]:
    """Return how often, of the texts that the perturbation changes, the label flips, and some of those that do.

    `truth` is (N,) class numbers, `before` (N, K) the probabilities of the texts as they are. Each text has random
    numbers of its own, so what is drawn for one does not depend on the others.
    """
    written = [kind.apply(text, random.Random(f"{SEED} {number}")) for number, text in enumerate(texts)]  # noqa: S311
    rows = np.array([number for number, text in enumerate(texts) if written[number] != text], np.int64)
    result: dict[str, Any] = {"kind": kind.name, "strength": kind.strength, "rows": len(rows)}
    if not len(rows):
        return result | {"flipped": None, "examples": []}
    after, old = predict([written[number] for number in rows]), before[rows]
    said, says = old.argmax(1), after.argmax(1)
    flips = np.flatnonzero(said != says)
    interval = binomtest(len(flips), len(rows)).proportion_ci(method="wilson")
    moved = np.abs(after - old)[np.arange(len(rows)), said]
    surest = sorted(flips, key=lambda number: -float(min(old[number].max(), after[number].max())))[:EXAMPLES]
    examples = [
        {
            "before": texts[rows[number]],
            "after": written[rows[number]],
            "label_before": int(said[number]),
            "label_after": int(says[number]),
            "p_before": float(old[number].max()),
            "p_after": float(after[number].max()),
        }
        for number in surest
    ]
    return result | {
        "flipped": len(flips) / len(rows),
        "interval": [float(interval.low), float(interval.high)],
        "mean_change": float(moved.mean()),
        "accuracy_before": float((said == truth[rows]).mean()),
        "accuracy_after": float((says == truth[rows]).mean()),
        "examples": examples,
    }


def table(report: list[dict[str, Any]]) -> str:
    """Return the report as a Markdown table, without any text of a tweet."""
    titles = ["written otherwise", "", "tweets changed", "label flips", "probability moves", "accuracy before", "after"]
    rows = []
    for row in report:
        cells = [row["kind"], row["strength"], f"{row['rows']:,}"]
        if row["flipped"] is None:
            cells += [""] * 4
        else:
            low, high = row["interval"]
            cells.append(f"{row['flipped']:.1%} [{low:.1%}, {high:.1%}]")
            cells += [f"{row['mean_change']:.3f}", f"{row['accuracy_before']:.3f}", f"{row['accuracy_after']:.3f}"]
        rows.append(cells)
    return markdown.table(titles, rows)


def examples(report: list[dict[str, Any]], labels: list[str]) -> str:
    """Return the examples as Markdown: the flips of which the model is surest, before and after."""
    parts = ["# Flips\n\nOf each perturbation those of which the model is surest, before and after."]
    for row in report:
        if row["examples"]:
            parts.append(f"## {row['kind']}, {row['strength']}")
        for each in row["examples"]:
            sides = (
                f"- {labels[each[f'label_{side}']]} {each[f'p_{side}']:.2f}: {' '.join(each[side].split())}"
                for side in ("before", "after")
            )
            parts.append("\n".join(sides))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    rows = tables.read_parquet(Path(f"data/prepared/{TEST}.parquet"))
    model = exported.load(MODEL, threads=THREADS)
    labels = model.settings.labels
    rows = rows.sample(min(ROWS, len(rows)), random_state=SEED).reset_index(drop=True)
    texts, truth = rows["raw"].tolist(), rows["label"].map(labels.index).to_numpy(np.int64)
    if not texts:
        raise UserError(f"data/prepared/{TEST}.parquet: no rows; it needs at least one")
    before = model.predict(texts)
    every = track(list(perturbations.kinds()), desc="robustness", unit="perturbations")
    report = [measure(model.predict, texts, truth, kind, before) for kind in every]
    with files.replacing(FOLDER) as folder:
        folder.mkdir()
        files.write_json(folder / "robustness.json", {"labels": labels, "tweets": len(texts), "perturbations": report})
        (folder / "examples.md").write_text(examples(report, labels), encoding="utf-8")
    print(table(report))
    print(f"\n{len(texts):,} test tweets; examples are in {FOLDER / 'examples.md'}")


if __name__ == "__main__":
    command.run("robustness", main, __doc__)
