"""The service as a process: its start, its signals, its log, and clients that behave badly."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests

from tests.support.clones import wait_for
from tests.support.serving import SECONDS, Running, command, ended, predict, serving
from tweets.model import exported

pytestmark = [pytest.mark.walk, pytest.mark.xdist_group("serve_process")]  # they share a service

TEXTS = ["great and wonderful", "awful, I hate it"] * 10


@pytest.fixture(scope="module")
def service(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("service")
    with serving(reproduced / "models/onnx", place, receive_timeout=1, max_body_bytes=100_000) as running:
        yield running


@pytest.mark.parametrize("name", [exported.MODEL, exported.TOKENIZER, exported.CHECKSUMS])
def test_a_harmed_model_is_not_served(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-2])
    assert name in ended(folder, tmp_path)


def test_without_a_model_it_says_what_to_do(tmp_path: Path) -> None:
    line = ended(tmp_path / "nowhere", tmp_path)
    assert line.startswith("serve: ")
    assert line.endswith("no checksums.json; `dvc repro` or `dvc pull` gives one")


def test_a_wrong_setting_ends_it(folder: Path, tmp_path: Path) -> None:
    assert ended(folder, tmp_path, port="http", prot=1).startswith("serve: TWEETS_PROT: unknown; known are ")


def test_a_port_in_use_is_named(folder: Path, tmp_path: Path, service: Running) -> None:
    expected = f"serve: 127.0.0.1:{service.port}: Address already in use (TWEETS_HOST, TWEETS_PORT)"
    assert ended(folder, tmp_path, port=service.port) == expected


def raw(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    """Send bytes, with pauses, until the service closes the connection; return what it answered."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            while received := connection.recv(65536):
                answer += received
        except (ConnectionError, BrokenPipeError):
            pass
    return answer


HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_a_client_that_sends_its_head_slowly_is_cut_off(service: Running) -> None:
    begin = time.monotonic()
    assert raw(service.port, b"GET / HTTP/1.1\r\nX-Slow: ", *[b"a"] * 30, pause=0.1) == b""
    assert 0.5 < time.monotonic() - begin < SECONDS / 2
    assert raw(service.port) == b""  # and one that sends nothing


def test_line_breaks_hold_no_connection(service: Running) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=SECONDS) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while not answer.endswith(b'{"live":true}'):
            answer += connection.recv(65536)
        begin = time.monotonic()
        connection.sendall(b"\r\n")
        assert connection.recv(65536) == b""
        assert 0.5 < time.monotonic() - begin < SECONDS / 2


def script_of(page: str) -> str:
    """Return the address of the largest file that /docs loads."""
    return str(re.findall(r'src="(/[^"]+bundle.js)"', page)[0])


