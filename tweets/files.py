"""Write files so that they are whole or not there, and are the same bytes for the same content."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tweets.errors import UserError

TABLES = (".csv", ".tsv", ".parquet")  # what the names of tables end in


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; only when the block ends well does it take the place of `path`.

    The block writes a file or a folder under the temporary name. If it raises, `path` stays as it was and the
    temporary name is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.new")
    _remove(staged)
    try:
        yield staged
        _as_usual(staged)
        if path.is_dir():
            old = path.with_name(f".{path.name}.old")
            _remove(old)
            path.rename(old)
            staged.rename(path)
            _remove(old)
        else:
            staged.replace(path)
    finally:
        _remove(staged)


def _as_usual(path: Path) -> None:
    """Give what was written the modes of new files: safetensors writes such as only their owner can read."""
    umask = os.umask(0)
    os.umask(umask)
    for file in [path, *path.rglob("*")]:
        file.chmod((0o777 if file.is_dir() else 0o666) & ~umask)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON with sorted keys; floats keep 6 significant digits."""
    with replacing(path) as staged:
        text = json.dumps(rounded(content), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        staged.write_text(text + "\n", encoding="utf-8", newline="\n")


def rounded(content: Any) -> Any:
    """Return `content` with each float in it rounded to 6 significant digits."""
    if isinstance(content, float):
        return float(f"{content:.6g}")
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [rounded(value) for value in content]
    return content


def read_json(path: Path) -> Any:
    """Return what the JSON file at `path` holds. Raises UserError when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `dvc repro` writes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON: {error}") from None


def read_yaml(path: Path) -> Any:
    """Return what the YAML file at `path` holds. Raises UserError when it is missing or not YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run this from the root of the repository") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8: {error}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> Any:
    """Return what a text holds that was read from `name`. Raises UserError when it is not YAML.

    By the rules of YAML 1.2, as DVC reads and writes: in YAML 1.1, which PyYAML reads, the label `no` is False.
    """
    try:
        return YAML(typ="safe").load(text)
    except YAMLError as error:
        raise UserError(f"{name}: not valid YAML: {error}") from None


def write_yaml(path: Path, content: Any) -> None:
    """Write `content` as YAML 1.2, in its order."""
    with replacing(path) as staged:
        YAML().dump(content, staged)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Raise UserError when the file's SHA-256 is not the expected one."""
    digest = sha256(path)
    if digest != expected:
        raise UserError(
            f"{path}: SHA-256 is {digest}, needs {expected}: the file is not the one that this was made for"
        )
