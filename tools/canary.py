"""Tell whether a service serves the model of this checkout, and whether it goes on doing so without errors.

    python -m tools.canary URL                  # what it is, and what it predicts
    python -m tools.canary URL --seconds 300    # and then for five minutes: a request a second, and its own counts

What it must be is the commit that is checked out, with the model of its dvc.lock; what it must predict are the
probabilities that the exporting run wrote for its example texts. CANARY_KEY holds an API key, where the service wants
one. Prints what it found, and exits with 1 and a line for the first thing that is wrong.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from prometheus_client.parser import text_string_to_metric_families

from repository.git import git
from serve.models import OUTPUT
from tweets import command, files
from tweets.errors import UserError, one_line
from tweets.model import exported

TIMEOUT = 15  # seconds for an answer: the service gives itself 10
PATIENCE = 60.0  # seconds until a new address, or new traffic, has reached all of a cloud's front ends
MAX_ERRORS = 0.01  # of the requests; so few are no rate that up to two errors are allowed always
INTERVAL = 1.0  # seconds between two requests


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a service has to be; `version` is empty where any will do."""

    commit: str
    md5: str
    version: str
    texts: list[str]
    probabilities: list[list[float]]


def expected(version: str = "") -> Expected:
    """Return what the checkout in the current folder is. Raises UserError where it has no exported model."""
    lock = files.read_yaml(Path("dvc.lock"))
    outs = [out for stage in lock["stages"].values() for out in stage.get("outs", [])]
    md5 = next((out["md5"] for out in outs if out["path"] == OUTPUT), None)
    examples = Path(OUTPUT) / exported.EXAMPLES
    if not md5 or not examples.is_file():
        what = f"{examples} is not there" if md5 else f"dvc.lock has no {OUTPUT}"
        raise UserError(f"{what}; `dvc pull {OUTPUT}` or `dvc repro` gives it")
    rows = files.read_json(examples)
    return Expected(
        commit=git("rev-parse", "HEAD"),
        md5=md5,
        version=version,
        texts=[row["text"] for row in rows],
        probabilities=[row["probabilities"] for row in rows],
    )


class Client:
    """A client of one service. Its methods raise UserError for an answer that is none, or not of the API's form."""

    def __init__(self, url: str, key: str = "") -> None:
        self.url = url.rstrip("/")
        self._session = requests.Session()
        if key:
            self._session.headers["Authorization"] = f"Bearer {key}"

    def ask(self, method: str, path: str, body: Any = None) -> requests.Response:
        try:
            answer = self._session.request(method, self.url + path, json=body, timeout=TIMEOUT)
        except requests.RequestException as error:
            raise UserError(f"{self.url}{path}: no answer: {one_line(error)[:200]}") from None
        if not answer.ok:
            raise UserError(f"{self.url}{path}: {answer.status_code}: {one_line(Exception(answer.text))[:200]}")
        return answer

    def json(self, method: str, path: str, body: Any = None) -> Any:
        try:
            return self.ask(method, path, body).json()
        except requests.exceptions.JSONDecodeError:
            raise UserError(f"{self.url}{path}: the answer is not JSON, so this is not the service") from None

    def check_model(self, wanted: Expected) -> str:
        """Return the version that is served. Raises UserError where it is not what is wanted."""
        served = self.json("GET", "/model")
        try:
            pairs = [("commit", served["commit"], wanted.commit), ("model", served["lock"]["md5"], wanted.md5)]
            version = str(served["version"])
        except (KeyError, TypeError):
            raise UserError(f"{self.url}/model: says nothing of commit, lock and version") from None
        pairs += [("version", version, wanted.version)] if wanted.version else []
        faults = [f"{name} {is_it}, needs {needed}" for name, is_it, needed in pairs if is_it != needed]
        if faults:
            raise UserError(f"{self.url}: another model: {'; '.join(faults)}")
        return version

    def check_predictions(self, wanted: Expected) -> None:
        """Raise UserError unless the example texts get the probabilities that they got at the export."""
        answer = self.json("POST", "/predict", {"text": wanted.texts})
        try:
            rows = [list(one["probabilities"].values()) for one in answer["predictions"]]
            apart = [
                abs(one - other)
                for row, needed in zip(rows, wanted.probabilities, strict=True)
                for one, other in zip(row, needed, strict=True)
            ]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(f"{self.url}/predict: not a prediction for each of {len(wanted.texts)} texts") from None
        allowed = exported.TOLERANCE
        if wrong := [distance for distance in apart if not distance <= allowed]:  # as NaN
            raise UserError(f"{self.url}/predict: a probability differs by {wrong[0]:.3f}, {allowed} is allowed")

    def counts(self) -> tuple[int, int]:
        """Return how many requests the instance that answers has had, and how many of them ended in its error."""
        asked, failed = 0, 0
        try:
            for family in text_string_to_metric_families(self.ask("GET", "/metrics").text):
                for sample in family.samples:
                    of_health = sample.labels.get("route", "").startswith("/v2/health")  # 503 while it drains
                    if sample.name == "tweets_http_requests_total" and not of_health:
                        asked += int(sample.value)
                        failed += int(sample.value) if sample.labels["status"].startswith("5") else 0
        except ValueError as error:
            raise UserError(f"{self.url}/metrics: {one_line(error)[:200]}") from None
        return asked, failed


def check(client: Client, wanted: Expected) -> None:
    """Print what is served and that it predicts. Raises UserError with what is still wrong after PATIENCE."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            client.ask("GET", "/v2/health/ready")
            version = client.check_model(wanted)
            client.check_predictions(wanted)
            break
        except UserError:
            if time.monotonic() > end:
                raise
        time.sleep(0.5)
    commit, texts = wanted.commit[:12], len(wanted.texts)
    print(f"canary: {client.url}: version {version}, commit {commit}, {texts} texts as exported")


def too_many(failed: int, asked: int) -> bool:
    return failed > max(2, MAX_ERRORS * asked)


def watch(client: Client, wanted: Expected, seconds: float) -> None:
    """Ask for predictions for some seconds, and read what the service counts of everybody's requests meanwhile.

    Behind an address with several instances each reading is that of one of them; so each is judged by itself. Raises
    UserError as soon as there are too many errors in a reading, or among its own requests: an answer of another model
    or with other probabilities is one.
    """
    asked, failed, busiest = 0, 0, 0
    for _ in ticks(seconds):
        asked += 1
        try:
            client.check_model(wanted)
            client.check_predictions(wanted)
            served, broken = client.counts()
        except UserError as error:
            failed += 1
            if too_many(failed, asked):
                raise UserError(f"{failed} of {asked} requests failed, the last one so: {error}") from None
            continue
        busiest = max(busiest, served)
        if too_many(broken, served):
            raise UserError(f"{client.url}: {broken} of the {served} requests of an instance ended in its error")
    print(f"canary: {client.url}: {asked} requests in {seconds:g} s, {failed} failed; up to {busiest} an instance")


def ticks(seconds: float, now: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Yield at once, and then each INTERVAL, until the seconds are over."""
    begin = now()
    for number in range(max(1, round(seconds / INTERVAL))):
        time.sleep(max(0.0, begin + number * INTERVAL - now()))
        yield


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=0, help="how long to watch it afterwards")
    parser.add_argument("--version", default="", help="the version that it must say it is")
    given = parser.parse_args()
    client, wanted = Client(given.url, os.environ.get("CANARY_KEY", "")), expected(given.version)
    check(client, wanted)
    if given.seconds:
        watch(client, wanted, given.seconds)


if __name__ == "__main__":
    command.run("canary", main)
