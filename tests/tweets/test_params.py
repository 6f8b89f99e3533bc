"""Sections of params.yaml: what is read, and the one line for each thing that can be wrong with it."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from dvc.utils.serialize import modify_yaml
from pydantic import Field, ValidationError

from tweets import files, params
from tweets.errors import UserError


@params.section
class Inner:
    on: bool


@params.section
class Example:
    count: Annotated[int, Field(ge=1)]
    rate: Annotated[float, Field(gt=0)]
    kind: Literal["small", "large"]
    name: str | None
    renamed: dict[str, str]
    sizes: list[int]
    inner: Inner


RIGHT: dict[str, Any] = {
    "count": 3,
    "rate": 0.5,
    "kind": "small",
    "name": None,
    "renamed": {"a": "b"},
    "sizes": [1, 2],
    "inner": {"on": True},
}


def write(folder: Path, content: Any) -> Path:
    path = folder / "params.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def refusal(path: Path) -> str:
    """Return the message with which `load` refuses the section `example`."""
    with pytest.raises(UserError) as raised:
        params.load("example", Example, path)
    return str(raised.value)


def built(**changed: Any) -> Example:
    return params.build(Example, RIGHT | changed, "here")


def wrong(**changed: Any) -> str:
    with pytest.raises(UserError) as raised:
        built(**changed)
    return str(raised.value)


def test_a_section_is_read_from_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, {"example": RIGHT, "other": {"unknown": 1}})
    assert params.load("example", Example, path) == Example(
        count=3, rate=0.5, kind="small", name=None, renamed={"a": "b"}, sizes=[1, 2], inner=Inner(on=True)
    )


def test_the_file_is_params_yaml_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"example": RIGHT})
    monkeypatch.chdir(tmp_path)
    assert params.load("example", Example).count == 3


def test_a_section_is_frozen_and_takes_keywords_only() -> None:
    section = Inner(on=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        section.on = False  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Unexpected positional argument"):
        Inner(True)  # type: ignore[call-arg]


@pytest.mark.parametrize(("written", "read"), [("3e-05", 3e-05), ("2e-4", 2e-4), ("1", 1.0), (".5", 0.5)])
def test_a_number_is_read_as_dvc_writes_it(tmp_path: Path, written: str, read: float) -> None:
    text = yaml.safe_dump({"example": RIGHT}).replace("rate: 0.5", f"rate: {written}")
    rate = params.load("example", Example, write(tmp_path, text)).rate
    assert rate == read
    assert type(rate) is float


LABELS = ["no", "yes", "on", "off", "y", "12:30", "1_000", "2020-01-01", "a: b", " ", "7", "007", "1e5", "null", "true"]


@pytest.mark.parametrize("label", LABELS)
def test_a_label_survives_how_dvc_writes_it(tmp_path: Path, label: str) -> None:
    """`dvc exp run -S` reads params.yaml, changes it, and writes all of it by DVC's own functions."""
    path = tmp_path / "params.yaml"
    files.write_yaml(path, {"example": {"labels": ["x"], "other": [label]}})
    with modify_yaml(path) as content:
        content["example"]["labels"] = [label, "y"]
    with modify_yaml(path) as content:
        content["example"]["more"] = 1
    assert params.read(path)["example"] == {"labels": [label, "y"], "other": [label], "more": 1}


@params.section
class Labelled:
    labels: list[params.Label]


@pytest.mark.parametrize("written", ["no", "yes", "off", "12:30", "2020-01-01", "0", "-1", "'1e5'", "'true'", '"null"'])
def test_a_label_that_is_written_without_quotes_is_that_word(tmp_path: Path, written: str) -> None:
    path = write(tmp_path, f"example:\n  labels: [{written}, other]\n")
    assert params.load("example", Labelled, path).labels == [written.strip("'\""), "other"]


