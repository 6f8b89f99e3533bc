"""Clones for experiments: what is in them besides what Git tracks."""

import subprocess
from pathlib import Path

import pytest

from repository import isolated
from repository.isolated import Place
from tests.support.clones import ENVIRONMENT

pytestmark = [pytest.mark.walk, pytest.mark.xdist_group("isolated")]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with an encoder that `dvc add` tracks, and a table that nothing tracks."""
    root = tmp_path / "root"
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)

    def run(*command: str) -> None:
        subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=300)

    (root / "data/external/mine").mkdir(parents=True)
    (root / "data/external/mine/config.json").write_text("{}")
    (root / "data/external/.gitignore").write_text("*.csv\n")
    (root / "data/external/mine.csv").write_text("text,label\n")
    run("git", "init", "--quiet")
    run("dvc", "init", "--quiet")
    run("dvc", "add", "--quiet", "data/external/mine")
    run("git", "add", "-A")
    run("git", "commit", "--quiet", "-m", "Encoder")
    return root


@pytest.mark.parametrize(
    "local", [("data/external/mine", "data/external/mine.csv"), ("data/external",), ("data/external/mine/config.json",)]
)
def test_a_clone_has_the_local_paths_of_params_whether_dvc_tracks_them_or_not(
    repository: Path, tmp_path: Path, local: tuple[str, ...]
) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True, check=True)
    (tmp_path / "work").mkdir()
    cache = str(repository / ".dvc/cache")
    place = Place(repository, tmp_path / "work", commit.stdout.strip(), cache, local)
    isolated.make_clone(place)
    assert (place.clone / "data/external/mine/config.json").read_text() == "{}"
    assert not (place.clone / "data/external/mine").is_symlink()
    assert (place.clone / "data/external/mine.csv").exists() == any("mine/" not in each for each in local)
