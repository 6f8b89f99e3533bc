"""Read one section of params.yaml into the dataclass that a stage declares for it."""

import json
import re
import shlex
from collections.abc import Container
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic

from tweets import files
from tweets.errors import UserError

T = TypeVar("T")

LIKE_A_NUMBER = re.compile(r"[-+]?\d\w*")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def section(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass that is validated when built and knows no other keys."""
    config = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return pydantic.dataclasses.dataclass(cls, frozen=True, kw_only=True, config=config)  # type: ignore[return-value]


def _as_label(value: Any) -> Any:
    """Read `0` as the label that it is; what else YAML makes of a word needs quotes."""
    if isinstance(value, bool) or value is None or isinstance(value, float):
        raise ValueError(f"YAML reads it as {json.dumps(value)}: put the label in quotes")
    return str(value) if isinstance(value, int) else value


def hint_at_quotes(word: str, labels: Container[str]) -> str:
    """Return what to do where a label is one of `labels` when YAML reads it without quotes; else nothing."""
    if not LIKE_A_NUMBER.fullmatch(word) or word in labels:
        return ""
    label = str(files.parse_yaml(word, "label"))
    return f"; YAML reads {word} as {label}: put it in quotes" if label in labels else ""


Label = Annotated[str, pydantic.BeforeValidator(_as_label, json_schema_input_type=str | int)]
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**32)]  # what NumPy and PyTorch both take
# Bounds far above what is of use: what exceeds them is a slip, and would fill the memory or never end.
Count = Annotated[int, pydantic.Field(ge=1, le=1_000_000)]
BatchSize = Annotated[int, pydantic.Field(ge=1, le=65_536)]
Threads = Annotated[int, pydantic.Field(ge=1, le=1024)]
Share = Annotated[float, pydantic.Field(ge=0, le=1)]


def load(name: str, cls: type[T], path: Path = Path("params.yaml")) -> T:
    """Return section `name` of the YAML file at `path` as a `cls`.

    Raises UserError when the file or the section is missing, and for each key that is unknown, missing, of the
    wrong type or out of range, with what was found, what is needed and where.
    """
    values = read(path).get(name)
    if not isinstance(values, dict):
        raise UserError(f"{path}: no section `{name}`; it needs one, with the keys that stages/{name}.py declares")
    return build(cls, values, f"{path}: {name}")


def value(key: str, kind: Any, path: Path = Path("params.yaml")) -> Any:
    """Return a param of another section, by its dotted key, as a `kind`. Raises UserError as `load` does."""
    found: Any = read(path)
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            raise UserError(f"{path}: {key}: missing; it needs a value")
        found = found[part]
    try:
        return pydantic.TypeAdapter(kind).validate_python(found, strict=True)
    except pydantic.ValidationError as error:
        raise UserError("; ".join(_describe(f"{path}: {key}", detail) for detail in error.errors())) from None


def build(cls: type[T], values: dict[str, Any], where: str) -> T:
    """Return `values`, as they were read from a file, as a `cls`. Raises UserError as `load` does."""
    try:
        # As JSON, because strict validation takes a mapping for a nested section only from there.
        return pydantic.TypeAdapter(cls).validate_json(json.dumps(values, default=str))
    except pydantic.ValidationError as error:
        raise UserError("; ".join(_describe(where, detail) for detail in error.errors())) from None


def override(key: str, value: Any) -> str:
    """Return what sets a param in the grammar of `dvc exp run -S`, Hydra's: `train.lr=3e-05`."""
    return f"{key}={_in_hydra(value)}"


def _in_hydra(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_in_hydra, value))}]"
    if isinstance(value, str):  # a backslash is one unless a quote follows
        escaped = re.sub(r'(\\*)("|\Z)', lambda end: end[1] * 2 + end[2].replace('"', r"\""), value)
        return f'"{escaped}"'
    return json.dumps(value)


def suggestion(key: str, value: Any) -> str:
    """Return what to type in a shell to set a param."""
    return f"-S {shlex.quote(override(key, value))}"


def read(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file that holds a mapping. Raises UserError when it does not."""
    content = files.read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: found {type(content).__name__}, needs a mapping of sections")
    return content


def _describe(where: str, detail: Any) -> str:
    where = ".".join([where, *(str(part) for part in detail["loc"])])
    if detail["type"] == "unexpected_keyword_argument":
        return f"{where}: unknown param; take it out, or correct its name"
    if detail["type"] in ("missing", "missing_keyword_only_argument"):
        return f"{where}: missing; it needs a value"
    return f"{where} = {detail['input']!r}: {detail['msg'].removeprefix('Input ')}"
