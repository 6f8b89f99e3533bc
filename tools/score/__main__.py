"""Label the tweets of many files, on all cores or on a Ray cluster, into files of the same names.

    python -m tools.score INPUT OUTPUT [--column text] [--manifest scores.json]

INPUT is a folder of Parquet, CSV or TSV files, OUTPUT where theirs go; each may be at a URL such as gs://bucket/folder.
The files go to OUTPUT/VERSION: VERSION changes with the model, the code and the options, so that files of two models
never lie together. A file is written once, as a whole. Started again, after whatever ended it, the command does what is
missing. Each row stays in its place; one that cannot be labelled gets no label, and the column `unlabelled` says why.

`TWEETS_CLUSTER=local` starts Ray on this machine; an address such as `ray://head:10001` or `10.0.0.1:6379` names a
cluster, whose machines must see INPUT, OUTPUT and the model's folder under the same names. How many processes are at
work changes no byte; a processor of another kind may round otherwise in the sixth decimal.

Writes the manifest when all is done: of each file its rows, those without a label by reason, and its SHA-256.
"""

import hashlib
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path

import fsspec

from tools.score.shards import Job, remove_staged, score
from tweets import command, files
from tweets.data import pieces, table_files
from tweets.data.table_files import Dialect
from tweets.errors import UserError, plural
from tweets.model import exported
from tweets.progress import track

ROOT = Path(__file__).parents[2]
MODEL = Path("models/onnx")
MANIFEST = Path("scores.json")
CODE = ("requirements.txt", "tools/score/*.py", "tweets/**/*.py")  # what decides what is written, beside the model


def version(checksum: str, column: str, dialect: Dialect) -> str:
    """Return what names the model, the code and the options: 12 hexadecimal digits."""
    sources = sorted(path for pattern in CODE for path in ROOT.glob(pattern))
    parts = [checksum, column, repr(dialect), *map(files.sha256, sources)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def shards(source: str) -> list[str]:
    """Return the files to label, in order. Raises UserError for one that cannot be written under its name."""
    found, _ = table_files.find(source, "INPUT")
    if wrong := [file for file in found if not file.endswith(files.TABLES)]:
        raise UserError(f"{wrong[0]}: needs a name that ends in {', '.join(files.TABLES)}")
    return found


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("input", metavar="INPUT")
    parser.add_argument("output", metavar="OUTPUT")
    parser.add_argument("--column", default="text", help="with the tweets; default: %(default)s")
    parser.add_argument("--encoding", default="utf-8", help="of CSV and TSV; default: %(default)s")
    parser.add_argument("--separator", help="of CSV and TSV; default: a comma, or a tab in .tsv")
    parser.add_argument(
        "--quoting", choices=["auto", "quoted", "plain"], default="auto", help="as tweets.predict has it"
    )
    parser.add_argument("--model", type=Path, default=MODEL, help="a folder that export has written")
    parser.add_argument("--manifest", type=Path, default=MANIFEST, help="default: %(default)s")
    options = parser.parse_args()
    if not (options.input and options.output):
        parser.error("INPUT and OUTPUT need the name of a folder, or a URL: make score INPUT=folder OUTPUT=folder")
    if not (options.model / exported.CHECKSUMS).is_file():
        raise UserError(f"{options.model}: no exported model there; `dvc repro` or `dvc pull` gives one")
    dialect = Dialect(
        encoding=options.encoding, separator=options.separator, quoting=options.quoting, setting="--{} {}"
    )
    checksum = files.sha256(options.model / exported.CHECKSUMS)
    found = shards(options.input)
    output = f"{options.output.rstrip('/')}/{version(checksum, options.column, dialect)}"
    job = Job(
        output=output if "://" in output else str(Path(output).resolve()),
        model=options.model.resolve(),
        checksum=checksum,
        column=options.column,
        dialect=dialect,
    )
    fs, root = fsspec.core.url_to_fs(job.output)
    remove_staged(fs, root)
    there = sum(fs.exists(f"{root}/{shard.rsplit('/', 1)[-1]}") for shard in found)
    print(f"score: {plural(len(found), 'file')}, {there} of them done before; to {output}", flush=True)
    done = pieces.in_order(partial(score, job), iter(found), first_here=False)
    written = list(track(done, total=len(found), desc="score", unit="files"))
    unlabelled = sum((Counter(file.unlabelled) for file in written), Counter())
    rows = sum(file.rows for file in written)
    report = {"output": output, "rows": rows, "unlabelled": unlabelled, "files": [asdict(file) for file in written]}
    files.write_json(options.manifest, report)
    reasons = "; ".join(f"{count:,} with {why}" for why, count in sorted(unlabelled.items()))
    without = f", {unlabelled.total():,} without a label: {reasons}" if reasons else ""
    print(f"score: {plural(rows, 'row')}{without}; {options.manifest} lists the files")


if __name__ == "__main__":
    command.run("score", main)
