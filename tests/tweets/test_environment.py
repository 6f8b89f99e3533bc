"""Nothing runs in an environment other than the one that decides the results."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.clones import ROOT
from tweets import environment
from tweets.errors import UserError


def requirements(folder: Path, text: str) -> Path:
    path = folder / "requirements.txt"
    path.write_text(text)
    return path


def installed(folder: Path, name: str, number: str) -> None:
    """Put a distribution of that name and version, without any module, into a folder."""
    info = folder / f"{name}-{number}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as raised:
        environment.check(path)
    return str(raised.value)


def test_this_environment_is_the_one_that_is_pinned() -> None:
    environment.check(ROOT / "requirements.txt")


def test_the_pins_are_those_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requirements(tmp_path, "no-such-package==1.0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="has no no-such-package, needs"):
        environment.check()


def test_pins_are_read_without_comments_and_blank_lines(tmp_path: Path) -> None:
    path = requirements(tmp_path, "# head\n\nnumpy==2.0 # why\n  dvc[gs]>=3\n")
    assert environment.pins(path) == [Requirement("numpy==2.0"), Requirement("dvc[gs]>=3")]


def test_every_requirement_is_pinned_to_one_version() -> None:
    assert [
        pin.name for pin in environment.pins(ROOT / "requirements.txt") if not str(pin.specifier).startswith("==")
    ] == []


def test_another_version_is_named_with_the_one_that_is_needed(tmp_path: Path) -> None:
    path = requirements(tmp_path, "numpy==0.1\n")
    assert refusal(path) == (
        f"{sys.executable} has numpy {version('numpy')}, needs ==0.1 ({path}): `make setup`, then"
        " `source .venv/bin/activate`, gives the environment that decides the results"
    )


def test_every_difference_is_named_and_nothing_that_fits(tmp_path: Path) -> None:
    path = requirements(tmp_path, f"no-such-package==1.0\nscipy=={version('scipy')}\npandas<1\n")
    assert refusal(path) == (
        f"{sys.executable} has no no-such-package, needs ==1.0, pandas {version('pandas')}, needs <1 ({path}):"
        " `make setup`, then `source .venv/bin/activate`, gives the environment that decides the results"
    )


def test_a_local_tag_is_no_difference_and_another_public_version_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, "made_up_library", "2.13.0+cpu")
    monkeypatch.syspath_prepend(tmp_path)
    assert version("made-up-library") == "2.13.0+cpu"
    environment.check(requirements(tmp_path, "made-up-library==2.13.0\n"))
    assert "has made-up-library 2.13.0, needs ==2.13.1 (" in refusal(
        requirements(tmp_path, "made-up-library==2.13.1\n")
    )


def test_a_missing_file_of_pins_says_where_to_run(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    assert refusal(path) == f"{path}: no such file; run this from the root of the repository"


@pytest.mark.parametrize("stage", ["fetch", "train"])
def test_a_stage_run_by_a_python_without_the_libraries_says_so_in_one_line(stage: str) -> None:
    # -S leaves out site-packages, and -E whatever PYTHONPATH adds.
    result = subprocess.run(
        [sys.executable, "-S", "-E", "-m", f"stages.{stage}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == (
        f"stages: `python` is {sys.executable} ({sys.version_info[0]}.{sys.version_info[1]}), which is not this"
        " project's environment: run `source .venv/bin/activate` first, or `make repro`, which does all of it\n"
    )
