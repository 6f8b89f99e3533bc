"""DVC's list of who reads and writes what, after a kill."""

from pathlib import Path

import pytest

from repository import rwlock
from tests.support.clones import run


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00\x00"])
def test_a_damaged_list_is_removed(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / rwlock.FILE
    path.parent.mkdir(parents=True)
    path.write_text(content)
    rwlock.heal(tmp_path)
    assert not path.exists()
    assert capsys.readouterr().err == f"rwlock: removed {path}, which a kill or a full disk had damaged\n"


def test_a_whole_list_stays_and_none_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rwlock.heal(tmp_path)
    path = tmp_path / rwlock.FILE
    path.parent.mkdir(parents=True)
    path.write_text('{"read": {}, "write": {}}')
    rwlock.heal(tmp_path)
    assert path.exists()
    assert capsys.readouterr().err == ""


@pytest.mark.walk
def test_what_stops_dvc_does_not_stop_make_repro(clone: Path) -> None:
    path = clone / rwlock.FILE
    path.write_text("")
    assert "JSON structure is corrupted" in run(clone, "dvc", "repro", check=False).stderr
    run(clone, "python", "-m", "repository.rwlock")
    assert "up to date" in run(clone, "dvc", "repro").stdout
