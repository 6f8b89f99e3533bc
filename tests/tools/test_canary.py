"""The check of a deployment, against real services: the right one, another one, none, and one that breaks meanwhile."""

import dataclasses
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve import keys
from tests.support.clones import commit, run, wait_for
from tests.support.serving import SECONDS, Running, predict, serving
from tools import canary
from tweets.errors import UserError

# With the tests that need the same clone and run services too.
pytestmark = [pytest.mark.walk, pytest.mark.xdist_group("serve_process")]

VERSION = "v1.1.0"


def head(folder: Path) -> str:
    return run(folder, "git", "rev-parse", "HEAD").stdout.strip()


@pytest.fixture(scope="module")
def service(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("canary")
    with serving(reproduced / "models/onnx", place, commit=head(reproduced), version=VERSION) as running:
        yield running


@pytest.fixture(autouse=True)
def here(reproduced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in the clone that the service was made of, and give up at once."""
    monkeypatch.chdir(reproduced)
    monkeypatch.setattr(canary, "PATIENCE", 0.0)
    monkeypatch.setattr(canary, "INTERVAL", 0.1)


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["canary", *arguments])
    canary.main()


def test_the_right_service_passes_and_goes_on_passing(
    service: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(monkeypatch, service.url, "--seconds", "0.5", "--version", VERSION)
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"canary: {service.url}: version {VERSION}, commit {head(Path())[:12]}, 3 texts as exported"
    assert second.startswith(f"canary: {service.url}: 5 requests in 0.5 s, 0 failed; up to ")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"commit": "0" * 40}, "another model: commit {commit}, needs " + "0" * 40),
        ({"version": "v1", "md5": "0.dir"}, "another model: model {md5}, needs 0.dir; version v1.1.0, needs v1"),
        ({"probabilities": [[0.5, 0.25, 0.25]] * 3}, "/predict: a probability differs by 0."),
        ({"probabilities": [[0.5, 0.5]] * 3}, "/predict: not a prediction for each of 3 texts"),
        ({"probabilities": [[float("nan")] * 3] * 3}, "/predict: a probability differs by nan, 0.05 is allowed"),
    ],
)
def test_another_model_is_told(service: Running, changed: dict[str, Any], message: str) -> None:
    true = canary.expected(VERSION)
    wanted = dataclasses.replace(true, **changed)
    with pytest.raises(UserError) as caught:
        canary.check(canary.Client(service.url), wanted)
    assert message.format(commit=true.commit, md5=true.md5) in str(caught.value)


def test_a_service_with_keys_wants_one(reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(reproduced / "models/onnx", tmp_path, commit=head(reproduced), api_keys=keys.hashed("k")) as running:
        with pytest.raises(UserError, match=r"/predict: 401: .*no key"):
            main(monkeypatch, running.url)
        monkeypatch.setenv("CANARY_KEY", "k")
        main(monkeypatch, running.url)
        running.process.kill()
        running.process.wait()
        with pytest.raises(UserError, match=r"3 of 3 requests failed, the last one so: .*/model: no answer"):
            canary.watch(canary.Client(running.url, "k"), canary.expected(), 20)


def test_errors_of_others_count_too(reproduced: Path, tmp_path: Path) -> None:
    with serving(reproduced / "models/onnx", tmp_path, commit=head(reproduced), max_requests=1) as running:
        with socket.create_connection(("127.0.0.1", running.port)) as held:
            held.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{")
            wait_for(lambda: predict(running.url, "a").status_code == 503, SECONDS)
            assert [predict(running.url, "a").status_code for _ in range(2)] == [503, 503]
        wait_for(lambda: predict(running.url, "a").ok, SECONDS)
        with pytest.raises(UserError, match=r"[3-9] of the \d+ requests of an instance ended in its error"):
            canary.watch(canary.Client(running.url), canary.expected(), 2)


@pytest.mark.parametrize(("failed", "asked", "bad"), [(2, 2, False), (3, 299, True), (3, 300, False), (4, 300, True)])
def test_few_errors_are_no_rate(failed: int, asked: int, bad: bool) -> None:
    assert canary.too_many(failed, asked) is bad


class Page(http.server.BaseHTTPRequestHandler):
    """Another service, that answers everything with what `content` holds."""

    content = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "/model: the answer is not JSON, so this is not the service"),
        (b"[]", "/model: says nothing of commit, lock and version"),
        (b'{"commit": "", "lock": {}}', "/model: says nothing of commit, lock and version"),
    ],
)
def test_what_is_not_the_service_is_told(content: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Other", (Page,), {"content": content})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match=message):
            main(monkeypatch, f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()


def test_an_address_where_nobody_answers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match="/v2/health/ready: no answer"):
            main(monkeypatch, f"http://127.0.0.1:{nobody.getsockname()[1]}")


def test_a_checkout_without_the_model_says_what_to_do(
    reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(tmp_path, "init", "-q")
    (tmp_path / "dvc.lock").write_bytes((reproduced / "dvc.lock").read_bytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"models/onnx/examples.json is not there; `dvc pull models/onnx` or"):
        canary.expected()
    (tmp_path / "dvc.lock").write_text("stages: {}\n")
    with pytest.raises(UserError, match=r"dvc.lock has no models/onnx; "):
        canary.expected()