def test_a_client_that_reads_no_answer_is_cut_off(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path, request_timeout=1) as running, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", running.port))
        script = next(
            iter(re.findall(r'src="(/[^"]+bundle.js)"', requests.get(f"{running.url}/docs", timeout=SECONDS).text))
        )
        connection.sendall(f"GET {script} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * 8)
        wait_for(lambda: not psutil.Process(running.process.pid).net_connections("tcp")[1:], SECONDS)
        assert "tweets_http_requests_in_progress 1.0" in metrics(running)  # that of the metrics


def test_a_client_that_reads_late_keeps_its_connection(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path, request_timeout=2) as running, requests.Session() as session:
        script = next(
            iter(re.findall(r'src="(/[^"]+bundle.js)"', session.get(f"{running.url}/docs", timeout=SECONDS).text))
        )
        answer = session.get(f"{running.url}{script}", stream=True, timeout=SECONDS)
        time.sleep(0.3)  # more than the socket holds waits to be sent
        assert len(answer.content) == int(answer.headers["Content-Length"]) > 1e6
        time.sleep(2.5)
        assert session.get(f"{running.url}/v2/health/live", timeout=SECONDS).ok
        connections = psutil.Process(running.process.pid).net_connections("tcp")
        assert sum(each.status == psutil.CONN_ESTABLISHED for each in connections) == 1  # all on the first one


def test_more_requests_than_it_takes_at_once_are_told(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path, max_requests=1) as running, socket.socket() as held:
        held.connect(("127.0.0.1", running.port))
        held.sendall(HEAD + b"Content-Length: 20\r\n\r\n{")
        wait_for(lambda: "tweets_http_requests_in_progress 2.0" in metrics(running), SECONDS)
        answer = predict(running.url, "a")
        assert answer.status_code == 503
        assert answer.json() == {"error": "busy: 1 requests are under way; try again in 1 s"}
        assert answer.headers["Retry-After"] == "1"
        assert answer.headers["X-Request-ID"]
        held.close()
        wait_for(lambda: predict(running.url, "a").ok, SECONDS)


def test_a_proxy_that_is_trusted_names_the_client(folder: Path, tmp_path: Path) -> None:
    headers = {"X-Forwarded-For": "203.0.113.7", "X-Request-ID": "through"}
    for trusted, client in (("127.0.0.0/8", "203.0.113.7"), ("10.0.0.0/8", "127.0.0.1"), ("", "127.0.0.1")):
        with serving(folder, tmp_path, trusted_proxies=trusted) as running:
            assert predict(running.url, "a", headers=headers).ok
            wait_for(lambda: [line for line in running.lines() if line.get("client_request_id") == "through"], SECONDS)
            assert [line["client"] for line in running.lines() if line.get("client_request_id") == "through"] == [
                client
            ]


def test_a_client_that_sends_its_body_slowly_is_told(service: Running) -> None:
    answer = raw(service.port, HEAD + b"Content-Length: 20\r\n\r\n", b"{")
    assert b"408 Request Timeout" in answer
    assert b"the body did not arrive within 1 s" in answer


def test_a_second_request_on_a_connection_has_its_own_time(service: Running) -> None:
    with requests.Session() as session:
        for _ in range(3):
            assert session.get(f"{service.url}/v2/health/live", timeout=SECONDS).ok
            time.sleep(0.6)


def test_a_body_without_an_end_is_cut_off(service: Running) -> None:
    chunk = b"8000\r\n" + b"a" * 0x8000 + b"\r\n"
    answer = raw(service.port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 20)
    assert b"413 " in answer or answer == b""  # reset, where it still sends when the answer comes
    assert service.process.poll() is None


@pytest.mark.parametrize("content", [b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 100])
def test_what_is_not_http_gets_a_400(service: Running, content: bytes) -> None:
    answer = raw(service.port, content)
    assert answer.startswith(b"HTTP/1.1 400 ") or answer == b""
    assert requests.get(f"{service.url}/v2/health/live", timeout=SECONDS).ok


def test_a_client_that_leaves_is_not_waited_for(service: Running) -> None:
    body = json.dumps({"text": ["a word or two " * 20] * 300}).encode()
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(HEAD + f"X-Request-ID: leaves\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    wait_for(lambda: any(line.get("client_request_id") == "leaves" for line in service.lines()), SECONDS)
    [line] = [line for line in service.lines() if line.get("client_request_id") == "leaves"]
    assert line["status"] == 499
    wait_for(lambda: "tweets_queue_texts 0.0" in requests.get(f"{service.url}/metrics", timeout=SECONDS).text, SECONDS)


def test_the_log_has_a_line_for_each_request_and_no_text(service: Running) -> None:
    headers = {"X-Request-ID": "mine-1"}
    assert predict(service.url, "a secret text", headers=headers).ok
    requests.get(f"{service.url}/v2/models/x%22%0a{{", timeout=SECONDS)
    wait_for(lambda: any(line.get("client_request_id") == "mine-1" for line in service.lines()), SECONDS)
    [line] = [line for line in service.lines() if line.get("client_request_id") == "mine-1"]
    assert (line["status"], line["texts"], line["route"], line["level"]) == (200, 1, "/predict", "INFO")
    assert line["ms"] > 0
    assert "secret" not in service.log.read_text()


def test_text_is_logged_when_switched_on(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path, log_text=True) as running:
        assert predict(running.url, ["no secret 😀\n"]).ok
        assert running.end() == 0  # all of the log is written then
        assert running.wait_until_logged("request")["text"] == ["no secret 😀\n"]


def test_too_slow_an_answer_is_given_up(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path, request_timeout=0.2, max_texts=20_000, queue_size=20_000, batch_size=8) as running:
        answer = predict(running.url, ["a word or two"] * 20_000)
        assert answer.status_code == 503
        assert answer.json() == {"error": "no answer within 0.2 s; try again later, or send less"}
        assert answer.headers["Retry-After"] == "1"
        assert predict(running.url, "a").ok  # nobody computes the rest first


def test_a_full_disk_under_the_log_costs_no_request(folder: Path, tmp_path: Path) -> None:
    free = free_port()
    with Path("/dev/full").open("wb") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve"], cwd=tmp_path, env=command(folder, port=free), stderr=full
        )
    try:
        url = f"http://127.0.0.1:{free}"
        wait_for(lambda: answers(url), SECONDS)
        assert all(predict(url, text).ok for text in TEXTS)
        assert "tweets_dropped_log_records_total" in requests.get(f"{url}/metrics", timeout=SECONDS).text
        wait_for(lambda: dropped(url) > len(TEXTS), SECONDS)
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/v2/health/ready", timeout=SECONDS).ok
    except requests.ConnectionError:
        return False


def dropped(url: str) -> float:
    text = requests.get(f"{url}/metrics", timeout=SECONDS).text
    [line] = [line for line in text.splitlines() if line.startswith("tweets_dropped_log_records_total")]
    return float(line.split()[1])


def keep_asking(url: str, stop: threading.Event) -> list[int]:
    """Return the status of each answer, one after the other, until told to stop or that the service drains."""
    found = []
    with requests.Session() as session:
        while not stop.is_set():
            answer = session.post(f"{url}/predict", json={"text": TEXTS}, timeout=SECONDS)
            found.append(answer.status_code)
            if answer.headers.get("Connection") == "close":
                break
    return found


def test_sigterm_under_load_loses_no_request(folder: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    with serving(folder, tmp_path) as running, ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(keep_asking, running.url, stop) for _ in range(8)]
        time.sleep(1)
        begin = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(SECONDS)
        assert time.monotonic() - begin < 10
        statuses = [status for future in asking for status in future.result(SECONDS)]
        assert len(statuses) > 8
        assert set(statuses) == {200}


def test_while_it_drains_it_answers_and_is_not_ready(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path, drain_delay=4, drain_timeout=5) as running:
        running.process.send_signal(signal.SIGTERM)
        ready = f"{running.url}/v2/health/ready"
        wait_for(lambda: requests.get(ready, timeout=SECONDS).status_code == 503, SECONDS)
        assert not requests.get(f"{running.url}/v2/models/tweets/ready", timeout=SECONDS).json()["ready"]
        answer = predict(running.url, "a")
        assert answer.ok
        assert answer.headers["Connection"] == "close"
        running.process.send_signal(signal.SIGTERM)  # a second one does not wait
        running.process.wait(SECONDS)


def test_what_outlasts_the_drain_is_told(folder: Path, tmp_path: Path) -> None:
    settings = {"max_texts": 20_000, "queue_size": 20_000, "batch_size": 1, "request_timeout": 60, "drain_timeout": 1}
    with serving(folder, tmp_path, **settings) as running, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(predict, running.url, ["a word or two"] * 20_000)
        wait_for(lambda: "tweets_queue_texts 0.0" not in metrics(running), SECONDS)
        begin = time.monotonic()
        assert running.end() == 0
        assert time.monotonic() - begin < 10
        answer = asked.result(SECONDS)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert answer.json() == {"error": "the service is shutting down; try again"}
        assert running.wait_until_logged("request")["status"] == 200  # the metrics'
        assert [line["status"] for line in running.lines() if line.get("route") == "/predict"] == [503]


def test_after_kill_9_the_next_one_serves_at_once(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path) as running:
        before, port = predict(running.url, TEXTS).json(), running.port
        running.process.kill()
        running.process.wait()
        with serving(folder, tmp_path, port=port) as again:
            assert predict(again.url, TEXTS).json() == before


def other_version(source: Path, folder: Path) -> None:
    """Make a folder that is a whole model with another version."""
    shutil.copytree(source, folder)
    (folder / exported.CHECKSUMS).unlink()
    (folder / exported.CARD).write_text('{"export": "other"}')
    exported.seal(folder)


def point(link: Path, folder: Path) -> None:
    """Let a link name another folder, atomically."""
    (link.parent / "next").symlink_to(folder)
    (link.parent / "next").rename(link)


def test_a_reload_takes_the_new_model_and_loses_no_request(folder: Path, tmp_path: Path) -> None:
    other_version(folder, tmp_path / "other")
    link = tmp_path / "current"
    link.symlink_to(folder)
    stop = threading.Event()
    with serving(link, tmp_path) as running, ThreadPoolExecutor(4) as pool:
        first = requests.get(f"{running.url}/model", timeout=SECONDS).json()["version"]
        asking = [pool.submit(keep_asking, running.url, stop) for _ in range(4)]
        for target in (tmp_path / "other", folder) * 2:
            before = requests.get(f"{running.url}/model", timeout=SECONDS).json()["version"]
            point(link, target)
            running.process.send_signal(signal.SIGHUP)
            wait_for(lambda: predict(running.url, "a").json()["version"] != before, SECONDS)  # noqa: B023
        assert predict(running.url, "a").json()["version"] == first
        stop.set()
        statuses = [status for future in asking for status in future.result(SECONDS)]
        assert len(statuses) > 4
        assert set(statuses) == {200}
        assert 'tweets_model_reloads_total{outcome="done"} 4.0' in metrics(running)


def test_a_reload_that_fails_its_check_keeps_the_model(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path) as running:
        version = requests.get(f"{running.url}/model", timeout=SECONDS).json()["version"]
        content = bytearray((folder / exported.MODEL).read_bytes())
        content[-1] ^= 1
        (folder / exported.MODEL).write_bytes(content)
        os.kill(running.process.pid, signal.SIGHUP)
        os.kill(running.process.pid, signal.SIGHUP)  # while the first is at work
        line = running.wait_until_logged("reload failed")
        assert "model.onnx: SHA-256 is" in line["message"]
        assert f"version {version} stays" in line["message"]
        assert predict(running.url, "a").json()["version"] == version
        assert "tweets_model_last_reload_successful 0.0" in metrics(running)
        content[-1] ^= 1
        (folder / exported.MODEL).write_bytes(content)
        os.kill(running.process.pid, signal.SIGHUP)
        wait_for(lambda: "tweets_model_last_reload_successful 1.0" in metrics(running), SECONDS)


def test_the_last_of_two_reloads_counts(folder: Path, tmp_path: Path) -> None:
    """One goes back to the old model while the new one is being read."""
    other_version(folder, tmp_path / "other")
    link = tmp_path / "current"
    link.symlink_to(folder)
    with serving(link, tmp_path) as running:
        version = predict(running.url, "a").json()["version"]
        for target in (tmp_path / "other", folder):
            point(link, target)
            running.process.send_signal(signal.SIGHUP)
            time.sleep(0.05)
        wait_for(lambda: 'tweets_model_reloads_total{outcome="done"} 2.0' in metrics(running), SECONDS)
        assert predict(running.url, "a").json()["version"] == version


def test_a_sealed_folder_that_holds_no_tokenizer_is_not_taken(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path) as running:
        (folder / exported.CHECKSUMS).unlink()
        (folder / exported.TOKENIZER).write_text("{}")
        exported.seal(folder)
        os.kill(running.process.pid, signal.SIGHUP)
        assert "tokenizer.json: not a tokenizer: " in running.wait_until_logged("reload failed")["message"]
        assert predict(running.url, "a").ok
    assert "tokenizer.json: not a tokenizer: " in ended(folder, tmp_path)


def metrics(running: Running) -> str:
    return requests.get(f"{running.url}/metrics", timeout=SECONDS).text


def test_a_flood_is_refused_and_the_memory_stays(folder: Path, tmp_path: Path) -> None:
    settings = {"queue_size": 40, "max_texts": 20, "batch_size": 2}
    with serving(folder, tmp_path, **settings) as running, ThreadPoolExecutor(24) as pool:
        assert predict(running.url, TEXTS).ok
        before = psutil.Process(running.process.pid).memory_info().rss
        found = list(pool.map(lambda _: predict(running.url, ["a word " * 60] * 20), range(240)))
        statuses = {answer.status_code for answer in found}
        assert statuses == {200, 503}
        for answer in found:
            if answer.status_code == 503:
                assert int(answer.headers["Retry-After"]) >= 1
                assert "texts wait, and 40 may" in answer.json()["error"]
        assert psutil.Process(running.process.pid).memory_info().rss < before + 100 * 2**20
        assert predict(running.url, "a").ok


def test_a_whole_answer_is_no_client_that_left(service: Running) -> None:
    """The server says that the client has left when the last of an answer is sent, a file's too."""
    with requests.Session() as session:
        for path in ("/", "/page/script.js", "/model") * 20:
            assert session.get(f"{service.url}{path}", headers={"X-Request-ID": "whole"}, timeout=SECONDS).ok
    wait_for(lambda: [line.get("client_request_id") for line in service.lines()].count("whole") == 60, SECONDS)
    assert {line["status"] for line in service.lines() if line.get("client_request_id") == "whole"} == {200}
