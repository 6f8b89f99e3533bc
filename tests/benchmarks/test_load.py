"""The load benchmark: how the highest rate is found, and one short run of everything with the real k6 and service."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import load
from tweets.errors import UserError

pytestmark = pytest.mark.walk


def found(rate: int, capacity: float) -> load.Found:
    """Return what k6 would see of a service that answers so many requests a second."""
    late = rate > capacity
    times = {"p50": 5.0, "p95": 2000.0 if late else 10.0, "p99": 20.0, "max": 30.0}
    return load.Found(rate=rate, seconds=1, took=1, ok=rate, busy=0, not_connected=0, failed=0, dropped=0, **times)


@pytest.mark.parametrize("capacity", [50, 61, 390, 400, 999])
def test_the_highest_rate_is_found_to_a_tenth(capacity: int) -> None:
    highest, tried = load.saturation(lambda rate: found(rate, capacity))
    assert highest <= capacity < highest * load.FINE**1.5
    assert [each.rate for each in tried] == sorted(each.rate for each in tried)
    assert len(tried) < 15


def test_a_service_that_sustains_nothing() -> None:
    assert load.saturation(lambda rate: found(rate, 10))[0] == 0


@pytest.mark.parametrize("name", ["busy", "not_connected", "failed", "dropped"])
def test_a_rate_with_a_lost_request_is_not_sustained(name: str) -> None:
    assert found(10, 20).is_sustained
    assert not load.Found(**{**vars(found(10, 20)), name: 1}).is_sustained


def test_a_rate_whose_answers_come_later_and_later_is_not_sustained() -> None:
    assert not load.Found(**{**vars(found(10, 20)), "took": 1.1}).is_sustained


@pytest.fixture
def here(with_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a small model; the measurements are short."""
    changed: dict[str, Any] = {
        "FIRST": 10,
        "LATE": 30_000,
        "ALONE": 5,
        "THREADS": 1,
        "HALF_SECONDS": 1,
        "LOAD_SECONDS": 3,
        "RELOADS": 2,
        "ROUNDS": 2,
    }
    for name, value in changed.items():
        monkeypatch.setattr(load, name, value)
    return with_model


def test_a_short_run(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def two_rates(measure: load.Measure) -> tuple[int, list[load.Found]]:
        return 20, [measure(10), measure(20)]

    monkeypatch.setattr(load, "saturation", two_rates)
    monkeypatch.setattr("sys.argv", ["load", "--seconds", "1"])
    load.main()
    monkeypatch.setattr("sys.argv", ["load", "--soak", "2"])
    load.main()
    report, soaked = (json.loads(path.read_text()) for path in (load.RESULT, load.SOAKED))
    assert [each["rate"] for each in report["half"]] == [10] * 2
    assert all(each["alone_p50"] > 0 for each in report["half"])
    for each in (*report["rates"], *report["half"], report["reload"]["found"], soaked["found"]):
        assert each["ok"] >= 0.9 * each["rate"] * each["seconds"]
        assert each["busy"] == each["not_connected"] == each["failed"] == each["dropped"] == 0
    drained = load.Found(**report["drain"]["found"])
    assert drained.lost == drained.not_connected > 0
    assert drained.ok > 0
    assert report["drain"]["seconds_to_end"] < 10
    assert report["reload"]["megabytes"] > report["megabytes"] > 50  # it held two models
    printed = capsys.readouterr().out
    assert "| requests/s | answered/s |" in printed
    assert "- highest rate: 20 requests/s, 1.00 times the 20 without batches" in printed
    assert "- 2 reloads at half of the rate: 0 requests lost, " in printed
    assert "- a drain at half of the rate: 0 lost, " in printed
    assert "- 2 s at 10 requests/s: 0 lost, " in printed


def test_without_k6_it_says_how_to_get_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="k6: not found; `make setup-dev` installs it"):
        load.k6("http://127.0.0.1:1", Path("texts.json"), 1, 1)


def test_a_k6_that_fails_is_quoted(here: Path) -> None:
    with pytest.raises(UserError, match=r"k6: .*texts\.json"):
        load.k6("http://127.0.0.1:1", Path("texts.json"), 1, 1)


def test_a_service_that_cannot_start_is_quoted(here: Path) -> None:
    (here / "models/onnx/model.onnx").unlink()
    with pytest.raises(UserError, match=r"the service did not start: serve: .*no model\.onnx"), load.service():
        pass
