"""Let a stage that DVC started end when DVC does.

Killing `dvc` leaves the stage's process running, and it would go on writing while the next `dvc repro` starts it
again.
"""

import os
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import psutil

SECONDS_BETWEEN_LOOKS = 0.5


def end_with_parent() -> None:
    """Where DVC runs this process, watch DVC from a thread, and end the process at once when DVC is gone."""
    if "DVC_STAGE" not in os.environ:
        return
    watched = _dvc(psutil.Process())
    if not watched or not _runs_python(watched[-1]):
        _end()  # DVC was killed before this line: init or its like has taken its place
    threading.Thread(target=_watch, args=(watched,), daemon=True).start()


def _dvc(process: psutil.Process) -> list[psutil.Process]:
    """Return the processes from the parent up to the one that is not a shell: DVC starts a stage through a shell."""
    watched = []
    for parent in process.parents():
        watched.append(parent)
        if parent.name() not in ("sh", "dash", "bash", "zsh", "ksh", "fish", "cmd.exe"):
            break
    return watched


def _runs_python(process: psutil.Process) -> bool:
    """Tell whether DVC can be this process: it is Python, or a binary that its own packages install."""
    try:
        return Path(process.exe()).name.startswith(("python", "pypy", "dvc"))
    except psutil.Error:
        return False


def _end() -> NoReturn:
    try:
        sys.stderr.write("the dvc that started this stage is gone: ending; `dvc repro` goes on from the checkpoint\n")
    finally:  # stderr may have gone with dvc
        os._exit(1)


def _watch(watched: list[psutil.Process]) -> None:
    try:
        while all(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in watched):
            time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:  # also when a process ends between two looks
        _end()
