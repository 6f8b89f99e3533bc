"""A real service in a process of its own, on a free port of loopback."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.support.clones import ENVIRONMENT, MEASURED, ROOT, wait_for

SECONDS = 300  # within which a service is ready, or a text labelled: only a hang takes longer


@dataclass
class Running:
    """A service that runs."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lines(self) -> list[dict[str, Any]]:
        """Return what it has logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def wait_until_logged(self, message: str) -> dict[str, Any]:
        """Return the first line of the log with this in its message."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.lines() if message in line["message"]]

        wait_for(found, SECONDS)
        return found()[0]

    def end(self) -> int:
        """Send SIGTERM; return the exit status. One that does not end is killed, which is an error."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(SECONDS)
        finally:
            self.process.kill()


def command(folder: Path, **settings: Any) -> dict[str, str]:
    """Return the environment of a service for an exported folder."""
    kept = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("TWEETS_")}
    own = {"model": folder, "port": 0, "threads": 1, "drain_delay": 0.2, "request_timeout": SECONDS}
    given = {**own, **settings}
    return {
        **kept,
        **MEASURED,
        "PYTHONPATH": str(ROOT),
        **{f"TWEETS_{name.upper()}": str(value) for name, value in given.items()},
    }


@contextlib.contextmanager
def serving(folder: Path, place: Path, **settings: Any) -> Iterator[Running]:
    """Yield a service that is ready; `place` is its current folder, where its log lies."""
    log = place / f"serve-{time.monotonic_ns()}.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve"], cwd=place, env=command(folder, **settings), stderr=stderr
        )
    running = Running(process, log)
    try:
        wait_for(lambda: "at port" in log.read_text() or process.poll() is not None, SECONDS)
        assert process.poll() is None, log.read_text()
        running.port = int(running.wait_until_logged("at port")["message"].split()[-1])
        yield running
    finally:
        if process.poll() is None:
            running.end()


def ended(folder: Path, place: Path, **settings: Any) -> str:
    """Return the one line with which a service that cannot start ends."""
    done = subprocess.run(
        [sys.executable, "-m", "serve"],
        cwd=place,
        env=command(folder, **settings),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    return line


def predict(url: str, text: Any, **options: Any) -> requests.Response:
    return requests.post(f"{url}/predict", json={"text": text}, timeout=SECONDS, **options)
