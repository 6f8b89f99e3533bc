"""How a command ends: quietly, or with one line on stderr and exit code 1."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors

from tests.support.clones import ROOT, run
from tweets import command
from tweets.errors import UserError


def raising(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


def exit_message(error: BaseException) -> str:
    """Return what the process would print and exit with 1 when `main` raises the error."""
    with pytest.raises(SystemExit) as raised:
        command.run("fetch", raising(error))
    assert isinstance(raised.value.code, str)
    return raised.value.code


def test_a_command_that_ends_well_is_left_alone() -> None:
    called = []
    command.run("fetch", lambda: called.append("main"))
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
        command.run("fetch", raising(error))


def test_a_users_error_is_a_value_error() -> None:
    assert issubclass(UserError, ValueError)


def test_a_process_ends_with_code_1_and_the_line_on_stderr(tmp_path: Path) -> None:
    program = (
        f"from tweets import command, files; command.run('read', lambda: files.sha256(files.Path({str(tmp_path)!r})))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"read: [Errno 21] Is a directory: '{tmp_path}'\n"


def test_what_a_terminal_cannot_show_ends_no_command() -> None:
    program = "from tweets import command; command.run('show', lambda: print('caf\\xe9 \\U0001f600'))"
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, b"caf\\xe9 \\U0001f600\n"), result.stderr


COMMANDS = {
    path.relative_to(ROOT).as_posix(): text
    for room in ("stages", "tweets", "serve", "repository", "runner", "tools", "benchmarks")
    for path in sorted((ROOT / room).rglob("*.py"))
    if '__name__ == "__main__"' in (text := path.read_text())
}


@pytest.mark.parametrize("path", COMMANDS)
def test_each_command_answers_help_and_refuses_what_it_does_not_know(path: str) -> None:
    takes_nothing = re.search(r'^    command\.run\("[a-z]+", main, __doc__\)$', COMMANDS[path], re.MULTILINE)
    takes_arguments = re.search(r"command\.parser\(__doc__\)", COMMANDS[path])
    assert bool(takes_nothing) != bool(takes_arguments)


@pytest.mark.parametrize("module", ["serve.keys", "stages.fetch", "repository.declared"])
def test_help_starts_nothing(module: str, tmp_path: Path) -> None:
    shown = run(ROOT, "python", "-m", module, "--help").stdout
    assert shown.startswith(f"usage: python -m {module} [-h]")
    assert f"    python -m {module}" in shown  # the docstring
    refused = run(ROOT, "python", "-m", module, "--nonsense", check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.endswith("error: unrecognized arguments: --nonsense\n")
