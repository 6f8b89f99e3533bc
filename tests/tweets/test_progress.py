"""Progress: a bar on a terminal, in a log a line now and then, and none for what is done soon."""

import io
import sys
from typing import Any

import pytest
import tqdm.std

from tweets import progress
from tweets.progress import track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that the test puts forward."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(tqdm.std, "time", found)
    return found


def work(clock: Clock, items: int, seconds: float, **options: Any) -> None:
    for _ in track(range(items), desc="predict", unit="batches", **options):
        clock.now += seconds


def test_a_log_gets_a_line_every_ten_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    work(clock, 70, 0.5)
    assert capsys.readouterr().err.splitlines() == [
        "predict: 20 of 70 batches, 00:25 left",
        "predict: 40 of 70 batches, 00:15 left",
        "predict: 60 of 70 batches, 00:05 left",
    ]


def test_slow_steps_get_a_line_each(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    work(clock, 3, 60)
    assert capsys.readouterr().err.splitlines() == [
        "predict: 1 of 3 batches, 02:00 left",
        "predict: 2 of 3 batches, 01:00 left",
        "predict: 3 of 3 batches, 00:00 left",
    ]


def test_what_is_done_soon_or_is_not_to_be_shown_prints_nothing(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    work(clock, 15, 0.6)
    work(clock, 100, 60, disable=True)
    assert capsys.readouterr().err == ""


def test_updates_postfix_and_an_unknown_total(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with track(desc="train", unit="steps", total=1200, initial=200) as bar:
        bar.set_postfix_str("loss 0.512", refresh=False)
        clock.now += 20
        bar.update(400)
        bar.write("train: step 600")
    with track(desc="read", unit="rows") as bar:
        clock.now += 20
        bar.update(4000)
    printed = capsys.readouterr()
    assert printed.err.splitlines() == ["train: 600 of 1,200 steps, loss 0.512, 00:30 left", "read: 4,000 rows"]
    assert printed.out == "train: step 600\n"


def test_a_terminal_gets_a_bar(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    work(clock, 4, 1)
    assert "predict: 100%|" in terminal.getvalue()
    assert progress.SECONDS_BETWEEN_LINES >= 10
