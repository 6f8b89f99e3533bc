"""Pushing and pulling when something is wrong: one clear line, a non-zero exit, and nothing lost."""

import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.clones import BUCKET, ENVIRONMENT, point_at, run

pytestmark = pytest.mark.walk


def remote(folder: Path, action: str, **changed: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "python", "-m", "tools.remote", action, check=False, **changed)


def fails_in_one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert [word for word in words if word not in result.stderr] == [], result.stderr


def clone_without_data(folder: Path, into: Path) -> Path:
    """Return a Git clone of a clone, with its remote and without its cache."""
    run(into, "git", "clone", "-q", str(folder), "b")
    shutil.copy(folder / ".dvc/config.local", into / "b/.dvc/config.local")
    return into / "b"


@contextmanager
def cut_after(endpoint: str, megabytes: float) -> Iterator[str]:
    """Yield the address of a proxy that dies for good when so much has gone through it, in both directions together."""
    parts = urlsplit(endpoint)
    listening = socket.create_server(("127.0.0.1", 0))
    left, lock = [megabytes * 1e6], threading.Lock()
    open_sockets: list[socket.socket] = []

    def die() -> None:
        for opened in [listening, *open_sockets]:
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()

    def carry(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(4096):
                with lock:
                    left[0] -= len(data)
                    if left[0] < 0:
                        return die()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                near, _ = listening.accept()
                far = socket.create_connection((parts.hostname, parts.port))
            except OSError:
                return
            open_sockets.extend((near, far))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=carry, args=pair, daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        die()
        thread.join(5)


def test_what_is_pushed_with_the_run_cache_spares_another_clone_the_training(shared: Path, tmp_path: Path) -> None:
    run(shared, "dvc", "exp", "run", "-S", "train.seed=1", "train")
    assert remote(shared, "push").returncode == 0
    run(shared, "git", "stash", "-q")  # b gets neither the lock of that experiment nor its params
    b = clone_without_data(shared, tmp_path)
    assert remote(b, "pull").returncode == 0
    assert "Running stage" not in run(b, "dvc", "exp", "run", "--pull", "-S", "train.seed=1", "train").stdout
    run(shared, "git", "stash", "pop")
    assert (b / "metrics/train.json").read_bytes() == (shared / "metrics/train.json").read_bytes()


def test_no_bucket(clone: Path, bucket: str) -> None:
    point_at(clone, bucket, url="gs://nobody-has-this/prefix")
    for action in ("push", "pull"):
        fails_in_one_line(remote(clone, action), "there is no bucket nobody-has-this", ".dvc/config")


def test_no_remote(clone: Path) -> None:
    fails_in_one_line(remote(clone, "push"), "no default remote", "`make gcs`", "dvc remote default gcs`")


def test_a_fresh_clone_asks_no_bucket_that_its_user_has_not_named(clone: Path) -> None:
    """The remote of .dvc/config is an example: what DVC would ask of it goes to a listener on this machine here."""
    fresh = clone.parent / "fresh"
    run(clone, "git", "clone", "-q", ".", str(fresh))
    shutil.copy(clone / "data/external/tweets.csv", fresh / "data/external")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        (fresh / ".dvc/config.local").write_text(f"['remote \"gcs\"']\n    endpointurl = {endpoint}\n")
        run(fresh, "dvc", "status")
        assert "missing-files" in run(fresh, "dvc", "pull", check=False).stderr
        run(fresh, "dvc", "repro", "fetch")
        run(fresh, "dvc", "exp", "run", "-S", "fetch.max_chars=9999", "fetch")
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such key file"),
        ("not JSON", "not a key file"),
        ("[]", "not a key file"),
        ('{"type": "service_account"}', "missing fields"),
        ('{"type": "invoice"}', "its type is 'invoice'"),
    ],
)
def test_a_wrong_key_file(clone: Path, bucket: str, content: str | None, words: str) -> None:
    key = clone / ".cache/key.json"
    if content:
        key.write_text(content)
    point_at(clone, bucket, allow_anonymous_login="false")
    fails_in_one_line(remote(clone, "push", GOOGLE_APPLICATION_CREDENTIALS=str(key)), words, "GOOGLE_APPLICATION_CRED")
    point_at(clone, bucket, allow_anonymous_login="false", credentialpath=str(key))
    fails_in_one_line(remote(clone, "push"), words, "credentialpath in .dvc/config.local")


