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
from tweets.data import table_files
from tweets.data.table_files import Dialect
from tweets.errors import UserError, plural, rows_at
from tweets.progress import track
from tweets.text.blank import is_blank

PREDICTED = "predicted"  # the column that is added
CHUNK = 2048  # rows labelled and written at a time


class Classifier(Protocol):
    """An exported model, or a trained one."""

    @property
    def labels(self) -> list[str]: ...

    def predict(self, texts: Sequence[str], /) -> npt.NDArray[np.float64]: ...


def read(source: str, column: str, dialect: Dialect) -> pd.DataFrame:
    """Return the rows to label, also those without a text. Raises UserError when they cannot be read.

    And when they have no such column, or no row.
    """
    if source == "-":
        try:
            lines = io.StringIO(sys.stdin.buffer.read().decode("utf-8")).readlines()
        except UnicodeDecodeError as error:
            raise UserError(f"stdin: byte {error.start} is not UTF-8") from None
        frame = pd.DataFrame({column: [line.rstrip("\r\n") for line in lines]}, dtype="str")
    else:
        table = table_files.read_one(source, "--input", dialect)
        table.check_plain(column, source)
        frame = table.frame
    if column not in frame.columns:
        raise UserError(f"{source}: no column {column!r}; {table_files.columns_of(frame)} (--column)")
    if PREDICTED in frame.columns:
        raise UserError(f"{source}: has a column {PREDICTED!r} already; take it out or rename it")
    if frame.empty:
        raise UserError(f"{source}: no rows; it needs at least one tweet")
    return frame


def unlabelled(rows: pd.DataFrame, column: str, max_chars: int) -> list[str | None]:
    """Return for each row why its text in a column cannot be labelled, None where it can."""
    texts = (None if pd.isna(text) else str(text) for text in rows[column])
    long = f"over {max_chars:,} characters"
    return ["no text" if text is None or is_blank(text) else long if len(text) > max_chars else None for text in texts]


def texts(rows: pd.DataFrame, column: str, reasons: Sequence[str | None]) -> list[str | None]:
    """Return the texts in a column, None for each row that has a reason against it."""
    return [None if why else str(text) for why, text in zip(reasons, rows[column], strict=True)]


def tell(reasons: Sequence[str | None], source: str) -> None:
    """Tell on stderr how many rows cannot be labelled, and why."""
    for why in sorted(set(filter(None, reasons))):
        numbers = [number for number, reason in enumerate(reasons) if reason == why]
        name = "stdin" if source == "-" else source
        what = f"{plural(len(numbers), 'row')} without a label, with {why}: {rows_at(numbers)}"
        sys.stderr.write(f"predict: {name}: {what}\n")


def label(classifier: Classifier, rows: pd.DataFrame, texts: Sequence[str | None]) -> Iterator[pd.DataFrame]:
    """Yield the rows, a chunk at a time, with their predicted label and its probabilities behind their columns.

    A row whose text is None stays in its place, without a label. Raises UserError for a column that is there already.
    """
    taken = [f"p_{name}" for name in classifier.labels if f"p_{name}" in rows.columns]
    if taken:
        raise UserError(f"the input has a column {taken[0]!r} already; take it out or rename it")
    with track(total=len(rows), unit="tweets", desc="predict") as progress:
        for start in range(0, len(rows), CHUNK):
            chunk = rows.iloc[start : start + CHUNK]
            given = [place for place, text in enumerate(texts[start : start + CHUNK]) if text is not None]
            probabilities = np.full((len(chunk), len(classifier.labels)), np.nan)
            if given:
                probabilities[given] = classifier.predict([str(texts[start + place]) for place in given])
            best: list[str | None] = [None] * len(chunk)
            for place in given:
                best[place] = classifier.labels[int(probabilities[place].argmax())]
            added = {f"p_{name}": probabilities[:, k].round(6) for k, name in enumerate(classifier.labels)}
            yield chunk.assign(**{PREDICTED: pd.array(best, dtype="str")}, **added)
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
