"""Is what happens to the service seen? Each alert has to fire and to clear, each query of the dashboard to find data.

    python -m benchmarks.alerts

Starts the service with a copy of models/onnx, and Prometheus with the rules in deploy/prometheus; sends tweets of the
test split; then does to the service what each alert is there for, puts it right, and goes on. Prints a table of what
was done and how long it took each alert to fire and to clear, and writes benchmarks/results/alerts.json. Fails when an
alert does not fire, fires before its time or stays, and when a query of the dashboard finds nothing in all that time.

The times in the rules, 5 minutes and so on, are divided by FASTER; thresholds are as they are. Needs Debian's package
`prometheus`, and Linux, where a limit for the running process stands for a full disk.
"""

import contextlib
import itertools
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests
import yaml

from benchmarks import load
from benchmarks.machine import machine
from tweets import command, files, markdown
from tweets.data import tables
from tweets.errors import UserError
from tweets.model import exported

DEPLOY = Path("deploy/prometheus")
DASHBOARD = Path("deploy/grafana/dashboard.json")
RESULT = Path("benchmarks/results/alerts.json")
FASTER = 20
SCRAPE = 1  # seconds, in place of 15
CALM = 20  # seconds of nothing but traffic, in which no alert may fire
LONGEST = 300  # seconds that an alert may take to fire or to clear
LIST = 10  # tweets in a request
PAUSE = 0.1  # seconds between two requests
DURATION = re.compile(r"(?<=\[)\d+[smhd](?=\])")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def faster(duration: str) -> str:
    """Return a duration of Prometheus, as `5m`, divided by FASTER."""
    return f"{1000 * int(duration[:-1]) * UNITS[duration[-1]] // FASTER}ms"


def faster_rules(rules: dict[str, Any]) -> dict[str, Any]:
    """Return alert rules whose `for` and whose ranges are divided by FASTER."""
    for rule in itertools.chain.from_iterable(group["rules"] for group in rules["groups"]):
        rule["expr"] = DURATION.sub(lambda match: faster(match[0]), rule["expr"])
        if "for" in rule:
            rule["for"] = faster(rule["for"])
    return rules


@dataclass
class Prometheus:
    """A Prometheus that runs."""

    url: str

    def get(self, path: str, **query: Any) -> Any:
        answer = requests.get(f"{self.url}/api/v1/{path}", params=query, timeout=load.START).json()
        if answer["status"] != "success":
            raise UserError(f"Prometheus: {answer['error']}: {query}")
        return answer["data"]["result"]

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        return {each["metric"]["alertname"] for each in self.get("query", query='ALERTS{alertstate="firing"}')}

    def fired(self, begin: float) -> dict[str, list[float]]:
        """Return the seconds, since the epoch, in which each alert has fired since then."""
        query = 'max by (alertname) (ALERTS{alertstate="firing"})'
        series = self.get("query_range", query=query, start=begin, end=time.time(), step=SCRAPE)
        return {each["metric"]["alertname"]: [when for when, _ in each["values"]] for each in series}


