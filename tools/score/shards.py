"""What a process does with a file: label its rows, and put them where they go, once and as a whole."""

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
from fsspec.implementations.local import LocalFileSystem

from tweets import files, predict_file
from tweets.data import table_files
from tweets.data.table_files import Dialect
from tweets.errors import UserError, one_line
from tweets.model import exported
from tweets.predict import MAX_CHARS

UNLABELLED = "unlabelled"  # the column that says why a row has no label
WRITTEN = Dialect(quoting="quoted")  # of what is written as CSV and TSV
STAGED = ".new"
STALE = 3600  # seconds; a file is under a temporary name only while it is copied


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is done with each file."""

    output: str  # folder or URL, with the version
    model: Path
    checksum: str  # of the model
    column: str
    dialect: Dialect


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A file that was written."""

    name: str
    rows: int
    unlabelled: dict[str, int]  # rows without a label, by reason
    sha256: str


@functools.cache
def model(folder: Path, checksum: str) -> exported.Exported:
    """Return the model, which a process reads once. Raises UserError when it is not the one that the run began with."""
    loaded = exported.load(folder, threads=1, single=False)
    files.check_sha256(folder / exported.CHECKSUMS, checksum)
    return loaded


def score(job: Job, shard: str) -> Scored:
    """Write the labelled rows of a file, unless they are there. Raises UserError when it cannot be read or labelled."""
    fs, root = fsspec.core.url_to_fs(job.output)
    name = shard.rsplit("/", 1)[-1]
    target = f"{root}/{name}"
    rows = predict_file.read(shard, job.column, job.dialect)
    given = rows[job.column].astype("str")
    if not fs.exists(target):
        if UNLABELLED in rows.columns:
            raise UserError(f"{shard}: has a column {UNLABELLED!r} already; take it out or rename it")
        reasons = predict_file.unlabelled(rows, job.column, MAX_CHARS)
        texts = predict_file.texts(rows, job.column, reasons)
        rows[UNLABELLED] = pd.array(reasons, dtype="str")
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / name
            predict_file.write(predict_file.label(model(job.model, job.checksum), rows, texts), written)
            place(fs, written, target)
    return scored(fs, target, given)


def place(fs: Any, written: Path, target: str) -> None:
    """Put a file where nothing is yet, as a whole: what is there already, of another run of the same, stays."""
    try:
        if not isinstance(fs, LocalFileSystem):
            fs.put_file(str(written), target, mode="create")  # on GCS: only where there is no generation yet
            return
        path = Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}{STAGED}")
        try:
            shutil.copyfile(written, beside)
            os.link(beside, path)  # which, unlike a rename, does not replace
        finally:
            beside.unlink(missing_ok=True)
    except FileExistsError:
        pass


def scored(fs: Any, target: str, given: "pd.Series[str]") -> Scored:
    """Return what a written file holds. Raises UserError when it is damaged, or does not hold the texts given."""
    url = fs.unstrip_protocol(target)
    try:
        frame = table_files.read(url, WRITTEN).frame
        reasons, texts = frame[UNLABELLED], frame[str(given.name)].astype("str")
    except (UserError, KeyError) as error:
        raise UserError(f"{target}: damaged: {one_line(error)[:200]}; delete it, and run this again") from None
    if texts.fillna("").tolist() != given.fillna("").tolist():
        raise UserError(f"{target}: has other texts than the input has now; delete it, and run this again")
    with fs.open(target, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    counts = Counter(reasons.dropna())
    return Scored(name=target.rsplit("/", 1)[-1], rows=len(reasons), unlabelled=dict(counts), sha256=digest)


def remove_staged(fs: Any, root: str) -> None:
    """Remove what killed runs left under a temporary name: what is older than STALE."""
    if isinstance(fs, LocalFileSystem):
        for path in Path(root).glob(f".*{STAGED}"):
            with contextlib.suppress(FileNotFoundError):  # it was placed meanwhile
                if time.time() - path.stat().st_mtime > STALE:
                    path.unlink()
