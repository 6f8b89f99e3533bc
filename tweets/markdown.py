"""Markdown that commands print: tables, and scores with their intervals."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table with a row of titles; a cell shows what `str` makes of it."""
    lines = [f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def with_interval(value: float, interval: Sequence[float], sign: str = "") -> str:
    """Return a score and its interval with three decimals."""
    low, high = interval
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"