def test_a_key_file_that_is_not_used_is_not_looked_at(shared: Path) -> None:
    assert remote(shared, "pull", GOOGLE_APPLICATION_CREDENTIALS="nowhere.json").returncode == 0


def test_the_bucket_of_the_example_is_asked_nothing(clone: Path) -> None:
    run(clone, "dvc", "remote", "default", "--local", "gcs")
    fails_in_one_line(remote(clone, "push"), "an example", "make gcs", "gs://your-bucket/prefix")


# As https://cloud.google.com/storage/docs/json_api/v1/status-codes documents the service's answers.
REFUSALS = {
    401: "Anonymous caller does not have storage.objects.list access to the Google Cloud Storage bucket.",
    403: "someone@example.org does not have storage.objects.list access to the Google Cloud Storage bucket.",
}


@pytest.mark.parametrize(
    ("code", "needed"), [(401, "gcloud auth application-default login"), (403, "the role Storage")]
)
def test_no_permission(clone: Path, code: int, needed: str) -> None:
    answer = json.dumps({"error": {"code": code, "message": REFUSALS[code], "errors": []}}).encode()

    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        point_at(clone, f"http://127.0.0.1:{server.server_port}")
        fails_in_one_line(remote(clone, "push"), needed, f"gs://{BUCKET}")
        server.shutdown()


def test_a_remote_that_is_down_before(clone: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    point_at(clone, nobody)
    for action in ("push", "pull"):
        fails_in_one_line(remote(clone, action), f"no answer from {nobody}", "make gcs")


def test_a_remote_that_goes_down_during_push_and_pull_and_comes_back(shared: Path, bucket: str, tmp_path: Path) -> None:
    """Both at once, since the client takes half a minute to give up."""
    b = clone_without_data(shared, tmp_path)
    with cut_after(bucket, 2) as to_pull, cut_after(bucket, 2) as to_push:
        point_at(shared, to_push, "halfway")
        settings = (b / ".dvc/config.local").read_text()
        (b / ".dvc/config.local").write_text(settings.replace(bucket, to_pull))
        command = ["python", "-m", "tools.remote"]
        started = [
            subprocess.Popen([*command, action], cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
            for folder, action in ((shared, "push"), (b, "pull"))
        ]
        for process in started:
            _, said = process.communicate(timeout=600)
            assert process.returncode == 1
            assert "Traceback" not in said
            assert "no answer from" in said.splitlines()[-1]
    assert run(shared, "dvc", "status").stdout.startswith("Data and pipelines are up to date")
    point_at(shared, bucket, "halfway")
    (b / ".dvc/config.local").write_text(settings)
    assert remote(shared, "push").returncode == 0
    assert "OK" in run(shared, "python", "-m", "tools.verify").stdout
    assert remote(b, "pull").returncode == 0
    assert run(b, "dvc", "status").stdout.startswith("Data and pipelines are up to date")


def test_two_pushes_at_once_end_well(clone: Path, bucket: str, tmp_path: Path) -> None:
    point_at(clone, bucket, "at-once")
    other = shutil.copytree(clone, tmp_path / "other", symlinks=True)
    command = ["python", "-m", "tools.remote", "push"]
    started = [subprocess.Popen(command, cwd=folder, env=ENVIRONMENT) for folder in (clone, other)]
    assert [process.wait(200) for process in started] == [0, 0]
    assert "OK" in run(clone, "python", "-m", "tools.verify").stdout


FULL_DISK = """
mkdir -p .dvc/cache && mount -t tmpfs -o size=1m tmpfs .dvc/cache || exit 99
exec python -m tools.remote pull
"""


def test_a_full_disk_during_pull(shared: Path, tmp_path: Path) -> None:
    b = clone_without_data(shared, tmp_path)
    way = [] if os.geteuid() == 0 else ["--map-root-user"]
    result = run(b, "unshare", *way, "--mount", "sh", "-c", FULL_DISK, check=False)
    if result.returncode == 99:
        pytest.skip("may not mount")
    assert result.returncode not in (0, 99)
    assert "No space left on device" in result.stderr
    assert "Traceback" not in result.stderr
    assert remote(b, "pull").returncode == 0
    assert run(b, "dvc", "status").stdout.startswith("Data and pipelines are up to date")
