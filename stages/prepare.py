"""Repair, clean, deduplicate and split the raw rows.

    python -m stages.prepare

Reads data/raw. Writes data/prepared: train.parquet, valid.parquet and test.parquet with the columns id, key, raw,
text, label, confidence, and prepared.json with the labels and the cleaning settings; metrics/prepare.json; and
plots/prepare/labels.json and lengths.json.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from tweets import duplicates, environment, errors, files, orphan, params, repair
from tweets.errors import UserError
from tweets.split import SPLITS, TEST, TRAIN, hash_of_ids, split
from tweets.text import Clean, Cleaning, Normalise, clean

Share = Annotated[params.Number, Field(gt=0, lt=0.5)]
Pair = Annotated[list[str], Field(min_length=2, max_length=2)]
COLUMNS = ["id", "key", "raw", "text", "label", "confidence"]
LONGEST = 60  # words; the plot of lengths counts longer tweets there


@params.section
class Prepare:
    """Section `prepare` of params.yaml."""

    seed: int
    valid: Share
    test: Share
    merge_labels: list[Pair]  # [from, to]; pairs, since -S cannot add keys to a mapping
    normalise: Normalise
    clean: Clean


def merge(labels: list[str], merged: dict[str, str]) -> list[str]:
    """Return the labels after merging, in their order.

    Raises UserError for a name that is no label, and when fewer than two labels are left.
    """
    unknown = [name for name in merged if name not in labels]
    if unknown:
        raise UserError(f"prepare.merge_labels: {unknown[0]!r} is no label; it needs one of {', '.join(labels)}")
    left = list(dict.fromkeys(merged.get(label, label) for label in labels))
    if len(left) < 2:
        raise UserError(f"prepare.merge_labels: leaves one label, {left[0]!r}; it needs two or more")
    return left


def drop_copies(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per key: of the test split if it has one there, then valid; of the label with most confidence.

    A missing confidence counts as 1. Ties go to the first row. The column `conflict` tells whether the copies of the
    row's key had different labels.
    """
    by_key = rows.groupby("key", sort=False)
    weight = rows["confidence"].fillna(1.0).groupby([rows["key"], rows["label"]]).transform("sum")
    rows = rows.assign(
        conflict=by_key["label"].transform("nunique") > 1,
        rank=rows["split"].map({name: rank for rank, name in enumerate(SPLITS)}).fillna(len(SPLITS)),
        weight=-weight,
    )
    first = rows.sort_values(["rank", "weight"], kind="stable").drop_duplicates("key")
    return first.sort_index().drop(columns=["rank", "weight"])


