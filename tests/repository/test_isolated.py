"""Clones for experiments: what is in them besides what Git tracks."""

from pathlib import Path

import pytest
import yaml

from repository import isolated
from repository.isolated import Place
from tests.support.clones import ENVIRONMENT, run

pytestmark = [pytest.mark.walk, pytest.mark.xdist_group("isolated")]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a folder that `dvc add` tracks, a table that nothing tracks, and a stage that reads a path."""
    root = tmp_path / "root"
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    (root / "data/mine").mkdir(parents=True)
    (root / "data/mine/config.json").write_text("{}")
    (root / "data/.gitignore").write_text("*.csv\n")
    (root / "data/mine.csv").write_text("text,label\n")
    (root / "params.yaml").write_text("path: params.yaml\n")
    stage = {"cmd": "cp -r ${path} read", "deps": ["${path}"], "outs": ["read"]}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"read": stage}}))
    run(root, "git", "init", "--quiet")
    run(root, "dvc", "init", "--quiet")
    run(root, "dvc", "add", "--quiet", "data/mine")
    run(root, "git", "add", "-A")
    run(root, "git", "commit", "--quiet", "-m", "Encoder")
    return root


@pytest.mark.parametrize(
    ("path", "file", "content"),
    [
        ("data/mine", "read/config.json", "{}"),
        ("data/mine/config.json", "read", "{}"),
        ("data/mine.csv", "read", "text,label\n"),
    ],
)
def test_a_stage_in_a_clone_reads_the_path_of_a_param_whether_dvc_tracks_it_or_not(
    repository: Path, tmp_path: Path, path: str, file: str, content: str
) -> None:
    (tmp_path / "work").mkdir()
    commit = run(repository, "git", "rev-parse", "HEAD").stdout.strip()
    place = Place(repository, tmp_path / "work", commit, str(repository / ".dvc/cache"), (path,))
    isolated.make_clone(place)
    run(place.clone, "dvc", "exp", "run", "-S", f"path={path}")
    assert (place.clone / file).read_text() == content
    assert (place.clone / path).is_symlink() == (path == "data/mine.csv")
