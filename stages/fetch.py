"""Fetch raw rows from the source that a param names.

    python -m stages.fetch

Writes data/raw: rows.parquet with the columns id, text, label, confidence, split, as the source has them, and
source.json with the labels, the hashes of the files read, and whether their encoding needs repair.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from tweets import command, environment, files, orphan, params
from tweets.data import raw_rows, sources
from tweets.data.own_tables import CsvColumns
from tweets.data.raw_rows import Read
from tweets.errors import UserError, plural
from tweets.text.blank import is_blank

SHOWN = 100  # labels


@params.section
class Fetch:
    """Section `fetch` of params.yaml."""

    source: sources.SourceName
    path: str  # covid19: the folder with its two files; csv: a table, a folder of tables or a URL
    sha256: (
        Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    )  # of a source with one file: what its bytes must hash to
    max_chars: params.Count  # a longer text is an error: it is no tweet
    empty: Literal["error", "drop"]  # what to do about a row without text or label
    csv: CsvColumns


def fetch(settings: Fetch) -> tuple[Read, dict[str, Any]]:
    """Return the checked raw rows and the facts about their source. Raises UserError when a check fails."""
    source = sources.SOURCES[settings.source]
    read = source.read(settings.path, settings.csv)
    check_hash(read.hashes, settings.sha256)
    blank = read.rows["text"].map(is_blank).astype(bool) | read.rows["label"].isna()
    dropped = int(blank.sum()) if settings.empty == "drop" else 0
    if dropped:
        read = dataclasses.replace(read, rows=read.rows[~blank])
    raw_rows.check(read, settings.max_chars)  # before the rows are renumbered: its messages name rows of the source
    facts = {
        "source": settings.source,
        "labels": read.labels,
        "rows": read.rows["label"].value_counts().to_dict(),
        "labels_are_given": settings.csv.labels is not None,
        "sha256": read.hashes,
        "dropped_empty": dropped,
        "broken_encoding": source.broken_encoding,
    }
    return dataclasses.replace(read, rows=read.rows.reset_index(drop=True)), facts


def check_hash(hashes: dict[str, str], expected: str | None) -> None:
    """Raise UserError when a hash is expected and the one file has another, or there are several files."""
    if expected is None:
        return
    if len(hashes) > 1:
        raise UserError(f"fetch.sha256 is set and the source has {len(hashes)} files; it needs one file")
    [(name, digest)] = hashes.items()
    if digest != expected:
        raise UserError(f"{name}: SHA-256 is {digest}, needs {expected} (fetch.sha256)")


def print_counts(rows: dict[str, int]) -> None:
    """Print how many rows each label has."""
    for label in list(rows)[:SHOWN]:
        print(f"  {label!r}: {plural(rows[label], 'row')}")
    if len(rows) > SHOWN:
        print(f"  and {len(rows) - SHOWN:,} more labels")


def main() -> None:
    environment.check()
    orphan.end_with_parent()
    read, facts = fetch(params.load("fetch", Fetch))
    with files.replacing(Path("data/raw")) as folder:
        folder.mkdir()
        read.rows.to_parquet(folder / "rows.parquet", index=False)
        files.write_json(folder / "source.json", facts)
    print(f"fetch: {len(read.rows):,} rows from {facts['source']}, {facts['dropped_empty']} empty rows dropped")
    for note in read.notes:
        print(f"  {note}")
    print_counts(facts["rows"])
    for label, text in read.rows[["label", "text"]].head(3).to_numpy():
        print(f"  {label}: {text[:100]}")


if __name__ == "__main__":
    command.run("fetch", main, __doc__)
