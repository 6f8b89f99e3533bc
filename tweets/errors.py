"""What a user can put right, and how it is said in one line."""

from collections.abc import Iterable


class UserError(ValueError):
    """Something that the user can put right. Its message says what was found, what is needed, and where."""


def rows_at(numbers: Iterable[int], unit: str = "row") -> str:
    """Return the first of some rows (or lines), which are numbered from 0, counted from 1, and how many more."""
    rows = [str(number + 1) for number in numbers]
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return f"{unit}{'s' if len(rows) > 1 else ''} {', '.join(rows[:3])}{more}"


def plural(count: int, what: str) -> str:
    """Return how many there are of what, such as `1 row` or `2,000 rows`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def one_line(error: BaseException) -> str:
    """Return the error's message with its line breaks folded."""
    return " ".join(str(error).split()) or type(error).__name__
