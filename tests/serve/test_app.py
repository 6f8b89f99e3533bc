"""The service's routes: what they answer, and what they answer to what they cannot take. In this process."""

import gzip
import json
import logging
import queue
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.routing import iter_route_contexts
from prometheus_client import Counter
from starlette.testclient import TestClient

from serve import app, connections, keys, logs, settings
from serve.models import directory_hash
from serve.refusals import Refused
from serve.service import network
from tests.support.clones import ROOT, run
from tests.support.made_up import LABELS
from tests.support.serving import SECONDS
from tweets.errors import UserError
from tweets.model import exported

TEXTS = ["What a great day, love it", "terrible and awful", "The meeting is on tuesday"]
JSON = {"Content-Type": "application/json"}


def client(folder: Path, **changed: Any) -> TestClient:
    chosen = settings.ServiceSettings(model=folder, threads=1, **{"request_timeout": SECONDS, **changed})
    return TestClient(app.create(chosen)[1], base_url="http://127.0.0.1", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def folder(reproduced: Path) -> Path:
    return reproduced / "models/onnx"


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[TestClient]:
    with client(folder, max_texts=50, max_text_chars=1000, max_body_bytes=100_000) as started:
        yield started


def infer_body(texts: Any, **changed: Any) -> dict[str, Any]:
    tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
    return {"inputs": [{**tensor, **changed}]}


def test_a_list_gets_what_the_model_says(service: TestClient, folder: Path) -> None:
    answer = service.post("/predict", json={"text": TEXTS}).json()
    expected = exported.load(folder, threads=1).predict(TEXTS)
    assert answer["model"] == "tweets"
    for prediction, row in zip(answer["predictions"], expected, strict=True):
        assert prediction["label"] == LABELS[row.argmax()]
        assert list(prediction["probabilities"]) == LABELS
        rounded = pytest.approx(row.tolist(), abs=0.005)  # bfloat16, in other batches
        assert list(prediction["probabilities"].values()) == rounded


def test_one_text_gets_a_list_of_one(service: TestClient) -> None:
    one, several = (service.post("/predict", json={"text": text}).json() for text in (TEXTS[1], TEXTS))
    assert len(one["predictions"]) == 1
    assert one["predictions"][0]["label"] == several["predictions"][1]["label"] == "negative"


def test_the_text_is_cleaned_as_in_training(service: TestClient) -> None:
    raw, cleaned = "great&amp;love   @someone https://t.co/x 😀", "great&love @user http grinning face"
    one, other = (service.post("/predict", json={"text": text}).json()["predictions"] for text in (raw, cleaned))
    assert one == other


ODD_TEXTS = ["\x00\x01\x1b[2J", "\u200b\u200d\ufeff", "שלום \u202eעולם", "é" * 1000, "😀" * 300, "a\nb\r\tc", "\u0085x"]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_any_characters_are_text(service: TestClient, text: str) -> None:
    [prediction] = service.post("/predict", json={"text": text}).json()["predictions"]
    assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_a_reference_of_more_digits_than_python_reads_is_text(folder: Path) -> None:
    with client(folder, max_text_chars=10_000) as service:
        assert service.post("/predict", json={"text": ["&#" + "1" * 5000 + ";", "great"]}).status_code == 200


BAD_BODIES = {
    "empty": (b"", 422, "body: Field required"),
    "not JSON": (b"[", 422, "JSON decode error"),
    "binary": (b"\x00\x01\x02", 422, "JSON decode error"),
    "not UTF-8": (b'{"text": "\xff\xfe"}', 400, "parsing the body"),
    "deep": (b"[" * 90_000, 400, "parsing the body"),
    "deep in text": (b'{"text": ' + b"[" * 500 + b"]" * 500 + b"}", 422, "body.text.list.0: should be a valid string"),
    "another name": (b'{"txt": "a"}', 422, "body.txt: Extra inputs are not permitted"),
    "a long name": (json.dumps({"text": "a", "\n" + "x" * 5000: 1}).encode(), 422, "body.'\\nxxxx"),
    "more names": (b'{"text": "a", "x": 1}', 422, "body.x: Extra inputs are not permitted"),
    "a list": (b'["a"]', 422, "body: should be a valid dictionary"),
    "a number": (b'{"text": 3}', 422, "body.text.text: should be a valid string"),
    "null": (b'{"text": null}', 422, "body.text.text: should be a valid string"),
    "NaN": (b'{"text": NaN}', 422, "body.text.text: should be a valid string"),
    "infinity": (b'{"text": [1e999]}', 422, "body.text.list.0: should be a valid string"),
    "an object": (b'{"text": {"a": "b"}}', 422, "body.text.text: should be a valid string"),
    "half a character": (rb'{"text": "\ud800"}', 422, "body.text.text: should be a valid string"),
    "empty text": (b'{"text": ""}', 422, "at least 1 character"),
    "blank text": (b'{"text": " \\n"}', 422, "body.text.text: blank: needs at least one character"),
    "blank in a list": (b'{"text": ["a", "\\u00a0"]}', 422, "body.text.list.1: blank"),
    "empty list": (b'{"text": []}', 422, "at least 1 item"),
    "mixed list": (b'{"text": ["a", 2]}', 422, "body.text.list.1: should be a valid string"),
    "long text": (json.dumps({"text": "a" * 1001}).encode(), 422, "at most 1000 characters"),
    "many texts": (json.dumps({"text": ["a"] * 51}).encode(), 422, "at most 50 items"),
    "10,000 texts": (json.dumps({"text": ["a"] * 10_000}).encode(), 422, "at most 50 items"),
    "huge": (b'{"text": "' + b"a" * 100_000 + b'"}', 413, "the body is too large: 100000 bytes are allowed"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_body_gets_one_line(service: TestClient, name: str) -> None:
    body, status, message = BAD_BODIES[name]
    answer = service.post("/predict", content=body, headers=JSON)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]
    assert list(answer.json()) == ["error"]
    assert len(answer.text) < 500
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "", "application/x-www-form-urlencoded"])
def test_another_content_type_is_refused(service: TestClient, kind: str) -> None:
    answer = service.post("/predict", content=b'{"text": "a"}', headers={"Content-Type": kind})
    assert answer.status_code == 415
    message = f"Content-Type is {kind or 'missing'}; the body needs Content-Type: application/json"
    assert answer.json() == {"error": message}


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json"])
def test_json_by_any_of_its_names_is_taken(service: TestClient, kind: str) -> None:
    assert service.post("/predict", content=b'{"text": "a"}', headers={"Content-Type": kind}).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
