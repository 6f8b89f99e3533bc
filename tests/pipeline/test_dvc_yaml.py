"""dvc.yaml names what the code reads, and params.schema.json what the stages take."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ruamel.yaml import YAML

from repository import declared
from tests.support.clones import ROOT, STAGES, run
from tweets import files

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())


def test_dvc_yaml_declares_what_the_code_reads() -> None:
    assert (ROOT / "dvc.yaml").read_text() == declared.pipeline(ROOT), "run `make declare`"


def test_each_stage_declares_its_code_the_pinned_libraries_and_its_section() -> None:
    for stage in STAGES:
        deps = set(PIPELINE["stages"][stage]["deps"])
        assert {f"stages/{stage}.py", "tweets/params.py", "requirements.txt"} <= deps
        others = {"baseline", "evaluate", "export"}
        assert PIPELINE["stages"][stage]["params"] == [stage, *(["train.precision"] if stage in others else [])]


def test_what_the_code_no_longer_reads_is_taken_out_and_what_it_reads_is_put_in(tmp_path: Path) -> None:
    for name in ("stages", "tweets"):
        shutil.copytree(ROOT / name, tmp_path / name)
    text = (ROOT / "dvc.yaml").read_text()
    wrong = text.replace("      - tweets/data/split.py\n", "      - tweets/gone.py\n").replace(
        "      - train\n", "      - train.lr\n"
    )
    (tmp_path / "dvc.yaml").write_text(wrong)
    assert declared.pipeline(tmp_path) == text != wrong
    (tmp_path / "stages/fetch.py").write_text(
        "from tweets import params\nfrom tweets.data import split, sources\nparams.value('train.lr', float)\n"
    )
    fetch = yaml.safe_load(declared.pipeline(tmp_path))["stages"]["fetch"]
    assert "tweets/data/split.py" in fetch["deps"]
    assert "${fetch.path}" in fetch["deps"]
    assert fetch["params"] == ["fetch", "train.lr"]
    assert [stage for stage in STAGES if "${featurize.encoder}" in PIPELINE["stages"][stage]["deps"]] == [
        "featurize", "train",
    ]  # fmt: skip


def test_the_schema_is_that_of_the_code_and_takes_params_yaml() -> None:
    schema = json.loads((ROOT / "params.schema.json").read_text())
    assert schema == json.loads(declared.schema(list(PIPELINE["stages"]))), "run `make declare`"
    params = YAML(typ="safe", pure=True).load(
        (ROOT / "params.yaml").read_text()
    )  # as editors read it: `3e-5` is a number
    jsonschema.validate(params, schema)
    assert (ROOT / "params.yaml").read_text().startswith("# yaml-language-server: $schema=params.schema.json\n")


@pytest.mark.parametrize(
    ("stage", "key", "value"),
    [("train", "lr", 0), ("train", "lr", "fast"), ("fetch", "empty", "skip"), ("train", "lrr", 1)],
)
def test_the_schema_refuses_what_a_stage_refuses(stage: str, key: str, value: Any) -> None:
    schema = json.loads((ROOT / "params.schema.json").read_text())
    params = files.read_yaml(ROOT / "params.yaml")
    params[stage][key] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(params, schema)


def numbers(part: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the schema of each number in a schema; one in place of a text is a label."""
    if isinstance(part, dict):
        if part.get("type") in ("integer", "number"):
            yield name, part
        for key, inner in part.items():
            if key == "anyOf" and {"type": "string"} in inner:
                continue
            yield from numbers(inner, f"{name}.{key}")
    for inner in part if isinstance(part, list) else []:
        yield from numbers(inner, name)


def test_each_number_has_bounds() -> None:
    """10^400 would be taken, and end in the middle of a run."""
    found = dict(numbers(json.loads((ROOT / "params.schema.json").read_text())))
    assert len(found) > 30
    for name, part in found.items():
        assert {"minimum", "exclusiveMinimum"} & part.keys(), name
        assert {"maximum", "exclusiveMaximum"} & part.keys(), name


def test_the_schema_says_what_a_param_is_for() -> None:
    train = json.loads((ROOT / "params.schema.json").read_text())["$defs"]["Train"]["properties"]
    assert train["lr"]["description"] == "of AdamW, at its peak"


def test_the_command_names_a_file_that_is_behind_and_writes_it(tmp_path: Path) -> None:
    names = ("dvc.yaml", "params.schema.json")
    for folder in ("stages", "tweets", "repository"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for name in names:
        behind = (ROOT / name).read_text().replace("tweets/files.py", "tweets/gone.py").replace('"Train"', '"Trein"')
        (tmp_path / name).write_text(behind)
    command = ("python", "-m", "repository.declared")
    refused = run(tmp_path, *command, check=False)
    assert refused.returncode == 1
    assert refused.stderr == "declared: dvc.yaml: not what the code of the stages says; `make declare` writes it\n"
    assert "tweets/gone.py" in (tmp_path / "dvc.yaml").read_text()
    assert run(tmp_path, *command, "--write").stdout == "declared: wrote dvc.yaml\ndeclared: wrote params.schema.json\n"
    assert all((tmp_path / name).read_text() == (ROOT / name).read_text() for name in names)


def test_params_yaml_has_these_sections_only() -> None:
    assert sorted(files.read_yaml(ROOT / "params.yaml")) == STAGES


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
