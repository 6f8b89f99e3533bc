"""The queue: a table of experiments in SQLite, which outlives the process and the machine."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tweets.errors import UserError, one_line

KEPT = 200  # of the experiments that have ended; in DVC they stay
SCHEMA = """
CREATE TABLE IF NOT EXISTS experiments (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    params TEXT NOT NULL,
    commit_id TEXT NOT NULL,
    created TEXT NOT NULL,
    started TEXT,
    ended TEXT,
    interruptions INTEGER NOT NULL DEFAULT 0,
    cancelling INTEGER NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT '',
    result TEXT NOT NULL DEFAULT 'null'
)"""

COLUMNS = "name, state, params, commit_id, created, started, ended, interruptions, cancelling, error, result"
State = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True)
class Experiment:
    """An experiment, as the queue knows it; its times are UTC, in ISO 8601."""

    name: str
    state: State
    params: dict[str, Any]  # that differ from the commit's, by dotted key
    commit: str  # that it starts from
    created: str
    started: str | None  # the first time
    ended: str | None
    interruptions: int  # how often something killed it, and it was put back
    cancelling: bool  # asked for, while it runs
    error: str  # why it failed
    result: dict[str, Any] | None  # its scores


class Full(Exception):  # noqa: N818  not an error of the queue
    """As many experiments wait as may."""


class Taken(Exception):  # noqa: N818
    """An experiment of that name waits or runs."""


class Queue:
    """The experiments in a file. Raises UserError where that is none of its own; safe for threads."""

    def __init__(self, path: Path, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()
        try:
            self._file = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            try:
                self._begin()
            except sqlite3.DatabaseError:
                self._file.close()
                raise
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path}: no queue ({one_line(error)}); move it away to start a new one") from None

    def _begin(self) -> None:
        self._file.row_factory = sqlite3.Row
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("PRAGMA synchronous = FULL")
        self._file.execute(SCHEMA)
        self._file.execute(f"SELECT {COLUMNS} FROM experiments LIMIT 0")  # noqa: S608  an older one has others
        [damage] = self._file.execute("PRAGMA quick_check(1)").fetchone()
        if damage != "ok":
            raise sqlite3.DatabaseError(damage)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection to one thread at a time; what it does is done whole or not at all."""
        with self._lock:
            self._file.execute("BEGIN IMMEDIATE")
            try:
                yield self._file
                self._file.execute("COMMIT")
            except BaseException:
                if self._file.in_transaction:
                    self._file.execute("ROLLBACK")
                raise

    def add(self, name: str, params: dict[str, Any], commit: str) -> Experiment:
        """Queue an experiment; one of that name that has ended is forgotten. Raises Taken, or Full."""
        with self._transaction() as file:
            if file.execute("SELECT 1 FROM experiments WHERE name = ? AND ended IS NULL", (name,)).fetchone():
                raise Taken
            [waiting] = file.execute("SELECT count(*) FROM experiments WHERE state = 'queued'").fetchone()
            if waiting >= self.size:
                raise Full
            file.execute("DELETE FROM experiments WHERE name = ?", (name,))
            file.execute(
                "DELETE FROM experiments WHERE ended IS NOT NULL AND number NOT IN"
                " (SELECT number FROM experiments WHERE ended IS NOT NULL ORDER BY number DESC LIMIT ?)",
                (KEPT,),
            )
            file.execute(
                "INSERT INTO experiments (name, state, params, commit_id, created) VALUES (?, 'queued', ?, ?, ?)",
                (name, json.dumps(params), commit, _now()),
            )
            return _get(file, name)

    def claim(self) -> Experiment | None:
        """Return the experiment that has waited longest, as running now; None where none waits."""
        with self._transaction() as file:
            row = file.execute("SELECT name FROM experiments WHERE state = 'queued' ORDER BY number").fetchone()
            if not row:
                return None
            file.execute(
                "UPDATE experiments SET state = 'running', started = coalesce(started, ?) WHERE name = ?",
                (_now(), row["name"]),
            )
            return _get(file, row["name"])

    def cancel(self, name: str) -> Experiment:
        """Cancel an experiment that waits, mark one that runs; return it as it is now. Raises KeyError as `get`."""
        with self._transaction() as file:
            state = _get(file, name).state
            if state == "queued":
                _end(file, name, "cancelled")
            elif state == "running":
                file.execute("UPDATE experiments SET cancelling = 1 WHERE name = ?", (name,))
            return _get(file, name)

    def end(self, name: str, state: State, error: str = "", result: dict[str, Any] | None = None) -> None:
        """Note how an experiment ended."""
        with self._transaction() as file:
            _end(file, name, state, error, result)

    def put_back(self, name: str, *, interrupted: bool) -> None:
        """Let an experiment that ran wait again, before the others."""
        with self._transaction() as file:
            file.execute(
                "UPDATE experiments SET state = 'queued', interruptions = interruptions + ? WHERE name = ?",
                (interrupted, name),
            )

    def get(self, name: str) -> Experiment:
        """Return what is known of an experiment. Raises KeyError where that is nothing."""
        with self._lock:
            return _get(self._file, name)

    def all(self) -> list[Experiment]:
        """Return all experiments, the newest first."""
        with self._lock:
            rows = self._file.execute("SELECT * FROM experiments ORDER BY number DESC").fetchall()
        return [_experiment(row) for row in rows]

    def close(self) -> None:
        self._file.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _end(
    file: sqlite3.Connection, name: str, state: State, error: str = "", result: dict[str, Any] | None = None
) -> None:
    file.execute(
        "UPDATE experiments SET state = ?, ended = ?, error = ?, result = ? WHERE name = ?",
        (state, _now(), error, json.dumps(result), name),
    )


def _get(file: sqlite3.Connection, name: str) -> Experiment:
    row = file.execute("SELECT * FROM experiments WHERE name = ?", (name,)).fetchone()
    if not row:
        raise KeyError(name)
    return _experiment(row)


def _experiment(row: sqlite3.Row) -> Experiment:
    return Experiment(
        name=row["name"],
        state=row["state"],
        params=json.loads(row["params"]),
        commit=row["commit_id"],
        created=row["created"],
        started=row["started"],
        ended=row["ended"],
        interruptions=row["interruptions"],
        cancelling=bool(row["cancelling"]),
        error=row["error"],
        result=json.loads(row["result"]),
    )
