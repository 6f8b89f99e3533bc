"""dvc.yaml names what the code reads: every module that a stage reaches, and every param of its section."""

import ast
import dataclasses
import importlib
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES = sorted(PIPELINE["stages"])
PACKAGES = ("stages", "tweets")


def modules_in(path: Path) -> set[str]:
    """Return the names of this repository's modules that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in PACKAGES and file_of(name)}


def file_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def reached(module: str) -> set[str]:
    """Return the files, relative to the root, of a module and all that it reaches, packages' __init__ included."""
    todo, seen = [module], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        file = file_of(name)
        assert file, name
        todo += [*modules_in(file), *([name.rsplit(".", 1)[0]] if "." in name else [])]
    return {file.relative_to(ROOT).as_posix() for name in seen if (file := file_of(name))}


def section_of(stage: str) -> Any:
    """Return the params dataclass that the stage's module declares: the one named like its section."""
    module = importlib.import_module(f"stages.{stage}")
    [section] = [
        value
        for value in vars(module).values()
        if dataclasses.is_dataclass(value)
        and value.__module__ == module.__name__
        and "Section `" in (value.__doc__ or "")
    ]
    assert f"`{stage}`" in (section.__doc__ or "")
    return section


def keys_of(section: Any, prefix: str) -> set[str]:
    """Return the keys that a section has in params.yaml, those of the sections within it included."""
    keys: set[str] = set()
    for name, kind in typing.get_type_hints(section).items():
        inner = keys_of(kind, f"{prefix}.{name}") if dataclasses.is_dataclass(kind) else {f"{prefix}.{name}"}
        keys |= inner
    return keys


def test_each_stage_depends_on_all_code_that_it_reaches() -> None:
    for stage in STAGES:
        declared = {dep for dep in PIPELINE["stages"][stage]["deps"] if dep.endswith(".py")}
        assert declared == reached(f"stages.{stage}"), stage


def test_each_stage_depends_on_the_pinned_libraries() -> None:
    for stage in STAGES:
        assert "requirements.txt" in PIPELINE["stages"][stage]["deps"], stage


def test_each_stage_declares_every_param_that_it_reads_and_no_other() -> None:
    for stage in STAGES:
        declared = PIPELINE["stages"][stage]["params"]
        assert sorted(declared) == sorted(keys_of(section_of(stage), stage)), stage


def test_params_yaml_has_these_sections_only() -> None:
    assert sorted(yaml.safe_load((ROOT / "params.yaml").read_text())) == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_no_dependency_lies_inside_the_output_of_a_stage(stage: str) -> None:
    """DVC misses that such a dependency is stale."""
    outs = {
        next(iter(out)) if isinstance(out, dict) else out
        for other in PIPELINE["stages"].values()
        for kind in ("outs", "metrics", "plots")
        for out in other.get(kind, [])
    }
    for dep in PIPELINE["stages"][stage]["deps"]:
        assert not any(dep.startswith(f"{out}/") for out in outs), dep


@pytest.mark.parametrize("stage", STAGES)
def test_metrics_and_plots_stay_in_git(stage: str) -> None:
    for kind in ("metrics", "plots"):
        for out in PIPELINE["stages"][stage].get(kind, []):
            assert next(iter(out.values()))["cache"] is False, out
