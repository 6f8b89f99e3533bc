"""Fetch raw rows from the source that a param names.

    python -m stages.fetch

Writes data/raw: rows.parquet with the columns id, text, label, confidence, split, as the source has them, and
source.json with the labels, the hashes of the files read, and whether their encoding needs repair.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field

from tweets import command, environment, files, orphan, params
from tweets.data import sources
from tweets.errors import UserError
from tweets.text.blank import is_blank


@params.section
class Fetch:
    """Section `fetch` of params.yaml."""

    source: sources.SourceName
    path: str  # covid19: the folder with its two files; csv: a file, a folder or a URL
    sha256: (
        Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    )  # of a source with one file: what its bytes must hash to
    max_chars: Annotated[int, Field(gt=0)]  # a longer text is an error: it is no tweet
    empty: Literal["error", "drop"]  # what to do about a row without text or label
    csv: sources.CsvColumns


def fetch(settings: Fetch) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the checked raw rows and the facts about their source. Raises UserError when a check fails."""
    source = sources.SOURCES[settings.source]
    rows, labels, hashes = source.read(settings.path, settings.csv)
    check_hash(hashes, settings.sha256)
    blank = rows["text"].map(is_blank).astype(bool) | rows["label"].isna()
    dropped = int(blank.sum()) if settings.empty == "drop" else 0
    if dropped:
        rows = rows[~blank]
    sources.check(rows, labels, settings.max_chars)  # before the rows are numbered anew: it names rows of the source
    facts = {
        "source": settings.source,
        "labels": labels,
        "sha256": hashes,
        "dropped_empty": dropped,
        "broken_encoding": source.broken_encoding,
    }
    return rows.reset_index(drop=True), facts


def check_hash(hashes: dict[str, str], expected: str | None) -> None:
    """Raise UserError when a hash is expected and the one file has another, or there are several files."""
    if expected is None:
        return
    if len(hashes) > 1:
        raise UserError(f"fetch.sha256 is set and the source has {len(hashes)} files; it needs one file")
    [(name, digest)] = hashes.items()
    if digest != expected:
        raise UserError(f"{name}: SHA-256 is {digest}, needs {expected} (fetch.sha256)")


def main() -> None:
    environment.check()
    orphan.end_with_parent()
    rows, facts = fetch(params.load("fetch", Fetch))
    with files.replacing(Path("data/raw")) as folder:
        folder.mkdir()
        rows.to_parquet(folder / "rows.parquet", index=False)
        files.write_json(folder / "source.json", facts)
    print(f"fetch: {len(rows):,} rows from {facts['source']}, {facts['dropped_empty']} empty rows dropped")
    for label, text in rows[["label", "text"]].head(3).to_numpy():
        print(f"  {label}: {text[:100]}")


if __name__ == "__main__":
    command.run("fetch", main, __doc__)
