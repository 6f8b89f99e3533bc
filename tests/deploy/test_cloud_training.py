"""The training job's own commands, in a folder like the image's, against a real bucket on loopback."""

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.clones import ENVIRONMENT, ROOT, commit, run, stages_run
from tests.support.made_up import set_param

pytestmark = pytest.mark.walk


def test_what_a_job_makes_waits_in_the_bucket_for_whoever_reproduces_the_same(shared: Path, tmp_path: Path) -> None:
    # It changes models/onnx and leaves the metrics: DVC sends no output that it does not cache.
    set_param(shared, "export.false_alarms", 0.02)
    commit(shared, "commit", "--quiet", "--all", "--message", "A variant")
    job = tmp_path / "image"  # has no Git, no cache and no outputs
    job.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=shared, capture_output=True, check=True).stdout
    subprocess.run(["tar", "--extract"], cwd=job, input=archive, check=True)
    config = (shared / ".dvc/config.local").read_text()
    (job / ".dvc/config.local").write_text(config.replace("[core]\n", "[core]\n    no_scm = true\n"))
    [pool] = yaml.safe_load((ROOT / "deploy/job.yaml").read_text())["workerPoolSpecs"]
    command = [*pool["containerSpec"]["command"], *pool["containerSpec"]["args"]]
    done = subprocess.run(command, cwd=job, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert stages_run(done) == ["export"]
    run(shared, "dvc", "fetch", "--run-cache")
    assert stages_run(run(shared, "dvc", "repro", "--pull")) == []
    for name in ("dvc.lock", "metrics/export.json"):
        assert (shared / name).read_bytes() == (job / name).read_bytes()
    assert (shared / "models/onnx/checksums.json").read_bytes() == (job / "models/onnx/checksums.json").read_bytes()
