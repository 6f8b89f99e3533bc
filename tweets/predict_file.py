"""Label the tweets of a table, for `python -m tweets.predict --input`."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from tweets import files
from tweets.data import sources
from tweets.errors import UserError
from tweets.progress import track

PREDICTED = "predicted"  # the column that is added
CHUNK = 2048  # rows labelled and written at a time


class Classifier(Protocol):
    """An exported model, or a trained one."""

    @property
    def labels(self) -> list[str]: ...

    def predict(self, texts: Sequence[str], /) -> npt.NDArray[np.float64]: ...


def read(source: str, column: str) -> pd.DataFrame:
    """Return the rows to label. Raises UserError when they cannot be read or have no such column."""
    if source == "-":
        try:
            lines = io.StringIO(sys.stdin.buffer.read().decode("utf-8")).readlines()
        except UnicodeDecodeError as error:
            raise UserError(f"stdin: byte {error.start} is not UTF-8") from None
        frame = pd.DataFrame({column: [line.rstrip("\r\n") for line in lines]}, dtype="str")
    else:
        [file, *others] = sources.find_files(source, "--input")
        if others:
            raise UserError(f"{source}: a folder of {len(others) + 1} tables; it needs one file")
        frame = sources.read_table(file, "utf-8", named=None)
    if column not in frame.columns:
        raise UserError(f"{source}: no column {column!r}; it has: {', '.join(map(str, frame.columns[:12]))} (--column)")
    if PREDICTED in frame.columns:
        raise UserError(f"{source}: has a column {PREDICTED!r} already; take it out or rename it")
    return frame


def texts(rows: pd.DataFrame, column: str) -> list[str | None]:
    """Return the texts in a column, None where there is none."""
    return [None if pd.isna(text) else str(text) for text in rows[column]]


def label(classifier: Classifier, rows: pd.DataFrame, column: str) -> Iterator[pd.DataFrame]:
    """Yield the rows, a chunk at a time, with their predicted label and its probabilities behind their columns."""
    with track(total=len(rows), unit="tweets", desc="predict") as progress:
        for start in range(0, len(rows), CHUNK):
            chunk = rows.iloc[start : start + CHUNK]
            probabilities = classifier.predict(chunk[column].astype(str).tolist())
            added = {f"p_{name}": probabilities[:, k].round(6) for k, name in enumerate(classifier.labels)}
            yield chunk.assign(**{PREDICTED: [classifier.labels[k] for k in probabilities.argmax(1)]}, **added)
            progress.update(len(chunk))


def write(chunks: Iterator[pd.DataFrame], output: Path | None) -> None:
    """Write the chunks to stdout as CSV, or to the file, which appears only when all of them are in it."""
    if output is None:
        for number, chunk in enumerate(chunks):
            chunk.to_csv(sys.stdout, index=False, header=number == 0, quoting=csv.QUOTE_NONNUMERIC)
        return
    with files.replacing(output) as staged:
        if output.suffix == ".parquet":
            pd.concat(chunks).to_parquet(staged, index=False)
            return
        with staged.open("w", encoding="utf-8", newline="") as file:
            for number, chunk in enumerate(chunks):
                separator = "\t" if output.suffix == ".tsv" else ","
                chunk.to_csv(file, sep=separator, index=False, header=number == 0, quoting=csv.QUOTE_NONNUMERIC)
