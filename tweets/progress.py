"""How far long work is: a bar on a terminal; elsewhere, as in CI and in a log, a line now and then.

A line says what is done and how long the rest will take. Work that ends before the first line is due prints none.
"""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10


class Lines(tqdm):  # type: ignore[type-arg]  # generic in its stubs only
    """A tqdm that prints a line, at intervals of SECONDS_BETWEEN_LINES or more, where its bar would be redrawn."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pauses: dict[str, Any] = dict.fromkeys(("mininterval", "maxinterval", "delay"), SECONDS_BETWEEN_LINES)
        super().__init__(*arguments, **{**options, **pauses, "miniters": 1, "leave": False})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:  # noqa: ARG002  tqdm's, by name
        if msg is not None:  # to clear the bar, which is not there
            return
        state = self.format_dict
        rate = state["rate"] or (self.n - self.initial) / state["elapsed"]
        of_all = f" of {self.total:,}" if self.total else ""
        left = f"{self.format_interval((self.total - self.n) / rate)} left" if self.total and rate else ""
        parts = (f"{self.n:,}{of_all} {self.unit}", str(self.postfix or ""), left)
        self.fp.write(f"{self.desc}: {', '.join(filter(None, parts))}\n")
        self.fp.flush()

    @classmethod
    def write(cls, s: str, file: Any = None, end: str = "\n", nolock: bool = False) -> None:  # noqa: ARG003  tqdm's
        """Print something; there is no bar that has to make room."""
        print(s, file=file, end=end)


def track(iterable: Iterable[Any] | None = None, *, desc: str, unit: str, **options: Any) -> "tqdm[Any]":
    """Return a tqdm of some work, to iterate over or to update. `unit` is plural: batches, rows."""
    kind: Any = tqdm if sys.stderr.isatty() else Lines
    progress: tqdm[Any] = kind(iterable, desc=desc, unit=unit, **options)
    return progress
