"""What stages.prepare and stages.featurize do, in the plain way: one row after the other, all of them in memory.

The comparator of benchmarks/data.py. It cleans, finds keys and repairs with the functions of the stages, and gives the
same rows and the same arrays; it leaves out metrics and plots.
"""

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import AutoTokenizer

from stages.featurize import Featurize
from stages.prepare import COLUMNS, Prepare
from tweets import files, params
from tweets.data import duplicates, repair, tables
from tweets.data.dataset import SPLITS, TEST, TRAIN, VALID
from tweets.model import pretrained
from tweets.text.cleaning import CleaningSettings, clean

Row = dict[str, Any]


def one_of_each(rows: list[Row]) -> list[Row]:
    """Return the row with the best split, and there with the label of most confidence, of those with the same key."""
    copies = defaultdict(list)
    for row in rows:
        copies[row["key"]].append(row)
    chosen = []
    for same in copies.values():
        weight: dict[str, float] = defaultdict(float)
        for row in same:
            weight[row["label"]] += 1.0 if np.isnan(row["confidence"]) else row["confidence"]
        best = min(same, key=lambda row: (rank(row), -weight[row["label"]]))
        chosen.append({**best, "conflict": len(weight) > 1})
    return sorted(chosen, key=lambda row: row["number"])


def rank(row: Row) -> int:
    return SPLITS.index(row["split"]) if isinstance(row["split"], str) else len(SPLITS)


def group(rows: list[Row]) -> list[list[Row]]:
    """Return the rows in groups that share a run of words."""
    parent = list(range(len(rows)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]
        return number

    first: dict[tuple[str, ...], int] = {}
    for number, row in enumerate(rows):
        words = row["key"].split()
        for start in range(max(1, len(words) - duplicates.RUN + 1)):
            other = first.setdefault(tuple(words[start : start + duplicates.RUN]), number)
            if other != number:
                parent[root(number)] = root(other)
    groups = defaultdict(list)
    for number, row in enumerate(rows):
        groups[root(number)].append(row)
    return list(groups.values())


def deal(groups: list[list[Row]], settings: Prepare) -> None:
    """Give each row of the groups its split: none of them has an official one."""
    by_label = defaultdict(list)
    for rows in groups:
        key = min(row["key"] for row in rows)
        by_label[rows[0]["label"]].append((hashlib.sha256(f"{settings.seed}:{key}".encode()).digest(), rows))
    for in_label in by_label.values():
        total = sum(len(rows) for _, rows in in_label)
        test = round(total * settings.test)
        valid = test + round(total * settings.valid)
        dealt = 0
        for _, rows in sorted(in_label, key=lambda pair: pair[0]):
            for row in rows:
                row["split"] = TEST if dealt < test else VALID if dealt < valid else TRAIN
            dealt += len(rows)


def prepare() -> None:
    settings = params.load("prepare", Prepare)
    rows: list[Any] = tables.read_parquet(Path("data/raw/rows.parquet")).to_dict("records")
    for number, row in enumerate(rows):
        [row["raw"]] = repair.repair([row["text"]])
        row["key"] = duplicates.key(row["raw"])
        row["number"] = number
    unique = one_of_each(rows)
    deal(group(unique), settings)
    kept = [row for row in unique if row["split"] == TRAIN or not row["conflict"]]
    cleaning = CleaningSettings(normalise=settings.normalise, clean=settings.clean)
    for row, text in zip(kept, clean((row["raw"] for row in kept), cleaning), strict=True):
        row["text"] = text
    Path("data/prepared").mkdir(exist_ok=True)
    for name in SPLITS:
        table = pd.DataFrame([row for row in kept if row["split"] == name], columns=COLUMNS)
        table.to_parquet(f"data/prepared/{name}.parquet", index=False)


def featurize() -> None:
    settings = params.load("featurize", Featurize)
    labels = files.read_json(Path("data/raw/source.json"))["labels"]
    tokenizer = pretrained.from_pretrained(AutoTokenizer, settings.encoder)
    tokenizer("", truncation=True, max_length=settings.max_length)
    backend = tokenizer.backend_tokenizer  # twice as fast as what is around it
    for name in SPLITS:
        ids: list[int] = []
        offsets, numbers = [0], []
        rows = tables.read_parquet(Path(f"data/prepared/{name}.parquet"))
        for text, label in zip(rows["text"], rows["label"], strict=True):
            ids.extend(backend.encode(text).ids)
            offsets.append(len(ids))
            numbers.append(labels.index(label))
        folder = Path(f"data/features/{name}")
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "ids.npy", np.array(ids, np.int32))
        np.save(folder / "offsets.npy", np.array(offsets, np.int64))
        np.save(folder / "labels.npy", np.array(numbers, np.int64))
        np.save(folder / "confidence.npy", rows["confidence"].to_numpy(np.float32))
