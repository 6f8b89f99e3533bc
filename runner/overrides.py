"""Which params an experiment over HTTP may change, and to what.

Numbers, switches and choices of every stage but `fetch`, held against the stages' own schema. Not text, and nothing of
`fetch`: a path or a URL would read any file that this process can, an encoder's id would load a stranger's files, and
`dvc exp run -S` resolves what stands in braces, `${oc.env:NAME}`, from the environment.
"""

import difflib
import typing
from pathlib import Path
from typing import Any, Literal

from repository import declared
from repository.git import git
from tweets import files, params
from tweets.errors import UserError

STAGES = ("prepare", "featurize", "baseline", "train", "evaluate", "export")
CLOSED = "not over HTTP, which changes numbers, switches and choices; `dvc exp run -S` in the checkout does"


def is_open(key: str, kind: Any) -> bool:
    """Tell whether a param of this type may be changed: no text is in its values, but for words from a fixed list."""
    return key.split(".", maxsplit=1)[0] in STAGES and not _holds_text(kind)


def _holds_text(kind: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return False
    parts = typing.get_args(kind)
    return any(_holds_text(part) for part in parts) if parts else kind not in (int, float, bool)


def import_stages() -> None:
    """Import the stages for their schema now: that takes seconds, for which no request should wait."""
    for stage in STAGES:
        declared.section(stage)


def code(root: Path, commit: str) -> str:
    """Return what tells whether the schema is the same at two commits: Git's ids of the folders it is imported from."""
    return git("rev-parse", *(f"{commit}:{name}" for name in ("stages", "tweets")), folder=root)


def committed(root: Path, commit: str) -> dict[str, Any]:
    """Return the content of params.yaml at a commit. Raises UserError where there is none."""
    content = files.parse_yaml(git("show", f"{commit}:params.yaml", folder=root), "params.yaml")
    if not isinstance(content, dict):
        raise UserError(f"params.yaml of commit {commit[:7]}: needs a mapping of sections")
    return content


def checked(content: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of params as a stage would read them, by dotted key.

    `content` is that of params.yaml. Raises UserError that names the first param that is unknown, closed, or has a
    value that its stage would refuse.
    """
    kinds = {key: kind for stage in content for key, kind in declared.kinds(stage)}
    for key in values:
        if key not in kinds:
            near = difflib.get_close_matches(key, kinds, n=3)
            raise UserError(f"{key[:80]}: no such param{'; did you mean ' + ' or '.join(near) + '?' if near else ''}")
        if not is_open(key, kinds[key]):
            raise UserError(f"{key}: {CLOSED}")
    changed = content
    for key, value in values.items():
        changed = declared.replaced(changed, key, value)
    built = {}
    for stage in {key.split(".")[0] for key in values}:
        built[stage] = params.build(declared.section(stage), changed[stage], stage)
    return {key: _value(built, key) for key in values}


def _value(built: dict[str, Any], key: str) -> Any:
    stage, *names = key.split(".")
    value = built[stage]
    for name in names:
        value = getattr(value, name)
    return value
