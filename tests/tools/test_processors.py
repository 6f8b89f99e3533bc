"""`python -m tools.processors`: other processors by QEMU and by CPUID, where this machine has them, and the table."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support import encoders
from tests.support.clones import ENVIRONMENT, ROOT, copy_of_this_tree, run, wait_for
from tests.support.made_up import set_param
from tools.processors import __main__ as processors
from tweets import files
from tweets.errors import UserError

SEEN = (
    "import numpy, torch; features = numpy._core._multiarray_umath.__cpu_features__;"
    "print(features['AVX2'], features['AVX512F'], torch.backends.cpu.get_cpu_capability())"
)


def start(by: str, name: str, folder: Path) -> str:
    """Return what starts a program as a processor; skip the test where this machine cannot."""
    try:
        processors.check_programs(by)
        return processors.started(by, name, folder)
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.walk
@pytest.mark.parametrize("by", ["cpuid", "qemu"])
def test_libraries_see_the_other_processor(by: str, tmp_path: Path) -> None:
    words = start(by, "EPYC", tmp_path)
    if by == "cpuid":
        first = run(tmp_path, "sh", "-c", f"{words} {tmp_path / 'cpuid'} | head -n 1").stdout
        assert first.split()[3:] == ["68747541", "444d4163", "69746e65"]  # AuthenticAMD
    seen = run(tmp_path, "sh", "-c", f'{words} {sys.executable} -c "{SEEN}"').stdout
    assert seen.split() == ["True", "False", "AVX2"]


@pytest.mark.walk
def test_a_processor_with_one_core_has_one(tmp_path: Path) -> None:
    code = "import os; print(len(os.sched_getaffinity(0)))"
    found = run(tmp_path, "sh", "-c", f'{start("cpuid", "one-core", tmp_path)} python -c "{code}"')
    assert found.stdout == "1\n"


@pytest.mark.walk
def test_an_error_of_a_program_as_another_processor_stays_one(tmp_path: Path) -> None:
    code = "import ctypes; ctypes.string_at(0)"
    found = run(tmp_path, "sh", "-c", f'{start("cpuid", "EPYC", tmp_path)} python -c "{code}"', check=False)
    assert found.returncode in (-signal.SIGSEGV, 128 + signal.SIGSEGV)


@pytest.mark.walk
@pytest.mark.parametrize("family", encoders.FAMILIES)
def test_each_family_learns_the_same_as_on_another_processor(family: str, ready: Path, tmp_path: Path) -> None:
    other = start("cpuid", "EPYC-Milan", tmp_path)
    encoders.write(family, ready / "encoder")
    for key, value in {"featurize.encoder": "encoder", "train.precision": "portable", "train.dropout": 0.1}.items():
        set_param(ready, key, value)
    run(ready, "python", "-m", "stages.featurize", PYTHONPATH=str(ROOT))
    found = []
    for words in ("", other):
        run(ready, "sh", "-c", f"{words} python -m stages.train", PYTHONPATH=str(ROOT))
        found.append(hashlib.sha256((ready / "models/transformer/model.safetensors").read_bytes()).hexdigest())
    assert found[0] == found[1]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with the tree of this one, as it is now."""
    (tmp_path / "tree").mkdir()
    copy_of_this_tree(tmp_path / "tree")
    return tmp_path / "tree"


@pytest.mark.walk
def test_the_pipeline_gives_the_same_bytes_on_another_processor(tree: Path, tmp_path: Path) -> None:
    start("cpuid", "one-core", tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    found = run(tree, "python", "-m", "tools.processors", "--by", "cpuid", "one-core", TMPDIR=str(temporary))
    lines = found.stdout.splitlines()
    assert lines[-1].endswith(" and as 1 other processor")
    stages = ["fetch", "prepare", "featurize", "baseline", "train", "evaluate", "export"]
    assert sorted(lines[-4].split()) == sorted(stages)
    assert lines[-3].removeprefix("this processor").split() == lines[-2].removeprefix("one-core").split()
    assert "*" not in lines[-2]
    for name in ("this processor", "one-core"):
        assert [line.split()[-4].strip(",") for line in lines if line.startswith(f"{name}: ")] == lines[-4].split()
    assert list(temporary.glob("processors-*")) == []


@pytest.mark.walk
def test_ctrl_c_leaves_nothing(tree: Path, tmp_path: Path) -> None:
    start("cpuid", "EPYC", tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "tools.processors", "--by", "cpuid", "EPYC"],
        cwd=tree,
        env={**ENVIRONMENT, "TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        wait_for(lambda: list(temporary.glob("processors-*/this processor/log.txt")), 120)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (1, "processors: interrupted\n")
    assert list(temporary.glob("processors-*")) == []


def lock(**changed: str) -> dict[str, Any]:
    outs = {"fetch": "1.dir", "train": "2.dir", **changed}
    return {"stages": {stage: {"outs": [{"path": f"of/{stage}", "md5": md5}]} for stage, md5 in outs.items()}}


def test_the_table_marks_what_differs() -> None:
    rows = {name: processors.hashes(found) for name, found in (("this processor", lock()), ("EPYC", lock(train="3")))}
    title, first, other = processors.table(rows).splitlines()
    assert title.split() == ["fetch", "train"]
    assert first.split()[-2:] == list(rows["this processor"].values())
    assert other.split() == ["EPYC", rows["this processor"]["fetch"], rows["EPYC"]["train"] + "*"]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Call the command's main() with arguments, on a machine that has all programs and a temporary folder."""
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["processors", *arguments])
        processors.main()

    return call


def test_other_bytes_are_an_error_and_stay(command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = {"this processor": processors.hashes(lock()), "EPYC": processors.hashes(lock(train="3")), "Haswell": {}}
    rows["Haswell"] = rows["this processor"]
    monkeypatch.setattr(processors, "run", lambda *_: rows)
    with pytest.raises(UserError, match="as EPYC; see ") as raised:
        command("EPYC", "Haswell")
    assert Path(str(raised.value).split()[-1]).parent == tmp_path
    assert len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_run_is_refused_in_one_line(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no processor 'Epyc'; there are Haswell, .*, EPYC, "):
        command("Epyc")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UserError, match="qemu-user and util-linux and gcc not installed: `sudo apt-get install qemu"):
        command("--by", "cpuid")


def test_a_failing_stage_is_named_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "clone").mkdir()
    with pytest.raises(UserError, match=r"EPYC: `dvc repro`: .*not inside of a DVC repository.*log.txt has the rest"):
        processors.reproduce("EPYC", "", tmp_path / "clone")


def test_the_workflow_runs_each_processor() -> None:
    workflow = files.read_yaml(ROOT / ".github/workflows/processors.yml")
    assert workflow["jobs"]["processors"]["strategy"]["matrix"]["processor"] == list(processors.PROCESSORS)
