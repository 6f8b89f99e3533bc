"""Compare texts with what the exported model was validated on.

    python -m tools.drift tweets.csv
    python -m tools.drift collected/predictions.sqlite

Takes a CSV, TSV or Parquet file with a column of texts, or what a service has kept (TWEETS_COLLECT). Prints one line:
drift or not, and in what. Writes drift/report.html, Evidently's report on the same, against the validation rows.

Exits with 3 where there is drift, with 1 where there is something wrong with the file. A file is looked at in windows
as long as the service's, in the order of its rows; what is left for the last one is filled up with the rows before it.
Drift is when so many windows alarm as would by chance in fewer than one in a hundred files without drift.
"""

import contextlib
import sqlite3
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binom

from serve import models, settings
from serve.collection import FILE
from tweets import command, files
from tweets.data import table_files, tables
from tweets.data.dataset import VALID
from tweets.errors import UserError, one_line
from tweets.evaluation import drift_statistics
from tweets.progress import track
from tweets.text.blank import is_blank

REPORT = Path("drift/report.html")
DRIFT = 3  # the exit status
CHANCE = 0.01
AXES = 3  # of the embeddings, in Evidently's report
CHUNK = 256  # texts


def check(rows: int, served: models.Served, where: str) -> None:
    """Raise UserError when there are fewer texts than a window has."""
    size = served.reference.window
    if rows < size:
        raise UserError(f"{where}: {rows} texts; it needs {size}, as many as a window of the reference has")


def describe(served: models.Served, texts: list[str]) -> drift_statistics.Texts:
    """Return what the model makes of texts, of which there is at least one."""
    parts = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
    tracked = track(parts, desc="predict", unit="batches")
    return drift_statistics.concatenate(drift_statistics.describe(part, served.predict(part)) for part in tracked)


def collected(served: models.Served, path: Path) -> drift_statistics.Texts:
    """Return what a service has kept of this model's predictions. Raises UserError when there are none."""
    query = (
        "SELECT label, confidence, length, unknown, capitals, embedding FROM predictions WHERE version = ? ORDER BY id"
    )
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            rows = database.execute(query, (served.version,)).fetchall()
            versions = [version for (version,) in database.execute("SELECT DISTINCT version FROM predictions")]
    except sqlite3.Error as error:
        raise UserError(f"{path}: not what a service keeps: {one_line(error)}") from None
    if not rows:
        others = (
            f"; it has those of {', '.join(versions)} (TWEETS_VERSION names the one in models/onnx)" if versions else ""
        )
        raise UserError(f"{path}: no predictions of version {served.version}, which lies in models/onnx{others}")
    labels, confidence, length, unknown, capitals, embeddings = zip(*rows, strict=True)
    return drift_statistics.Texts(
        labels=np.array([served.labels.index(label) for label in labels]),
        confidence=np.array(confidence),
        length=np.array(length, np.float64),
        unknown=np.array(unknown),
        capitals=np.array(capitals),
        embeddings=np.array([np.frombuffer(each, np.float16) for each in embeddings], np.float64),
    )


def texts_of(path: str, column: str) -> list[str]:
    """Return the texts of a file. Raises UserError when it cannot be read, or has none."""
    rows = table_files.read_one(path, "DATA", table_files.Dialect()).frame
    if column not in rows.columns:
        raise UserError(f"{path}: no column {column!r}; {table_files.columns_of(rows)} (--column)")
    texts: list[str] = rows[column].dropna().astype(str).tolist()
    return [text for text in texts if not is_blank(text)]


def alarming(served: models.Served, seen: drift_statistics.Texts) -> list[list[str]]:
    """Return what alarms in each window."""
    size = served.reference.window
    comparison = drift_statistics.Comparison(served.reference.axes, served.reference.sample)
    starts = [min(start, len(seen) - size) for start in range(0, len(seen), size)]
    windows = [seen.take(np.arange(start, start + size)) for start in starts]
    return [drift_statistics.alarms(comparison.statistics(window), served.reference.thresholds) for window in windows]


def verdict(alarms: list[list[str]], false_alarms: float) -> tuple[bool, str]:
    """Return whether there is drift, and the line that says so. Without drift `false_alarms` of the windows alarm."""
    alarmed = sum(map(bool, alarms))
    of = f"{alarmed} of {len(alarms)} windows alarm"
    if binom.sf(alarmed - 1, len(alarms), false_alarms) >= CHANCE:  # of so many alarms, or more
        return False, f"no drift: {of}"
    counts = Counter(name for names in alarms for name in names)
    return True, f"drift in {', '.join(name for name, _ in counts.most_common())}: {of}"


def frame(served: models.Served, seen: drift_statistics.Texts) -> pd.DataFrame:
    """Return the texts as Evidently takes them: a column for each thing that is compared."""
    projected = served.reference.axes.project(seen.embeddings)
    axes = {f"embedding, axis {axis + 1}": projected[:, axis] for axis in range(min(AXES, projected.shape[1]))}
    numbers = {name: getattr(seen, name) for name in drift_statistics.NUMBERS}
    return pd.DataFrame({"label": [served.labels[number] for number in seen.labels], **numbers, **axes})


def report(reference: pd.DataFrame, current: pd.DataFrame) -> None:
    """Write Evidently's report."""
    # Here, since it takes seconds, which bad input need not wait for.
    from evidently import DataDefinition, Dataset, Report  # noqa: PLC0415
    from evidently.presets import DataDriftPreset  # noqa: PLC0415

    numbers = [name for name in reference if name != "label"]
    definition = DataDefinition(categorical_columns=["label"], numerical_columns=numbers)
    both = (Dataset.from_pandas(rows, data_definition=definition) for rows in (current, reference))
    made = Report([DataDriftPreset()]).run(*both)
    with files.replacing(REPORT) as staged:
        made.save_html(str(staged))


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("data")
    parser.add_argument("--column", default="text", help="the column of the file that holds the texts")
    options = parser.parse_args()
    served = models.load(settings.load())
    if Path(options.data).suffix == Path(FILE).suffix:
        seen = collected(served, Path(options.data))
        check(len(seen), served, options.data)
    else:
        texts = texts_of(options.data, options.column)
        check(len(texts), served, options.data)
        seen = describe(served, texts)
    is_drift, line = verdict(alarming(served, seen), served.reference.false_alarms)
    validation = tables.read_parquet(Path(f"data/prepared/{VALID}.parquet"))["raw"].tolist()
    report(frame(served, describe(served, validation)), frame(served, seen))
    print(f"{line}; {REPORT} shows more")
    sys.exit(DRIFT if is_drift else 0)


if __name__ == "__main__":
    command.run("drift", main)
