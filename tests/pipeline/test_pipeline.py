"""The real dvc.yaml, run by the real `dvc`, shrunk by params, in a temporary clone."""

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from dvc.repo import Repo

from repository import declared
from tests.support.clones import ENVIRONMENT, ROOT, STAGES, run, stages_run, wait_for
from tests.support.made_up import set_param

pytestmark = pytest.mark.walk


def test_a_second_repro_runs_nothing(reproduced: Path) -> None:
    result = run(reproduced, "dvc", "repro")
    assert stages_run(result) == []
    assert "up to date" in result.stdout


def test_a_reproduction_leaves_git_clean(reproduced: Path) -> None:
    assert run(reproduced, "git", "status", "--porcelain").stdout == ""


def test_a_changed_comment_in_an_unrelated_file_runs_nothing(clone: Path) -> None:
    for name in ("README.md", "Makefile", "tests/conftest.py", "tools/compare.py", "tweets/predict.py"):
        with (clone / name).open("a") as file:
            file.write("\n# a comment\n")
    assert stages_run(run(clone, "dvc", "repro")) == []


def test_a_changed_module_makes_stale_exactly_the_stages_that_reach_it(clone: Path) -> None:
    # One module for each set of stages that reach it: dvc.yaml declares the others alike (see test_dvc_yaml.py).
    code = {stage: declared.code(stage, ROOT) for stage in STAGES}
    reached_by = {
        frozenset(stage for stage in STAGES if module in code[stage]): module
        for folder in ("stages", "tweets")
        for module in sorted(path.relative_to(clone).as_posix() for path in clone.glob(f"{folder}/*.py"))
    }
    assert len(reached_by) > 9
    for module in reached_by.values():
        path = clone / module
        before = path.read_text()
        path.write_text(before + "\n# a comment\n")
        with Repo(str(clone)) as repo:
            status = repo.status()
        changed = {name.split(":")[-1] for name, reasons in status.items() if module in str(reasons)}
        assert changed == {stage for stage in STAGES if module in code[stage]}, module
        path.write_text(before)


def test_a_changed_module_runs_the_stages_that_reach_it(clone: Path) -> None:
    with (clone / "tweets/data/duplicates.py").open("a") as file:
        file.write("\n# a comment\n")
    assert stages_run(run(clone, "dvc", "repro")) == ["prepare"]  # and none after it, since its outputs are the same


def test_other_weights_of_a_local_encoder_are_trained(clone: Path) -> None:
    weights = clone / "encoder/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")  # of the last number, the sign and the exponent
    assert stages_run(run(clone, "dvc", "repro", "train")) == ["featurize", "train"]


def test_a_cleaning_step_keeps_every_split_and_shows_its_cost(clone: Path) -> None:
    before = json.loads((clone / "metrics/prepare.json").read_text())
    result = run(clone, "dvc", "exp", "run", "-S", "prepare.clean.stopwords=true", "prepare")
    assert stages_run(result) == ["prepare"]
    assert json.loads((clone / "metrics/prepare.json").read_text()) == before
    assert "prepare.clean.stopwords" in run(clone, "dvc", "params", "diff").stdout


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("dvc dag", "evaluate"),
        ("dvc metrics show", "macro_f1"),
        ("dvc exp show --no-pager", "workspace"),
        ("dvc plots show", "index.html"),
    ],
)
def test_a_fresh_clone_shows_what_is_in_git(reproduced: Path, tmp_path: Path, command: str, expected: str) -> None:
    run(tmp_path, "git", "clone", "-q", str(reproduced), "fresh")
    assert expected in run(tmp_path / "fresh", *command.split()).stdout


def test_a_fresh_clone_shows_which_param_was_changed(reproduced: Path, tmp_path: Path) -> None:
    run(tmp_path, "git", "clone", "-q", str(reproduced), "fresh")
    assert run(tmp_path / "fresh", "dvc", "params", "diff").stdout == ""
    set_param(tmp_path / "fresh", "train.lr", 0.1)
    assert re.search(r"train\.lr +0\.003 +0\.1\b", run(tmp_path / "fresh", "dvc", "params", "diff").stdout)


def test_the_plots_page_draws_each_plot_and_asks_no_network(reproduced: Path) -> None:
    run(reproduced, "dvc", "plots", "show", "--out", ".cache/page")
    page = (reproduced / ".cache/page/index.html").read_text()
    outside = re.findall(r"<(?:script|link|img)[^>]*(?:src|href)\s*=\s*[\"']?(?:https?:)?//[^>]*", page)
    assert outside == []
    plots = [
        plot
        for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
        for plot in stage.get("plots", [])
    ]
    assert page.count("vegaEmbed('#") == len(plots) == 7


def test_dvc_of_an_environment_that_is_not_active_says_what_to_do(clone: Path, tmp_path: Path) -> None:
    other = tmp_path / "bin"
    run(tmp_path, sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "other"))
    other.mkdir()
    (other / "python").symlink_to(tmp_path / "other/bin/python")
    set_param(clone, "prepare.seed", 1)
    result = run(clone, str(Path(sys.executable).parent / "dvc"), "repro", check=False, PATH=f"{other}:/usr/bin:/bin")
    assert result.returncode != 0
    assert "source .venv/bin/activate" in result.stderr
    assert "Traceback" not in result.stderr


def training(folder: Path) -> list[psutil.Process]:
    """Return the processes that run stages.train in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if "stages.train" in process.cmdline() and process.cwd() == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def long_training(clone: Path) -> Iterator[Path]:
    """A clone whose training takes some seconds and is not stopped early."""
    for name, value in {"epochs": 20, "patience": 1000, "evaluations": 20, "lr": 0.0005}.items():
        set_param(clone, f"train.{name}", value)
    yield clone
    for process in training(clone):
        process.kill()


def test_a_run_whose_dvc_is_killed_three_times_ends_with_the_same_bytes(long_training: Path, tmp_path: Path) -> None:
    uninterrupted = shutil.copytree(long_training, tmp_path / "uninterrupted", symlinks=True)
    run(uninterrupted, "dvc", "repro", "train")
    rng = random.Random(0)
    steps: set[int] = set()
    for _ in range(3):
        started = subprocess.Popen(
            ["dvc", "repro", "train"],
            cwd=long_training,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        known = set(steps)

        def new_checkpoint(known: set[int] = known) -> bool:
            found = {
                int(p.parent.name.split("-")[1]) for p in long_training.glob(".cache/train/*/checkpoint-*/complete")
            }
            steps.update(found)
            return bool(found - known)

        wait_for(new_checkpoint, 300)
        time.sleep(rng.random())
        started.send_signal(signal.SIGKILL)
        started.wait()
        assert started.stdout
        started.stdout.close()
    result = run(long_training, "dvc", "repro", "train")
    assert "going on from step" in result.stdout
    assert training(long_training) == []
    assert (long_training / "dvc.lock").read_text() == (uninterrupted / "dvc.lock").read_text()
    assert list(long_training.glob(".cache/train/*/checkpoint-*")) == []