@pytest.mark.parametrize(("written", "read"), [("true", "true"), ("1e5", "100000.0"), ("null", "null"), ("1.0", "1.0")])
def test_a_label_that_yaml_takes_for_something_else_needs_quotes(tmp_path: Path, written: str, read: str) -> None:
    path = write(tmp_path, f"example:\n  labels: [{written}, other]\n")
    with pytest.raises(UserError) as raised:
        params.load("example", Labelled, path)
    assert str(raised.value).endswith(f"YAML reads it as {read}: put the label in quotes")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rate": "fast"}, "here.rate = 'fast': should be a valid number"),
        ({"rate": True}, "here.rate = True: should be a valid number"),
        ({"rate": None}, "here.rate = None: should be a valid number"),
        ({"rate": [0.5]}, "here.rate = [0.5]: should be a valid number"),
        ({"rate": float("nan")}, "here.rate = nan: should be a finite number"),
        ({"rate": float("inf")}, "here.rate = inf: should be a finite number"),
        ({"rate": -1}, "here.rate = -1: should be greater than 0"),
        ({"rate": "1e-4"}, "here.rate = '1e-4': should be a valid number"),
        ({"count": True}, "here.count = True: should be a valid integer"),
        ({"count": 3.0}, "here.count = 3.0: should be a valid integer"),
        ({"count": "3"}, "here.count = '3': should be a valid integer"),
        ({"count": 0}, "here.count = 0: should be greater than or equal to 1"),
        ({"kind": "medium"}, "here.kind = 'medium': should be 'small' or 'large'"),
        ({"name": 3}, "here.name = 3: should be a valid string"),
        ({"renamed": {"a": 1}}, "here.renamed.a = 1: should be a valid string"),
        ({"sizes": [1, "2"]}, "here.sizes.1 = '2': should be a valid integer"),
        ({"sizes": 1}, "here.sizes = 1: should be a valid array"),
        ({"inner": {"on": 1}}, "here.inner.on = 1: should be a valid boolean"),
        ({"inner": {"on": "true"}}, "here.inner.on = 'true': should be a valid boolean"),
        ({"inner": {}}, "here.inner.on: missing; it needs a value"),
        ({"inner": 3}, "here.inner = 3: should be an object"),
        ({"inner": {"on": True, "off": 1}}, "here.inner.off: unknown param; take it out, or correct its name"),
        ({"cuont": 3}, "here.cuont: unknown param; take it out, or correct its name"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_needed(changed: dict[str, Any], message: str) -> None:
    assert wrong(**changed) == message


def test_a_missing_key_is_named_with_its_file_and_section(tmp_path: Path) -> None:
    path = write(tmp_path, {"example": {key: value for key, value in RIGHT.items() if key != "rate"}})
    assert refusal(path) == f"{path}: example.rate: missing; it needs a value"


def test_not_a_number_in_yaml_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {"example": RIGHT | {"rate": float("nan")}})
    assert ".nan" in path.read_text()
    assert refusal(path) == f"{path}: example.rate = nan: should be a finite number"


def test_everything_that_is_wrong_stands_in_one_line() -> None:
    assert wrong(count=0, rate="x", cuont=1) == (
        "here.count = 0: should be greater than or equal to 1; here.rate = 'x': should be a valid number;"
        " here.cuont: unknown param; take it out, or correct its name"
    )


@pytest.mark.parametrize("content", [{"other": RIGHT}, {"example": None}, {"example": 3}, {"example": ["count"]}])
def test_a_missing_section_is_named(tmp_path: Path, content: dict[str, Any]) -> None:
    path = write(tmp_path, content)
    assert refusal(path) == (
        f"{path}: no section `example`; it needs one, with the keys that stages/example.py declares"
    )


@pytest.mark.parametrize(("content", "found"), [("", "NoneType"), ("- a\n", "list"), ("text", "str")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str, found: str) -> None:
    path = write(tmp_path, content)
    assert refusal(path) == f"{path}: found {found}, needs a mapping of sections"


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    assert refusal(path) == f"{path}: no such file; run this from the root of the repository"


def test_a_file_that_is_not_yaml_is_refused_with_the_place(tmp_path: Path) -> None:
    path = write(tmp_path, "example:\n  count: [1\n")
    message = refusal(path)
    assert message.startswith(f"{path}: not valid YAML: while parsing a flow sequence")
    assert "line 2, column 10" in message


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes("example: é".encode("latin-1"))
    assert refusal(path) == (
        f"{path}: not UTF-8: 'utf-8' codec can't decode byte 0xe9 in position 9: unexpected end of data"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": {"precision": "slow"}}, r"train\.precision = 'slow': should be 'fast' or 'exact'"),
        ({"train": {}}, r"train\.precision: missing; it needs a value"),
        ({"train": 3}, r"train\.precision: missing; it needs a value"),
        ({}, r"train\.precision: missing; it needs a value"),
    ],
)
def test_a_param_of_another_section_that_is_wrong_is_named(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=rf"^{path}: {message}$"):
        params.value("train.precision", Literal["fast", "exact"], path)


def test_a_param_of_another_section_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, "train:\n  lr: 3e-05\n  precision: exact\n")
    assert params.value("train.precision", Literal["fast", "exact"], path) == "exact"
    assert params.value("train.lr", float, path) == 3e-5
