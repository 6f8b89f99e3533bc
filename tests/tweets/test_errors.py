"""How a command ends: quietly, or with one line on stderr and exit code 1."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors

from tests.support.clones import ROOT
from tweets import errors
from tweets.errors import UserError


def raising(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


def exit_message(error: BaseException) -> str:
    """Return what the process would print and exit with 1 when `main` raises the error."""
    with pytest.raises(SystemExit) as raised:
        errors.run("fetch", raising(error))
    assert isinstance(raised.value.code, str)
    return raised.value.code


def test_a_command_that_ends_well_is_left_alone() -> None:
    called = []
    errors.run("fetch", lambda: called.append("main"))
    assert called == ["main"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("params.yaml: no such file"), "fetch: params.yaml: no such file"),
        (UserError("two\n  lines\tand a tab "), "fetch: two lines and a tab"),
        (OSError(28, "No space left on device", "data/raw"), "fetch: [Errno 28] No space left on device: 'data/raw'"),
        (FileNotFoundError(2, "No such file or directory", "x"), "fetch: [Errno 2] No such file or directory: 'x'"),
        (PermissionError(), "fetch: PermissionError"),
        (safetensors.SafetensorError("header too large"), "fetch: header too large"),
        (KeyboardInterrupt(), "fetch: interrupted"),
    ],
)
def test_what_a_user_can_put_right_ends_in_one_line(error: BaseException, message: str) -> None:
    assert exit_message(error) == message


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("a bug"), RuntimeError("a bug")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error), match="a bug"):
        errors.run("fetch", raising(error))


def test_a_users_error_is_a_value_error() -> None:
    assert issubclass(UserError, ValueError)


def test_a_process_ends_with_code_1_and_the_line_on_stderr(tmp_path: Path) -> None:
    program = (
        f"from tweets import errors, files; errors.run('read', lambda: files.sha256(files.Path({str(tmp_path)!r})))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"read: [Errno 21] Is a directory: '{tmp_path}'\n"
