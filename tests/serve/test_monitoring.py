"""What the service learns of its predictions while it serves: real processes, their folders, their metrics."""

import asyncio
import contextlib
import dataclasses
import resource
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
import requests

from serve import app, collection, models, monitoring, settings
from serve.collection import Asked
from serve.metrics import wilson
from serve.monitoring import Monitoring
from tests.support.clones import wait_for
from tests.support.made_up import LABELS
from tests.support.serving import SECONDS, Running, predict, serving
from tweets import files
from tweets.errors import UserError
from tweets.evaluation import drift_statistics
from tweets.model import exported

TEXTS = ["what a great day, love it", "terrible and AWFUL", "the meeting is on tuesday"]


@pytest.fixture(scope="module")
def model(reproduced: Path) -> Path:
    return reproduced / "models/onnx"


def rows(folder: Path, columns: str = "request, number, label, text") -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(folder / collection.FILE)) as database:
        return database.execute(f"SELECT {columns} FROM predictions ORDER BY id").fetchall()


def metrics(url: str) -> dict[str, float]:
    lines = requests.get(f"{url}/metrics", timeout=SECONDS).text.splitlines()
    return {name: float(number) for name, number in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def fed_back(url: str, **body: Any) -> requests.Response:
    return requests.post(f"{url}/feedback", json=body, timeout=SECONDS)


def test_a_service_that_ends_has_kept_all_and_what_it_predicted(model: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with serving(model, tmp_path, collect=kept) as running:
        found = [predict(running.url, [text, "a"]) for text in TEXTS]
        assert running.end() == 0
    said = [prediction["label"] for answer in found for prediction in answer.json()["predictions"]]
    places = [(answer.headers["X-Request-ID"], number) for answer in found for number in (0, 1)]
    assert rows(kept) == [(*place, label, None) for place, label in zip(places, said, strict=True)]
    [expected] = exported.load(model, threads=1).outputs([TEXTS[1]])
    [(length, unknown, capitals, embedding)] = rows(kept, "length, unknown, capitals, embedding")[2:3]
    assert (length, unknown) == (expected["tokens"], 0)
    assert capitals == pytest.approx(5 / 16)
    np.testing.assert_allclose(np.frombuffer(embedding, np.float16), expected["embedding"], atol=0.05)


def test_a_service_that_is_killed_has_kept_what_is_a_second_old(model: Path, tmp_path: Path) -> None:
    with serving(model, tmp_path, collect=tmp_path, collect_text=True) as running:
        assert all(predict(running.url, text).ok for text in TEXTS)
        time.sleep(1)
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()
    assert [text for *_, text in rows(tmp_path)] == TEXTS


def test_two_services_on_one_folder_keep_all(model: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with serving(model, tmp_path, collect=kept) as one, serving(model, tmp_path, collect=kept) as other:
        for number in range(20):
            assert all(predict(each.url, f"text {number}").ok for each in (one, other))
        assert (one.end(), other.end()) == (0, 0)
    assert len(rows(kept)) == len({request for request, *_ in rows(kept)}) == 40


@pytest.fixture(scope="module")
def service(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("service")
    with serving(model, place, collect=place / "kept") as running:
        yield running


def test_feedback_tells_the_live_accuracy(service: Running) -> None:
    answer = predict(service.url, [*TEXTS, "a"])
    request, labels = answer.headers["X-Request-ID"], [each["label"] for each in answer.json()["predictions"]]
    truth = [labels[0], labels[1], labels[2], next(label for label in LABELS if label != labels[3])]
    assert fed_back(service.url, request_id=request, labels=[*truth[:2], None, None]).status_code == 204
    assert fed_back(service.url, request_id=request, labels=[None, None, *truth[2:]]).status_code == 204
    found = metrics(service.url)
    assert (found["tweets_labelled_texts"], found["tweets_live_accuracy"]) == (4, 0.75)
    low, high = found["tweets_live_accuracy_low"], found["tweets_live_accuracy_high"]
    assert (low, high) == pytest.approx(wilson(3, 4))


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"request_id": "nobody", "labels": LABELS}, 404, "no prediction 0 of the request 'nobody' is kept"),
        ({"request_id": "a", "labels": ["happy"]}, 409, f"body.labels: 'happy' is none of the labels: {LABELS[0]}, "),
        ({"request_id": "a'; --", "labels": LABELS}, 422, "body.request_id: String should match pattern"),
        ({"request_id": "a", "labels": []}, 422, "body.labels: List should have at least 1 item"),
        ({"request_id": "a", "labels": [7]}, 422, "body.labels.0: should be a valid string"),
    ],
)
def test_feedback_that_cannot_be_is_told(service: Running, body: dict[str, Any], status: int, message: str) -> None:
    answer = fed_back(service.url, **body)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(message)


