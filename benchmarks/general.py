"""Do the defaults serve other tasks too? The whole pipeline on each set of benchmarks/datasets.py.

    python -m benchmarks.general [NAME or FOLDER ...] [--covid19 FOLDER]

A FOLDER is a set of your own: train.csv, valid.csv and test.csv with the columns text and label. Each set runs in a
temporary clone of the last commit, in which only `fetch.source` and `fetch.path` are changed. What is done is kept in
.cache/general, so that an interrupted run goes on with the next set. Prints a Markdown table; without names it also
writes benchmarks/results/general.json. --covid19 names the folder of the two files from Kaggle. Intervals are 95 %,
by bootstrap over the test tweets; the seconds are those of `dvc repro train`.
"""

import hashlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import datasets
from benchmarks.experiments import timed
from benchmarks.machine import machine
from tweets import command, files, markdown
from tweets.data.dataset import TEST, TRAIN
from tweets.errors import UserError

RESULT = Path("benchmarks/results/general.json")
DECIDES = ("stages", "tweets", "params.yaml", "dvc.yaml", "requirements.txt")

Set = dict[str, Any]


def commit() -> str:
    """Return the last commit. Raises UserError where what decides the results differs from it."""
    changed = timed(Path(), "git", "diff", "--name-only", "HEAD", "--", *DECIDES)[1].split()
    if changed:
        raise UserError(f"{changed[0]}: changed since the last commit, which is what runs: `git commit` first")
    return timed(Path(), "git", "rev-parse", "HEAD")[1].strip()


def chosen(names: list[str], tasks: dict[str, datasets.Task]) -> list[Set]:
    """Return the sets of these names or folders, all for none: name, task, folder, and the SHA-256 of its files.

    Those with a name are made. Raises UserError for what is neither a name nor a folder.
    """
    sets = []
    for name in names or tasks:
        if name in tasks:
            folder, about = datasets.CACHE / "sets" / name, tasks[name].about
            datasets.write(tasks[name].rows(), folder)
        elif Path(name).is_dir():
            folder, about = Path(name).resolve(), "your own"
        else:
            raise UserError(f"{name}: neither a folder nor one of the sets {', '.join(tasks)}")
        digest = hashlib.sha256()
        for file in sorted(folder.iterdir()):
            digest.update(f"{file.name} {files.sha256(file)}\n".encode())
        sets.append({"set": folder.name, "task": about, "folder": folder, "sha256": digest.hexdigest()})
    return sets


def measured(one: Set) -> dict[str, Any]:
    """Return the results of the pipeline on a set, run in a temporary clone."""
    path = Path("data/external") / one["set"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:  # an interrupted stage may still write
        clone = Path(temporary) / "clone"
        timed(Path(), "git", "clone", "-q", ".", str(clone))
        shutil.copytree(one["folder"], clone / path)
        params = files.read_yaml(clone / "params.yaml")
        params["fetch"] |= {"source": "csv", "path": path.as_posix()}
        files.write_yaml(clone / "params.yaml", params)
        timed(clone, "dvc", "repro", "baseline", "featurize")
        seconds, _ = timed(clone, "dvc", "repro", "train")
        timed(clone, "dvc", "repro", "evaluate")
        return {**scores(clone), "train_seconds": round(seconds)}


def scores(clone: Path) -> dict[str, Any]:
    """Return the rows of the splits, those of each label to train on, the steps, and macro-F1 with its intervals."""
    prepared, trained, report = (
        files.read_json(clone / f"metrics/{name}.json") for name in ("prepare", "train", "evaluate")
    )
    splits = {part["split"]: part for part in prepared["splits"]}
    [difference] = [
        comparison for comparison in report["transformer_minus_baseline"] if comparison["score"] == "macro_f1"
    ]
    return {
        "rows": {name: part["rows"] for name, part in splits.items()},
        "labels": splits[TRAIN]["labels"],
        "steps": trained["steps"],
        **{
            model["model"]: {"macro_f1": model["macro_f1"], "interval": model["intervals"]["macro_f1"]}
            for model in report["models"]
        },
        "transformer_minus_baseline": {"macro_f1": difference["difference"], "interval": difference["interval"]},
    }


def kept(one: Set, revision: str) -> dict[str, Any] | None:
    """Return the results of a set at a commit, from the run that measured it, if there was one."""
    path = datasets.CACHE / f"{one['set']}.json"
    result = files.read_json(path) if path.exists() else {}
    return result if (result.get("commit"), result.get("sha256")) == (revision, one["sha256"]) else None


def measure(sets: list[Set], revision: str) -> None:
    """Measure the sets, keep the results of each, and tell how long the others will take."""
    sizes = [(one["folder"] / f"{TRAIN}.csv").stat().st_size for one in sets]
    begin = time.monotonic()
    for number, one in enumerate(sets):
        done = sum(sizes[:number])
        left = (time.monotonic() - begin) / done * sum(sizes[number:]) / 60 if done else None
        when = "" if left is None else f", about {left:.0f} min left"
        print(f"general: {one['set']}, {number + 1} of {len(sets)}{when}", flush=True)
        facts = {name: one[name] for name in ("set", "task", "sha256")}
        files.write_json(datasets.CACHE / f"{one['set']}.json", {**facts, "commit": revision, **measured(one)})


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    titles = ["set", "task", "classes", "rows: train, test", "largest class to smallest"]
    titles += ["macro-F1: transformer", "TF-IDF baseline", "difference", "steps", "training (s)"]
    rows = []
    for one in results:
        counts = [label["rows"] for label in one["labels"]]
        model, baseline, difference = (one[name] for name in ("transformer", "baseline", "transformer_minus_baseline"))
        cells = [one["set"], one["task"], str(len(counts)), f"{one['rows'][TRAIN]:,}, {one['rows'][TEST]:,}"]
        cells += [f"{max(counts) / min(counts):.1f}"]
        cells += [markdown.with_interval(score["macro_f1"], score["interval"]) for score in (model, baseline)]
        cells += [markdown.with_interval(difference["macro_f1"], difference["interval"], "+")]
        cells += [f"{one['steps']:,}", f"{one['train_seconds']:,}"]
        rows.append(cells)
    return markdown.table(titles, rows)


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME or FOLDER", help="of these sets only")
    parser.add_argument("--covid19", type=Path, metavar="FOLDER", help="that holds Kaggle's two files")
    options = parser.parse_args()
    revision = commit()
    tasks = datasets.with_covid19(options.covid19)
    if not (options.names or options.covid19):
        print("general: without the COVID-19 tweets; --covid19 names their folder")
    sets = chosen(options.names, tasks)
    measure([one for one in sets if kept(one, revision) is None], revision)
    results = [result for one in sets if (result := kept(one, revision))]
    print(table(results))
    if not options.names:
        files.write_json(RESULT, {"machine": machine(), "sets": results})


if __name__ == "__main__":
    command.run("general", main)
