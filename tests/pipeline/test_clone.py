"""A clone has the bytes that were committed, whatever Git's settings on that machine say: DVC hashes them."""

from pathlib import Path

import pytest

from tests.support.clones import ROOT, commit, copy_of_this_tree, run

SETTINGS = ["core.autocrlf=true", "core.autocrlf=input", "core.eol=crlf"]


def changed(source: Path, clone: Path, setting: str) -> list[str]:
    """Clone with a setting of Git. Return the files whose bytes are others than in the source."""
    run(source, "git", "clone", "-q", "--config", setting, str(source), str(clone))
    assert run(clone, "git", "status", "--porcelain").stdout == ""
    names = run(source, "git", "ls-files", "-z").stdout.rstrip("\0").split("\0")
    return [name for name in names if (clone / name).read_bytes() != (source / name).read_bytes()]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    copy_of_this_tree(folder)
    return folder


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_setting_of_line_ends_changes_a_byte(setting: str, source: Path, tmp_path: Path) -> None:
    assert changed(source, tmp_path / "clone", setting) == []


def test_without_the_attributes_windows_changes_them(source: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    run(source, "git", "clone", "-q", str(source), str(bare))
    (bare / ".gitattributes").unlink()
    commit(bare, "commit", "-qam", "Without")
    assert len(changed(bare, tmp_path / "clone", "core.autocrlf=true")) > 100


def test_no_file_in_git_has_windows_line_ends() -> None:
    listed = run(ROOT, "git", "ls-files", "--eol").stdout.splitlines()
    assert [line for line in listed if line.startswith(("i/crlf", "i/mixed"))] == []