def test_a_compressed_body_is_refused_by_name(service: TestClient, encoding: str) -> None:
    body = gzip.compress(b'{"text": "a"}')
    answer = service.post("/predict", content=body, headers={**JSON, "Content-Encoding": encoding})
    assert answer.status_code == 415
    assert answer.json() == {"error": f"Content-Encoding is {encoding}; send the body uncompressed"}
    plain = service.post("/predict", content=b'{"text": "a"}', headers={**JSON, "Content-Encoding": "identity"})
    assert plain.status_code == 200


@pytest.mark.parametrize("length", ["-1", "1e3", "9" * 30, "99999999"])
def test_a_false_length_is_refused(service: TestClient, length: str) -> None:
    answer = service.post("/predict", content=b"{}", headers={**JSON, "Content-Length": length})
    assert answer.status_code in (400, 413)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/predict", 405),
        ("PUT", "/model", 405),
        ("GET", "/nowhere", 404),
        ("GET", "/v2/models/..%2f..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/tweets/versions/0", 404),
        ("GET", "/v2/models/other/ready", 404),
        ("GET", "/v2/models/" + "a" * 100, 422),
        ("GET", "/page/..%2fsettings.py", 404),
        ("GET", "/page/%2e%2e/settings.py", 404),
    ],
)
def test_what_is_not_there(service: TestClient, method: str, path: str, status: int) -> None:
    answer = service.request(method, path)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


# ---- The Open Inference Protocol


