"""Work on a table piece by piece, so that its texts are never in memory all at once."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np
import pyarrow as pa
from pyarrow import feather, parquet

from tweets import cluster
from tweets.errors import UserError, one_line
from tweets.progress import track

if TYPE_CHECKING:
    import pandas as pd  # a third of a second, and featurize reads without it

PIECE = 4096  # rows read at once
FIRST = 512  # rows of the first piece, during which the other processes have not begun
ROW_GROUP = 65_536  # rows of a Parquet file's group, which is in memory before it is written

T = TypeVar("T")
R = TypeVar("R")


def read(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet file, FIRST of them and then up to PIECE at once.

    Raises UserError when it is missing or damaged.
    """
    try:
        with parquet.ParquetFile(path) as file:
            rows = file.metadata.num_rows
            with track(total=rows, desc=path.name, unit="rows", unit_scale=True, disable=rows <= PIECE) as progress:
                cut = FIRST
                for batch in file.iter_batches(PIECE, columns=columns):
                    for part in (batch[:cut], batch[cut:]):
                        if len(part):
                            yield part
                            progress.update(len(part))
                    cut = 0
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `dvc repro` writes it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not the table that `dvc repro` writes: {one_line(error)[:200]}") from None


def in_order(work: Callable[[T], R], pieces: Iterator[T], *, first_here: bool = True) -> Iterator[R]:
    """Yield what `work` makes of each piece, in their order, on all cores, or on the cluster that TWEETS_CLUSTER names.

    With `first_here`, the first is this process's: it loads tables and patterns, which the other processes inherit.
    Raises UserError when one is killed.
    """
    if first_here:
        yield from map(work, islice(pieces, 1))
    if where := cluster.address():
        yield from cluster.in_order(work, pieces, where)
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    waiting: deque[Future[R]] = deque()
    try:
        with ProcessPoolExecutor(cores, initializer=_end_with_parent) as pool:
            for piece in pieces:
                waiting.append(pool.submit(work, piece))
                if len(waiting) > 2 * cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError("one of the processes at work was killed; is the memory full?") from None


def _end_with_parent() -> None:
    """Let a process of the pool end when its parent does, and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def write(path: Path, rows: "pd.DataFrame") -> None:
    """Write a piece."""
    feather.write_feather(pa.Table.from_pandas(rows, preserve_index=False), path, compression="uncompressed")


@dataclass(frozen=True)
class Spool:
    """A table on disk for the time of a run, a file for each piece. Its rows are numbered from 0."""

    folder: Path
    starts: list[int]  # of each piece: the number of its first row

    def schema(self) -> pa.Schema:
        return feather.read_table(self._file(0)).schema

    def read(self, rows: "pd.DataFrame", columns: list[str]) -> Iterator[tuple["pd.DataFrame", pa.Table]]:
        """Yield, piece by piece, some rows of `rows` and the same rows of the table; the index has their numbers."""
        cuts = [*np.searchsorted(rows.index, self.starts), len(rows)]
        for piece, start in enumerate(self.starts):
            part = rows.iloc[cuts[piece] : cuts[piece + 1]]
            if len(part):
                table = feather.read_table(self._file(piece), columns=columns)
                yield part, table.take(pa.array(part.index - start))

    def _file(self, piece: int) -> Path:
        return self.folder / f"{piece}.feather"


class ParquetFile:
    """A Parquet file written piece by piece. Its bytes depend on the rows alone, not on the pieces they come in."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.writer = parquet.ParquetWriter(path, schema, compression="snappy")
        self.rows = schema.empty_table()

    def add(self, rows: pa.Table) -> None:
        self.rows = pa.concat_tables([self.rows, rows])
        while len(self.rows) >= ROW_GROUP:
            self._write(self.rows[:ROW_GROUP])
            self.rows = self.rows[ROW_GROUP:]

    def _write(self, rows: pa.Table) -> None:
        self.writer.write_table(rows.combine_chunks(), row_group_size=ROW_GROUP)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and len(self.rows):
            self._write(self.rows)
        self.writer.close()
