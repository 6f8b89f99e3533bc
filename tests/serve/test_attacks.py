"""Attacks on the service, over real sockets. SECURITY.md lists them."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
import requests
from onnx import numpy_helper

from benchmarks import attacks
from benchmarks.attacks import CHUNKED, LIVE, MB, ONE, POST
from serve import connections, keys
from tests.support.clones import wait_for
from tests.support.serving import SECONDS, Running, command, ended, predict, serving
from tweets import files
from tweets.errors import UserError
from tweets.model import exported

pytestmark = [pytest.mark.walk, pytest.mark.xdist_group("serve_attacks")]  # they share a service

LAST = LIVE + b"Connection: close\r\n\r\n"


@pytest.fixture(scope="module")
def service(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("service")
    with serving(reproduced / "models/onnx", place, receive_timeout=2) as running:
        assert predict(running.url, ["a"] * 50).ok
        yield running


def connected(running: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.port), timeout=SECONDS)


def sent(running: Running, *parts: bytes) -> tuple[bytes, int]:
    """Send bytes as long as they are taken; return what is answered, and how many were."""
    answer, taken = b"", 0
    with connected(running) as connection:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
                taken += len(part)
        with contextlib.suppress(ConnectionError):
            while received := connection.recv(65536):
                answer += received
    return answer, taken


def metrics(running: Running) -> str:
    return requests.get(f"{running.url}/metrics", timeout=SECONDS).text


def memory(running: Running) -> int:
    return psutil.Process(running.process.pid).memory_info().rss


# ---- Heads, trailers, chunks


STATUSES = {"header": b"431", "target": b"414", "headers": b"431", "line breaks": b"431"}  # of all else 400


@pytest.mark.parametrize("name", attacks.ENDLESS)
def test_what_has_no_end_is_cut_off(service: Running, name: str) -> None:
    begin, more = attacks.ENDLESS[name]
    before = memory(service)
    answer, taken = sent(service, begin, *[more] * 400)
    assert (
        answer.startswith(b"HTTP/1.1 " + STATUSES.get(name, b"400")) or not answer
    )  # the answer may be lost to who goes on sending
    assert taken < 10 * MB
    assert memory(service) < before + 10 * MB
    assert predict(service.url, "a").ok


REST = b" HTTP/1.1\r\nHost: localhost\r\n"
HEADS = {
    "most headers": (LIVE + b"".join(b"X%d: y\r\n" % n for n in range(98)), b"200"),
    "more headers": (LIVE + b"".join(b"X%d: y\r\n" % n for n in range(99)), b"431"),
    "a long header": (LIVE + b"X: " + b"a" * (connections.LINE - 1) + b"\r\n", b"200"),
    "a longer header": (LIVE + b"X: " + b"a" * connections.LINE + b"\r\n", b"431"),
    "a long target": (b"GET /v2?" + b"a" * (connections.LINE - 4) + REST, b"200"),
    "a longer target": (b"GET /v2?" + b"a" * (connections.LINE - 3) + REST, b"414"),
    "a large head": (LIVE + b"".join(b"X: " + b"a" * 8000 + b"\r\n" for _ in range(4)), b"200"),
    "a larger head": (LIVE + b"".join(b"X: " + b"a" * 8180 + b"\r\n" for _ in range(4)), b"431"),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_have_a_bound(service: Running, name: str) -> None:
    head, status = HEADS[name]
    answer, _ = sent(service, head + b"Connection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 " + status)
    if status != b"200":
        assert json.loads(answer.partition(b"\r\n\r\n")[2]).keys() == {"error"}


def test_a_body_may_come_in_small_chunks(service: Running) -> None:
    body = json.dumps({"text": "a word " * 200}).encode()
    chunks = (b"8\r\n" + body[start : start + 8] + b"\r\n" for start in range(0, len(body) // 8 * 8, 8))
    rest = body[len(body) // 8 * 8 :]
    end = b"%x\r\n%s\r\n0\r\nX: a trailer\r\n\r\n" % (len(rest), rest) if rest else b"0\r\nX: a trailer\r\n\r\n"
    answer, _ = sent(service, CHUNKED + b"".join(chunks) + end + LAST)
    assert answer.count(b"HTTP/1.1 200 OK") == 2


# ---- Pipelines


@pytest.mark.parametrize("many", [20, 400])
def test_requests_on_one_connection_are_answered_in_their_order(service: Running, many: int) -> None:
    answer, _ = sent(service, (LIVE + b"\r\n" + ONE) * (many // 2) + LAST)
    statuses = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200"] * (many + 1)
    kinds = [b"live" in part for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert kinds == [True, False] * (many // 2) + [True]
    assert 'status="500"' not in metrics(service)


def test_what_follows_a_request_and_is_none_takes_no_answer_from_it(service: Running) -> None:
    for rest in (b"\x00\x01junk\r\n\r\n", b"GET / HTTP/1.1\r\nX" + b"x" * 9000 + b": y\r\n\r\n"):
        answer, _ = sent(service, ONE + rest)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert answer.count(b"HTTP/1.1") == 1
    assert 'status="500"' not in metrics(service)


def test_a_client_that_asks_much_and_leaves_is_no_error(service: Running) -> None:
    with connected(service) as connection:
        connection.sendall(ONE * 300)
    wait_for(lambda: "tweets_http_requests_in_progress 1.0" in metrics(service), SECONDS)
    assert 'status="500"' not in metrics(service)


# ---- Bodies


def test_a_body_that_no_route_reads_takes_no_memory(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path, max_requests=5, receive_timeout=30) as running, contextlib.ExitStack() as held:
        before = memory(running)
        for _ in range(60):
            connection = held.enter_context(connected(running))
            connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (4 * MB))
            with contextlib.suppress(ConnectionError):  # it has its answer, and is closed
                connection.sendall(b"a" * (4 * MB - 1))
        assert memory(running) < before + 30 * MB
        assert predict(running.url, "a").ok


def test_bodies_that_do_not_end_have_a_bound_and_small_ones_pass(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path, receive_timeout=30, max_body_bytes=MB) as running, contextlib.ExitStack() as held:
        before = memory(running)
        for _ in range(60):
            connection = held.enter_context(connected(running))
            connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % MB)
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"a" * (MB - 1))
        wait_for(lambda: 'tweets_refused_requests_total{reason="bodies"}' in metrics(running), SECONDS)
        assert memory(running) < before + 50 * MB
        assert predict(running.url, "a").ok


def test_when_no_more_requests_are_taken_who_watches_is_answered(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path, max_requests=2, receive_timeout=30) as running, contextlib.ExitStack() as held:
        for _ in range(2):
            held.enter_context(connected(running)).sendall(POST + b"Content-Length: 20\r\n\r\n{")
        wait_for(lambda: "tweets_http_requests_in_progress 3.0" in metrics(running), SECONDS)
        assert requests.get(f"{running.url}/v2/health/ready", timeout=SECONDS).ok
        for path in ("/", "/model", "/v2"):
            assert requests.get(f"{running.url}{path}", timeout=SECONDS).status_code == 503


@pytest.mark.parametrize("name", attacks.LARGE)
def test_json_of_a_million_parts_is_not_parsed(service: Running, name: str) -> None:
    answer = requests.post(
        f"{service.url}/predict",
        data=attacks.LARGE[name],
        headers={"Content-Type": "application/json"},
        timeout=SECONDS,
    )
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("the body has more than 131072 bytes outside its strings")


def test_the_largest_request_passes(service: Running) -> None:
    texts = ['a "quoted" \\ word ' * 111] * 200
    answer = requests.post(f"{service.url}/predict", json={"text": texts}, timeout=SECONDS)
    assert len(json.dumps(texts)) > 3 * 131072
    assert len(answer.json()["predictions"]) == 200


# ---- Keys


@pytest.fixture(scope="module")
def keyed(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("keyed")
    known = ",".join(map(keys.hashed, ("one", "other")))
    with serving(
        reproduced / "models/onnx", place, api_keys=known, receive_timeout=2, rate_limit="60/minute", collect=place
    ) as running:
        yield running


def asked(running: Running, key: str, path: str, body: Any, **headers: str) -> requests.Response:
    return requests.post(
        f"{running.url}{path}", json=body, headers={"Authorization": f"Bearer {key}", **headers}, timeout=SECONDS
    )


@pytest.mark.parametrize("body", [b"[" * (4 * MB), b"\x00" * (4 * MB), b"{"])
def test_without_a_key_nothing_is_parsed(keyed: Running, body: bytes) -> None:
    answer = requests.post(f"{keyed.url}/predict", data=body, timeout=SECONDS)
    assert (answer.status_code, answer.json()["error"]) == (401, "no key: send `Authorization: Bearer KEY`")


def test_who_has_no_key_and_sends_no_body_is_told_so(keyed: Running) -> None:
    answer, _ = sent(keyed, POST + b"Content-Length: 100\r\n\r\n{")
    assert answer.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 408 "))
    assert predict(keyed.url, "a").status_code == 401
    assert predict(keyed.url, "a", headers={"Authorization": "Bearer one"}).ok


def test_another_key_labels_nothing(keyed: Running) -> None:
    for key in ("one", "other"):
        assert asked(keyed, key, "/predict", {"text": "a"}, **{"X-Request-ID": "taken"}).ok
    served = requests.get(f"{keyed.url}/model", timeout=SECONDS).json()["labels"]
    only = asked(keyed, "one", "/predict", {"text": "a"}, **{"X-Request-ID": "only-one"})
    told = {"request_id": only.headers["X-Request-ID"], "labels": served[:1]}
    assert only.headers["X-Request-ID"] == "only-one"
    assert asked(keyed, "other", "/feedback", told).status_code == 404
    assert asked(keyed, "one", "/feedback", told).status_code == 204
    assert asked(keyed, "one", "/feedback", told | {"request_id": "taken"}).status_code == 204


def test_labels_have_the_rate_of_texts(reproduced: Path, tmp_path: Path) -> None:
    with serving(reproduced / "models/onnx", tmp_path, rate_limit="5/minute", collect=tmp_path) as running:
        answer = predict(running.url, ["a"] * 5)
        labels = [each["label"] for each in answer.json()["predictions"]]
        told = {"request_id": answer.headers["X-Request-ID"], "labels": labels}
        found = [requests.post(f"{running.url}/feedback", json=told, timeout=SECONDS) for _ in range(2)]
        assert [each.status_code for each in found] == [204, 429]
        assert found[1].json() == {"error": "too many texts: 5 per 1 minute are allowed"}


# ---- Names of this machine


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:80", 200), ("[::1]", 200), ("LOCALHOST:", 200), ("evil.example", 421), ("", 421)],
)
def test_a_name_of_elsewhere_is_not_answered(service: Running, host: str, status: int) -> None:
    answer = requests.get(f"{service.url}/model", headers={"Host": host}, timeout=SECONDS)
    assert answer.status_code == status


def test_with_keys_or_behind_a_proxy_any_name_is_answered(keyed: Running, folder: Path, tmp_path: Path) -> None:
    assert requests.get(f"{keyed.url}/model", headers={"Host": "tweets.example"}, timeout=SECONDS).ok
    with serving(folder, tmp_path, trusted_proxies="127.0.0.1") as running:
        assert requests.get(f"{running.url}/model", headers={"Host": "tweets.example"}, timeout=SECONDS).ok


# ---- Models that compute no numbers, and other damage to a folder


def damaged(folder: Path, name: str, index: int) -> None:
    """Put NaN into a weight of the model, and seal it again."""
    model = onnx.load(folder / exported.MODEL)
    [weight] = [each for each in model.graph.initializer if each.name.endswith(name)]
    values = numpy_helper.to_array(weight).copy()
    values.flat[index] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, folder / exported.MODEL)
    reference = files.read_json(folder / exported.REFERENCE)
    sealed(folder, exported.REFERENCE, reference | {"model": files.sha256(folder / exported.MODEL)})


def sealed(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content))
    (folder / exported.CHECKSUMS).unlink()
    exported.seal(folder)


def test_a_model_that_gives_no_numbers_is_not_served(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path) as running:
        damaged(folder, "classifier.classifier.bias", 0)
        running.process.send_signal(signal.SIGHUP)
        assert "numbers that are not finite" in running.wait_until_logged("reload failed")["message"]
        assert predict(running.url, "a").ok
    assert "numbers that are not finite" in ended(folder, tmp_path)


def test_a_text_for_which_there_is_no_number_gets_no_label(folder: Path, tmp_path: Path) -> None:
    [token] = exported.read(folder, threads=1).tokenizer.encode("zebra", add_special_tokens=False).ids
    damaged(folder, "word_embeddings.weight.scale", token)
    with serving(folder, tmp_path) as running:
        assert predict(running.url, ["a", "b"]).ok
        for texts in ("zebra", ["a", "zebra", "b", "c", "d"]):
            answer = predict(running.url, texts)
            assert answer.status_code == 500
            assert answer.json() == {"error": "an error in the service; its log has it under the request's id"}
        assert 'tweets_http_requests_total{method="POST",route="/predict",status="500"} 2.0' in metrics(running)
        assert predict(running.url, "a").ok


def test_examples_without_numbers_are_refused(folder: Path) -> None:
    rows = files.read_json(folder / exported.EXAMPLES)
    rows[-1]["probabilities"][-1] = float("nan")
    sealed(folder, exported.EXAMPLES, rows)
    with pytest.raises(UserError, match=r"examples\.json"):
        exported.load(folder, threads=1)


def doubled(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | {"labels": [settings["labels"][0]] * len(settings["labels"])}


def fewer(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | {"labels": settings["labels"][1:]}


def without_thresholds(reference: dict[str, Any]) -> dict[str, Any]:
    return reference | {"thresholds": {}}


def of_another_size(reference: dict[str, Any]) -> dict[str, Any]:
    return reference | {"axes": {"mean": [0.0], "matrix": [[1.0]]}}


FAULTS: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "a card that is a list": (exported.CARD, lambda _: [], "card.json = []: "),
    "a label twice": (exported.SETTINGS, doubled, "settings.json.labels = "),
    "a label too few": (exported.SETTINGS, fewer, "settings.json: 2 labels; the model needs 3"),
    "no thresholds": (exported.REFERENCE, without_thresholds, "reference.json.thresholds = "),
    "axes of another model": (exported.REFERENCE, of_another_size, "reference.json: does not fit the model"),
    "examples of another form": (exported.EXAMPLES, lambda _: [["a"]], "examples.json.0"),
    "examples that are no list": (exported.EXAMPLES, lambda _: {}, "examples.json = {}: "),
    "a tokenizer that is a list": (exported.TOKENIZER, lambda _: [], "tokenizer.json: not a tokenizer"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_sealed_folder_with_a_fault_is_refused_in_a_line(folder: Path, tmp_path: Path, name: str) -> None:
    file, change, message = FAULTS[name]
    sealed(folder, file, change(files.read_json(folder / file)))
    assert message in ended(folder, tmp_path)


def test_what_else_lies_in_the_folder_is_no_part_of_the_model(folder: Path, tmp_path: Path) -> None:
    """As on a disk of its own."""
    with serving(folder, tmp_path) as running:
        lock = requests.get(f"{running.url}/model", timeout=SECONDS).json()["lock"]
    (folder / "lost+found").mkdir()
    os.mkfifo(folder / "pipe")
    with serving(folder, tmp_path) as running:
        assert requests.get(f"{running.url}/model", timeout=SECONDS).json()["lock"] == lock


# ---- Signals


def test_a_reload_that_hangs_is_given_up_and_keeps_no_process(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with serving(folder, tmp_path, reload_timeout=1) as running:
        (tmp_path / "dvc.lock").symlink_to(tmp_path / "pipe")  # nobody ever writes
        running.process.send_signal(signal.SIGHUP)
        assert "not read within 1 s" in running.wait_until_logged("reload failed")["message"]
        assert "tweets_model_last_reload_successful 0.0" in metrics(running)
        (tmp_path / "dvc.lock").unlink()
        running.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "tweets_model_last_reload_successful 1.0" in metrics(running), SECONDS)
        (tmp_path / "dvc.lock").symlink_to(tmp_path / "pipe")
        running.process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        begin = time.monotonic()
        assert running.end() == 0
        assert time.monotonic() - begin < 60  # a hung thread would keep it for ever


def test_sighup_before_there_is_a_server_is_a_reload(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen([sys.executable, "-m", "serve"], cwd=tmp_path, env=command(folder), stderr=stderr)
    try:
        wait_for(lambda: signal.SIGHUP in caught(process.pid), SECONDS)
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: "reloaded: version" in log.read_text(), SECONDS)
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(SECONDS)


def caught(pid: int) -> set[int]:
    """Return the signals that a process catches."""
    with contextlib.suppress(FileNotFoundError):
        [line] = [row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("SigCgt:")]
        mask = int(line.split()[1], 16)
        return {number for number in range(1, 65) if mask >> (number - 1) & 1}
    return set()


def test_a_damaged_collection_keeps_no_service_from_starting(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "predictions.sqlite").write_bytes(b"no database" * 1000)
    with serving(folder, tmp_path, collect=kept) as running:
        assert predict(running.url, "a").ok
        wait_for(lambda: "tweets_collection_failing 1.0" in metrics(running), SECONDS)
        assert "if the file is damaged, move it away" in running.wait_until_logged("collection: ")["message"]
        (kept / "predictions.sqlite").rename(kept / "damaged")
        wait_for(lambda: "tweets_collection_failing 0.0" in metrics(running), SECONDS)
        wait_for(lambda: "tweets_collected_rows_total 1.0" in metrics(running), SECONDS)
