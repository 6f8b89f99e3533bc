"""What dvc.yaml has to declare for a stage, derived from the stage's code: modules, params, data."""

import ast
import copy
import dataclasses
import importlib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tweets.errors import UserError

FOLDERS = ("data/", "models/", "metrics/", "plots/")


def modules_in(file: Path, root: Path) -> set[str]:
    """Return the names of this repository's modules that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = file.relative_to(root).parent.parts
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return {name for name in found if file_of(name, root)}


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
    found = (
        value
        for value in vars(module).values()
        if dataclasses.is_dataclass(value)
        and value.__module__ == module.__name__
        and f"Section `{stage}`" in (value.__doc__ or "")
    )
    return next(found, None)


def params(stage: str) -> set[str]:
    """Return the keys of params.yaml that a stage reads: those of the section that its module declares, if it does."""
    return {key for key, _ in kinds(stage)}


def kinds(stage: str) -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the type of each param of a stage."""
    found = section(stage)
    return _kinds(found, stage) if found else iter(())


def _kinds(cls: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, kind in typing.get_type_hints(cls).items():
        key = f"{prefix}.{name}"
        yield from _kinds(kind, key) if dataclasses.is_dataclass(kind) else [(key, kind)]


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
