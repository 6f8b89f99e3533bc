"""What was predicted, kept in SQLite for whoever looks at it later, and the true labels that come in afterwards.

Only features are kept, and the texts where they are asked for. The file is bounded in size and its rows in age. Several
services may share a folder: SQLite's write-ahead log lets them take turns.
"""

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from serve.metrics import Metrics
from tweets.errors import UserError, one_line

FILE = "predictions.sqlite"
WAITING = 10_000  # rows that may wait for a disk that is full or slow
SHARE = 20  # of a file that is too large, this part of the rows goes at once
OLD = 10_000  # rows that are looked at each time for being too old
PATIENCE = 5  # seconds to wait for another service that writes
LABELLED = 1_000  # predictions with a true label, the latest, that the accuracy is taken from

SCHEMA = """
CREATE TABLE IF NOT EXISTS predictions (
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL, -- seconds since 1970
    request TEXT NOT NULL, -- its id
    number INTEGER NOT NULL, -- of the text in the request, from 0
    version TEXT NOT NULL, -- of the model
    label TEXT NOT NULL, -- predicted
    confidence REAL NOT NULL,
    probabilities TEXT NOT NULL, -- a JSON object
    length INTEGER NOT NULL, -- tokens
    unknown REAL NOT NULL, -- share of the tokens
    capitals REAL NOT NULL, -- share of the letters
    embedding BLOB NOT NULL, -- float16
    text TEXT, -- where TWEETS_COLLECT_TEXT is on
    truth TEXT -- the label that feedback gave
);
CREATE INDEX IF NOT EXISTS of_request ON predictions (request, number);
CREATE INDEX IF NOT EXISTS labelled ON predictions (version, id) WHERE truth IS NOT NULL;
"""

log = logging.getLogger("serve")


@dataclass(frozen=True, slots=True)
class Row:
    """A prediction, in the order of the table's columns."""

    at: float
    request: str
    number: int
    version: str
    label: str
    confidence: float
    probabilities: str
    length: int
    unknown: float
    capitals: float
    embedding: bytes
    text: str | None


COLUMNS = ", ".join(Row.__dataclass_fields__)
PLACES = ", ".join("?" * len(Row.__dataclass_fields__))


class Collection:
    """The predictions in a folder. Its methods may wait for a disk, so they are not for the event loop."""

    def __init__(self, folder: Path, *, max_bytes: int, max_days: float, metrics: Metrics) -> None:
        """Open the folder, or make it. Raises UserError when nothing can be written there."""
        self.path, self.max_bytes, self.max_seconds = folder / FILE, max_bytes, max_days * 86400
        self.metrics = metrics
        self._waiting: deque[Row] = deque()
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._failing = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._open()
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"{self.path}: {one_line(error)} (TWEETS_COLLECT): needs a folder to write to") from None

    def write(self, rows: Iterable[Row], now: float) -> None:
        """Write rows, and those that could not be written before; then drop what is too much or older than allowed.

        What cannot be written waits for the next call, WAITING rows at most; more are lost, and counted.
        """
        with self._lock:
            self._waiting.extend(rows)
            while len(self._waiting) > WAITING:
                self._waiting.popleft()
                self.metrics.lost_rows.inc()
            if self._waiting:
                self._try(now)

    def label(self, request: str, truths: Sequence[str | None]) -> int | None:
        """Write down the true labels of a request's predictions, the latest of that id, but for those that are None.

        Where one of them is not here, nothing is written, and its number is returned. Raises OSError when they cannot
        be written.
        """
        latest = "SELECT max(id) FROM predictions WHERE request = ? AND number = ?"
        change = f"UPDATE predictions SET truth = ? WHERE id = ({latest})"  # noqa: S608
        with self._lock:
            try:
                database = self._open()
                with database:
                    for number, truth in enumerate(truths):
                        if truth and not database.execute(change, (truth, request, number)).rowcount:
                            database.rollback()
                            return number
            except sqlite3.Error as error:
                self._close()
                raise OSError(f"{self.path}: {one_line(error)}") from None
        return None

    def right(self, version: str) -> tuple[int, int]:
        """Return how many of the latest labelled predictions of a model are right, and how many there are."""
        with self._lock:
            try:
                latest = "SELECT label, truth FROM predictions WHERE truth IS NOT NULL AND version = ?"
                right, labelled = (
                    self._open()
                    .execute(
                        f"SELECT total(label = truth), count(*) FROM ({latest} ORDER BY id DESC LIMIT {LABELLED})",  # noqa: S608
                        (version,),
                    )
                    .fetchone()
                )
            except sqlite3.Error:
                self._close()
                return 0, 0
            return int(right), labelled

    def close(self) -> None:
        """Close the file. What still waits is lost, and counted."""
        with self._lock:
            self.metrics.lost_rows.inc(len(self._waiting))
            self._waiting.clear()
            self._close()

    def _try(self, now: float) -> None:
        try:
            database = self._open()
            with database:
                database.executemany(
                    f"INSERT INTO predictions ({COLUMNS}) VALUES ({PLACES})",  # noqa: S608
                    map(astuple, self._waiting),
                )
        except (OSError, sqlite3.Error) as error:
            self._close()
            if not self._failing:
                log.error("collection: %s: %s; it tries again", self.path, one_line(error))
            self._failing = True
            return
        if self._failing:
            log.info("collection: %s: written again", self.path)
        self._failing = False
        self.metrics.collected_rows.inc(len(self._waiting))
        self._waiting.clear()
        try:
            self._bound(database, now)
        except sqlite3.Error as error:  # as where another service reads for long: the next time will do
            log.warning("collection: %s: %s; it stays as large as it is", self.path, one_line(error))

    def _bound(self, database: sqlite3.Connection, now: float) -> None:
        """Drop the oldest rows of a file that is too large, and those that are too old."""
        with database:
            database.execute(
                "DELETE FROM predictions WHERE at < ? AND id IN (SELECT id FROM predictions ORDER BY id LIMIT ?)",
                (now - self.max_seconds, OLD),
            )
        share = "SELECT min(id) + (max(id) - min(id)) / ? FROM predictions"
        while self._bytes(database) > self.max_bytes:
            with database:
                done = database.execute(f"DELETE FROM predictions WHERE id <= ({share})", (SHARE,))  # noqa: S608
            database.execute("PRAGMA incremental_vacuum").fetchall()
            if not done.rowcount:
                break

    @staticmethod
    def _bytes(database: sqlite3.Connection) -> int:
        pages, size = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        return int(pages * size)

    def _open(self) -> sqlite3.Connection:
        """Return the database, opened anew where it was closed or its file is gone."""
        if self._database and not self.path.exists():
            self._close()
        if not self._database:
            database = sqlite3.connect(self.path, timeout=PATIENCE, check_same_thread=False)
            try:
                database.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the first table, so that files can shrink
                database.execute("PRAGMA journal_mode = WAL")
                database.execute(
                    "PRAGMA synchronous = NORMAL"
                )  # what is committed outlives the process, not the machine
                database.executescript(SCHEMA)
            except sqlite3.Error:
                database.close()
                raise
            self._database = database
        return self._database

    def _close(self) -> None:
        if self._database:
            self._database.close()
        self._database = None
