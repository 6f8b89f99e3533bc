"""How a user's mistake ends: one clear line on stderr and a non-zero exit, never a traceback."""

import sys
from collections.abc import Callable

import safetensors


class UserError(ValueError):
    """Something that the user can put right. Its message says what was found, what is needed, and where."""


def run(command: str, main: Callable[[], None]) -> None:
    """Call `main`; a UserError or an OSError ends the process with one line on stderr and exit code 1.

    An OSError is what a full disk, a missing file or a refused permission raise; safetensors has its own.
    """
    try:
        main()
    except (UserError, OSError, safetensors.SafetensorError) as error:
        sys.exit(f"{command}: {one_line(error)}")
    except KeyboardInterrupt:
        sys.exit(f"{command}: interrupted")


def one_line(error: BaseException) -> str:
    """Return the error's message with its line breaks folded."""
    return " ".join(str(error).split()) or type(error).__name__
