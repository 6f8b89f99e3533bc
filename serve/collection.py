"""What was predicted, kept in SQLite for whoever looks at it later, and the true labels that come in afterwards.

Only features are kept, and the texts where they are asked for. The file is bounded in size and its rows in age. Several
services may share a folder: SQLite's write-ahead log lets them take turns.
"""

import logging
import math
import os
import sqlite3
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from serve.metrics import Metrics
from tweets.errors import UserError, one_line

FILE = "predictions.sqlite"
PRIVATE = 0o600  # its mode
WAITING = 10_000  # rows that may wait for a disk that is full or slow
SHARE = 20  # of a file that is too large, this part of the rows goes at once
SECONDS_BETWEEN_AGES = 600.0  # between two looks for rows that are too old
LOG_BYTES = 4 * 2**20  # of SQLite's write-ahead log, beside the file, as a rule; SQLite empties it at that size
MOST_LOG_BYTES = 64 * 2**20  # while another program reads the file, which keeps it from being emptied
PATIENCE = 2  # seconds to wait for another service that writes
LABELLED = 1_000  # predictions with a true label, the latest, that the accuracy is taken from
DOUBT = 86400.0  # seconds: rows that are too old by more than this stay as long again, since the clock may be wrong
# Errors for a row that can never be written, such as a text with half of a surrogate pair.
BAD_ROW = (
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,
    ValueError,
    TypeError,
    OverflowError,
)

SCHEMA = """
CREATE TABLE IF NOT EXISTS predictions (
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL, -- seconds since 1970
    request TEXT NOT NULL, -- its id
    key TEXT NOT NULL, -- whose it is: the first digits of the key's hash, or nothing
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
CREATE TABLE IF NOT EXISTS doubts (since REAL NOT NULL); -- when the clock was first far ahead of the rows
CREATE INDEX IF NOT EXISTS of_request ON predictions (request, key, number);
CREATE INDEX IF NOT EXISTS labelled ON predictions (version, id) WHERE truth IS NOT NULL;
"""

log = logging.getLogger("serve")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request and its owner, who alone may label its predictions."""

    request: str  # its id, which a client with a key may choose
    key: str = ""  # the first digits of the key's hash; without keys, the service draws the ids


@dataclass(frozen=True, slots=True)
class Row:
    """A prediction, in the order of the table's columns."""

    at: float
    request: str
    key: str
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
INSERT = f"INSERT INTO predictions ({COLUMNS}) VALUES ({PLACES})"  # noqa: S608


