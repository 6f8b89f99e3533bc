"""Checkpoints: one folder per training, one process in it, complete ones only."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clones import ROOT
from tweets.errors import UserError
from tweets.model import checkpoints

HOLD = """
import sys
from pathlib import Path
from tweets.model import checkpoints
checkpoints.ROOT = Path(sys.argv[1])
print("asks", flush=True)
with checkpoints.folder("abc") as folder:
    (folder / "held").touch()
    print("held", flush=True)
    sys.stdin.readline()
print("done", flush=True)
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoints' root, with a short wait for the lock."""
    monkeypatch.setattr(checkpoints, "ROOT", tmp_path / "cache/train")
    monkeypatch.setattr(checkpoints, "SECONDS_TO_WAIT", 0.2)
    return tmp_path / "cache/train"


@pytest.fixture
def other_process(root: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder `abc` until it reads a line."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert [process.stdout.readline() for _ in range(2)] == ["asks\n", "held\n"]
        yield process
        process.kill()


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two input folders and a file in the current folder, which has the pins and some code too."""
    for name, content in {
        "a/x": "1",
        "a/deep/y": "2",
        "b/z": "3",
        "file": "4",
        "requirements.txt": "numpy==1\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    return [Path("a"), Path("b"), Path("file")]


def test_a_key_is_16_hexadecimal_digits_and_the_same_for_the_same(inputs: list[Path]) -> None:
    key = checkpoints.key(inputs, {"lr": 0.1, "seed": 0})
    assert len(key) == 16
    assert int(key, 16) >= 0
    assert checkpoints.key(list(reversed(inputs)), {"seed": 0, "lr": 0.1}) == key


@pytest.mark.parametrize(
    "change", ["content", "content of a file", "name", "file more", "file less", "pins", "setting", "type of setting"]
)
def test_a_key_changes_with_inputs_settings_and_pins(inputs: list[Path], change: str) -> None:
    settings: dict[str, object] = {"seed": 1}
    before = checkpoints.key(inputs, settings)
    match change:
        case "content":
            Path("a/deep/y").write_text("2!")
        case "content of a file":
            Path("file").write_text("4!")
        case "name":
            Path("a/x").rename("a/w")
        case "file more":
            Path("b/more").touch()
        case "file less":
            Path("b/z").unlink()
        case "pins":
            Path("requirements.txt").write_text("numpy==2\n")
        case "setting":
            settings = {"seed": 2}
        case "type of setting":
            settings = {"seed": "1"}
    assert checkpoints.key(inputs, settings) != before


def test_a_key_changes_with_the_code_that_is_imported_and_no_other(
    inputs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("tweets", "elsewhere"):
        (tmp_path / package).mkdir()
    for module in ("tweets/made_up.py", "elsewhere/made_up_too.py"):
        (tmp_path / module).write_text("A = 1\n")
        monkeypatch.syspath_prepend(tmp_path / module.split("/", maxsplit=1)[0])
    key = checkpoints.key(inputs, {})
    import made_up  # type: ignore[import-not-found]
    import made_up_too  # type: ignore[import-not-found]

    try:
        imported = checkpoints.key(inputs, {})
        assert imported != key
        Path("elsewhere/made_up_too.py").write_text("A = 2\n")
        assert checkpoints.key(inputs, {}) == imported
        Path("tweets/made_up.py").write_text("A = 2\n")
        assert checkpoints.key(inputs, {}) != imported
    finally:
        del sys.modules[made_up.__name__], sys.modules[made_up_too.__name__]


def test_the_code_in_a_key_is_that_of_stages_and_tweets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert Path("tweets/model/checkpoints.py") in checkpoints._code()
    assert {path.parts[0] for path in checkpoints._code()} <= {"stages", "tweets"}


def test_the_folder_is_there_in_the_block_and_gone_after_it(root: Path) -> None:
    with checkpoints.folder("abc") as folder:
        assert folder == root / "abc"
        (folder / "checkpoint-1").mkdir()
    assert not folder.exists()


def test_the_folder_is_kept_when_the_block_raises(root: Path) -> None:
    def fail() -> None:
        with checkpoints.folder("abc") as folder:
            (folder / "checkpoint-1").mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (root / "abc/checkpoint-1").is_dir()
    with checkpoints.folder("abc") as folder:
        assert [path.name for path in folder.iterdir()] == ["checkpoint-1"]
    assert not (root / "abc").exists()


def test_the_lock_is_free_as_soon_as_the_block_has_raised(root: Path) -> None:
    def fail() -> None:
        with checkpoints.folder("abc"):
            raise ValueError("a loss that is not finite")

    with pytest.raises(ValueError, match="not finite") as raised:
        fail()
    # The error, and with it every frame of its traceback, is still alive.
    assert raised.tb is not None
    with checkpoints.folder("abc") as folder:
        assert folder.is_dir()


@pytest.mark.usefixtures("other_process")
def test_a_second_process_is_refused(root: Path) -> None:
    with pytest.raises(UserError) as raised, checkpoints.folder("abc"):
        pass
    assert str(raised.value) == f"{root / 'abc'}: another process trains into it; wait for it or end it"
    assert (root / "abc/held").exists()


@pytest.mark.usefixtures("other_process")
def test_another_training_is_not_refused(root: Path) -> None:
    with checkpoints.folder("def") as folder:
        assert folder == root / "def"


def test_a_killed_process_frees_the_lock_and_leaves_its_folder(other_process: subprocess.Popen[str]) -> None:
    other_process.kill()
    other_process.wait()
    with checkpoints.folder("abc") as folder:
        assert (folder / "held").exists()


def test_the_one_that_waited_has_a_folder_although_the_first_removed_it(
    other_process: subprocess.Popen[str], root: Path
) -> None:
    waiting = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with waiting:
        assert waiting.stdout
        assert waiting.stdout.readline() == "asks\n"
        time.sleep(0.3)  # now it waits for the lock
        assert other_process.communicate("go on\n", timeout=300)[0] == "done\n"
        assert waiting.communicate("go on\n", timeout=300)[0] == "held\ndone\n"
    assert waiting.returncode == 0
    assert not (root / "abc").exists()


def checkpoint(folder: Path, step: int, *, complete: bool) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "model.safetensors").touch()
    if complete:
        (path / checkpoints.COMPLETE).touch()
    return path


def test_the_newest_complete_checkpoint_is_found_by_its_number(tmp_path: Path) -> None:
    for step in (20, 100, 9):
        checkpoint(tmp_path, step, complete=True)
    (tmp_path / "runs").mkdir()
    assert checkpoints.latest(tmp_path) == tmp_path / "checkpoint-100"
    assert len(list(tmp_path.iterdir())) == 4


def test_incomplete_checkpoints_are_removed(tmp_path: Path) -> None:
    complete = checkpoint(tmp_path, 20, complete=True)
    checkpoint(tmp_path, 10, complete=False)
    checkpoint(tmp_path, 30, complete=False)
    assert checkpoints.latest(tmp_path) == complete
    assert list(tmp_path.iterdir()) == [complete]


def test_without_a_complete_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert checkpoints.latest(tmp_path) is None
    checkpoint(tmp_path, 10, complete=False)
    assert checkpoints.latest(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    shutil.rmtree(tmp_path)
    assert checkpoints.latest(tmp_path) is None