def started(folder: Path, **changed: Any) -> tuple[Any, Any]:
    """Return an application in this process, and its service."""
    made = app.create(settings.ServiceSettings(model=folder, threads=1, **changed))[0]
    return made, made.state.service


def test_a_folder_that_goes_away_costs_no_request(model: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with serving(model, tmp_path, collect=kept) as running:
        shutil.rmtree(kept)
        assert all(predict(running.url, text).ok for text in TEXTS)
        assert running.wait_until_logged("No such file or directory")["level"] == "ERROR"
        answer = fed_back(running.url, request_id="a", labels=LABELS)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        kept.mkdir()
        wait_for(lambda: metrics(running.url)["tweets_collected_rows_total"] == len(TEXTS), SECONDS)
        running.wait_until_logged("written again")


def test_a_full_disk_costs_no_request(model: Path, tmp_path: Path) -> None:
    with serving(model, tmp_path, collect=tmp_path / "kept") as running:
        process = psutil.Process(running.process.pid)
        process.rlimit(psutil.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        answers = [predict(running.url, text) for text in TEXTS]
        assert all(answer.ok for answer in answers)
        wait_for(lambda: metrics(running.url)["tweets_waiting_rows"] == len(TEXTS), SECONDS)
        told = {"request_id": answers[0].headers["X-Request-ID"], "labels": LABELS[:1]}
        assert fed_back(running.url, **told).status_code == 503
        process.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        wait_for(lambda: metrics(running.url)["tweets_waiting_rows"] == 0, SECONDS)
        assert fed_back(running.url, **told).status_code == 204
    assert len(rows(tmp_path / "kept")) == len(TEXTS)


@pytest.fixture
def kept(model: Path, tmp_path: Path) -> Iterator[Monitoring]:
    """What a service keeps in the test's folder; its thread does not run."""
    made: Monitoring = started(model, collect=tmp_path)[1].monitoring
    assert made.collection
    with contextlib.closing(made.collection):
        yield made


def test_labels_that_cannot_be_written_do_not_pile_up(kept: Monitoring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "LABELS", 2)

    async def ask() -> list[Any]:
        asked = [asyncio.create_task(kept.label(Asked("r"), ["a"])) for _ in range(3)]
        await asyncio.sleep(0.01)
        asked[0].cancel()
        await asyncio.sleep(0.01)
        kept._label()
        return await asyncio.gather(*asked, return_exceptions=True)

    left, missing, refused = asyncio.run(ask())  # the first one's client has left
    assert isinstance(left, asyncio.CancelledError)
    assert missing == 0
    assert str(refused) == "2 requests with labels wait to be written"


def test_a_locked_file_holds_up_only_the_first_label(kept: Monitoring, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept.collection
    asked = []

    def locked(one: Asked, _: Any) -> None:
        asked.append(one.request)
        raise OSError("database is locked")

    monkeypatch.setattr(kept.collection, "label", locked)

    async def ask() -> list[Any]:
        tasks = [asyncio.create_task(kept.label(Asked(request), ["a"])) for request in ("one", "two", "three")]
        await asyncio.sleep(0.01)
        kept._label()
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert [str(found) for found in asyncio.run(ask())] == ["database is locked"] * 3
    assert asked == ["one"]


def test_an_empty_setting_collects_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As compose.yaml's `${TWEETS_COLLECT:-}` would give it."""
    monkeypatch.setenv("TWEETS_COLLECT", "")
    assert settings.load().collect is None


def test_without_a_folder_nothing_is_kept_and_feedback_says_so(model: Path, tmp_path: Path) -> None:
    with serving(model, tmp_path, drift=False) as running:
        assert predict(running.url, "a").ok
        answer = fed_back(running.url, request_id="a", labels=LABELS)
        assert answer.status_code == 404
        assert answer.json()["error"].endswith("is kept: none are; TWEETS_COLLECT names a folder for them")
        found = metrics(running.url)  # and no alert: what accuracy is, nobody knows
        assert (found["tweets_live_accuracy_low"], found["tweets_live_accuracy_high"]) == (0, 1)
    assert [path.suffix for path in tmp_path.iterdir()] == [".log"]


def test_drift_is_told_when_the_window_is_full(model: Path, tmp_path: Path) -> None:
    size = files.read_json(model / exported.REFERENCE)["window"]
    with serving(model, tmp_path) as running:
        assert predict(running.url, ["WHAT A GREAT DAY"] * (size - 1)).ok
        wait_for(lambda: metrics(running.url)["tweets_drift_window_texts"] == size - 1, SECONDS)
        time.sleep(monitoring.COMPARE + 1)
        assert not [name for name in metrics(running.url) if name.startswith("tweets_drift_statistic")]
        assert predict(running.url, ["WHAT A GREAT DAY"] * 2).ok
        wait_for(lambda: 'tweets_drift_statistic{feature="capitals"}' in metrics(running.url), SECONDS)
        found = metrics(running.url)
        kinds = ("statistic", "threshold")
        for name in drift_statistics.STATISTICS:
            assert {f'tweets_drift_{kind}{{feature="{name}"}}' for kind in kinds} <= found.keys()
        value, limit = (found[f'tweets_drift_{kind}{{feature="capitals"}}'] for kind in kinds)
        assert value > limit


def test_a_reference_of_another_model_is_refused_by_name(folder: Path) -> None:
    path = folder / exported.REFERENCE
    files.write_json(path, files.read_json(path) | {"model": "f" * 64})
    (folder / exported.CHECKSUMS).unlink()
    exported.seal(folder)
    with pytest.raises(UserError, match=rf"reference.json: a reference of the model {'f' * 64}; needs one of [0-9a-f]"):
        started(folder)


@pytest.mark.parametrize("jump", [-(10**9), 10**9])
def test_a_clock_that_jumps_drops_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: int
) -> None:
    _, service = started(model, collect=tmp_path)
    kept: Monitoring = service.monitoring
    kept.start()
    begin = time.time()
    kept.add(service.served, Asked("before"), ["a"], service.served.predict(["a"]))
    monkeypatch.setattr(time, "time", lambda: begin + jump)
    kept.add(service.served, Asked("after"), ["b"], service.served.predict(["b"]))
    kept.stop()
    [(_, before), (_, after)] = rows(tmp_path, "request, at")
    assert begin - 1 <= before <= after < begin + 60


def test_an_error_is_logged_and_what_comes_next_is_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(monitoring, "WRITE", 0.05)
    monkeypatch.setattr(monitoring, "COMPARE", 0)
    _, service = started(model, collect=tmp_path)
    kept: Monitoring = service.monitoring
    monkeypatch.setattr(kept, "_compare", Mock(side_effect=FloatingPointError("no number")))
    kept.start()
    try:
        wait_for(lambda: "FloatingPointError: no number" in caplog.text, SECONDS)
        kept.add(service.served, Asked("next"), ["a"], service.served.predict(["a"]))
        wait_for(lambda: rows(tmp_path, "request") == [("next",)], SECONDS)
        assert kept._thread.is_alive()
    finally:
        kept.stop()


def test_what_waits_is_bounded(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "WRITE", 60)
    monkeypatch.setattr(monitoring, "WAITING", 3)
    _, service = started(model, collect=tmp_path)
    kept: Monitoring = service.monitoring
    kept.start()
    for request in ("one", "two"):
        kept.add(service.served, Asked(request), ["a", "b"], service.served.predict(["a", "b"]))
    kept.stop()
    assert [request for request, *_ in rows(tmp_path)] == ["one", "one"]
    assert service.metrics.registry.get_sample_value("tweets_lost_rows_total") == 2


def test_a_new_model_begins_a_new_window_and_has_no_labels(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring, "WRITE", 60)  # the thread leaves it to this test
    _, service = started(model, collect=tmp_path)
    kept: Monitoring = service.monitoring
    kept.start()
    size = service.served.reference.window
    kept.add(service.served, Asked("old"), ["a"] * size, service.served.predict(["a"] * size))
    kept._take()
    kept._compare()
    gauges = service.metrics.registry
    assert gauges.get_sample_value("tweets_drift_statistic", {"feature": "length"}) is not None
    assert kept.collection
    kept.collection.label(Asked("old"), ["a"])  # as another service on the folder may
    kept._tell_accuracy()
    assert gauges.get_sample_value("tweets_labelled_texts") == 1
    old = service.served
    kept.watch(dataclasses.replace(models.load(service.settings), version="new"))
    kept.add(old, Asked("late"), ["a"], old.predict(["a"]))  # was under way in the reload
    kept._take()
    kept._compare()
    kept._tell_accuracy()
    kept.stop()
    assert gauges.get_sample_value("tweets_labelled_texts") == 0
    assert gauges.get_sample_value("tweets_drift_window_texts") == 0
    assert gauges.get_sample_value("tweets_drift_statistic", {"feature": "length"}) is None


def test_an_interval_is_wilsons() -> None:
    from scipy.stats import binomtest

    for right, labelled in ((0, 9), (9, 9), (3, 4), (700, 1000)):
        expected = binomtest(right, labelled).proportion_ci(method="wilson")
        assert wilson(right, labelled) == pytest.approx((expected.low, expected.high))
    assert wilson(0, 0) == (0, 1)
