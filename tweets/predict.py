"""Label tweets with the exported model.

    python -m tweets.predict "What a day!" "Worst flight ever."
    python -m tweets.predict --input tweets.csv --output labelled.csv
    some-command | python -m tweets.predict --input -

Text given as words prints one line each: the label, then the probability of every label. `--input` reads a table (CSV,
TSV, JSON lines or Parquet), or lines from stdin (`-`), and writes its columns followed by `predicted` and one `p_LABEL`
per label. A row without text stays in its place, without a label.

The model is the one in models/onnx, which starts in a second; where it is missing, the one in models/transformer.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tweets import command, files
from tweets.errors import UserError, rows_at
from tweets.model import exported
from tweets.text.blank import is_blank

if TYPE_CHECKING:
    from tweets.model import transformer
    from tweets.model.device import DeviceName

EXPORTED, TRAINED = Path("models/onnx"), Path("models/transformer")
MAX_CHARS = 10_000  # as fetch.max_chars in params.yaml: what training refuses is no tweet here either


def arguments() -> argparse.Namespace:
    parser = command.parser(__doc__)
    parser.add_argument("text", nargs="*", help="tweets to label")
    parser.add_argument("--input", help="a .csv, .tsv, .jsonl or .parquet file, or - for lines from stdin")
    parser.add_argument("--output", type=Path, help="a .csv, .tsv or .parquet file; default: CSV to stdout")
    parser.add_argument("--column", default="text", help="the column of the input that holds the tweets")
    parser.add_argument("--encoding", default="utf-8", help="of the input, such as latin-1; default: %(default)s")
    parser.add_argument("--separator", help="between the columns of the input; default: a comma, or a tab in .tsv")
    parser.add_argument(
        "--quoting",
        choices=["auto", "quoted", "plain"],
        default="auto",
        help="whether quotes hide separators and line breaks in the input, or are letters; auto: quoted for CSV",
    )
    parser.add_argument("--model", type=Path, help="a folder that the stage export, or the stage train, has written")
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help="of a model that train has written"
    )
    parsed = parser.parse_args()
    if bool(parsed.text) == bool(parsed.input):
        parser.error("give tweets, or --input with a file, and not both")
    if parsed.output and not parsed.input:
        parser.error("--output goes with --input")
    if parsed.output and parsed.output.suffix not in files.TABLES:
        parser.error(f"--output {parsed.output}: needs a name that ends in {', '.join(files.TABLES)}")
    if parsed.output and parsed.output.is_dir():
        parser.error(f"--output {parsed.output}: is a folder; it needs the name of a file")
    return parsed


def check(texts: Sequence[str]) -> None:
    """Raise UserError for a text that is blank or longer than MAX_CHARS."""
    if blank := [number for number, text in enumerate(texts) if is_blank(text)]:
        raise UserError(f"text: nothing in {rows_at(blank, 'tweet')}")
    if long := [number for number, text in enumerate(texts) if len(text) > MAX_CHARS]:
        raise UserError(f"text: over {MAX_CHARS:,} characters in {rows_at(long, 'tweet')}: that is no tweet")


def load(folder: Path | None, device: "DeviceName", *, threads: int) -> "exported.Exported | transformer.Classifier":
    """Return the model in a folder of either kind; without a folder, the exported one, or else the trained one.

    `threads` are for an exported one. Raises UserError when there is none, and when the device is not for it.
    """
    folder = folder or default(device)
    if (folder / exported.CHECKSUMS).is_file():
        if device not in ("auto", "cpu"):
            raise UserError(f"--device {device}: {folder} runs on the CPU only; `--model {TRAINED}` runs on others too")
        return exported.load(folder, threads=threads, single=False)
    from tweets.model import transformer  # noqa: PLC0415  torch, which the exported model does without
    from tweets.model.device import choose_device  # noqa: PLC0415  as above

    return transformer.load(folder, choose_device(device))


def default(device: str) -> Path:
    """Return the folder of the model to take where none is named. Raises UserError when there is none."""
    if device not in ("auto", "cpu"):
        return TRAINED
    if (EXPORTED / exported.CHECKSUMS).is_file():
        return EXPORTED
    if not TRAINED.is_dir():
        raise UserError(f"{EXPORTED}: no model there; `dvc repro` or `dvc pull` gives one")
    sys.stderr.write(
        f"predict: no model in {EXPORTED}, so {TRAINED} is taken, which takes longer to start;"
        " `dvc repro` or `dvc pull` gives the other\n"
    )
    return TRAINED


def main() -> None:
    options = arguments()
    if options.input:
        from tweets import predict_file  # noqa: PLC0415  pandas and fsspec, which words do without
        from tweets.data.table_files import Dialect  # noqa: PLC0415  as above

        dialect = Dialect(
            encoding=options.encoding, separator=options.separator, quoting=options.quoting, setting="--{} {}"
        )
        rows = predict_file.read(options.input, options.column, dialect)
        reasons = predict_file.unlabelled(rows, options.column, MAX_CHARS)
        predict_file.tell(reasons, options.input)
        texts = predict_file.texts(rows, options.column, reasons)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        classifier = load(options.model, options.device, threads=cores)
        predict_file.write(predict_file.label(classifier, rows, texts), options.output)
        return
    check(options.text)
    classifier = load(options.model, options.device, threads=1)
    for probabilities in classifier.predict(options.text):
        best = classifier.labels[int(probabilities.argmax())]
        parts = (f"{name} {value:.3f}" for name, value in zip(classifier.labels, probabilities, strict=True))
        print(f"{best}\t{'  '.join(parts)}")


if __name__ == "__main__":
    command.run("predict", main)
