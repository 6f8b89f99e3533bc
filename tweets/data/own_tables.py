"""The source `csv`: anyone's tables, of every form and place that table_files.py knows."""

import hashlib
import re
from typing import Annotated

import fsspec
import pandas as pd
from pydantic import Field

from tweets.data import raw_rows, table_files
from tweets.data.dataset import TEST
from tweets.data.places import Places
from tweets.data.raw_rows import SPLIT_NAMES, Columns, Read
from tweets.data.table_files import Dialect, Quoting
from tweets.errors import UserError, plural
from tweets.params import Label, section

FOLDERS = {"data", *SPLIT_NAMES}  # below the one that fetch.path names
SHARD = re.compile(r"([a-z]+)(?P<shard>[-_.]\d+(?:-of-\d+)?)?\.(?:csv|tsv|jsonl|ndjson|json|parquet)\b")
SUBMISSION = re.compile(r"submission\.[^/]*$", re.IGNORECASE)  # a form for answers, in Kaggle's folders


@section
class CsvColumns:
    """How to read the source `csv`: the names of its columns, null for the ones that it does not have."""

    text: str
    label: str
    id: str | None
    confidence: str | None  # how sure the annotators were, in [0, 1]
    split: str | None  # train, valid (or validation, val, dev) or test in each row
    labels: list[Label] | None  # the labels, in the order of the classes; null: those found, sorted
    encoding: str
    separator: Annotated[str, Field(pattern='^(tab|[^"\r\n])$')] | None  # null: a comma, or a tab in .tsv
    quoting: Quoting  # auto: CSV is quoted; TSV is plain, unless its header is in quotes
    names: Annotated[list[str], Field(min_length=1)] | None  # of the columns, in order, of a file without a header

    def dialect(self) -> Dialect:
        """Return how the files are written. Raises UserError for a column that is named twice."""
        names = self.names or []
        if twice := next((name for number, name in enumerate(names) if name in names[:number]), None):
            raise UserError(f"fetch.csv.names: has {twice!r} twice; name each column once")
        return Dialect(
            encoding=self.encoding,
            separator=self.separator,
            quoting=self.quoting,
            names=self.names,
            setting="fetch.csv.{}={}",
        )

    def columns(self) -> Columns:
        """Return which columns to read."""
        return Columns(text=self.text, label=self.label, id=self.id, confidence=self.confidence, split=self.split)


def table(path: str, settings: CsvColumns) -> Read:
    """Return the rows of a table, or of a folder of tables.

    `path` is local or any URL that fsspec opens. A folder holds either one table, or tables named for their split (or
    in folders named for it): train, valid (validation, val, dev) and test. Raises UserError for everything that is
    wrong with them.
    """
    files, rest = table_files.find(path, "fetch.path", FOLDERS)
    left_out = [file for file in files if len(files) > 1 and SUBMISSION.search(_name(file, path))]
    files = [file for file in files if file not in left_out]
    if not files:
        raise UserError(
            f"{path}: has forms for answers only, such as {_name(left_out[0], path)}; it needs tables with labels"
        )
    notes = [f"{_name(file, path)} is no split: left out" for file in left_out]
    notes += [f"{each.rstrip('/').rsplit('/', 1)[-1]}{'/' * each.endswith('/')} is no table: left out" for each in rest]
    by_split = len(files) > 1
    if by_split and settings.split:
        raise UserError(
            f"{path}: has a file for each split and fetch.csv.split = {settings.split!r}; it needs one of them"
        )
    splits = _splits_of(path, [_name(file, path) for file in files]) if by_split else [None]
    dialect, columns = settings.dialect(), settings.columns()
    parts, places, hashes = [], Places(), {}
    for file, split in zip(files, splits, strict=True):
        name = _name(file, path)
        read = table_files.read(file, dialect, label=columns.label)
        if split == TEST and columns.label not in read.frame.columns and set(splits) - {TEST}:
            notes.append(f"{name} has no column {columns.label!r}: left out; test rows are taken from the others")
            continue
        if read.blank_lines:
            notes.append(f"{name}: {plural(read.blank_lines, 'blank line')} left out")
        part = raw_rows.select(read, columns, name)
        parts.append(part.assign(split=split) if by_split else part)
        places.add(name, len(part), read.lines)
        hashes[name] = _sha256(file)
    rows = pd.concat(parts, ignore_index=True)
    if columns.id is None:  # several files may hold one split
        rows["id"] = rows.groupby("split", dropna=False).cumcount().astype("str") if by_split else rows["id"]
    labels = settings.labels or sorted(rows["label"].dropna().unique())
    return Read(rows, labels, hashes, places, notes)


def _name(file: str, folder: str) -> str:
    """Return the name of a file below the folder that was asked for, or its own where that is the file."""
    parts = table_files.without_query(file).split("/")
    above = parts[-2] if len(parts) > 1 and parts[-2].lower() in FOLDERS else ""
    return f"{above}/{parts[-1]}" if above and not folder.rstrip("/").endswith(f"/{above}") else parts[-1]


def _splits_of(folder: str, names: list[str]) -> list[str | None]:
    """Return the split that each file is named for: `train.csv`, `train-00000-of-00002.parquet`, `train/0.csv`.

    Raises UserError for a name without a split, and for two files of a split that are not shards of it.
    """
    splits: list[str | None] = []
    whole: dict[str, str] = {}  # the file that is a split by its own name, and no shard
    for name in names:
        *folders, file = name.lower().split("/")
        match = SHARD.match(file)
        own = SPLIT_NAMES.get(match[1]) if match else None
        split = own or next((SPLIT_NAMES[part] for part in folders if part in SPLIT_NAMES), None)
        if split is None:
            raise UserError(f"{folder}: found {name} among several files; it needs the names {', '.join(SPLIT_NAMES)}")
        if split in whole or (match and own and not match["shard"] and split in splits):
            other = whole.get(split) or names[splits.index(split)]
            raise UserError(f"{folder}: {other} and {name} are both {split}; it needs one of them, or numbered shards")
        if match and own and not match["shard"] and not any(part in SPLIT_NAMES for part in folders):
            whole[split] = name
        splits.append(split)
    return splits


def _sha256(file: str) -> str:
    with fsspec.open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
