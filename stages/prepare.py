"""Repair, clean, deduplicate and split the raw rows.

    python -m stages.prepare

Reads data/raw. Writes data/prepared: train.parquet, valid.parquet and test.parquet with the columns id, key, raw,
text, label, confidence, and prepared.json with the labels and the cleaning settings; metrics/prepare.json; and
plots/prepare/labels.json and lengths.json.

It works in pieces, so that memory does not grow with the texts: a first pass turns each piece into numbers and leaves
its texts on disk, the numbers of all rows decide which are kept and where, and a second pass writes them.
"""

import contextlib
import dataclasses
import tempfile
import unicodedata
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pydantic import Field

from tweets import command, environment, files, orphan, params
from tweets.data import duplicates, pieces, repair
from tweets.data.dataset import SPLITS, TEST, TRAIN, hash_of_ids
from tweets.data.split import order, split
from tweets.errors import UserError, plural
from tweets.text.cleaning import ClassicSteps, CleaningSettings, Normalise, clean

Share = Annotated[float, Field(gt=0, lt=0.5)]
Pair = Annotated[list[params.Label], Field(min_length=2, max_length=2)]
COLUMNS = ["id", "key", "raw", "text", "label", "confidence"]
Counts = npt.NDArray[np.int64]
LONGEST = 60  # words; the plot of lengths counts longer tweets there


@params.section
class Prepare:
    """Section `prepare` of params.yaml."""

    seed: params.Seed
    valid: Share
    test: Share
    merge_labels: list[Pair]  # [from, to]; pairs, since -S cannot add keys to a mapping
    drop_labels: list[params.Label]  # after merging: leave their rows out
    normalise: Normalise
    clean: ClassicSteps


def pairs(merge_labels: list[Pair]) -> dict[str, str]:
    """Return which label becomes which. Raises UserError for one that becomes two, and for a chain."""
    merged: dict[str, str] = {}
    for old, new in merge_labels:
        if old in merged and merged[old] != new:
            raise UserError(f"prepare.merge_labels: {old!r} becomes {merged[old]!r} and {new!r}; it needs one of them")
        merged[old] = new
    for old, new in merged.items():
        if merged.get(new, new) != new:
            raise UserError(
                f"prepare.merge_labels: {old!r} becomes {new!r}, and that {merged[new]!r}; name for each label what it"
                " is in the end"
            )
    return merged


def choose(labels: list[str], merged: dict[str, str], dropped: list[str]) -> list[str]:
    """Return the labels that are left after merging some and dropping others, in their order.

    Raises UserError for a name that is no label, and when fewer than two labels are left.
    """
    left = list(dict.fromkeys(merged.get(label, label) for label in labels))
    for param, names, known in (("merge_labels", list(merged), labels), ("drop_labels", dropped, left)):
        if unknown := [name for name in names if name not in known]:
            listed = ", ".join(map(repr, known))
            hint = next(filter(None, (params.hint_at_quotes(label, unknown) for label in known)), "")
            raise UserError(f"prepare.{param}: {unknown[0]!r} is no label; it needs one of {listed}{hint}")
    left = [label for label in left if label not in dropped]
    if len(left) < 2:
        what = f"one label, {left[0]!r}" if left else "no label"
        raise UserError(f"prepare.merge_labels and prepare.drop_labels leave {what}; it needs two or more")
    return left


