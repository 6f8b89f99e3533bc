"""DVC's list of who reads and writes what, `.dvc/tmp/rwlock`: each command of DVC stops where it is damaged.

    python -m repository.rwlock

DVC overwrites it in place, so a kill or a full disk may leave it empty. This removes a damaged file. Nothing is lost:
it only lists running commands.
"""

import json
import sys
import time
from pathlib import Path

from tweets import command

FILE = Path(".dvc/tmp/rwlock")
LOOKS, SECONDS_BETWEEN = 5, 0.2  # a running command may be writing it


def heal(root: Path) -> None:
    """Remove the file of a repository where it is damaged, and say so."""
    path = root / FILE
    for _ in range(LOOKS):
        try:
            if isinstance(json.loads(path.read_bytes()), dict):
                return
        except FileNotFoundError:
            return
        except ValueError:
            pass
        time.sleep(SECONDS_BETWEEN)
    path.unlink(missing_ok=True)
    sys.stderr.write(f"rwlock: removed {path}, which a kill or a full disk had damaged\n")


def main() -> None:
    heal(Path())


if __name__ == "__main__":
    command.run("rwlock", main, __doc__)
