"""How a user's mistake ends: one clear line on stderr and a non-zero exit, never a traceback."""

import sys
from collections.abc import Callable, Iterable

# What tokenizers say of a full disk in a plain Exception, torch in a RuntimeError, and NumPy in an unclear OSError.
NO_SPACE = "No space left on device"
NOT_WRITTEN = ("unexpected pos", "PytorchStreamWriter failed", " requested and ")


class UserError(ValueError):
    """Something that the user can put right. Its message says what was found, what is needed, and where."""


def run(command: str, main: Callable[[], None]) -> None:
    """Call `main`; a UserError or an OSError ends the process with one line on stderr and exit code 1.

    An OSError is what a missing file or a refused permission raise; safetensors, which the service does without, has
    its own. A full disk ends so too, whichever library met it.
    """
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(f"{command}: interrupted")
    except Exception as error:
        unclear = any(words in str(error) for words in NOT_WRITTEN)
        known = isinstance(error, UserError | OSError) or type(error).__name__ == "SafetensorError"
        if not (known or unclear or NO_SPACE in str(error)):
            raise
        sys.exit(f"{command}: {one_line(error)}{'; is the disk full?' if unclear else ''}")


def rows_at(numbers: Iterable[int]) -> str:
    """Return the first of some rows, which are numbered from 0, counted from 1, and how many more there are."""
    rows = [str(number + 1) for number in numbers]
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(rows[:3])}{more}"


def one_line(error: BaseException) -> str:
    """Return the error's message with its line breaks folded."""
    return " ".join(str(error).split()) or type(error).__name__
