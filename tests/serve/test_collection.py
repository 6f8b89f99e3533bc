"""What is kept of the predictions: bounded, shared, and never in the way, whatever the disk does."""

import contextlib
import dataclasses
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serve import collection
from serve.collection import Asked, Collection, Row
from serve.metrics import Metrics
from tweets.errors import UserError

DAY = 86400.0
NOBODY = 65534


Opener = Callable[..., Collection]


@pytest.fixture
def opened() -> Iterator[Opener]:
    """What opens collections, which are closed after the test."""
    with contextlib.ExitStack() as stack:

        def open_one(folder: Path, **changed: Any) -> Collection:
            bounds = {"max_bytes": 2**24, "max_days": 30.0, **changed}
            return stack.enter_context(
                contextlib.closing(Collection(folder, metrics=Metrics(waiting=lambda: 0), **bounds))
            )

        yield open_one


MINE = Asked("r")


def row(number: int = 0, *, at: float = 0.0, asked: Asked = MINE, label: str = "a", size: int = 8) -> Row:
    return Row(
        at=at,
        request=asked.request,
        key=asked.key,
        number=number,
        version="v",
        label=label,
        confidence=0.9,
        probabilities='{"a": 0.9, "b": 0.1}',
        length=7,
        unknown=0.0,
        capitals=0.1,
        embedding=bytes(size),
        text=None,
    )


def numbers(folder: Path) -> list[int]:
    with contextlib.closing(sqlite3.connect(folder / collection.FILE)) as database:
        return [number for (number,) in database.execute("SELECT number FROM predictions ORDER BY id")]


def value(kept: Collection, name: str) -> float:
    found = kept.metrics.registry.get_sample_value
    return found(f"tweets_{name}_total") or found(f"tweets_{name}") or 0.0


def test_rows_are_there_after_they_are_written(tmp_path: Path, opened: Opener) -> None:
    kept = opened(tmp_path / "new/folder")
    kept.write([row(0), row(1)], 0)
    kept.write([], 0)
    kept.write([row(2)], 0)
    assert numbers(tmp_path / "new/folder") == [0, 1, 2]
    assert value(kept, "collected_rows") == 3


def test_the_file_is_bounded_and_the_latest_stay(tmp_path: Path, opened: Opener) -> None:
    kept = opened(tmp_path, max_bytes=2**20)
    for first in range(0, 6000, 100):
        kept.write([row(number, size=768) for number in range(first, first + 100)], 0)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1.1 * (2**20 + collection.LOG_BYTES)
    kept.close()
    assert (tmp_path / collection.FILE).stat().st_size <= 1.1 * 2**20
    found = numbers(tmp_path)
    assert found == list(range(found[0], 6000))
    assert len(found) > 500


def test_a_file_that_cannot_shrink_is_bounded_all_the_same(tmp_path: Path, opened: Opener) -> None:
    """As one that was restored from a dump: SQLite moves pages about only in files that began with auto_vacuum."""
    with contextlib.closing(sqlite3.connect(tmp_path / collection.FILE)) as database:
        database.executescript(collection.SCHEMA)
    kept = opened(tmp_path, max_bytes=2**20)
    for first in range(0, 3000, 100):
        kept.write([row(number, size=768) for number in range(first, first + 100)], 0)
    found = numbers(tmp_path)
    assert found == list(range(found[0], 3000))
    assert len(found) > 500


def test_a_program_that_reads_for_long_does_not_let_the_log_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Opener
) -> None:
    monkeypatch.setattr(collection, "MOST_LOG_BYTES", 400_000)
    monkeypatch.setattr(collection, "PATIENCE", 0.01)
    kept = opened(tmp_path)
    kept.write([row(0), row(1)], 0)
    reader = sqlite3.connect(tmp_path / collection.FILE)
    reading = reader.execute("SELECT number FROM predictions")
    reading.fetchone()
    for number in range(2, 300):
        kept.write([row(number, size=4000)], 0)
    assert (tmp_path / f"{collection.FILE}-wal").stat().st_size < 500_000
    assert 0 < value(kept, "waiting_rows") < 299
    reading.close()
    reader.close()
    kept.write([], 0)
    assert numbers(tmp_path) == list(range(300))
    assert value(kept, "waiting_rows") == value(kept, "lost_rows") == 0


def test_the_log_shrinks_again_when_the_other_program_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Opener
) -> None:
    monkeypatch.setattr(collection, "LOG_BYTES", 50_000)
    kept, log = opened(tmp_path), tmp_path / f"{collection.FILE}-wal"
    kept.write([row(0)], 0)
    with contextlib.closing(sqlite3.connect(tmp_path / collection.FILE)) as reader:
        reading = reader.execute("SELECT number FROM predictions")
        for number in range(1, 20):
            kept.write([row(number, size=4000)], 0)
        reading.close()
        assert log.stat().st_size > 200_000
    kept._open().execute("PRAGMA wal_checkpoint")  # which SQLite does by itself at 4 MB
    kept.write([row(20)], 0)
    assert log.stat().st_size <= 50_000


