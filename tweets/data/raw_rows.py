"""Raw rows: what a source gives, whatever it read them from, and what is checked of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pandera.pandas as pa

from tweets.data import table_files
from tweets.data.dataset import SPLITS
from tweets.data.places import Places
from tweets.data.table_files import Table
from tweets.errors import UserError
from tweets.params import hint_at_quotes
from tweets.text.blank import is_blank

COLUMNS = ["id", "text", "label", "confidence", "split"]
SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
# A number, a link, a mention, or several words: hardly the name of a column.
LIKE_A_CELL = re.compile(r"^\s*-?\d[\d.,:-]*\s*$|https?:|@\w|\S+\s+\S+\s+\S+\s+\S+")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of a table that hold what a row needs, None for what it does not have."""

    text: str
    label: str
    id: str | None = None
    confidence: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Read:
    """What a source gives."""

    rows: pd.DataFrame  # with the columns of COLUMNS, strings but for confidence, in the order of the source
    labels: list[str]  # in the order of the classes
    hashes: dict[str, str]  # the SHA-256 of each file
    places: Places = field(default_factory=Places)  # where the rows are in their files
    notes: Sequence[str] = ()  # what was left out, a line each


def select(read: Table, columns: Columns, name: str) -> pd.DataFrame:
    """Return the raw rows of a table that was read from the file `name`. Raises UserError for what is wrong with it."""
    frame = read.frame
    wanted = {column: getattr(columns, column) for column in COLUMNS}
    missing = [theirs for theirs in wanted.values() if theirs is not None and theirs not in frame.columns]
    if missing:
        raise UserError(f"{name}: no column {', '.join(map(repr, missing))}; {_has(frame)}")
    for theirs in wanted.values():
        read.check_plain(theirs, name)
    numbers = pd.RangeIndex(len(frame)).astype(str)
    chosen = {column: frame[theirs] if theirs else None for column, theirs in wanted.items()}
    rows = pd.DataFrame({**chosen, "id": chosen["id"] if columns.id else numbers}, index=frame.index, columns=COLUMNS)
    for column in ("id", "text", "label", "split"):
        rows[column] = rows[column].astype("str")
    rows["label"] = rows["label"].str.strip().replace("", None)
    rows["confidence"] = _numbers(rows["confidence"], read, name)
    rows["split"] = _official(rows["split"], read, name) if columns.split else rows["split"]
    return rows.reset_index(drop=True)


def _has(frame: pd.DataFrame) -> str:
    """Return which columns a table has, and what may have gone wrong with them."""
    names = [str(name) for name in frame.columns]
    has = table_files.columns_of(frame)
    other = next((sign for sign in table_files.SEPARATORS if len(names) == 1 and sign in names[0]), None)
    if other:
        return f'{has}; is its separator another? -S "fetch.csv.separator={table_files.SEPARATORS[other]}"'
    if any(LIKE_A_CELL.search(name[:200]) for name in names):
        return f"{has}; if this is its first row, name the columns in fetch.csv.names"
    return f"{has}; name yours in fetch.csv"


def _numbers(values: pd.Series, read: Table, name: str) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    wrong = numbers.isna() & values.notna()
    if wrong.any():
        found = f"{name}: confidence {values[wrong].iloc[0]!r} in {read.at(wrong)}"
        raise UserError(f"{found}; it needs a number in [0, 1]")
    return numbers


def _official(values: pd.Series, read: Table, name: str) -> pd.Series:
    splits = values.str.strip().str.lower().map(SPLIT_NAMES)
    wrong = splits.isna()
    if wrong.any():
        found = f"{name}: split {values[wrong].iloc[0]!r} in {read.at(wrong)}"
        raise UserError(f"{found}; it needs {', '.join(SPLIT_NAMES)}")
    return splits


def check(read: Read, max_chars: int) -> None:
    """Check the rows against the schema of raw rows.

    Raises UserError for no rows, a text that is empty or longer than `max_chars`, a label that is empty or unknown,
    a confidence outside [0, 1], an id that comes twice in a split, and fewer than two labels.
    """
    rows = read.rows
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
            "label": pa.Column(str, pa.Check.isin(read.labels, error=f"is not one of {', '.join(read.labels)}")),
            "confidence": pa.Column(float, pa.Check.in_range(0, 1, error="is not in [0, 1]"), nullable=True),
            "split": pa.Column(str, pa.Check.isin(SPLITS), nullable=True),
        },
        strict=True,
    )
    try:
        schema.validate(rows, lazy=True)
    except pa.errors.SchemaErrors as error:
        raise UserError(_describe(error.failure_cases, read)) from None
    classes = set(rows["label"])
    if len(classes) < 2:
        raise UserError(f"found one class only, {classes.pop()!r}; it needs two or more")
    doubled = rows.duplicated(["id", "split"])
    if doubled.any():
        first, where = rows.loc[doubled, "id"].iloc[0], read.places.at(rows.index[doubled])
        raise UserError(f"id {first!r} comes again in {where}; ids must differ")


def _describe(cases: pd.DataFrame, read: Read) -> str:
    """Return one line on pandera's failure cases: the first column that failed, how, where and with what."""
    first: Any = cases.iloc[0]
    same = cases[(cases["column"] == first["column"]) & (cases["check"] == first["check"])]
    is_empty = first["check"] in ("not_nullable", "is empty")
    how = "is empty" if is_empty else f"{str(first['failure_case'])[:60]!r} {first['check']}"
    may_drop = is_empty and first["column"] in ("text", "label")
    hint = "; `-S fetch.empty=drop` leaves such rows out" if may_drop else ""
    if first["column"] == "label" and not is_empty:
        hint = hint_at_quotes(str(first["failure_case"]), read.labels)
    return f"{first['column']} {how} in {read.places.at(same['index'].astype(int))}{hint}"
