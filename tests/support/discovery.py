"""Google's own description of its APIs, from the files that google-api-python-client carries, as a strict schema."""

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator


@functools.cache
def document(name: str) -> dict[str, Any]:
    """Return a description, such as that of `run.v1`."""
    path = files("googleapiclient") / "discovery_cache/documents" / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@functools.cache
def validator(api: str, schema: str) -> Draft202012Validator:
    """Return what validates one of an API's schemas: names that it does not have are errors."""
    named = document(api)["schemas"]
    return Draft202012Validator(
        {**strict(named[schema]), "$defs": {name: strict(each) for name, each in named.items()}}
    )


def strict(found: dict[str, Any]) -> dict[str, Any]:
    """Return a schema in the language of JSON Schema, which Google's descriptions are nearly written in."""
    if "$ref" in found:
        return {"$ref": f"#/$defs/{found['$ref']}"}
    if found["type"] == "any":
        return {}
    kept: dict[str, Any] = {name: found[name] for name in ("type", "enum", "pattern") if name in found}
    if found["type"] == "string" and found.get("format") == "int64":
        kept["type"] = ["string", "integer"]
    if found["type"] == "array":
        kept["items"] = strict(found["items"])
    if found["type"] == "object":
        kept["properties"] = {name: strict(inner) for name, inner in found.get("properties", {}).items()}
        others = found.get("additionalProperties")
        kept["additionalProperties"] = strict(others) if others else False
    return kept


def faults(api: str, schema: str, value: Any) -> list[str]:
    """Return where a value differs from a schema of an API."""
    return [f"{error.json_path}: {error.message}" for error in validator(api, schema).iter_errors(value)]


@dataclass(frozen=True)
class Method:
    """A method of an API: how it is called, and the schema of what is sent."""

    api: str
    verb: str
    path: re.Pattern[str]
    request: str | None


@functools.cache
def methods(api: str) -> list[Method]:
    """Return all methods of an API."""

    def walk(resource: dict[str, Any]) -> Iterator[Method]:
        for found in resource.get("methods", {}).values():
            path = found.get("flatPath", found["path"])
            pattern = re.compile("/" + re.sub(r"\\\{.*?\\\}", "[^/:]+", re.escape(path)))
            yield Method(api, found["httpMethod"], pattern, found.get("request", {}).get("$ref"))
        for inner in resource.get("resources", {}).values():
            yield from walk(inner)

    return list(walk(document(api)))


def called(api: str, verb: str, path: str) -> Method | None:
    """Return the method that a request calls, if there is one."""
    found = [method for method in methods(api) if method.verb == verb and method.path.fullmatch(path)]
    return found[0] if found else None
