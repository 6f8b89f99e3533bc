"""tools/story.sh on a shrunken repository: two clones, a bucket and a bare Git repository, all on loopback."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ENVIRONMENT, STAGES, commit, run, stages_run

pytestmark = pytest.mark.xdist_group("story")  # they share one play of it


@pytest.fixture(scope="module")
def story(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """What the story prints, and its folder. The made-up tweets are in Git, where both clones find them."""
    folder = tmp_path_factory.mktemp("story")
    repository = shutil.copytree(reproduced, folder / "repository", symlinks=True)
    (repository / "data/external/tweets.csv.dvc").unlink()
    commit(repository, "add", "-Af", "data/external")
    commit(repository, "commit", "-qm", "Tweets in Git")
    command = ["bash", "tools/story.sh", str(folder / "played")]
    result = subprocess.run(
        command, cwd=repository, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False
    )
    return result, folder / "played"


def test_the_story_holds(story: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    result, _ = story
    assert result.returncode == 0, result.stdout + result.stderr
    assert "=== The story holds" in result.stdout
    assert stages_run(result) == STAGES  # by a, once; b runs none, and the queue prints none
    assert "verify: OK" in result.stdout
    assert sorted(set(re.findall(r"\[(lr-\d)\]", result.stdout))) == ["lr-1", "lr-2", "lr-3"]


def test_the_story_leaves_no_server_behind(story: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    result, played = story
    assert "gcs: stopped" in result.stdout
    assert "was not running" in run(played / "a", "python", "-m", "tools.gcs", "stop").stdout


def test_a_folder_that_exists_is_refused(reproduced: Path, tmp_path: Path) -> None:
    result = run(reproduced, "bash", "tools/story.sh", str(tmp_path), check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == f"FAILED: {tmp_path}: must be a new folder"