def test_old_rows_go_whether_new_ones_come_or_not_and_their_texts_with_them(tmp_path: Path, opened: Opener) -> None:
    kept, file = opened(tmp_path, max_days=2.0), tmp_path / collection.FILE
    rows = [row(number, at=1.9 * DAY * (number >= 300), size=768) for number in range(400)]
    kept.write([dataclasses.replace(each, text="young" if each.at else "a secret") for each in rows], 1.9 * DAY)
    kept.close()
    before = file.stat().st_size
    assert len(numbers(tmp_path)) == 400
    kept.write([], 1.9 * DAY + collection.SECONDS_BETWEEN_AGES)
    assert len(numbers(tmp_path)) == 400
    kept.write([], 2.5 * DAY)
    kept.close()
    assert numbers(tmp_path) == list(range(300, 400))
    assert file.stat().st_size < before / 2
    assert b"a secret" not in file.read_bytes()


def test_two_services_share_a_folder(tmp_path: Path, opened: Opener) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    for number in range(5):
        one.write([row(2 * number)], 0)
        other.write([row(2 * number + 1, asked=Asked("other"))], 0)
    assert numbers(tmp_path) == list(range(10))
    assert one.label(Asked("other"), [None, "b"]) is None
    assert (one.right("v"), other.right("v")) == ((0, 1), (0, 1))


def test_what_a_locked_file_does_not_take_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Opener
) -> None:
    monkeypatch.setattr(collection, "PATIENCE", 0.05)
    kept = opened(tmp_path)
    other = sqlite3.connect(tmp_path / collection.FILE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    kept.write([row(0)], 0)
    assert value(kept, "collected_rows") == 0
    with pytest.raises(OSError, match="database is locked"):
        kept.label(MINE, ["a"])
    other.execute("ROLLBACK")
    other.close()
    kept.write([row(1)], 0)
    assert numbers(tmp_path) == [0, 1]
    assert value(kept, "lost_rows") == 0


def test_a_full_disk_loses_only_what_does_not_fit_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Opener
) -> None:
    monkeypatch.setattr(collection, "WAITING", 5)
    kept = opened(tmp_path)
    kept.write([row(0)], 0)
    pages = kept._open().execute("PRAGMA page_count").fetchone()[0]
    kept._open().execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own "database or disk is full"
    kept.write([row(number, size=9000) for number in range(1, 8)], 0)
    assert (value(kept, "lost_rows"), value(kept, "waiting_rows")) == (2, 5)
    assert numbers(tmp_path) == [0]
    with pytest.raises(OSError, match="5 predictions wait to be written"):
        kept.label(MINE, [None, "a"])  # it may be among them
    kept.write([row(8)], 0)  # the file is opened anew after an error, and so without that bound
    assert numbers(tmp_path) == [0, 3, 4, 5, 6, 7, 8]
    assert (value(kept, "lost_rows"), value(kept, "waiting_rows")) == (2, 0)


def test_two_services_write_to_the_file_that_is_there(tmp_path: Path, opened: Opener) -> None:
    """Also after somebody has moved the one away that both had open."""
    one, other = opened(tmp_path), opened(tmp_path)
    for each in (one, other):
        each.write([row(0)], 0)
    (tmp_path / collection.FILE).rename(tmp_path / "archive.sqlite")
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"{collection.FILE}{suffix}").unlink()
    one.write([row(1)], 0)
    other.write([row(2)], 0)
    assert numbers(tmp_path) == [1, 2]


def test_a_folder_that_goes_away_comes_back(tmp_path: Path, opened: Opener) -> None:
    kept = opened(tmp_path / "folder")
    kept.write([row(0)], 0)
    shutil.rmtree(tmp_path / "folder")
    kept.write([row(1)], 0)
    (tmp_path / "folder").mkdir()
    kept.write([row(2)], 0)
    assert numbers(tmp_path / "folder") == [1, 2]


def test_what_never_could_be_written_is_counted_at_the_end(tmp_path: Path, opened: Opener) -> None:
    kept = opened(tmp_path / "folder")
    shutil.rmtree(tmp_path / "folder")
    kept.write([row(0), row(1)], 0)
    kept.close()
    assert value(kept, "lost_rows") == 2


def test_a_clock_that_is_ahead_drops_nothing(tmp_path: Path, opened: Opener, caplog: pytest.LogCaptureFixture) -> None:
    opened(tmp_path).write([row(0), row(1)], 0)
    for hours in (0, 12):
        opened(tmp_path).write([row(2, at=40 * DAY)] * 10, 40 * DAY + hours * 3600)
    assert caplog.text.count("by the clock it has rows of 40.0 days; they go in a day") == 1
    opened(tmp_path).write([], DAY)  # it is set right
    assert numbers(tmp_path) == [0, 1, *[2] * 20]