def program(name: str) -> str:
    """Return where a program lies. Raises UserError where it is missing."""
    path = shutil.which(name)
    if not path:
        raise UserError(f"{name}: not found; `apt-get install --no-install-recommends prometheus` brings it")
    return path


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def prometheus(folder: Path, port: int) -> Iterator[Prometheus]:
    """Yield a Prometheus on loopback that scrapes this port, with the repository's rules, made faster."""
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(config["global"], f"{SCRAPE}s")
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{port}"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    (folder / "alerts.yml").write_text(yaml.safe_dump(faster_rules(rules)))
    subprocess.run([program("promtool"), "check", "config", folder / "prometheus.yml"], check=True, capture_output=True)
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    options += [f"--web.listen-address={address}", "--log.level=warn"]
    process = subprocess.Popen([program("prometheus"), *options])
    try:
        wait_for(lambda: answers(f"http://{address}/-/ready"), "Prometheus is not ready")
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait()


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=load.START).ok
    except requests.ConnectionError:
        return False


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait for it. Raises UserError, saying what, when the condition does not hold within LONGEST."""
    end = time.monotonic() + LONGEST
    while not condition():
        if time.monotonic() > end:
            raise UserError(f"{what} after {LONGEST} s")
        time.sleep(0.2)


@dataclass
class Scene:
    """The service, and the tweets that are sent to it."""

    folder: Path
    texts: list[str]
    port: int = field(default_factory=free_port)
    change: Callable[[str], str] | None = str  # what is done to a tweet before it is sent; None: nothing is sent
    is_wrong: bool | None = None  # the label that is sent back for each prediction; None: none is
    _running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    service: load.Service = field(init=False)

    def __post_init__(self) -> None:
        shutil.copytree(load.ONNX, self.model)
        self.collected.mkdir()

    @property
    def model(self) -> Path:
        return self.folder / "onnx"

    @property
    def collected(self) -> Path:
        return self.folder / "collected"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        settings = {"model": self.model, "port": self.port, "collect": self.collected}
        self.service = self._running.enter_context(load.service(**settings))

    def kill(self) -> None:
        self._running.close()

    def reload(self) -> None:
        os.kill(self.service.process.pid, signal.SIGHUP)

    def post(self, texts: list[str]) -> None:
        with contextlib.suppress(requests.RequestException):  # what becomes of it is for Prometheus to tell
            answer = requests.post(f"{self.url}/predict", json={"text": texts}, timeout=load.START)
            if self.is_wrong is None or not answer.ok:
                return
            labels = [self._label(each) for each in answer.json()["predictions"]]
            feedback = {"request_id": answer.headers["X-Request-ID"], "labels": labels}
            requests.post(f"{self.url}/feedback", json=feedback, timeout=load.START).raise_for_status()

    def _label(self, prediction: dict[str, Any]) -> str:
        others = sorted(prediction["probabilities"].keys() - {prediction["label"]})
        return others[0] if self.is_wrong else str(prediction["label"])

    @contextlib.contextmanager
    def sending(self, clients: int, size: int, pause: float) -> Iterator[None]:
        """Send tweets all the while, in lists of a size."""
        stop = threading.Event()

        def send(first: int) -> None:
            for number in itertools.count(first, clients):
                if stop.wait(pause):
                    return
                if self.change:
                    begin = number * size % (len(self.texts) - size)
                    self.post([self.change(text) for text in self.texts[begin : begin + size]])

        threads = [threading.Thread(target=send, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


@contextlib.contextmanager
def limited(scene: Scene, limit: int, value: int) -> Iterator[None]:
    """Let the kernel refuse the running service more than so many bytes."""
    process = psutil.Process(scene.service.process.pid)
    before = process.rlimit(limit)
    process.rlimit(limit, (value, before[1]))
    yield
    process.rlimit(limit, before)


@contextlib.contextmanager
def disk_full(scene: Scene) -> Iterator[None]:
    """Let no file grow, and send what soon is more than may wait for that."""
    with limited(scene, psutil.RLIMIT_FSIZE, 0), scene.sending(clients=2, size=100, pause=0.1):
        yield


def overload(scene: Scene) -> contextlib.AbstractContextManager[None]:
    return scene.sending(clients=8, size=500, pause=0.05)


@contextlib.contextmanager
def harmed_model(scene: Scene) -> Iterator[None]:
    path = scene.model / exported.MODEL
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    scene.reload()
    yield
    path.write_bytes(whole)
    scene.reload()


@contextlib.contextmanager
def wrong_settings(scene: Scene) -> Iterator[None]:
    """Serve a model whose settings let in longer texts than it can compute, and send long ones."""
    path = scene.model / exported.SETTINGS
    right = path.read_bytes()
    reseal(path, json.dumps(json.loads(right) | {"max_length": 1_000}).encode())
    scene.reload()
    scene.change = lambda text: f"{text} {'a ' * 900}"
    yield
    scene.change = str
    reseal(path, right)
    scene.reload()


def reseal(path: Path, content: bytes) -> None:
    """Change a file of a model's folder, and the folder's checksums with it."""
    path.write_bytes(content)
    (path.parent / exported.CHECKSUMS).unlink()
    exported.seal(path.parent)


@contextlib.contextmanager
def old_model(scene: Scene) -> Iterator[None]:
    path = scene.model / exported.CHECKSUMS
    old = time.time() - 91 * UNITS["d"]
    os.utime(path, (old, old))
    scene.reload()
    yield
    os.utime(path)
    scene.reload()


@contextlib.contextmanager
def other_tweets(scene: Scene) -> Iterator[None]:
    scene.change = str.upper
    yield
    scene.change = str


@contextlib.contextmanager
def wrong_labels(scene: Scene) -> Iterator[None]:
    scene.is_wrong = True
    yield
    scene.is_wrong = False


@contextlib.contextmanager
def silence(scene: Scene) -> Iterator[None]:
    scene.change = None
    yield
    scene.change = str


@contextlib.contextmanager
def killed(scene: Scene) -> Iterator[None]:
    scene.kill()
    yield
    scene.start()


@contextlib.contextmanager
def restarts(scene: Scene) -> Iterator[None]:
    for _ in range(3):
        scene.kill()
        scene.start()
        time.sleep(3 * SCRAPE)  # seen by Prometheus
    yield


@dataclass(frozen=True)
class Fault:
    """Something that happens to the service, while the context lasts, and the alerts that have to tell of it."""

    what: str
    cause: Callable[[Scene], contextlib.AbstractContextManager[None]]
    alerts: tuple[str, ...]


FAULTS = (
    # First, since a reload is no faster: in these windows it makes many a request late.
    Fault("8 clients with lists of 500 tweets", overload, ("Saturated", "LatencyHigh", "RequestsRefused")),
    Fault("a model that cannot compute long texts", wrong_settings, ("ErrorRateHigh",)),
    Fault("a model cut short, and SIGHUP", harmed_model, ("ModelReloadFailed",)),
    Fault("a model of 91 days ago, and SIGHUP", old_model, ("ModelStale",)),
    Fault("no file may grow (RLIMIT)", disk_full, ("LogRecordsDropped", "CollectionFailing", "CollectedRowsLost")),
    Fault("tweets in capitals", other_tweets, ("Drift",)),
    Fault("other labels sent back", wrong_labels, ("LiveAccuracyLow",)),
    Fault("no requests", silence, ("NoTraffic",)),
    Fault("SIGKILL", killed, ("ServiceDown",)),
    Fault("SIGKILL and a start, three times", restarts, ("ServiceRestarting",)),
)


@dataclass(kw_only=True)
class Seen:
    """What an alert made of a fault; times in seconds since the epoch."""

    alert: str
    what: str
    caused: float
    cured: float = math.nan
    fired: float = math.nan
    cleared: float = math.nan

    @property
    def fires(self) -> float:
        """The seconds from the fault on."""
        return self.fired - self.caused

    @property
    def clears(self) -> float:
        """The seconds from when it was put right."""
        return max(0.0, self.cleared - self.cured)

    def row(self) -> tuple[str, ...]:
        return self.alert, self.what, f"{self.fires:.0f} s", f"{self.clears:.0f} s"


def watch(scene: Scene, server: Prometheus) -> list[Seen]:
    """Make each fault, and return what was seen. Raises UserError when an alert does what it should not."""
    begin = int(time.time())
    time.sleep(CALM)
    seen: list[Seen] = []
    for fault in FAULTS:
        new = [Seen(alert=alert, what=fault.what, caused=time.time()) for alert in fault.alerts]
        with fault.cause(scene):
            for each in new:
                wait_for(lambda: each.alert in server.firing(), f"{fault.what}: {each.alert} does not fire")  # noqa: B023
        for each in new:
            each.cured = time.time()
        sys.stderr.write(f"{fault.what}: {', '.join(fault.alerts)} after {time.time() - new[0].caused:.0f} s\n")
        seen += new
    wait_for(lambda: not server.firing(), f"{', '.join(sorted(server.firing()))}: still firing")
    fired = server.fired(begin)
    for each in seen:
        times = fired[each.alert]
        each.fired = times[0]
        each.cleared = next(when for when in itertools.count(math.ceil(each.cured), SCRAPE) if when not in times)
        if each.fired < each.caused:
            raise UserError(f"{each.alert} fired {each.caused - each.fired:.0f} s before this: {each.what}")
    return seen


def dashboard_queries() -> list[tuple[str, str]]:
    """Return the title of its panel and the query, for each query of the dashboard."""
    panels = files.read_json(DASHBOARD)["panels"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]


def found_by(server: Prometheus, query: str, begin: float) -> int:
    """Return how many series with a number in them a query of the dashboard finds from then to now."""
    query = query.replace("$__rate_interval", f"{4 * SCRAPE}s")
    series = server.get("query_range", query=query, start=begin, end=time.time(), step=SCRAPE)
    return sum(any(not math.isnan(float(value)) for _, value in each["values"]) for each in series)


def check_faults() -> None:
    """Do nothing but raise UserError where a rule has no fault here, or a fault no rule."""
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    known = {alert for fault in FAULTS for alert in fault.alerts}
    if alerts != known:
        raise UserError(f"in {DEPLOY / 'alerts.yml'} or in FAULTS, not in both: {', '.join(sorted(alerts ^ known))}")


def main() -> None:
    check_faults()
    program("prometheus")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        texts = tables.read_parquet(load.TWEETS)["raw"].sample(frac=1, random_state=0)  # they lie by topic: drift
        scene = Scene(Path(name), texts.tolist())
        scene.start()
        stack.callback(scene.kill)
        begin = time.time()
        server = stack.enter_context(prometheus(Path(name), scene.port))
        stack.enter_context(scene.sending(clients=1, size=LIST, pause=PAUSE))
        seen = watch(scene, server)
        counts = [(title, query, found_by(server, query, begin)) for title, query in dashboard_queries()]
    titles = ("alert", "what was done", "fires after", "put right, clears after")
    print(markdown.table(titles, [each.row() for each in seen]))
    print(f"\n{len(counts)} queries of the dashboard; series that each finds:")
    for title, query, count in counts:
        print(f"{count:4} {title}: {query}")
    empty = [title for title, _, count in counts if not count]
    times = {each.alert: {"what": each.what, "fires": each.fires, "clears": each.clears} for each in seen}
    files.write_json(RESULT, {"machine": machine(), "faster": FASTER, "seconds": times})
    if empty:
        raise UserError(f"{DASHBOARD}: a query finds nothing: {', '.join(empty)}")


if __name__ == "__main__":
    command.run("alerts", main, __doc__)
