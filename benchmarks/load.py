"""How much the service takes, over HTTP, and what its clients wait.

    python -m benchmarks.load [--seconds 10]
    python -m benchmarks.load --soak 600

Starts `python -m serve` and drives it with k6 at fixed arrival rates, a tweet of the test split in each request. One is
sent when its time has come, whether or not those before it are answered, so waiting is counted. A rate is sustained
when each request is answered with 200, 95 % of them within LATE, and all as fast as they came. Measures, all on this
machine, the generator included:

- the seconds from the start to ready, and the most memory under load;
- the highest rate sustained, to a tenth, with batches of one text and then with the service's own;
- what clients wait at several rates, and at half of the highest, by turns with the model alone, a tweet at a time;
- reloads (SIGHUP) and a drain (SIGTERM) under half of the highest rate: nothing may fail.

Prints tables and writes benchmarks/results/load.json. With --soak it measures only the memory over that many seconds at
half of the highest rate that load.json has, and writes soak.json.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import turns
from benchmarks.machine import machine
from tweets import command, files, markdown
from tweets.data import tables
from tweets.errors import UserError, one_line
from tweets.model import exported

ONNX = Path("models/onnx")
TWEETS = Path("data/prepared/test.parquet")
RESULT = Path("benchmarks/results/load.json")
SOAKED = Path("benchmarks/results/soak.json")
THREADS = 2
FIRST = 50  # requests a second
LATE = 250  # ms
BEHIND = 1.05  # of the seconds in which requests were sent, those until the last answer came
FINE = 1.1  # the highest rate sustained is found to this factor
ALONE = 300  # tweets by the model alone
START = 30  # seconds that a service may take to be ready
ROUNDS = 5  # of half of the highest rate, and of the model alone
RELOADS = 3
SAMPLE = 0.2  # seconds
RELOADED = re.compile(r'^tweets_model_reloads_total\{outcome="done"\} (\S+)', re.MULTILINE)
MEMORY = ("first_fifth_mb", "last_fifth_mb", "highest_mb")
HALF_SECONDS = 30  # of a round; in the first second each user of k6 has to connect
LOAD_SECONDS = 12  # of a reload or drain under load


@dataclass(frozen=True, kw_only=True)
class Found:
    """What k6 saw at a rate: of the answers with 200 the times in ms, and counts of requests by how they ended."""

    rate: int
    seconds: float  # in which requests were sent
    took: float  # seconds until the last answer
    ok: int
    busy: int  # refused with 503
    not_connected: int  # nobody listened
    failed: int  # anything else
    dropped: int  # never sent: too many were under way
    p50: float
    p95: float
    p99: float
    max: float

    @property
    def lost(self) -> int:
        return self.busy + self.not_connected + self.failed + self.dropped

    @property
    def is_sustained(self) -> bool:
        return not self.lost and self.p95 < LATE and self.took < BEHIND * self.seconds


Measure = Callable[[int], Found]


def k6(url: str, texts: Path, rate: int, seconds: float) -> Found:
    """Send `rate` requests a second for some seconds. Raises UserError when k6 is missing or fails."""
    program = shutil.which("k6")
    if not program:
        raise UserError("k6: not found; `make setup-dev` installs it")
    users = max(10, rate)  # as many as can wait for an answer, each for a second
    given = {"URL": url, "TEXTS": str(texts), "RATE": str(rate), "SECONDS": str(seconds), "USERS": str(users)}
    done = subprocess.run(
        [program, "run", "--quiet", "--no-usage-report", "--log-output=stderr", str(Path(__file__).with_suffix(".js"))],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"k6: {one_line(RuntimeError(done.stderr[-300:]))}")
    summary = Found(rate=rate, seconds=seconds, **json.loads(done.stdout))
    verdict = "" if summary.is_sustained else ", not sustained"
    sys.stderr.write(f"{rate}/s: p95 {summary.p95:.0f} ms, {summary.ok} answered{verdict}\n")
    for line in done.stderr.splitlines()[:3]:
        sys.stderr.write(f"  {line}\n")
    return summary


@dataclass
class Service:
    """A running service."""

    process: subprocess.Popen[bytes]
    url: str
    seconds_to_ready: float

    @property
    def megabytes(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss / 1e6)


@contextlib.contextmanager
def service(**settings: Any) -> Iterator[Service]:
    """Yield a service that is ready. Raises UserError with the end of its log when it does not start."""
    given = {"model": ONNX.resolve(), "port": 0, "threads": THREADS, **settings}
    environment = {**os.environ, **{f"TWEETS_{name.upper()}": str(value) for name, value in given.items()}}
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        begin = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "serve"], env=environment, stderr=log)
        try:
            url = _wait(process, Path(log.name))
            yield Service(process, url, time.perf_counter() - begin)
        finally:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.perf_counter() + START
    while time.perf_counter() < end and process.poll() is None:
        started = next((line for line in log.read_text().splitlines() if " at port " in line), None)
        if started:
            url = f"http://127.0.0.1:{json.loads(started)['message'].split()[-1]}"
            with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=START):  # noqa: S310  loopback
                return url
        time.sleep(0.01)
    raise UserError(f"the service did not start: {' '.join(log.read_text().splitlines()[-1:]) or 'it said nothing'}")


def saturation(measure: Measure) -> tuple[int, list[Found]]:
    """Return the highest rate sustained, to a factor of FINE, and what was found at each rate tried.

    0 where not even FIRST is.
    """
    tried = [measure(FIRST)]
    while tried[-1].is_sustained:
        tried.append(measure(2 * tried[-1].rate))
    low, high = (tried[-2].rate if len(tried) > 1 else 0), tried[-1].rate
    while low and high / low > FINE:
        tried.append(measure(round((low * high) ** 0.5)))
        low, high = (tried[-1].rate, high) if tried[-1].is_sustained else (low, tried[-1].rate)
    return low, sorted(tried, key=lambda summary: summary.rate)


def alone(model: exported.Exported, texts: list[str]) -> float:
    """Return the median of the milliseconds that the model takes for a tweet, without a service."""
    took = []
    for text in texts[:ALONE]:
        begin = time.perf_counter()
        model.predict([text])
        took.append(1000 * (time.perf_counter() - begin))
    return float(np.median(took))


def reloads(texts: Path, rate: int) -> dict[str, Any]:
    """Return what k6 saw while the service read its model anew, RELOADS times, and the most memory, in MB."""
    with service() as running, memory(running) as megabytes:
        timers = [
            threading.Timer(LOAD_SECONDS * (number + 1) / (RELOADS + 1), running.process.send_signal, [signal.SIGHUP])
            for number in range(RELOADS)
        ]
        for timer in timers:
            timer.start()
        summary = k6(running.url, texts, rate, LOAD_SECONDS)
        _wait_for_reloads(running.url)
    return {"found": asdict(summary), "megabytes": max(megabytes)}


def _wait_for_reloads(url: str) -> None:
    """Return when the service has read its model anew RELOADS times. Raises UserError when it has not within START."""
    end, done = time.perf_counter() + START, 0.0
    while done != RELOADS:
        if time.perf_counter() > end:
            raise UserError(f"the service has reloaded {done:.0f} times; it was told {RELOADS} times")
        time.sleep(0.1)
        with urllib.request.urlopen(f"{url}/metrics", timeout=START) as answer:  # noqa: S310  loopback
            match = RELOADED.search(answer.read().decode())
        done = float(match[1]) if match else 0.0


def drain(texts: Path, rate: int) -> tuple[Found, float]:
    """Return what k6 saw of a service that was told to end in the middle, and the seconds that its end took."""
    ended: list[float] = []

    def end() -> None:
        begin = time.perf_counter()
        running.process.send_signal(signal.SIGTERM)
        running.process.wait()
        ended.append(time.perf_counter() - begin)

    with service() as running:
        ending = threading.Timer(LOAD_SECONDS / 2, end)
        ending.start()
        summary = k6(running.url, texts, rate, LOAD_SECONDS)
        ending.join()
    return summary, ended[0]


@contextlib.contextmanager
def memory(running: Service) -> Iterator[list[float]]:
    """Yield the megabytes that a service takes, one more of them every SAMPLE seconds."""
    sampled = [running.megabytes]
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLE):
            sampled.append(running.megabytes)

    sampling = threading.Thread(target=sample)
    sampling.start()
    try:
        yield sampled
    finally:
        stop.set()
        sampling.join()


def soak(texts: Path, rate: int, seconds: float) -> dict[str, Any]:
    """Return the memory of the service, in MB, in the first and the last fifth of a long load, and what k6 saw."""
    with service() as running:
        k6(running.url, texts, rate, LOAD_SECONDS)  # warms up
        with memory(running) as sampled:
            summary = k6(running.url, texts, rate, seconds)
    fifth = max(1, len(sampled) // 5)
    first, last = float(np.median(sampled[:fifth])), float(np.median(sampled[-fifth:]))
    return {"seconds": seconds, "found": asdict(summary), **dict(zip(MEMORY, (first, last, max(sampled)), strict=True))}


def rates(report: dict[str, Any]) -> str:
    """Return a Markdown table of what was found at each rate."""
    summaries = [Found(**each) for each in report["rates"]]
    rows = []
    for each in summaries:
        times = [f"{value:.0f}" for value in (each.p50, each.p95, each.p99)]
        rows.append((each.rate, f"{each.ok / each.took:.0f}", *times, each.busy, each.lost - each.busy))
    return markdown.table(("requests/s", "answered/s", "p50, ms", "p95", "p99", "503", "lost"), rows)


def measure_all(texts: Path, seconds: float, tweets: list[str]) -> dict[str, Any]:
    """Return the report, without the soak."""
    report: dict[str, Any] = {}
    model = exported.load(ONNX, threads=THREADS)
    highest: dict[str, int] = {}
    for name, settings in {"one text": {"batch_size": 1}, "batches": {}}.items():
        with service(**settings) as running, memory(running) as megabytes:
            k6(running.url, texts, FIRST, 3)  # warms up
            highest[name], tried = saturation(lambda rate: k6(running.url, texts, rate, seconds))
            if name == "batches":
                if not highest[name]:
                    raise UserError(f"the service does not sustain {FIRST} requests a second here")
                report["rates"] = [asdict(each) for each in tried]
                report |= {"megabytes": max(megabytes), "seconds_to_ready": running.seconds_to_ready}
                report["half"] = []
                for _ in range(ROUNDS):
                    bare = alone(model, tweets)
                    half = k6(running.url, texts, highest[name] // 2, HALF_SECONDS)
                    report["half"].append(asdict(half) | {"alone_p50": bare})
    report["highest"] = highest
    report["reload"] = reloads(texts, highest["batches"] // 2)
    drained, ended = drain(texts, highest["batches"] // 2)
    report["drain"] = {"found": asdict(drained), "seconds_to_end": ended}
    return report


def explain(report: dict[str, Any]) -> str:
    """Return the other figures, as a Markdown list."""
    half, highest = report["half"], report["highest"]
    p95, bare = (turns.Spread.of([each[name] for each in half]) for name in ("p95", "alone_p50"))
    ratio = turns.ratio([each["p95"] for each in half], [each["alone_p50"] for each in half])
    reload, drained = Found(**report["reload"]["found"]), Found(**report["drain"]["found"])
    factor, harmed = highest["batches"] / max(1, highest["one text"]), drained.lost - drained.not_connected
    ended = report["drain"]["seconds_to_end"]
    two_models = f"{report['reload']['megabytes']:.0f} MB at most, with two models"
    lines = [
        f"highest rate: {highest['batches']} requests/s, {factor:.2f} times the {highest['one text']} without batches",
        f"p95 at half of the highest rate: {p95} ms; p50 of the model alone: {bare} ms; the ratio: {ratio}",
        f"ready after {report['seconds_to_ready']:.1f} s; {report['megabytes']:.0f} MB at most under load",
        f"{RELOADS} reloads at half of the rate: {reload.lost} requests lost, {reload.ok:,} answered; {two_models}",
        f"a drain at half of the rate: {harmed} lost, {drained.ok:,} answered; over in {ended:.1f} s",
    ]
    return "\n".join(f"- {line}" for line in lines)


def explain_soak(report: dict[str, Any]) -> str:
    """Return what a soak has shown, as an entry of a Markdown list."""
    soaked, (first, last, most) = Found(**report["found"]), (report[name] for name in MEMORY)
    return (
        f"- {report['seconds']:.0f} s at {soaked.rate} requests/s: {soaked.lost} lost, {soaked.ok:,} answered; memory"
        f" {first:.0f} MB in the first fifth, {last:.0f} MB in the last, {most:.0f} MB at most"
    )


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="at each rate")
    parser.add_argument("--soak", type=float, default=0, help="seconds of one long load, and nothing else")
    options = parser.parse_args()
    tweets = tables.read_parquet(TWEETS)["raw"].tolist()
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "texts.json"
        texts.write_text(json.dumps(tweets))
        if options.soak:
            report = soak(texts, files.read_json(RESULT)["highest"]["batches"] // 2, options.soak)
            print(explain_soak(report))
        else:
            report = measure_all(texts, options.seconds, tweets)
            print(f"{rates(report)}\n\n{explain(report)}")
    described = report | {"machine": machine(), "threads": THREADS}
    files.write_json(SOAKED if options.soak else RESULT, described)


if __name__ == "__main__":
    command.run("load", main)
