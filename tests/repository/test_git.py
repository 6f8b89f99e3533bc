"""How git is called: what it prints, and one line for what it says when it fails."""

from pathlib import Path

import pytest

from repository.git import attempt, git
from tests.support.clones import run
from tweets.errors import UserError


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    run(tmp_path, "git", "init", "-q", "--initial-branch", "main")
    (tmp_path / "file").write_text("content\n\n")
    run(tmp_path, "git", "add", "file")
    return tmp_path


def test_what_git_prints_comes_without_the_line_breaks_at_its_end(repository: Path) -> None:
    assert git("ls-files", folder=repository) == "file"
    assert git("show", ":file", folder=repository) == "content"


def test_the_current_folder_is_the_default(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    assert git("symbolic-ref", "HEAD") == "refs/heads/main"


def test_the_environment_can_be_changed(repository: Path) -> None:
    who = {"GIT_AUTHOR_NAME": "Somebody", "GIT_AUTHOR_EMAIL": "somebody@example.org"}
    assert git("var", "GIT_AUTHOR_IDENT", folder=repository, changed=who).startswith("Somebody <somebody@example.org> ")


def test_a_failure_names_the_command_and_what_git_says(repository: Path) -> None:
    with pytest.raises(UserError) as raised:
        git("show", "nowhere:file", folder=repository)
    assert str(raised.value).startswith("`git show nowhere:file` ended with exit code 128: fatal: invalid object name")


def test_an_attempt_may_fail(repository: Path) -> None:
    assert attempt("rev-parse", "--verify", "nowhere", folder=repository).returncode == 128


def test_what_git_says_is_english_whatever_the_users_language(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert "fatal: " in attempt("show", "nowhere:file", folder=repository).stderr
