"""The model that is served, and what exactly it is."""

import hashlib
import json
import math
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serve.settings import ServiceSettings
from tweets import files, params
from tweets.errors import UserError, one_line
from tweets.evaluation import drift_statistics
from tweets.model import exported

OUTPUT = "models/onnx"  # as dvc.lock names it


@dataclass(frozen=True, eq=False)
class Served:
    """A loaded model with its identity."""

    model: exported.Exported
    name: str
    version: str
    commit: str | None  # of the checkout that serves it
    lock: dict[str, Any]
    card: dict[str, Any]
    reference: drift_statistics.Reference
    written: float  # seconds since 1970, when the folder was
    batch_size: int

    @property
    def labels(self) -> list[str]:
        return self.model.settings.labels

    @property
    def dtype(self) -> np.dtype[np.void]:
        return self.model.dtype

    def predict(self, texts: Sequence[str]) -> exported.Outputs:
        """Return what the model makes of the texts, (N,)."""
        return self.model.outputs(texts, batch_size=self.batch_size)


def load(settings: ServiceSettings) -> Served:
    """Load the folder that the settings name.

    Raises UserError when it is not a whole, working exported model with a reference of its own.
    """
    folder = settings.model.resolve()  # once: a link may be pointed elsewhere meanwhile
    model = exported.load(folder, threads=settings.threads)
    content = files.sha256(folder / exported.CHECKSUMS)
    card = params.build(dict[str, Any], files.read_json(folder / exported.CARD), str(folder / exported.CARD))
    return Served(
        model=model,
        name=settings.name,
        version=settings.version or content[:12],
        commit=settings.commit or _commit(),
        lock=_lock(folder),
        card=card,
        reference=_reference(folder, model),
        written=(folder / exported.CHECKSUMS).stat().st_mtime,
        batch_size=settings.batch_size,
    )


def _reference(folder: Path, loaded: exported.Exported) -> drift_statistics.Reference:
    """Return the model's reference. Raises UserError where it is another's, or nothing can be compared with it."""
    path = folder / exported.REFERENCE
    reference = params.build(drift_statistics.Reference, files.read_json(path), str(path))
    model = files.sha256(folder / exported.MODEL)
    if reference.model != model:
        raise UserError(
            f"{path}: a reference of the model {reference.model}; needs one of {model}, which lies beside it"
        )
    texts = ["a", "b"]
    try:
        seen = drift_statistics.describe(texts, loaded.outputs(texts))
        found = drift_statistics.Comparison(reference.axes, reference.sample).statistics(seen)
    except ValueError as error:
        raise UserError(f"{path}: does not fit the model beside it: {one_line(error)[:200]}") from None
    if wrong := [name for name, value in found.items() if not math.isfinite(value)]:
        raise UserError(f"{path}: no text can be compared with it: {', '.join(wrong)} would be no number")
    return reference


def _commit() -> str | None:
    """Return the commit of the current folder's checkout; None where there is no checkout or no Git."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)  # noqa: S607
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _lock(folder: Path) -> dict[str, Any]:
    """Return DVC's hash of the folder, and whether the dvc.lock here, if one is, has the model with this hash."""
    folder_hash = directory_hash(folder)
    try:
        lock = files.read_yaml(Path("dvc.lock"))
        outs = [out for stage in lock["stages"].values() for out in stage.get("outs", [])]
        locked = next((out["md5"] for out in outs if out["path"] == OUTPUT), None)
    except (OSError, UserError, KeyError, TypeError, AttributeError):
        locked = None
    return {"md5": folder_hash, "is_in_dvc_lock": None if locked is None else locked == folder_hash}


def directory_hash(folder: Path) -> str:
    """Return the MD5 that dvc.lock has for an exported folder: the hash of a list of its files' names and MD5s.

    Other files there are ignored, such as `lost+found` on a separate disk.
    """
    entries = [
        {"md5": hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest(), "relpath": path.name}
        for path in sorted(folder / name for name in exported.FILES)
    ]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"
