"""Rows a second and memory of `prepare` and `featurize` as the rows grow, against the same work done row by row.

    python -m benchmarks.data

Run it from a clone with data/raw (`dvc repro fetch`). It works in a temporary folder, with the real rows and with
copies of them: each copy has its words exchanged for others about as frequent, by a seeded permutation of the
vocabulary, so that copies are distinct, no near-duplicates, and as long and as repetitive as the real ones. Each stage
runs in a process of its own; its time is that of its main(), without the imports. Its memory is the most that it and
the processes that it starts hold together, pages that they share counted once for each. Prints tables and writes
benchmarks/results/data.json. Memory is in MB, 10^6 bytes.
"""

import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
from pyarrow import parquet

from benchmarks.machine import machine
from benchmarks.turns import by_turns, summary, table
from tweets import command, files
from tweets.data.dataset import SPLITS
from tweets.errors import UserError
from tweets.progress import track
from tweets.text.token_arrays import DTYPES

RESULT = Path("benchmarks/results/data.json")
ROUNDS = {1: 3, 10: 3}  # by how many copies of the rows: rounds of both ways by turns, after one to warm up
COPIES = 100  # so many are measured once, and in pieces only: row by row would hold 20 GB
SECONDS_BETWEEN_LOOKS = 0.1
OURS, OTHER = "in pieces", "row by row"
WORK = {
    OURS: {"prepare": ("stages.prepare", "main"), "featurize": ("stages.featurize", "main")},
    OTHER: {"prepare": ("benchmarks.row_by_row", "prepare"), "featurize": ("benchmarks.row_by_row", "featurize")},
}
WORDS = re.compile(r"(https?:\S+|&\w+;|\bvia\b|[A-Za-z]{3,})")  # links, entities and retweet marks stay
BLOCK = 64  # words next to each other in frequency are exchanged for each other

STAGES = ("prepare", "featurize")

Found = dict[str, float]


def grow(source: Path, target: Path, copies: int) -> int:
    """Write the rows and `copies - 1` changed copies of them. Return how many rows that are."""
    rows = parquet.read_table(source)
    texts: list[list[str]] = [WORDS.split(text) for text in rows["text"].to_pylist()]
    counts = Counter(part for parts in texts for part in parts if part.isascii() and part.isalpha() and len(part) > 2)
    words = [word for word, _ in counts.most_common() if word != "via"]
    words = words[: len(words) // BLOCK * BLOCK]
    blocks = np.arange(len(words)).reshape(-1, BLOCK)
    with parquet.ParquetWriter(target, rows.schema) as writer:
        writer.write_table(rows)
        for copy in track(range(1, copies), desc=f"grow to {copies}", unit="copies"):
            permuted = np.random.default_rng(copy).permuted(blocks, axis=1).ravel()
            other = dict(zip(words, (words[place] for place in permuted), strict=True))
            changed = {
                "id": [f"{name}-{copy}" for name in rows["id"].to_pylist()],
                "text": ["".join([other.get(part, part) for part in parts]) for parts in texts],
            }
            columns = {name: changed.get(name, rows[name]) for name in rows.column_names}
            writer.write_table(pa.table(columns, schema=rows.schema))
    return len(rows) * copies


def run(folder: Path, module: str, function: str) -> Found:
    """Run a function in a process in the folder. Return what benchmarks.child does, the memory with all that it starts.

    Raises UserError when it fails.
    """
    command = [sys.executable, "-m", "benchmarks.child", module, function]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with (folder / "stdout").open("w+") as out, (folder / "stderr").open("w+") as err:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=err)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, held(process.pid))
            time.sleep(SECONDS_BETWEEN_LOOKS)
    if process.returncode:
        raise UserError(
            f"{module}.{function}: exit code {process.returncode}: {(folder / 'stderr').read_text()[-300:]}"
        )
    usage: Found = json.loads((folder / "stdout").read_text().splitlines()[-1])
    return {**usage, "megabytes": max(peak, usage["megabytes"])}


