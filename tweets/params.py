"""Read one section of params.yaml into the dataclass that a stage declares for it."""

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic

from tweets import files
from tweets.errors import UserError

T = TypeVar("T")


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


Label = Annotated[str, pydantic.BeforeValidator(_as_label, json_schema_input_type=str | int)]
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**32)]  # what NumPy and PyTorch both take


def load(name: str, cls: type[T], path: Path = Path("params.yaml")) -> T:
    """Return section `name` of the YAML file at `path` as a `cls`.

    Raises UserError when the file or the section is missing, and for each key that is unknown, missing, of the
    wrong type or out of range, with what was found, what is needed and where.
    """
    values = read(path).get(name)
    if not isinstance(values, dict):
        raise UserError(f"{path}: no section `{name}`; it needs one, with the keys that stages/{name}.py declares")
    return build(cls, values, f"{path}: {name}")


def build(cls: type[T], values: dict[str, Any], where: str) -> T:
    """Return `values`, as they were read from a file, as a `cls`. Raises UserError as `load` does."""
    try:
        # As JSON, because strict validation takes a mapping for a nested section only from there.
        return pydantic.TypeAdapter(cls).validate_json(json.dumps(values, default=str))
    except pydantic.ValidationError as error:
        raise UserError("; ".join(_describe(where, detail) for detail in error.errors())) from None


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
