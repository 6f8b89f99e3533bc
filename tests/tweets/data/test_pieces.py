"""Tables in pieces: what is written does not depend on the pieces, and the processes at work end when they have to."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pyarrow as pa
import pytest

from tests.support.clones import ROOT, wait_for
from tests.support.work import fail, kill_own_process, square
from tweets.data import pieces
from tweets.errors import UserError


def table(rows: int) -> pd.DataFrame:
    return pd.DataFrame(
        {"id": [f"t{n}" for n in range(rows)], "share": [None if n % 3 else n / 7 for n in range(rows)]}
    )


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_work_on_pieces_comes_back_in_their_order(count: int) -> None:
    assert list(pieces.in_order(square, iter(range(count)))) == [number**2 for number in range(count)]


def test_the_first_piece_is_worked_on_in_this_process_and_the_others_in_others() -> None:
    first, *others = pieces.in_order(process_of, iter(range(8)))
    assert first == os.getpid()
    assert os.getpid() not in others


def process_of(_: int) -> int:
    return os.getpid()


def test_few_pieces_wait_at_any_time() -> None:
    taken = []

    def numbers() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    work = pieces.in_order(square, numbers())
    next(work)
    next(work)
    assert len(taken) <= 2 * (os.cpu_count() or 1) + 2
    work.close()  # type: ignore[attr-defined]


def test_an_error_at_work_is_the_callers() -> None:
    with pytest.raises(UserError, match="the third"):
        list(pieces.in_order(fail, iter(range(20))))


def test_a_killed_process_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match="one of the processes at work was killed; is the memory full"):
        list(pieces.in_order(kill_own_process, iter(range(20))))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_its_parent(end: signal.Signals, tmp_path: Path) -> None:
    code = f"""
import os, pathlib, time
from tweets.data import pieces

def work(number):
    if number:
        pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()

def numbers():
    for number in range(10_000):
        time.sleep(0.02)  # the processes wait for work
        yield number

list(pieces.in_order(work, numbers()))
"""
    with (tmp_path / "err").open("w") as err:
        parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=err, start_new_session=True)
    wait_for(lambda: len(list(tmp_path.iterdir())) > 1, 300)
    workers = psutil.Process(parent.pid).children()
    wait_for(lambda: len(list(tmp_path.iterdir())) == len(workers) + 1, 300)
    if end == signal.SIGKILL:
        parent.kill()
    else:  # as Ctrl-C does: to all of them
        os.killpg(parent.pid, end)
    parent.wait(30)
    wait_for(lambda: not any(worker.is_running() for worker in workers), 300)
    assert (tmp_path / "err").read_text().count("Traceback") == (end == signal.SIGINT)  # the parent's own


@pytest.mark.parametrize("size", [999, 8192, 30_000])
def test_a_parquet_file_is_the_same_from_pieces_of_any_size_and_as_pandas_writes_it(size: int, tmp_path: Path) -> None:
    frame = table(30_000)
    frame["text"] = [f"{name} says something " * 5 for name in frame["id"]]  # of several pages
    rows = pa.Table.from_pandas(frame, preserve_index=False)
    with pieces.ParquetFile(tmp_path / "pieces.parquet", rows.schema) as file:
        for start in range(0, len(rows), size):
            file.add(pa.table(rows[start : start + size].to_pydict(), schema=rows.schema))
    frame.to_parquet(tmp_path / "whole.parquet", index=False)
    assert (tmp_path / "pieces.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_row_groups_have_one_size_whatever_the_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "ROW_GROUP", 4)
    rows = pa.Table.from_pandas(table(10), preserve_index=False)
    for size in (1, 3, 10):
        with pieces.ParquetFile(tmp_path / f"{size}.parquet", rows.schema) as file:
            for start in range(0, 10, size):
                file.add(rows[start : start + size])
    metadata = pa.parquet.ParquetFile(tmp_path / "3.parquet").metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [4, 4, 2]
    assert len({(tmp_path / f"{size}.parquet").read_bytes() for size in (1, 3, 10)}) == 1


def test_rows_are_read_up_to_a_piece_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 4)
    table(10).to_parquet(tmp_path / "rows.parquet", row_group_size=5)
    read = list(pieces.read(tmp_path / "rows.parquet", ["id"]))
    assert max(map(len, read)) <= 4
    assert [name for batch in read for name in batch["id"].to_pylist()] == table(10)["id"].tolist()


def test_a_spool_gives_the_rows_asked_for_with_their_numbers(tmp_path: Path) -> None:
    rows = table(10)
    starts = [0, 4, 8]
    for number, start in enumerate(starts):
        pieces.write(tmp_path / f"{number}.feather", rows.iloc[start : start + 4])
    wanted = pd.DataFrame({"split": list("abc")}, index=[1, 3, 9])
    found = [
        (part.index.tolist(), part["split"].tolist(), texts["id"].to_pylist())
        for part, texts in pieces.Spool(tmp_path, starts).read(wanted, ["id"])
    ]
    assert found == [([1, 3], ["a", "b"], ["t1", "t3"]), ([9], ["c"], ["t9"])]