def test_what_is_too_old_when_a_service_comes_back_goes_in_a_day(tmp_path: Path, opened: Opener) -> None:
    opened(tmp_path).write([row(0), row(1, at=5 * DAY)], 5 * DAY)
    for hours in (0, 12):  # a restart puts nothing off
        opened(tmp_path).write([], 33 * DAY + hours * 3600)
        assert numbers(tmp_path) == [0, 1]
    opened(tmp_path).write([], 34 * DAY)
    assert numbers(tmp_path) == [1]


BAD: dict[str, dict[str, Any]] = {
    "half a character": {"text": "\ud800"},
    "a gap": {"confidence": None},
    "no number": {"length": 2**70},
}


@pytest.mark.parametrize("name", BAD)
def test_a_row_that_no_file_takes_is_set_aside(
    tmp_path: Path, opened: Opener, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    kept = opened(tmp_path)
    kept.write([row(0), dataclasses.replace(row(1), **BAD[name]), row(2)], 0)
    kept.write([row(3)], 0)
    assert numbers(tmp_path) == [0, 2, 3]
    assert (value(kept, "lost_rows"), value(kept, "waiting_rows"), value(kept, "collected_rows")) == (1, 0, 3)
    assert "a row of request r is left out: " in caplog.text
    assert value(kept, "collection_failing") == 0


def test_only_who_asked_labels_a_prediction(tmp_path: Path, opened: Opener) -> None:
    kept = opened(tmp_path)
    mine, other = Asked("r", "aaaaaaaa"), Asked("r", "bbbbbbbb")
    kept.write([row(0, asked=mine, label="a"), row(0, asked=other, label="b")], 0)
    assert kept.label(mine, ["a"]) is None  # the other's, of the same id, is a later one
    assert kept.right("v") == (1, 1)
    assert kept.label(Asked("r"), ["a"]) == 0
    assert kept.label(Asked("r", "cccccccc"), ["a"]) == 0


def test_nobody_else_on_the_machine_reads_the_file(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / collection.FILE).touch(0o644)
    before = os.umask(0)
    try:
        opened(tmp_path).write([row(0)], 0)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("parts", ["folder", "folder/below"])
def test_a_file_that_has_the_folders_name_is_refused(tmp_path: Path, opened: Opener, parts: str) -> None:
    (tmp_path / "folder").write_text("")
    with pytest.raises(UserError, match=r"folder.*: .* \(TWEETS_COLLECT\): needs a folder to write to"):
        opened(tmp_path / parts)


@pytest.mark.parametrize("kind", ["not a database", "a folder", "older"])
def test_a_damaged_file_is_told_and_keeps_nobody_from_starting(
    tmp_path: Path, kind: str, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / collection.FILE
    if kind == "not a database":
        file.write_bytes(b"no database" * 1000)
    elif kind == "a folder":
        file.mkdir()
    else:
        with contextlib.closing(sqlite3.connect(file)) as database:
            database.execute("CREATE TABLE predictions (id INTEGER PRIMARY KEY)")
    kept = opened(tmp_path)
    kept.write([row(0)], 0)
    assert value(kept, "collection_failing") == 1
    assert caplog.text.count("if the file is damaged, move it away") == 1
    file.rename(tmp_path / "away")
    kept.write([], 0)
    assert numbers(tmp_path) == [0]
    assert value(kept, "collection_failing") == 0


@pytest.fixture
def not_writable() -> Iterator[Path]:
    """A folder that its user can read only. Root, who can write everywhere, is nobody meanwhile."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        if root:
            os.seteuid(NOBODY)
        yield folder
        if root:
            os.seteuid(0)
        folder.chmod(0o700)


def test_a_folder_that_is_read_only_is_told(not_writable: Path, opened: Opener) -> None:
    kept = opened(not_writable)
    kept.write([], 0)
    assert value(kept, "collection_failing") == 1


def test_labels_tell_how_often_the_model_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Opener
) -> None:
    kept = opened(tmp_path)
    kept.write([row(number, label="ab"[number % 2]) for number in range(6)], 0)
    assert kept.right("v") == (0, 0)
    assert kept.label(MINE, ["a", "a", "a"]) is None
    assert (kept.right("v"), kept.right("w")) == ((2, 3), (0, 0))
    assert kept.label(MINE, ["b", None, None, None, None, None, "a"]) == 6  # there is none: nothing is written
    assert kept.label(Asked("nobody"), ["b"]) == 0
    assert kept.right("v") == (2, 3)
    assert kept.label(MINE, [None, "b"]) is None  # a second word on it counts
    assert kept.right("v") == (3, 3)
    monkeypatch.setattr(collection, "LABELLED", 1)
    assert kept.label(MINE, [*[None] * 5, "a"]) is None
    assert kept.right("v") == (0, 1)
    assert opened(tmp_path).right("v") == (0, 1)


def test_the_latest_prediction_of_a_request_is_labelled(tmp_path: Path, opened: Opener) -> None:
    kept = opened(tmp_path)
    kept.write([row(0, label="a"), row(0, label="b")], 0)
    assert kept.label(MINE, ["b"]) is None
    assert kept.right("v") == (1, 1)
