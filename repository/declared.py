"""What dvc.yaml has to declare for a stage, derived from the stage's code: modules, params, data.

    python -m repository.declared           # are dvc.yaml and params.schema.json what the code says?
    python -m repository.declared --write   # write them: `make declare`

In dvc.yaml only the Python files among a stage's `deps`, requirements.txt and its `params` are written. The JSON Schema
is for editors, which complete and check params.yaml by it.
"""

import ast
import copy
import dataclasses
import importlib
import inspect
import io
import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from ruamel.yaml import YAML

from tweets import command
from tweets.errors import UserError

FOLDERS = ("data/", "models/", "metrics/", "plots/")
LIBRARIES = "requirements.txt"
PIPELINE, SCHEMA = Path("dvc.yaml"), Path("params.schema.json")
# What pydantic calls a limit that follows a validator of ours, and what JSON Schema calls it.
LIMITS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}


def modules_in(file: Path, root: Path) -> set[str]:
    """Return the names of this repository's modules that a file imports, wherever in it."""
    imported_names: set[str] = set()
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            imported_names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = file.relative_to(root).parent.parts
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            imported_names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return {name for name in imported_names if file_of(name, root)}


def parsed(file: Path) -> ast.Module:
    """Return the syntax tree of a file. Raises UserError when it is not Python."""
    try:
        return ast.parse(file.read_bytes())
    except SyntaxError as error:
        raise UserError(f"{file}: line {error.lineno}: {error.msg}") from None


def file_of(module: str, root: Path) -> Path | None:
    """Return the file of a module or a package, or None where the name is not one."""
    path = root.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def code(stage: str, root: Path) -> set[str]:
    """Return the files, relative to the root, of a stage and all that it reaches, packages' __init__ included."""
    return reached(f"stages.{stage}", root)


def reached(module: str, root: Path) -> set[str]:
    """Return the same for a module."""
    todo, seen = [module], set()
    while todo:
        name = todo.pop()
        file = file_of(name, root)
        if name in seen or not file:
            continue
        seen.add(name)
        todo += [*modules_in(file, root), *([name.rsplit(".", 1)[0]] if "." in name else [])]
    return {file.relative_to(root).as_posix() for name in seen if (file := file_of(name, root))}


def section(stage: str) -> Any:
    """Return the dataclass that a stage's module declares for its section of params.yaml, or None.

    Imports the stage, so the current folder must be the root of the repository.
    """
    module = importlib.import_module(f"stages.{stage}")
    section_classes = (
        value
        for value in vars(module).values()
        if dataclasses.is_dataclass(value)
        and value.__module__ == module.__name__
        and f"Section `{stage}`" in (value.__doc__ or "")
    )
    return next(section_classes, None)


def params(stage: str, root: Path = Path()) -> set[str]:
    """Return what a stage reads of params.yaml: its section, where its module declares one, and params of others.

    Those are the keys that `params.value` is called with, as literals in its script.
    """
    calls = (node for node in ast.walk(parsed(root / f"stages/{stage}.py")) if isinstance(node, ast.Call))
    of_others = {
        str(call.args[0].value)
        for call in calls
        if ast.unparse(call.func) == "params.value" and isinstance(call.args[0], ast.Constant)
    }
    return of_others | ({stage} if section(stage) else set())


def kinds(stage: str) -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the type of each param of a stage."""
    section_class = section(stage)
    return _kinds(section_class, stage) if section_class else iter(())


def _kinds(cls: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, kind in typing.get_type_hints(cls).items():
        key = f"{prefix}.{name}"
        yield from _kinds(kind, key) if dataclasses.is_dataclass(kind) else [(key, kind)]


def leaves(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each param in the content of params.yaml, or of a part of it at a key."""
    if not isinstance(content, dict):
        yield key, content
        return
    for name, value in content.items():
        yield from leaves(value, f"{key}.{name}" if key else name)


def replaced(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return the content of params.yaml with another value at a dotted key. Raises KeyError where there is none."""
    changed = inner = copy.deepcopy(content)
    *parents, last = key.split(".")
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    return changed


def data(stage: str, root: Path) -> set[str]:
    """Return the paths below data, models, metrics and plots that stand as literals in a stage's script."""
    script = parsed(root / f"stages/{stage}.py")
    literals = {node.value for node in ast.walk(script) if isinstance(node, ast.Constant)}
    return {text for text in literals if isinstance(text, str) and text.startswith(FOLDERS) and " " not in text}


def pipeline(root: Path) -> str:
    """Return dvc.yaml with the code and the params that each stage's imports and section tell, all else as it is."""
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    content = yaml.load((root / PIPELINE).read_text(encoding="utf-8"))
    for stage, entry in content["stages"].items():
        others = [dep for dep in entry["deps"] if dep != LIBRARIES and not dep.endswith(".py")]
        entry["deps"] = [*others, *sorted({LIBRARIES} | code(stage, root))]
        if sections := sorted(params(stage, root)):
            entry["params"] = sections
        else:
            entry.pop("params", None)
    written = io.StringIO()
    yaml.dump(content, written)
    return written.getvalue()


def schema(stages: list[str]) -> str:
    """Return the JSON Schema of params.yaml, from the dataclasses of the stages."""
    sections = {stage: section_class for stage in stages if (section_class := section(stage))}
    named, shared = TypeAdapter.json_schemas(
        [(stage, "validation", TypeAdapter(cls)) for stage, cls in sections.items()],
        title="The hyperparameters of the pipeline, a section for each stage",
    )
    definitions = shared["$defs"]
    for cls in {cls for section_class in sections.values() for cls in classes(section_class)}:
        for name, comment in comments(cls).items():
            definitions[cls.__name__]["properties"][name]["description"] = comment
    properties = {stage: named[stage, "validation"] for stage in sections}
    content = {**shared, "type": "object", "properties": properties, "required": [*properties]}
    text = json.dumps({**content, "additionalProperties": False}, indent=1, sort_keys=True) + "\n"
    return re.sub(r'"(gt|ge|lt|le)":', lambda match: f'"{LIMITS[match[1]]}":', text)


def classes(cls: Any) -> Iterator[Any]:
    """Yield a section's dataclass and those that its fields hold."""
    yield cls
    for kind in typing.get_type_hints(cls).values():
        if dataclasses.is_dataclass(kind):
            yield from classes(kind)


def comments(cls: Any) -> dict[str, str]:
    """Return the comment behind each field of a dataclass that has one."""
    return dict(re.findall(r"^    (\w+): .*?  # (.+)$", inspect.getsource(cls), re.MULTILINE))


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--write", action="store_true", help="write what the code says")
    write = parser.parse_args().write
    root = Path()
    text = pipeline(root)
    stages = list(YAML(typ="safe", pure=True).load(text)["stages"])
    for path, needed in {PIPELINE: text, SCHEMA: schema(stages)}.items():
        if (path.read_text(encoding="utf-8") if path.exists() else "") == needed:
            continue
        if not write:
            raise UserError(f"{path}: not what the code of the stages says; `make declare` writes it")
        path.write_text(needed, encoding="utf-8", newline="\n")
        print(f"declared: wrote {path}")


if __name__ == "__main__":
    command.run("declared", main)