def test_the_health_of_the_service(service: TestClient) -> None:
    assert service.get("/v2/health/live").json() == {"live": True}
    assert service.get("/v2/health/ready").json() == {"ready": True}
    assert service.get("/v2/models/tweets/ready").json() == {"name": "tweets", "ready": True}
    assert service.get("/v2").json()["extensions"] == []


def test_the_model_is_described(service: TestClient) -> None:
    found = service.get("/v2/models/tweets").json()
    assert found["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert [output["shape"] for output in found["outputs"]] == [[-1], [-1, 3]]
    [version] = found["versions"]
    assert service.get(f"/v2/models/tweets/versions/{version}").json() == found
    assert service.get(f"/v2/models/tweets/versions/{version}/ready").json()["ready"]


def test_inference_says_what_predict_says(service: TestClient) -> None:
    predictions = service.post("/predict", json={"text": TEXTS}).json()["predictions"]
    found = service.post("/v2/models/tweets/infer", json={**infer_body(TEXTS), "id": "7"}).json()
    label, probabilities = found["outputs"]
    assert found["id"] == "7"
    assert label == {
        "name": "label",
        "datatype": "BYTES",
        "shape": [3],
        "data": [prediction["label"] for prediction in predictions],
    }
    assert probabilities["shape"] == [3, 3]
    expected = [list(prediction["probabilities"].values()) for prediction in predictions]
    assert np.reshape(probabilities["data"], (3, 3)).tolist() == expected


def test_an_inference_without_an_id_gets_that_of_the_request(service: TestClient) -> None:
    answer = service.post("/v2/models/tweets/infer", json=infer_body(["a"]))
    assert answer.json()["id"] == answer.headers["X-Request-ID"]


def test_only_the_outputs_that_are_asked_for(service: TestClient) -> None:
    version = service.get("/model").json()["version"]
    body = {**infer_body(["a"]), "outputs": [{"name": "probabilities"}]}
    found = service.post(f"/v2/models/tweets/versions/{version}/infer", json=body).json()
    assert [output["name"] for output in found["outputs"]] == ["probabilities"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (infer_body(["a", "b"], shape=[3]), r"body.inputs.0.shape: is [3], and data has 2 texts"),
        (infer_body(["a"], shape=[1, 1]), "body.inputs.0.shape"),
        (infer_body(["a"], shape=[-1]), "body.inputs.0.shape.0"),
        (infer_body(["a"], datatype="FP32"), "body.inputs.0.datatype: should be 'BYTES'"),
        (infer_body(["a"], name="image"), "body.inputs.0.name: should be 'text'"),
        (infer_body([1]), "body.inputs.0.data.0"),
        ({"inputs": []}, "body.inputs"),
        ({"inputs": infer_body(["a"])["inputs"] * 2}, "body.inputs"),
        ({**infer_body(["a"]), "outputs": [{"name": "embedding"}]}, "body.outputs.0.name"),
    ],
)
def test_a_bad_inference_request(service: TestClient, body: dict[str, Any], message: str) -> None:
    answer = service.post("/v2/models/tweets/infer", json=body)
    assert answer.status_code == 422
    assert message in answer.json()["error"]


# ---- What is served


