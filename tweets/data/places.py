"""Where the rows of a source are in its files, for messages."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from tweets.errors import rows_at

Lines = npt.NDArray[np.int64] | None  # (N,) the line that each row of a file begins in, from 1; None: it has no lines


class Places:
    """The file and line of each row, for files that are read one after the other."""

    def __init__(self) -> None:
        self._parts: list[tuple[str, int, int, Lines]] = []  # name, number of its first row and of the one after it
        self._rows = 0

    def add(self, name: str, rows: int, lines: Lines) -> None:
        """Add a file with so many rows."""
        self._parts.append((name, self._rows, self._rows + rows, lines))
        self._rows += rows

    def at(self, numbers: Iterable[int]) -> str:
        """Return where some rows, counted from 0, are: those of the first file that has any, and how many more."""
        wanted = sorted(numbers)
        for name, start, end, lines in self._parts:
            here = [number - start for number in wanted if start <= number < end]
            if here:
                elsewhere = len(wanted) - len(here)
                more = f", and {elsewhere} more in other files" if elsewhere else ""
                return f"{name}, {rows_at(here) if lines is None else rows_at(lines[here] - 1, 'line')}{more}"
        return rows_at(wanted)
