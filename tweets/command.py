"""How a command starts and ends: `--help` from its docstring, and one clear line for what a user can put right."""

import argparse
import io
import sys
from collections.abc import Callable

from tweets.errors import UserError, one_line

# What tokenizers say of a full disk in a plain Exception, torch in a RuntimeError, and NumPy in an unclear OSError.
NO_SPACE = "No space left on device"
NOT_WRITTEN = ("unexpected pos", "PytorchStreamWriter failed", " requested and ")


def parser(doc: str) -> argparse.ArgumentParser:
    """Return a parser whose `--help` shows a module's docstring."""
    spec = sys.modules["__main__"].__spec__  # None where a test runs the command
    name = f"python -m {spec.name.removesuffix('.__main__')}" if spec else None
    return argparse.ArgumentParser(prog=name, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def run(name: str, main: Callable[[], None], doc: str | None = None) -> None:
    """Call `main`; a UserError or an OSError ends the process with one line on stderr and exit code 1.

    With `doc`, the docstring of a command that takes no arguments, `--help` shows it and an argument is an error.

    An OSError is what a missing file or a refused permission raise; safetensors, which the service does without, has
    its own. A full disk ends so too, whichever library met it.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what a terminal cannot show need not end a command
    if doc:
        parser(doc).parse_args()
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(f"{name}: interrupted")
    except Exception as error:
        unclear = any(words in str(error) for words in NOT_WRITTEN)
        known = isinstance(error, UserError | OSError) or type(error).__name__ == "SafetensorError"
        if not (known or unclear or NO_SPACE in str(error)):
            raise
        sys.exit(f"{name}: {one_line(error)}{'; is the disk full?' if unclear else ''}")