def test_the_model_says_what_exactly_it_is(
    reproduced: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(reproduced)
    found = client(folder).get("/model").json()
    assert found["labels"] == LABELS
    assert found["commit"] == run(reproduced, "git", "rev-parse", "HEAD").stdout.strip()
    assert found["lock"] == {"md5": directory_hash(folder), "is_in_dvc_lock": True}
    assert found["card"]["evaluate"] == json.loads((reproduced / "metrics/evaluate.json").read_text())
    monkeypatch.chdir(tmp_path)
    elsewhere = client(folder).get("/model").json()
    assert (elsewhere["commit"], elsewhere["lock"]["is_in_dvc_lock"]) == (None, None)
    assert elsewhere["version"] == found["version"]


def test_another_model_than_the_locked_one_is_told(
    reproduced: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = shutil.copytree(folder, tmp_path / "onnx")
    (other / exported.CHECKSUMS).unlink()
    (other / exported.CARD).write_text("{}")
    exported.seal(other)
    monkeypatch.chdir(reproduced)
    found = client(other, version="v2", commit="abc").get("/model").json()
    assert not found["lock"]["is_in_dvc_lock"]
    assert (found["version"], found["commit"]) == ("v2", "abc")


def test_metrics_count_what_happened(folder: Path) -> None:
    with client(folder) as service:
        service.post("/predict", json={"text": TEXTS})
        service.post("/predict", json={"text": 3})
        service.request("BREW", "/coffee")
        text = service.get("/metrics").text
    assert 'tweets_http_requests_total{method="POST",route="/predict",status="200"} 1.0' in text
    assert 'tweets_http_requests_total{method="POST",route="/predict",status="422"} 1.0' in text
    assert 'tweets_http_requests_total{method="other",route="other",status="404"} 1.0' in text
    for status in ("200", "422"):
        assert f'tweets_http_request_duration_seconds_count{{route="/predict",status="{status}"}} 1.0' in text
    assert "tweets_batch_texts_sum 3.0" in text
    assert "tweets_queue_texts 0.0" in text
    assert sum(float(count) for count in re.findall(r"tweets_predictions_total\{.*\} (\S+)", text)) == 3
    assert 'tweets_model_info{commit="' in text
    assert "_created" not in text


def test_the_page_and_the_docs_ask_for_nothing_elsewhere(service: TestClient) -> None:
    for path in ("/", "/docs", "/page/style.css", "/page/script.js"):
        answer = service.get(path)
        assert answer.status_code == 200
        assert not re.search(r"""(?:src|href|url\(|fetch\()\s*=?\s*["'(]?\s*(?:https?:)?//""", answer.text), path
    for path in ("/", "/docs"):
        policy = service.get(path).headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
    assert (
        "'unsafe-inline'"
        not in re.findall("script-src [^;]*", service.get("/docs").headers["Content-Security-Policy"])[0]
    )


def test_nothing_is_kept_by_a_cache_on_the_way(service: TestClient) -> None:
    for path in ("/model", "/metrics", "/v2", "/docs"):
        assert service.get(path).headers["Cache-Control"] == "no-store"
    assert service.post("/predict", json={"text": "a"}).headers["Cache-Control"] == "no-store"
    for path in ("/", "/page/script.js"):
        assert service.get(path).headers["Cache-Control"] == "no-cache"  # asks whether it is the latest


# ---- Keys, rates, ids


def test_the_description_of_the_api_has_each_refusal(service: TestClient) -> None:
    code = "".join(path.read_text() for path in (ROOT / "serve").glob("*.py"))
    refusals = set(re.findall(r"Refused\((\d+)", code))
    before_routes = {str(refused.status) for refused in vars(connections).values() if isinstance(refused, Refused)}
    operations = [
        set(operation["responses"])
        for path in service.get("/openapi.json").json()["paths"].values()
        for operation in path.values()
    ]
    assert {"401", "421", "503"} < refusals <= set.union(*operations)
    assert all(before_routes - {"400"} <= statuses for statuses in operations)


@pytest.fixture
def keyed(folder: Path) -> Iterator[TestClient]:
    with client(folder, api_keys=[keys.hashed("right"), keys.hashed("other")]) as started:
        yield started


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer ", "Basic right", "right", "Bearer righ", "Bearer é"])
def test_without_a_right_key_nothing_is_computed(keyed: TestClient, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode()}
    for path, body in (("/predict", {"text": "a"}), ("/v2/models/tweets/infer", infer_body(["a"]))):
        answer = keyed.post(path, json=body, headers=headers)  # type: ignore[arg-type]
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert "send `Authorization: Bearer KEY`" in answer.json()["error"]


@pytest.mark.parametrize("key", ["right", "other"])
def test_with_a_right_key_it_answers(keyed: TestClient, key: str) -> None:
    answer = keyed.post("/predict", json={"text": "a"}, headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 200


def test_every_route_wants_a_key_but_the_public_ones(folder: Path) -> None:
    chosen = settings.ServiceSettings(model=folder, threads=1, api_keys=[keys.hashed("right")])
    made, requests = app.create(chosen)
    public = {*app.PUBLIC, *app.WATCHING}
    found = set()
    with TestClient(requests) as service:
        for route in iter_route_contexts(made.routes):
            path = str(route.path) if route.methods else f"{route.path}/{{path:path}}"
            found.add(path)
            filled = re.sub(r"{.*?}", "a", path)
            for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
                is_public = path in public and method in ("GET", "HEAD")
                assert (service.request(method, filled).status_code == 401) is not is_public, (method, path)
        assert service.get("/nowhere").status_code == 401
    assert public <= found


def test_a_new_key_fits_its_hash(capsys: pytest.CaptureFixture[str]) -> None:
    keys.main()
    key, value = (line.split()[-1] for line in capsys.readouterr().out.splitlines())
    assert keys.is_known(key, ["0" * 64, value])
    assert not keys.is_known(key + "x", [value])


def test_a_client_has_its_rate(folder: Path) -> None:
    known = [keys.hashed("one"), keys.hashed("two")]
    with client(folder, rate_limit="5/minute", api_keys=known) as service:

        def status(key: str, texts: int) -> int:
            body = {"text": ["a"] * texts}
            answer = service.post("/predict", json=body, headers={"Authorization": f"Bearer {key}"})
            if answer.status_code == 429:
                assert int(answer.headers["Retry-After"]) == 60
                assert answer.json() == {"error": "too many texts: 5 per 1 minute are allowed"}
            return answer.status_code

        assert [status("one", 4), status("one", 2), status("one", 1), status("two", 5)] == [200, 429, 200, 200]


def test_a_request_that_can_never_pass_is_told_so(folder: Path) -> None:
    with client(folder, rate_limit="5/minute") as service:
        answer = service.post("/predict", json={"text": ["a"] * 6})
        assert (answer.status_code, answer.headers.get("Retry-After")) == (422, None)
        assert answer.json() == {"error": "too many texts in a request: 5 per 1 minute are allowed"}


def test_all_limits_hold(folder: Path) -> None:
    with client(folder, rate_limit="3/minute;4/hour") as service:
        found = [service.post("/predict", json={"text": ["a"] * texts}) for texts in (3, 2, 1)]
        assert [answer.status_code for answer in found] == [200, 429, 429]
        assert found[1].json()["error"] == "too many texts: 3 per 1 minute are allowed"


def test_what_finds_no_room_is_not_counted_against_the_rate(folder: Path) -> None:
    made, requests = app.create(settings.ServiceSettings(model=folder, threads=1, rate_limit="5/minute"))
    with TestClient(requests, base_url="http://127.0.0.1") as service:
        batcher = made.state.service.batcher
        batcher.waiting += batcher.queue_size
        assert service.post("/predict", json={"text": ["a"] * 5}).status_code == 503
        batcher.waiting -= batcher.queue_size
        assert service.post("/predict", json={"text": ["a"] * 5}).status_code == 200


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_what_counts_as_one_client(address: str, client: str) -> None:
    assert network(address) == client


def test_a_request_with_a_key_keeps_its_id(keyed: TestClient) -> None:
    assert keyed.get("/v2", headers={"X-Request-ID": "abc-1"}).headers["X-Request-ID"] == "abc-1"
    for bad in ("", "a b", "x" * 65, "a;b"):
        made = keyed.get("/v2", headers={"X-Request-ID": bad}).headers["X-Request-ID"]
        assert re.fullmatch("[0-9a-f]{32}", made)


def test_without_keys_nobody_takes_an_id(service: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "serve.requests")
    answer = service.get("/v2", headers={"X-Request-ID": "abc-1"})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-ID"])
    [record] = [record for record in caplog.records if record.name == "serve.requests"]
    assert (vars(record)["client_request_id"], vars(record)["request_id"]) == ("abc-1", answer.headers["X-Request-ID"])


def test_a_broken_model_is_an_error_of_the_service(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    made, requests = app.create(settings.ServiceSettings(model=folder, threads=1))

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of order")

    object.__setattr__(made.state.service.served.model, "outputs", broken)
    with TestClient(requests, base_url="http://127.0.0.1", raise_server_exceptions=False) as service:
        answer = service.post("/predict", json={"text": TEXTS})
        assert answer.status_code == 500
        assert answer.json() == {"error": "an error in the service; its log has it under the request's id"}
        assert service.get("/v2/health/live").status_code == 200
        assert 'status="500"' in service.get("/metrics").text
    assert "out of order" in caplog.text


def test_records_that_find_no_room_are_counted() -> None:
    dropped = Counter("dropped", "Dropped", registry=None)
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(1)
    handler = logs.BoundedHandler(waiting, dropped)
    for _ in range(3):
        handler.emit(logging.makeLogRecord({"msg": "x"}))
    [found] = dropped.collect()
    assert (waiting.qsize(), found.samples[0].value) == (1, 2)


# ---- Settings


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "http", "TWEETS_PORT = 'http': should be a valid integer"),
        ("PORT", "70000", "TWEETS_PORT = '70000': should be less than or equal to 65535"),
        ("PROT", "80", "TWEETS_PROT: unknown; known are TWEETS_API_KEYS, "),
        ("BATCH_SIZE", "0", "TWEETS_BATCH_SIZE = '0'"),
        ("REQUEST_TIMEOUT", "nan", "TWEETS_REQUEST_TIMEOUT = 'nan'"),
        ("MAX_TEXTS", "3000", "TWEETS_*: max_texts = 3000 must not exceed queue_size = 2000"),
        ("DRAIN_TIMEOUT", "10", "TWEETS_*: drain_delay + drain_timeout must be below 10 seconds"),
        ("NAME", "../x", "TWEETS_NAME = '../x'"),
        ("RATE_LIMIT", "lots", "TWEETS_RATE_LIMIT = 'lots'"),
        ("RATE_LIMIT", "5/minute;lots", "TWEETS_RATE_LIMIT = '5/minute;lots'"),
        ("TRUSTED_PROXIES", "10.0.0.1/24", "TWEETS_TRUSTED_PROXIES = '10.0.0.1/24': 10.0.0.1/24 has host bits set"),
        ("TRUSTED_PROXIES", "*", "TWEETS_TRUSTED_PROXIES = '*': needs the networks of the proxies"),
        ("TRUSTED_PROXIES", "proxy", "TWEETS_TRUSTED_PROXIES = 'proxy': 'proxy' does not appear to be an IPv4"),
        ("LOG_LEVEL", "loud", "TWEETS_LOG_LEVEL = 'loud'"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    monkeypatch.setenv(f"TWEETS_{name}", value)
    with pytest.raises(UserError) as raised:
        settings.load()
    assert message in str(raised.value)


def test_all_wrong_settings_are_named_and_no_key_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWEETS_PORT", "x")
    monkeypatch.setenv("TWEETS_API_KEYS", f"{keys.hashed('a')}, my-secret-key")
    with pytest.raises(UserError) as raised:
        settings.load()
    assert "TWEETS_PORT" in str(raised.value)
    assert "TWEETS_API_KEYS: " in str(raised.value)
    assert "python -m serve.keys" in str(raised.value)
    assert "my-secret-key" not in str(raised.value)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWEETS_API_KEYS", f"{keys.hashed('a')},{keys.hashed('b')}")
    monkeypatch.setenv("TWEETS_RATE_LIMIT", "10/second")
    monkeypatch.setenv("TWEETS_LOG_TEXT", "true")
    found = settings.load()
    assert found.api_keys == [keys.hashed("a"), keys.hashed("b")]
    assert (found.rate_limit, found.log_text, found.port) == ("10/second", True, 8000)


def test_the_service_requires_no_torch() -> None:
    names = {re.split("[=;]", line)[0].lower() for line in (ROOT / "requirements-serve.txt").read_text().splitlines()}
    assert not names & {"torch", "transformers", "pandas", "scikit-learn", "dvc", "pyarrow"}
    pinned = {
        line.split("#")[0].split(";")[0].strip()
        for name in ("requirements.txt", "requirements-serve.txt")
        for line in (ROOT / name).read_text().splitlines()
        if "==" in line
    }
    versions = {line.partition("==")[0].lower(): line for line in pinned}
    assert len(versions) == len({line.lower() for line in pinned})  # the same where both name a library
