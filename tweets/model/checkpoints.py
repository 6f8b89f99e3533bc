"""Where training keeps what it needs to go on after a kill: beside the outputs, since DVC deletes those at the start.

A folder per combination of inputs, params and code, so that a checkpoint is never continued by another training.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tweets import files
from tweets.errors import UserError

ROOT = Path(".cache/train")
COMPLETE = "complete"  # a file in a checkpoint's folder that is written last
SECONDS_TO_WAIT = 30  # for an orphan to notice that its parent is gone


def key(inputs: Iterable[Path], settings: dict[str, Any]) -> str:
    """Return a hash of the input files and folders, the settings, and the project's code that is imported."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in [*_files(inputs), *_code(), Path("requirements.txt")]:
        digest.update(path.as_posix().encode())
        digest.update(files.sha256(path).encode())
    return digest.hexdigest()[:16]


def _files(inputs: Iterable[Path]) -> list[Path]:
    return sorted(path for each in inputs for path in (each, *each.rglob("*")) if path.is_file())


def _code() -> list[Path]:
    """Return the files of the imported modules of this repository, relative to its root."""
    root = Path.cwd()
    module_files = (getattr(module, "__file__", None) for module in sys.modules.values())
    paths = (Path(file) for file in module_files if file)
    return sorted(
        p.relative_to(root)
        for p in paths
        if p.is_relative_to(root) and p.relative_to(root).parts[0] in ("stages", "tweets")
    )


@contextmanager
def folder(name: str) -> Iterator[Path]:
    """Yield the checkpoint folder of a training, locked against a second process that trains the same.

    Removed when the block ends well, kept when it does not. Raises UserError when another process has held it for
    SECONDS_TO_WAIT.
    """
    path = ROOT / name
    ROOT.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(ROOT / f"{name}.lock", timeout=SECONDS_TO_WAIT).acquire()
    except Timeout:
        raise UserError(f"{path}: another process trains into it; wait for it or end it") from None
    with lock:
        path.mkdir(exist_ok=True)  # only now: the process that held the lock may have removed it
        yield path
        shutil.rmtree(path)


def latest(path: Path) -> Path | None:
    """Return the newest complete checkpoint in the folder, or None; incomplete ones are removed."""
    checkpoints = sorted(path.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    for checkpoint in checkpoints:
        if not (checkpoint / COMPLETE).exists():
            shutil.rmtree(checkpoint)
    return next((checkpoint for checkpoint in reversed(checkpoints) if checkpoint.exists()), None)
