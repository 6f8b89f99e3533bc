"""Files are whole or not there, the same bytes for the same content, and what is wrong with them is said."""

import math
import os
from pathlib import Path

import pytest

from tweets import files
from tweets.errors import UserError

ABC_SHA256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", FIPS 180-4


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_half_a_file(path: Path, error: BaseException) -> None:
    with files.replacing(path) as staged:
        staged.write_text("ne")
        raise error


def write_half_a_folder(path: Path, error: BaseException) -> None:
    with files.replacing(path) as staged:
        staged.mkdir()
        (staged / "new.txt").write_text("ne")
        raise error


def test_a_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new/deep/a.txt"
    with files.replacing(path) as staged:
        staged.write_text("whole")
        assert staged.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "whole"
    assert names(path.parent) == ["a.txt"]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with files.replacing(path) as staged:
        staged.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_is_replaced_with_all_that_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "old.txt").write_text("old")
    with files.replacing(path) as staged:
        staged.mkdir()
        (staged / "new.txt").write_text("new")
        assert names(path) == ["old.txt"]
    assert names(path) == ["new.txt"]
    assert names(tmp_path) == ["out"]


def test_a_file_takes_the_place_of_a_folder_and_a_folder_that_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with files.replacing(path) as staged:
        staged.mkdir()
    assert path.is_dir()
    with files.replacing(path) as staged:
        staged.write_text("a file now")
    assert path.read_text() == "a file now"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [ValueError("half way"), KeyboardInterrupt("half way")])
def test_a_block_that_raises_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error), match="half way"):
        write_half_a_file(path, error)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_block_that_raises_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "old.txt").write_text("old")
    with pytest.raises(ValueError, match="half way"):
        write_half_a_folder(path, ValueError("half way"))
    assert (path / "old.txt").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_a_block_that_raises_leaves_nothing_where_nothing_was(tmp_path: Path) -> None:
    for write in (write_half_a_file, write_half_a_folder):
        with pytest.raises(ValueError, match="half way"):
            write(tmp_path / "out", ValueError("half way"))
    assert names(tmp_path) == []


def test_a_block_that_writes_nothing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), files.replacing(path):
        pass
    assert path.read_text() == "old"


def test_what_a_killed_process_left_behind_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "out"
    for left in (path, tmp_path / ".out.new", tmp_path / ".out.old"):
        left.mkdir()
        (left / "left.txt").write_text("half")
    with files.replacing(path) as staged:
        staged.mkdir()
        (staged / "whole.txt").write_text("whole")
    assert names(path) == ["whole.txt"]
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0, 0o666, 0o777)])
def test_what_is_written_has_the_modes_that_the_user_wants(tmp_path: Path, umask: int, file: int, folder: int) -> None:
    before = os.umask(umask)
    try:
        with files.replacing(tmp_path / "out") as staged:
            (staged / "deep").mkdir(parents=True)
            (staged / "deep/weights").write_bytes(b"1")
            (staged / "deep/weights").chmod(0o600)  # as safetensors does
        with files.replacing(tmp_path / "alone") as staged:
            staged.write_bytes(b"1")
            staged.chmod(0o600)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"out": folder, "deep": folder, "weights": file, "alone": file}


def test_json_is_sorted_rounded_readable_and_ends_with_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"b": [1 / 3, 2], "a": {"ü": (123456789.0, None, True)}})
    assert path.read_bytes().decode() == (
        '{\n "a": {\n  "ü": [\n   123457000.0,\n   null,\n   true\n  ]\n },\n "b": [\n  0.333333,\n  2\n ]\n}\n'
    )


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    files.write_json(tmp_path / "one.json", {"x": 0.1 + 0.2, "y": 1})
    files.write_json(tmp_path / "two.json", {"y": 1, "x": 0.3})
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_holds_no_number_that_json_has_not(tmp_path: Path, value: float) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        files.write_json(path, {"a": [value]})
    assert path.read_text() == "old"


def test_rounded_leaves_what_is_no_float() -> None:
    assert files.rounded({"a": [1.23456789, 7, "x", None, False], "b": (1e-9 / 3,)}) == {
        "a": [1.23457, 7, "x", None, False],
        "b": [3.33333e-10],
    }


def test_json_comes_back(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"a": [1, 0.5, "é"]})
    assert files.read_json(tmp_path / "a.json") == {"a": [1, 0.5, "é"]}


def test_a_missing_json_file_says_what_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(UserError) as raised:
        files.read_json(path)
    assert str(raised.value) == f"{path}: no such file; `dvc repro` writes it"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": ', "Expecting value: line 1 column 7 (char 6)"),
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b'"\xff"', "'utf-8' codec can't decode byte 0xff in position 1: invalid start byte"),
    ],
)
def test_a_damaged_json_file_is_a_users_error(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        files.read_json(path)
    assert str(raised.value) == f"{path}: not JSON: {reason}"


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert files.sha256(tmp_path / "abc") == ABC_SHA256


def test_a_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    files.check_sha256(path, ABC_SHA256)
    with pytest.raises(UserError) as raised:
        files.check_sha256(path, "0" * 64)
    assert str(raised.value) == (
        f"{path}: SHA-256 is {ABC_SHA256}, needs {'0' * 64}: the file is not the one that this was made for"
    )
