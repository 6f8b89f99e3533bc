"""A stage ends when the process that started it is gone. The processes are real, and killed for real."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.clones import ROOT
from tweets import orphan

MESSAGE = "the dvc that started this stage is gone: ending; `dvc repro` goes on from the checkpoint\n"
STAGE = """
import os, sys, time
from pathlib import Path
from tweets import orphan
orphan.SECONDS_BETWEEN_LOOKS = 0.05
orphan.end_with_parent()
Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(30)
"""
# Starts its arguments and waits for them, as DVC does.
STARTER = "import subprocess, sys; subprocess.run(sys.argv[1:], check=False)"


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Tell whether the condition became true within some seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Tree:
    """A starter, and the stage that it started, directly or through a shell."""

    def __init__(self, folder: Path, *, shell: bool, environment: dict[str, str], stderr: int | None = None) -> None:
        self.errors, note = folder / "stderr", folder / "pid"
        stage = [sys.executable, "-c", STAGE, str(note)]
        # `; true` keeps the shell from becoming the stage.
        command = ["sh", "-c", shlex.join(stage) + "; true"] if shell else stage
        with self.errors.open("w") as errors:
            self.starter = subprocess.Popen(
                [sys.executable, "-c", STARTER, *command],
                cwd=ROOT,
                env={**{name: value for name, value in os.environ.items() if name != "DVC_STAGE"}, **environment},
                stderr=errors if stderr is None else stderr,
                start_new_session=True,
            )
        assert wait_until(lambda: note.exists() and note.read_text() != "", 20)
        self.stage = int(note.read_text())

    def kill(self) -> None:
        self.starter.kill()
        self.starter.wait()


@pytest.fixture
def trees() -> Iterator[list[Tree]]:
    """Trees whose processes are ended after the test, whatever they still do."""
    made: list[Tree] = []
    yield made
    for tree in made:
        for pid in (tree.starter.pid, tree.stage):
            if runs(pid):
                os.kill(pid, signal.SIGKILL)
        tree.starter.wait()


@pytest.mark.parametrize("shell", [False, True], ids=["directly", "through a shell"])
def test_a_stage_ends_soon_after_its_dvc_was_killed(tmp_path: Path, trees: list[Tree], shell: bool) -> None:
    tree = Tree(tmp_path, shell=shell, environment={"DVC_STAGE": "train"})
    trees.append(tree)
    parents = [parent.pid for parent in psutil.Process(tree.stage).parents()]
    assert parents[int(shell)] == tree.starter.pid
    assert runs(tree.stage)
    tree.kill()
    assert wait_until(lambda: not runs(tree.stage))
    assert tree.errors.read_text() == MESSAGE


def test_a_stage_ends_when_only_the_shell_between_is_killed(tmp_path: Path, trees: list[Tree]) -> None:
    tree = Tree(tmp_path, shell=True, environment={"DVC_STAGE": "train"})
    trees.append(tree)
    os.kill(psutil.Process(tree.stage).ppid(), signal.SIGKILL)
    assert wait_until(lambda: not runs(tree.stage))


def test_a_stage_goes_on_while_its_dvc_lives(tmp_path: Path, trees: list[Tree]) -> None:
    tree = Tree(tmp_path, shell=True, environment={"DVC_STAGE": "train"})
    trees.append(tree)
    time.sleep(0.5)  # ten looks
    assert runs(tree.stage)
    assert tree.errors.read_text() == ""


def test_a_process_that_dvc_did_not_start_outlives_its_parent(tmp_path: Path, trees: list[Tree]) -> None:
    tree = Tree(tmp_path, shell=False, environment={})
    trees.append(tree)
    tree.kill()
    time.sleep(0.5)
    assert runs(tree.stage)


def test_a_stage_whose_dvc_was_killed_before_it_looked_ends_at_once(tmp_path: Path) -> None:
    note, errors = tmp_path / "pid", tmp_path / "stderr"
    stage = shlex.join([sys.executable, "-c", STAGE, str(note)])
    # The shell goes at once, and init adopts the stage while that still starts.
    subprocess.run(
        ["sh", "-c", f"{stage} 2>{shlex.quote(str(errors))} &"],
        cwd=ROOT,
        env={**os.environ, "DVC_STAGE": "train"},
        check=True,
    )
    assert wait_until(lambda: errors.exists() and errors.read_text() == MESSAGE)
    assert not note.exists()


def test_without_dvc_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    before = threading.active_count()
    orphan.end_with_parent()
    assert threading.active_count() == before


def test_the_shells_between_are_watched_and_the_first_that_is_none() -> None:
    script = f"{shlex.quote(sys.executable)} -c 'print(1, flush=True); input()'; true"
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout
        assert shell.stdout.readline() == "1\n"
        [stage] = psutil.Process(shell.pid).children()
        assert [process.pid for process in orphan._dvc(stage)] == [shell.pid, os.getpid()]
        shell.communicate("\n")


def test_a_process_without_parents_has_nothing_to_watch() -> None:
    assert orphan._dvc(psutil.Process(min(psutil.pids()))) == []


def test_a_stage_ends_although_its_stderr_went_with_dvc(tmp_path: Path, trees: list[Tree]) -> None:
    read, write = os.pipe()
    os.close(read)
    tree = Tree(tmp_path, shell=False, environment={"DVC_STAGE": "train"}, stderr=write)
    os.close(write)
    trees.append(tree)
    assert runs(tree.stage)
    tree.kill()
    assert wait_until(lambda: not runs(tree.stage))


def test_a_stage_ends_although_its_dvc_was_killed_between_two_questions() -> None:
    program = """
import subprocess, sys, threading, time
import psutil
from tweets import orphan

class KilledBetweenTwoQuestions(psutil.Process):
    def is_running(self):
        child.kill()
        child.wait()
        return True

child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
watched = [KilledBetweenTwoQuestions(child.pid)]
threading.Thread(target=orphan._watch, args=(watched,), daemon=True).start()
time.sleep(5)
print("went on")
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert (result.returncode, result.stdout) == (1, "")
