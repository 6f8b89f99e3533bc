"""What a user can put right, and how it is said in one line."""

from collections.abc import Iterable


class UserError(ValueError):
    """Something that the user can put right. Its message says what was found, what is needed, and where."""


def rows_at(numbers: Iterable[int]) -> str:
    """Return the first of some rows, which are numbered from 0, counted from 1, and how many more there are."""
    rows = [str(number + 1) for number in numbers]
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(rows[:3])}{more}"


def one_line(error: BaseException) -> str:
    """Return the error's message with its line breaks folded."""
    return " ".join(str(error).split()) or type(error).__name__