def check_variants(labels: list[str], counts: dict[str, int], merged: dict[str, str]) -> None:
    """Raise UserError when labels differ only in case, width, spacing or invisible characters.

    `counts` has the rows of each, `merged` which label becomes which.
    """
    alike: dict[str, list[str]] = {}
    for label in sorted(labels, key=lambda label: (-counts.get(label, 0), label)):
        folded = unicodedata.normalize("NFKC", label).casefold()
        shown = "".join(sign for sign in folded if not sign.isspace() and unicodedata.category(sign) != "Cf")
        alike.setdefault(shown, []).append(label)
    if groups := [group for group in alike.values() if len(group) > 1]:
        shown = "; ".join(
            ", ".join(f"{label!r} ({plural(counts.get(label, 0), 'row')})" for label in group) for group in groups
        )
        variants = {label: group[0] for group in groups for label in group[1:]}
        becomes = {old: variants.get(new, new) for old, new in (merged | variants).items()}
        raise UserError(
            f"labels that differ only in case, width or spacing: {shown}. To merge them, add"
            f" {params.suggestion('prepare.merge_labels', [list(pair) for pair in becomes.items()])}; to keep them"
            " apart, list all labels in fetch.csv.labels"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What the first pass does to each piece."""

    spool: Path
    broken_encoding: bool
    merged: dict[str, str]
    labels: list[str]
    cleaning: CleaningSettings
    seed: params.Seed


def first_pass(work: Work, piece: tuple[int, pa.RecordBatch]) -> tuple[pd.DataFrame, duplicates.Runs]:
    """Write the texts of a piece to the spool. Return of each of its rows, in numbers, what all rows have to share."""
    number, batch = piece
    rows = batch.to_pandas()
    raw = repair.repair(rows["text"]) if work.broken_encoding else rows["text"].tolist()
    keys = [duplicates.key(text) for text in raw]
    texts = clean(raw, work.cleaning)
    labels = rows["label"].replace(work.merged)
    rows = rows.assign(key=keys, raw=raw, text=texts, label=labels.where(labels.isin(work.labels)))
    pieces.write(work.spool / f"{number}.feather", rows[COLUMNS])
    numbers = pd.DataFrame(
        {
            "key": duplicates.hashes(keys),
            "order": [order(key, work.seed) for key in keys],
            "label": pd.Categorical(rows["label"], work.labels),  # missing where the label is left out
            "confidence": rows["confidence"],
            "split": pd.Categorical(rows["split"], SPLITS),
            "words": np.array([min(len(text.split()), LONGEST) for text in texts], np.int8),
        }
    )
    return numbers, duplicates.runs(keys)


def all_rows(work: Work) -> tuple[pd.DataFrame, pieces.Spool]:
    """Return the numbers of all rows, with that of their group, and their texts."""
    batches = enumerate(pieces.read(Path("data/raw/rows.parquet")))
    numbers, runs = zip(*pieces.in_order(partial(first_pass, work), batches), strict=True)
    starts = np.cumsum([0, *map(len, numbers[:-1])]).tolist()
    rows = pd.concat(numbers, ignore_index=True)
    del numbers  # before the groups, which need the memory
    rows["group"] = duplicates.groups(runs)
    return rows, pieces.Spool(work.spool, starts)


def drop_copies(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per key: of the test split if it has one there, then valid; of the label with most confidence.

    A missing confidence counts as 1. Ties go to the first row. The column `conflict` tells whether the copies of the
    row's key had different labels.
    """
    labels = rows["label"].cat.codes.groupby(rows["key"])
    weight = rows["confidence"].fillna(1.0).groupby([rows["key"], rows["label"]], observed=True).transform("sum")
    rows = rows.assign(
        conflict=labels.transform("min") != labels.transform("max"),
        rank=rows["split"].cat.codes.replace(-1, len(SPLITS)),
        weight=-weight,
    )
    first = rows.sort_values(["rank", "weight"], kind="stable").drop_duplicates("key")
    return first.sort_index().drop(columns=["rank", "weight"])


def order_of_groups(rows: pd.DataFrame, spool: pieces.Spool) -> pd.Series:
    """Return for each row the order of the smallest key in its group; only groups of several rows need to be read."""
    several = rows[rows["group"].duplicated(keep=False)]
    smallest: dict[int, tuple[str, int]] = {}
    for part, texts in spool.read(several, ["key"]):
        for group, *key_and_order in zip(part["group"], texts["key"].to_pylist(), part["order"], strict=True):
            smallest[group] = min(smallest.get(group, tuple(key_and_order)), tuple(key_and_order))
    orders = rows["order"].copy()
    orders[several.index] = several["group"].map({group: group_order for group, (_, group_order) in smallest.items()})
    return orders


def divide(rows: pd.DataFrame, settings: Prepare) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the rows, one per key, with their split, and how many were dropped by reason.

    Near-duplicates of an official evaluation row that stand in another split are dropped there; rows whose copies
    disagree on the label are dropped from validation and test. Neither depends on the cleaning settings.
    """
    rows = rows.assign(split=split(rows, valid=settings.valid, test=settings.test))
    rank = rows["split"].cat.codes
    leak = rank > rank.groupby(rows["group"]).transform("min")
    conflict = rows["conflict"] & (rows["split"] != TRAIN) & ~leak
    dropped = {
        "near-duplicate of a row in another official split": int(leak.sum()),
        "copies disagree on the label (validation and test)": int(conflict.sum()),
    }
    return rows[~leak & ~conflict], dropped


def count_labels(rows: pd.DataFrame, labels: list[str], left_out: list[str]) -> Counts:
    """Return how many rows each split has of each label, (splits, labels).

    `left_out` are the labels that are dropped already. Raises UserError that names an empty split, or all labels
    without a row in one of the splits: they can be neither learned nor scored.
    """
    cells = rows["split"].cat.codes.to_numpy(np.int64) * len(labels) + rows["label"].cat.codes
    counts = np.bincount(cells, minlength=len(SPLITS) * len(labels)).reshape(len(SPLITS), len(labels))
    if empty := [name for name, row in zip(SPLITS, counts, strict=True) if not row.any()]:
        raise UserError(f"no row is left for the {empty[0]} split; it needs rows of each label")
    if rare := [number for number in range(len(labels)) if not counts[:, number].all()]:
        shown = []
        for number in rare:
            lacking = " and ".join(name for name, count in zip(SPLITS, counts[:, number], strict=True) if not count)
            shown.append(f"{labels[number]!r} ({plural(counts[:, number].sum(), 'row')}, none in {lacking})")
        to_drop = params.suggestion("prepare.drop_labels", [*left_out, *(labels[number] for number in rare)])
        raise UserError(
            f"labels with too few rows for a row in each split: {', '.join(shown)}; add rows, merge them"
            f" (prepare.merge_labels), or leave them out: {to_drop}"
        )
    return counts


def summary(dropped: dict[str, int], counts: Counts, labels: list[str], test_ids: list[str]) -> dict[str, Any]:
    """Return the content of metrics/prepare.json: rows in and out, and in lists the rows dropped and those kept."""
    splits = [
        {
            "split": name,
            "rows": sum(row),
            "labels": [{"label": label, "rows": count} for label, count in zip(labels, row, strict=True)],
        }
        for name, row in zip(SPLITS, counts.tolist(), strict=True)
    ]
    kept = int(counts.sum())
    return {
        "rows_in": kept + sum(dropped.values()),
        "rows_out": kept,
        "dropped": [{"reason": reason, "rows": count} for reason, count in dropped.items()],
        "splits": splits,
        "test_ids": hash_of_ids(test_ids),
    }


def label_shares(counts: Counts, labels: list[str]) -> list[dict[str, Any]]:
    """Return a point for each split and label: its share of the split's rows, in per cent."""
    shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    return [
        {"group": name, "label": label, "percent": percent}
        for name, row in zip(SPLITS, shares.tolist(), strict=True)
        for label, percent in zip(labels, row, strict=True)
    ]


def lengths(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a point for each split and number of words: the share of the split's rows, in per cent."""
    shares = rows.groupby("split")["words"].value_counts(normalize=True)
    return [
        {"group": name, "words": count, "percent": float(100 * shares.get((name, count), 0.0))}
        for name in SPLITS
        for count in range(LONGEST + 1)
    ]


def second_pass(folder: Path, rows: pd.DataFrame, spool: pieces.Spool) -> None:
    """Write the texts of the rows into a file for each split."""
    with contextlib.ExitStack() as stack:
        tables = {
            name: stack.enter_context(pieces.ParquetFile(folder / f"{name}.parquet", spool.schema())) for name in SPLITS
        }
        for part, texts in spool.read(rows, COLUMNS):
            for name, table in tables.items():
                table.add(texts.filter(pa.array(part["split"] == name)))


def prepare(folder: Path, work: Work, settings: Prepare) -> tuple[pd.DataFrame, Counts, dict[str, Any]]:
    """Write the three tables into the folder.

    Return the rows kept, in numbers; how many each split has of each label, (splits, labels); and the metrics.
    """
    rows, spool = all_rows(work)
    rows_in = len(rows)
    rows = rows[rows["label"].notna()]
    left_out = rows_in - len(rows)
    rows = drop_copies(rows)
    copies = rows_in - left_out - len(rows)
    rows["order"] = order_of_groups(rows, spool)
    rows, dropped = divide(rows, settings)
    counts = count_labels(rows, work.labels, settings.drop_labels)
    second_pass(folder, rows, spool)
    test_ids = [id_ for _, texts in spool.read(rows[rows["split"] == TEST], ["id"]) for id_ in texts["id"].to_pylist()]
    left = {"label left out (prepare.drop_labels)": left_out} if settings.drop_labels else {}
    report = summary({**left, "copy of another row": copies, **dropped}, counts, work.labels, test_ids)
    print(f"prepare: {report['rows_in']:,} rows in, {report['rows_out']:,} out")
    for reason in report["dropped"]:
        print(f"  dropped {reason['rows']:,}: {reason['reason']}")
    for _, texts in spool.read(rows.head(3), ["label", "text"]):
        for row in texts.to_pylist():
            print(f"  {row['label']}: {row['text'][:100]}")
    return rows, counts, report


def main() -> None:
    environment.check()
    orphan.end_with_parent()
    settings = params.load("prepare", Prepare)
    source = files.read_json(Path("data/raw/source.json"))
    cleaning = CleaningSettings(normalise=settings.normalise, clean=settings.clean)
    merged = pairs(settings.merge_labels)
    labels = choose(source["labels"], merged, settings.drop_labels)
    if not source["labels_are_given"]:
        check_variants(labels, source["rows"], merged)
    with files.replacing(Path("data/prepared")) as folder:
        folder.mkdir()
        with tempfile.TemporaryDirectory(dir=folder) as spool:
            work = Work(
                spool=Path(spool),
                broken_encoding=source["broken_encoding"],
                merged=merged,
                labels=labels,
                cleaning=cleaning,
                seed=settings.seed,
            )
            kept, counts, report = prepare(folder, work, settings)
        files.write_json(folder / "prepared.json", {"labels": labels, "cleaning": dataclasses.asdict(cleaning)})
    with files.replacing(Path("plots/prepare")) as folder:
        folder.mkdir()
        files.write_json(folder / "labels.json", label_shares(counts, labels))
        files.write_json(folder / "lengths.json", lengths(kept))
    files.write_json(Path("metrics/prepare.json"), report)


if __name__ == "__main__":
    command.run("prepare", main, __doc__)