def held(pid: int) -> float:
    """Return the resident memory of a process and its descendants, in MB."""
    total = 0.0
    try:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss / 1e6
    except psutil.Error:  # it has ended meanwhile
        pass
    return total


def check_equal(folders: dict[str, Path]) -> None:
    """Raise UserError unless both ways gave the same rows and the same arrays."""
    for name in SPLITS:
        ours, other = (pd.read_parquet(folders[way] / f"data/prepared/{name}.parquet") for way in (OURS, OTHER))
        if not ours.equals(other):
            raise UserError(f"{name}: {OURS} and {OTHER} prepare different rows")
        for array in DTYPES:
            one, two = (folders[way] / f"data/features/{name}/{array}.npy" for way in (OURS, OTHER))
            if not filecmp.cmp(one, two, shallow=False):
                raise UserError(f"{name}: {OURS} and {OTHER} give different {array}")


def workspace(folder: Path, copies: int) -> tuple[dict[str, Path], int]:
    """Return a folder for each way with the grown rows, and their number."""
    folders = {way: folder / f"{copies} {way}" for way in WORK}
    raw = folders[OURS] / "data/raw"
    raw.mkdir(parents=True)
    rows = grow(Path("data/raw/rows.parquet"), raw / "rows.parquet", copies)
    shutil.copy("data/raw/source.json", raw)
    shutil.copytree(raw, folders[OTHER] / "data/raw", copy_function=os.link)
    for path in folders.values():
        shutil.copy("params.yaml", path)
        shutil.copy("requirements.txt", path)
    return folders, rows


def speeds(seconds: dict[str, list[float]], rows: int, stages: tuple[str, ...]) -> dict[str, list[float]]:
    """Return for each way its rows a second in each round, through all of these stages."""
    return {
        way: [rows / sum(times) for times in zip(*(seconds[f"{stage}, {way}"] for stage in stages), strict=True)]
        for way in WORK
        if f"{stages[0]}, {way}" in seconds
    }


def measure(folder: Path, copies: int, rounds: int) -> dict[str, Any]:
    """Measure at one size; without rounds, once and in pieces only. Return the figures."""
    folders, rows = workspace(folder, copies)
    memory: dict[str, float] = {}
    processor: dict[str, float] = {}

    def once(stage: str, way: str) -> float:
        usage = run(folders[way], *WORK[way][stage])
        memory[f"{stage}, {way}"] = max(usage["megabytes"], memory.get(f"{stage}, {way}", 0.0))
        processor[f"{stage}, {way}"] = usage["processor_seconds"]
        return usage["seconds"]

    if rounds:
        ways = {f"{stage}, {way}": partial(once, stage, way) for stage in STAGES for way in WORK}
        seconds = by_turns(ways, rounds)
        check_equal(folders)
    else:
        seconds = {f"{stage}, {OURS}": [once(stage, OURS)] for stage in STAGES}
    kept = files.read_json(folders[OURS] / "metrics/prepare.json")["rows_out"]
    for path in folders.values():
        shutil.rmtree(path)
    print(f"\n{rows:,} rows, {kept:,} kept")
    figures = {}
    for stages in (*((stage,) for stage in STAGES), STAGES):
        rates = speeds(seconds, rows, stages)
        name = " and ".join(stages)
        figures[name] = summary(rates, ours=OURS, higher_is_better=True)
        print(f"\n{name}\n" + table(rates, ours=OURS, unit="rows a second", higher_is_better=True))
    print()
    for name, megabytes in memory.items():
        print(f"{name}: {megabytes:,.0f} MB, {processor[name]:,.1f} s of a processor", flush=True)
    return {
        "rows": rows,
        "kept": kept,
        "rows_a_second": figures,
        "megabytes": memory,
        "processor_seconds": processor,  # of the last round
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        sizes = [measure(Path(temporary), copies, rounds) for copies, rounds in (*ROUNDS.items(), (COPIES, 0))]
    files.write_json(RESULT, {"machine": machine(), "rounds": list(ROUNDS.values()), "sizes": sizes})


if __name__ == "__main__":
    command.run("data", main, __doc__)
