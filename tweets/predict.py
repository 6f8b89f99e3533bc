"""Label tweets with the trained model.

    python -m tweets.predict "What a day!" "Worst flight ever."
    python -m tweets.predict --input tweets.csv --output labelled.csv
    some-command | python -m tweets.predict --input -

Text given as words prints one line each: the label, then the probability of every label. `--input` reads a CSV, TSV or
Parquet file, or lines from stdin (`-`), and writes its columns followed by `predicted` and one `p_LABEL` per label.
"""

import argparse
import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from tweets import errors, files, model, sources
from tweets.errors import UserError

MODEL = Path("models/transformer")
MAX_CHARS = 10_000  # a longer text is no tweet
PREDICTED = "predicted"  # the column that is added
CHUNK = 2048  # rows labelled and written at a time


def arguments() -> argparse.Namespace:
    description, examples = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(
        prog="python -m tweets.predict",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("text", nargs="*", help="tweets to label")
    parser.add_argument("--input", help="a .csv, .tsv or .parquet file, or - for lines from stdin")
    parser.add_argument("--output", type=Path, help="a .csv, .tsv or .parquet file; default: CSV to stdout")
    parser.add_argument("--column", default="text", help="the column of the input that holds the tweets")
    parser.add_argument("--model", type=Path, default=MODEL, help="the model folder")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    parsed = parser.parse_args()
    if bool(parsed.text) == bool(parsed.input):
        parser.error("give tweets, or --input with a file, and not both")
    if parsed.output and not parsed.input:
        parser.error("--output goes with --input")
    if parsed.output and parsed.output.suffix not in sources.TABLES:
        parser.error(f"--output {parsed.output}: needs a name that ends in {', '.join(sources.TABLES)}")
    if parsed.output and parsed.output.is_dir():
        parser.error(f"--output {parsed.output}: is a folder; it needs the name of a file")
    return parsed


def read(source: str, column: str) -> pd.DataFrame:
    """Return the rows to label. Raises UserError when they cannot be read or a text in them is no tweet."""
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
    check(frame[column], source)
    return frame


def check(texts: pd.Series, where: str) -> None:
    """Raise UserError for no texts, and for a text that is missing, blank or longer than MAX_CHARS."""
    if texts.empty:
        raise UserError(f"{where}: no rows; it needs at least one tweet")
    blank = texts.isna() | (texts.fillna("").astype(str).str.strip() == "")
    if blank.any():
        raise UserError(f"{where}: no text in {sources.at(blank)}")
    long = texts.astype(str).str.len() > MAX_CHARS
    if long.any():
        raise UserError(f"{where}: over {MAX_CHARS:,} characters in {sources.at(long)}: that is no tweet")


def label(classifier: model.Classifier, rows: pd.DataFrame, column: str) -> Iterator[pd.DataFrame]:
    """Yield the rows, a chunk at a time, with their predicted label and its probabilities behind their columns."""
    with tqdm(total=len(rows), unit="tweet", desc="predict", disable=None) as progress:
        for start in range(0, len(rows), CHUNK):
            chunk = rows.iloc[start : start + CHUNK]
            found = classifier.predict(chunk[column].astype(str).tolist())
            added = {f"p_{name}": found[:, k].round(6) for k, name in enumerate(classifier.labels)}
            yield chunk.assign(**{PREDICTED: [classifier.labels[k] for k in found.argmax(1)]}, **added)
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


def main() -> None:
    options = arguments()
    rows = read(options.input, options.column) if options.input else None
    if rows is None:
        check(pd.Series(options.text, dtype="str"), "text")
    classifier = model.load(options.model, model.choose_device(options.device))
    if rows is not None:
        write(label(classifier, rows, options.column), options.output)
        return
    for found in classifier.predict(options.text):
        best = classifier.labels[int(found.argmax())]
        parts = (f"{name} {value:.3f}" for name, value in zip(classifier.labels, found, strict=True))
        print(f"{best}\t{'  '.join(parts)}")


if __name__ == "__main__":
    errors.run("predict", main)
