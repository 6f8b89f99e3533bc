"""A bucket on this machine: fake-gcs-server, started and stopped by the commands that a user has."""

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.clones import BUCKET, ROOT, empty_repository, run, wait_for

pytestmark = pytest.mark.walk


def gcs(folder: Path, action: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run(folder, "python", "-m", "tools.gcs", action, check=check)


def server(folder: Path) -> dict[str, str | int]:
    found: dict[str, str | int] = json.loads((folder / ".cache/gcs/server.json").read_text())
    return found


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Path]:
    """A DVC repository whose server ends with the test."""
    empty_repository(tmp_path)
    yield tmp_path
    shutil.copy(ROOT / ".dvc/config", tmp_path / ".dvc/config")
    gcs(tmp_path, "stop")


def pushed(folder: Path, name: str) -> str:
    (folder / name).write_text(name)
    run(folder, "dvc", "add", "-q", name)
    return run(folder, "dvc", "push").stdout


def test_what_is_pushed_outlives_the_server_and_is_pulled_again(repository: Path) -> None:
    assert f"gs://{BUCKET} at http://127.0.0.1:" in gcs(repository, "start").stdout
    assert "1 file pushed" in pushed(repository, "one")
    before = server(repository)
    assert "stopped" in gcs(repository, "stop").stdout
    assert not psutil.pid_exists(int(before["pid"]))
    assert "remote" not in (repository / ".dvc/config.local").read_text()
    gcs(repository, "start")
    assert server(repository)["url"] == before["url"]  # which other clones may have been told
    shutil.rmtree(repository / ".dvc/cache")
    (repository / "one").unlink()
    run(repository, "dvc", "pull")
    assert (repository / "one").read_text() == "one"


def test_a_server_that_runs_is_not_started_again(repository: Path) -> None:
    first = gcs(repository, "start").stdout
    before = server(repository)
    assert gcs(repository, "start").stdout == first
    assert server(repository) == before


def test_a_killed_server_is_started_anew(repository: Path) -> None:
    gcs(repository, "start")
    before = server(repository)
    os.kill(int(before["pid"]), signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(int(before["pid"])), 300)
    gcs(repository, "start")
    assert server(repository)["pid"] != before["pid"]
    assert "1 file pushed" in pushed(repository, "one")


def test_a_port_that_somebody_has_taken_meanwhile_is_left_to_them(repository: Path) -> None:
    gcs(repository, "start")
    url = str(server(repository)["url"])
    gcs(repository, "stop")
    with socket.create_server(("127.0.0.1", int(url.rsplit(":", 1)[1]))):
        gcs(repository, "start")
        assert server(repository)["url"] != url


def test_other_local_settings_are_kept(repository: Path) -> None:
    run(repository, "dvc", "remote", "modify", "--local", "gcs", "jobs", "3")
    gcs(repository, "start")
    gcs(repository, "stop")
    assert run(repository, "dvc", "config", "--local", "remote.gcs.jobs").stdout.strip() == "3"
    assert "endpointurl" not in (repository / ".dvc/config.local").read_text()


def test_stop_without_a_server_says_so(repository: Path) -> None:
    assert "was not running" in gcs(repository, "stop").stdout


def refused(folder: Path, url: str) -> str:
    """Return the one line with which a start for a remote at this URL ends."""
    run(folder, "dvc", "remote", "modify", "gcs", "url", url)
    result = gcs(folder, "start", check=False)
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    return line


def test_a_remote_elsewhere_is_refused(repository: Path) -> None:
    assert "needs one at gs://bucket/prefix" in refused(repository, "s3://elsewhere/prefix")


def test_a_bucket_name_that_the_server_refuses_leaves_no_server(repository: Path) -> None:
    assert "refuses the bucket" in refused(repository, "gs://Not_A!Bucket/prefix")
    assert not (repository / ".cache/gcs/server.json").exists()
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(repository) in " ".join(p.info["cmdline"] or [])]
