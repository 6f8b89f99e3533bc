"""The benchmark of attacks: a short run with a real service, and how it tells that requests were lost."""

import json
from pathlib import Path

import pytest

from benchmarks import attacks, load
from tweets.errors import UserError

pytestmark = pytest.mark.walk


@pytest.fixture
def here(with_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a small model; time limits for a busy machine."""
    monkeypatch.setattr(load, "START", 300)
    monkeypatch.setattr(attacks, "TIMEOUT", 300)
    return with_model


def test_honest_clients_lose_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["attacks", "--seconds", "5"])
    attacks.main()
    report = json.loads(attacks.RESULT.read_text())
    assert report["attacked"]["lost"] == {}
    assert report["attacked"]["honest_requests"] > 0
    assert report["attacked"]["attacks"].keys() <= attacks.attacks().keys()
    assert report["attacked"]["health_checks"] > 0
    assert f"honest requests: {report['attacked']['honest_requests']:,}, 0 of them lost" in capsys.readouterr().out


def test_a_lost_request_is_an_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWEETS_MAX_TEXT_CHARS", "1")
    monkeypatch.setattr("sys.argv", ["attacks", "--seconds", "1"])
    with pytest.raises(UserError, match="--seconds 1: needs at least 5"):
        attacks.main()
    monkeypatch.setattr("sys.argv", ["attacks", "--seconds", "5"])
    with pytest.raises(UserError, match=r"honest requests were lost: .*422: "):
        attacks.main()
    assert attacks.RESULT.exists()


def test_an_attack_whose_service_is_gone_is_no_error() -> None:
    attacks.send(("127.0.0.1", 1), [b"GET"])