class Collection:
    """The predictions in a folder, for one thread at a time; its methods may wait for a disk."""

    def __init__(self, folder: Path, *, max_bytes: int, max_days: float, metrics: Metrics) -> None:
        """Open the folder, or make it. A full or missing disk is not an error here: the next write tries again.

        Raises UserError when the path is a file.
        """
        self.path, self.max_bytes, self.max_seconds = folder / FILE, max_bytes, max_days * 86400
        self.metrics = metrics
        self._waiting: deque[Row] = deque()
        self._database: sqlite3.Connection | None = None
        self._file = (0, 0)  # device and inode of the database
        self._looked = -math.inf  # when rows that are too old were looked for
        self._failing = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._open()
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"{folder}: {error.strerror} (TWEETS_COLLECT): needs a folder to write to") from None
        except (OSError, sqlite3.Error):
            log.debug("collection: %s: the first write will say what is wrong", self.path)

    def write(self, rows: Iterable[Row], now: float) -> None:
        """Write rows, and those that could not be written before; then drop what is too much or older than allowed.

        What cannot be written waits for the next call, WAITING rows at most. More are lost and counted, and so are rows
        that SQLite refuses. `now` is in seconds since 1970.
        """
        self._waiting.extend(rows)
        if self._waiting or self._failing or now - self._looked >= SECONDS_BETWEEN_AGES:
            self._try(now)
        while len(self._waiting) > WAITING:
            self._waiting.popleft()
            self.metrics.lost_rows.inc()
        self.metrics.waiting_rows.set(len(self._waiting))

    def label(self, asked: Asked, truths: Sequence[str | None]) -> int | None:
        """Write down the true labels of a request's predictions, the latest of that id, but for those that are None.

        Where one of them is not here, nothing is written, and its number is returned. Raises OSError when they cannot
        be written, or one may be among the predictions that could not be.
        """
        latest = "SELECT max(id) FROM predictions WHERE request = ? AND key = ? AND number = ?"
        change = f"UPDATE predictions SET truth = ? WHERE id = ({latest})"  # noqa: S608
        try:
            database = self._open()
            with database:
                for number, truth in enumerate(truths):
                    if truth and not database.execute(change, (truth, asked.request, asked.key, number)).rowcount:
                        database.rollback()
                        if self._waiting:
                            raise OSError(f"{self.path}: {len(self._waiting)} predictions wait to be written")
                        return number
        except sqlite3.Error as error:
            self._close()
            raise OSError(f"{self.path}: {one_line(error)}") from None
        return None

    def right(self, version: str) -> tuple[int, int] | None:
        """Return how many of the latest labelled predictions of a model are right, and how many there are.

        None where the file cannot be read.
        """
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
            return None
        return int(right), labelled

    def close(self) -> None:
        """Close the file. What still waits is lost, and counted."""
        self.metrics.lost_rows.inc(len(self._waiting))
        self._waiting.clear()
        self._close()

    def _try(self, now: float) -> None:
        try:
            database = self._open()
            self._bound_log(database)
            try:
                with database:
                    database.executemany(INSERT, map(astuple, self._waiting))
            except BAD_ROW:
                self._set_aside(database)
        except (OSError, sqlite3.Error) as error:
            self._close()
            self._fail(error)
            return
        if self._failing:
            log.info("collection: %s: written again", self.path)
            self._failing = False
            self.metrics.collection_failing.set(0)
        self.metrics.collected_rows.inc(len(self._waiting))
        self._waiting.clear()
        try:
            self._bound(database, now)
        except sqlite3.Error as error:  # as where another service writes for long: the next time will do
            log.warning("collection: %s: %s; it stays as large as it is", self.path, one_line(error))

    def _fail(self, error: Exception) -> None:
        if not self._failing:
            message = "collection: %s: %s; it tries again; if the file is damaged, move it away"
            log.error(message, self.path, one_line(error))
        self._failing = True
        self.metrics.collection_failing.set(1)

    def _set_aside(self, database: sqlite3.Connection) -> None:
        """Write the rows one by one, without those that SQLite refuses."""
        good: deque[Row] = deque()
        with database:
            for row in self._waiting:
                try:
                    database.execute(INSERT, astuple(row))
                    good.append(row)
                except BAD_ROW as error:
                    self.metrics.lost_rows.inc()
                    log.error("collection: a row of request %s is left out: %s", row.request, one_line(error))
        self._waiting = good

    def _bound_log(self, database: sqlite3.Connection) -> None:
        """Empty the write-ahead log where it has grown. Raises OSError where somebody reads what is in it."""
        size = self._log_size()
        if size > MOST_LOG_BYTES:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if self._log_size() > MOST_LOG_BYTES:
            raise OSError(f"its log has {size / 1e6:.0f} MB: another program has been reading the file for long")

    def _log_size(self) -> int:
        try:
            return Path(f"{self.path}-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def _bound(self, database: sqlite3.Connection, now: float) -> None:
        """Drop rows that are too old, once in a while, and the oldest of a file that is too large."""
        dropped = 0
        if now - self._looked >= SECONDS_BETWEEN_AGES:
            self._looked = now
            with database:
                dropped = self._drop_old(database, now)
        share = "SELECT min(id) + (max(id) - min(id)) / ? FROM predictions"
        while self._bytes(database) > self.max_bytes:
            with database:
                gone = database.execute(f"DELETE FROM predictions WHERE id <= ({share})", (SHARE,)).rowcount  # noqa: S608
            if not gone:
                break
            dropped += gone
        if dropped:
            database.executescript("PRAGMA incremental_vacuum")  # `execute` would take one step, of a page

    def _drop_old(self, database: sqlite3.Connection, now: float) -> int:
        """Drop rows that are too old; return how many.

        If the oldest is too old by more than DOUBT, the service was stopped for long, or its clock is wrong. Then rows
        go only if the clock has said so for that long.
        """
        horizon = now - self.max_seconds
        [oldest] = database.execute("SELECT min(at) FROM predictions").fetchone()
        [since] = database.execute("SELECT min(since) FROM doubts WHERE since <= ?", (now,)).fetchone()
        if oldest is not None and horizon - oldest > DOUBT and (since is None or now - since < DOUBT):
            if since is None:
                database.execute("DELETE FROM doubts")
                database.execute("INSERT INTO doubts VALUES (?)", (now,))
                days = (now - oldest) / 86400
                log.warning("collection: %s: by the clock it has rows of %.1f days; they go in a day", self.path, days)
            return 0
        database.execute("DELETE FROM doubts")
        return database.execute("DELETE FROM predictions WHERE at < ?", (horizon,)).rowcount

    @staticmethod
    def _bytes(database: sqlite3.Connection) -> int:
        """Return how large the file is, without the pages that are free."""
        names = ("page_count", "freelist_count", "page_size")
        pages, free, size = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        return int((pages - free) * size)

    def _open(self) -> sqlite3.Connection:
        """Return the database, opened anew where it was closed, or another file or none lies in its place."""
        if self._database and self._identity() != self._file:
            self._close()
        if not self._database:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, PRIVATE))
            self.path.chmod(PRIVATE)  # SQLite gives its log the same
            database = sqlite3.connect(self.path, timeout=PATIENCE, check_same_thread=False)
            try:
                [is_made] = database.execute("PRAGMA schema_version").fetchone()
                if not is_made:
                    database.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the first table: the file can shrink
                database.execute("PRAGMA journal_mode = WAL")
                # What is committed outlives the process, not the machine.
                database.execute("PRAGMA synchronous = NORMAL")
                database.execute("PRAGMA secure_delete = ON")  # a dropped text is no longer in the file
                database.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
                database.executescript(SCHEMA)
                database.execute(f"SELECT {COLUMNS}, truth FROM predictions LIMIT 0")  # noqa: S608  fails for an older table
                self._file = self._identity()
            except (OSError, sqlite3.Error):
                database.close()
                raise
            self._database = database
        return self._database

    def _identity(self) -> tuple[int, int]:
        try:
            status = self.path.stat()
        except OSError:
            return 0, 0
        return status.st_dev, status.st_ino

    def _close(self) -> None:
        if self._database:
            self._database.close()
        self._database = None