def divide(rows: pd.DataFrame, settings: Prepare) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the rows with their split, and how many were dropped by reason.

    Near-duplicates of an official evaluation row that stand in another split are dropped there; rows whose copies
    disagree on the label are dropped from validation and test. Neither depends on the cleaning settings.
    """
    unique = drop_copies(rows)
    unique["group"] = duplicates.groups(unique["key"])
    unique["split"] = split(unique, valid=settings.valid, test=settings.test, seed=settings.seed)
    rank = unique["split"].map({name: rank for rank, name in enumerate(SPLITS)})
    leak = rank > rank.groupby(unique["group"]).transform("min")
    conflict = unique["conflict"] & (unique["split"] != TRAIN) & ~leak
    dropped = {
        "copy of another row": len(rows) - len(unique),
        "near-duplicate of a row in another official split": int(leak.sum()),
        "copies disagree on the label (validation and test)": int(conflict.sum()),
    }
    return unique[~leak & ~conflict], dropped


def check_labels(rows: pd.DataFrame, labels: list[str]) -> None:
    """Raise UserError when a label has no row in a split: it can then be neither learned nor scored."""
    for name in SPLITS:
        counts = rows.loc[rows["split"] == name, "label"].value_counts()
        for label in labels:
            if not counts.get(label, 0):
                total = int((rows["label"] == label).sum())
                raise UserError(
                    f"label {label!r} has {total} row{'' if total == 1 else 's'} and none in the {name} split; it"
                    " needs one in each: add rows, or merge the label (prepare.merge_labels)"
                )


def summary(rows_in: int, dropped: dict[str, int], rows: pd.DataFrame, labels: list[str]) -> dict[str, Any]:
    """Return the content of metrics/prepare.json: rows in and out, and in lists the rows dropped and those kept."""
    out = []
    for name in SPLITS:
        counts = rows.loc[rows["split"] == name, "label"].value_counts()
        by_label = [{"label": label, "rows": int(counts[label])} for label in labels]
        out.append({"split": name, "rows": int(counts.sum()), "labels": by_label})
    return {
        "rows_in": rows_in,
        "rows_out": len(rows),
        "dropped": [{"reason": reason, "rows": count} for reason, count in dropped.items()],
        "splits": out,
        "test_ids": hash_of_ids(rows.loc[rows["split"] == TEST, "id"]),
    }


def label_shares(rows: pd.DataFrame, labels: list[str]) -> list[dict[str, Any]]:
    """Return a point for each split and label: its share of the split's rows, in per cent."""
    shares = rows.groupby("split")["label"].value_counts(normalize=True)
    return [
        {"group": name, "label": label, "percent": float(100 * shares[name, label])}
        for name in SPLITS
        for label in labels
    ]


def lengths(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a point for each split and number of words: the share of the split's rows, in per cent."""
    words = rows["text"].map(lambda text: len(text.split())).clip(upper=LONGEST)
    shares = words.groupby(rows["split"]).value_counts(normalize=True)
    return [
        {"group": name, "words": count, "percent": float(100 * shares.get((name, count), 0.0))}
        for name in SPLITS
        for count in range(LONGEST + 1)
    ]


def write(rows: pd.DataFrame, labels: list[str], cleaning: Cleaning, report: dict[str, Any]) -> None:
    """Write data/prepared, metrics/prepare.json and plots/prepare."""
    with files.replacing(Path("data/prepared")) as folder:
        folder.mkdir()
        for name in SPLITS:
            part = rows.loc[rows["split"] == name, COLUMNS]
            part.to_parquet(folder / f"{name}.parquet", index=False)
        files.write_json(folder / "prepared.json", {"labels": labels, "cleaning": dataclasses.asdict(cleaning)})
    with files.replacing(Path("plots/prepare")) as folder:
        folder.mkdir()
        files.write_json(folder / "labels.json", label_shares(rows, labels))
        files.write_json(folder / "lengths.json", lengths(rows))
    files.write_json(Path("metrics/prepare.json"), report)


def main() -> None:
    environment.check()
    orphan.end_with_parent()
    settings = params.load("prepare", Prepare)
    source = files.read_json(Path("data/raw/source.json"))
    rows = files.read_parquet(Path("data/raw/rows.parquet")).rename(columns={"text": "raw"})
    merged = dict(settings.merge_labels)
    labels = merge(source["labels"], merged)
    rows["label"] = rows["label"].replace(merged)
    if source["broken_encoding"]:
        rows["raw"] = repair.repair(rows["raw"])
    rows["key"] = [duplicates.key(text) for text in rows["raw"]]
    kept, dropped = divide(rows, settings)
    check_labels(kept, labels)
    cleaning = Cleaning(normalise=settings.normalise, clean=settings.clean)
    kept = kept.assign(text=clean(kept["raw"], cleaning))
    report = summary(len(rows), dropped, kept, labels)
    write(kept, labels, cleaning, report)
    print(f"prepare: {len(rows):,} rows in, {len(kept):,} out")
    for reason, count in dropped.items():
        print(f"  dropped {count:,}: {reason}")
    for label, text in kept[["label", "text"]].head(3).to_numpy():
        print(f"  {label}: {text[:100]}")


if __name__ == "__main__":
    errors.run("prepare", main)
