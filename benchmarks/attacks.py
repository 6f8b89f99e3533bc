"""Attack a service for some minutes, and tell what its honest clients see meanwhile.

    python -m benchmarks.attacks [--seconds 600]

Starts `python -m serve`. Hostile clients attack it in each way that `attacks` returns, by turns, SLICE seconds each. At
the same time, one honest client sends single tweets of the test split, another sends lists of them, and a third checks
the service's health every 0.1 s. Prints how many honest requests were lost, how long the health check took with and
without the attacks, and the service's memory over time; writes benchmarks/results/attacks.json. Exits with 1 if a
request was lost.
"""

import contextlib
import itertools
import json
import multiprocessing
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import requests

from benchmarks import load
from benchmarks.machine import machine
from tweets import command, files
from tweets.data import tables
from tweets.errors import UserError
from tweets.progress import track

RESULT = load.RESULT.with_name("attacks.json")
SECONDS = 600
QUIET = 30  # seconds without attacks, first
SLICE = 5
ATTACKERS, HONEST = 4, 2  # clients
LIST = 8  # texts in a request of the second honest client
BETWEEN = 0.1  # seconds between two health checks
TIMEOUT = 30  # seconds
MB = 2**20

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
ONE = POST + b'Content-Length: 13\r\n\r\n{"text": "a"}'
# What begins and never ends: its begin, and what follows again and again.
ENDLESS = {
    "header": (LIVE + b"X: ", b"a" * 65536),
    "target": (b"GET /", b"a" * 65536),
    "headers": (LIVE, b"X: y\r\n" * 10_000),
    "line breaks": (b"", b"\r\n" * 32_768),
    "size of a chunk": (CHUNKED + b"d;x=", b"a" * 65536),
    "trailer": (CHUNKED + b'd\r\n{"text": "a"}\r\n0\r\nX: ', b"a" * 65536),
    "trailers": (CHUNKED + b'd\r\n{"text": "a"}\r\n0\r\n', b"X: y\r\n" * 10_000),
    "chunks of a byte": (CHUNKED, b"1\r\n \r\n" * 10_000),
}
# Bodies of JSON that would become a million objects.
LARGE = {
    "lists": b'{"text": [' + b"[]," * 400_000 + b"[]]}",
    "objects": b'{"text": [' + b"{}," * 400_000 + b"{}]}",
    "names": b'{"text": "a"' + b"".join(b',"%x":1' % n for n in range(200_000)) + b"}",
    "numbers": b'{"text": [' + b"1," * 600_000 + b"1]}",
    "texts": b'{"text": [' + b'"",' * 400_000 + b'""]}',
    "in UTF-16": ('{"text": ["\u2200", ' + "[]," * 200_000 + "[]]}").encode("utf-16-le"),
    "behind a quote": rb'{"text": ["\"", "\\", ' + b"[]," * 400_000 + b"[]]}",
}
Address = tuple[str, int]


def send(address: Address, parts: Iterable[bytes], *, read: bool = True, hold: float = 0) -> None:
    """Send parts as long as they are taken, hold the connection for some seconds, and read what comes."""
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=TIMEOUT) as connection:
        with contextlib.suppress(OSError):
            for part in parts:
                connection.sendall(part)
        time.sleep(hold)
        while read and connection.recv(65536):
            pass


def slowly(part: bytes) -> Iterable[bytes]:
    """Yield the bytes, ten in a second."""
    for byte in part:
        yield bytes([byte])
        time.sleep(0.1)


def with_length(body: bytes, missing: int = 0, head: bytes = POST) -> list[bytes]:
    """Return the parts of a request whose body is as long as its head says, or lacks some bytes."""
    return [head, b"Content-Length: %d\r\n\r\n" % (len(body) + missing), body]


def attacks() -> dict[str, Callable[[Address], None]]:
    """Return the ways to attack."""
    held = b"a" * (4 * MB - 1)
    unread = with_length(held, 1, b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n")
    bundle = b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    feedback = b'{"request_id": "0123456789", "labels": ["positive"]}'
    return {
        **{f"endless {name}": partial(send, parts=[begin, *[more] * 200]) for name, (begin, more) in ENDLESS.items()},
        **{f"JSON of {name}": partial(send, parts=with_length(body), hold=0.1) for name, body in LARGE.items()},
        "a body that no route reads": partial(send, parts=unread),
        "bodies a byte short": partial(send, parts=with_length(held, 1)),
        "a slow head": lambda address: send(address, slowly(LIVE * 10)),
        "silence": partial(send, parts=[]),
        "pipelines": partial(send, parts=[(LIVE + b"\r\n") * 400 + LIVE + b"Connection: close\r\n\r\n"]),
        "pipelines of texts, unread": partial(send, parts=[ONE * 50], read=False),
        "large answers, unread": partial(send, parts=[bundle * 20], read=False, hold=1),
        "no HTTP": partial(send, parts=[b"\x16\x03\x01\x02\x00\x01" + b"\x00" * 5000]),
        "another host": partial(send, parts=[ONE.replace(b"localhost", b"evil.example"), LIVE * 2]),
        "feedback on what others asked": partial(
            send, parts=with_length(feedback, head=POST.replace(b"/predict", b"/feedback"))
        ),
    }


def attack(address: Address, seconds: float, done: Any) -> None:
    """Attack in each way by turns; put into the queue how often. Runs in a process of its own."""
    ways, counts, end = attacks(), Counter[str](), time.monotonic() + seconds

    def one(_: int) -> None:
        for name in itertools.cycle(ways):
            until = min(end, time.monotonic() + SLICE)
            while (now := time.monotonic()) < until:
                ways[name](address)
                counts[name] += 1
            if now >= end:
                return

    with ThreadPoolExecutor(ATTACKERS) as pool:
        list(pool.map(one, range(ATTACKERS)))
    done.put(dict(counts))


def ask(url: str, texts: Sequence[str], stop: threading.Event, number: int) -> tuple[int, list[str]]:
    """Send tweets until told to stop: client 0 one in a request, client 1 lists.

    Returns how many requests were sent, and what was wrong with those lost.
    """
    sent, size = 0, LIST if number else 1
    lost: list[str] = []
    with requests.Session() as session:
        for start in itertools.count(number * len(texts) // HONEST, size):
            if stop.is_set():
                return sent, lost
            some = [texts[place % len(texts)] for place in range(start, start + size)]
            sent += 1
            try:
                answer = session.post(f"{url}/predict", json={"text": some}, timeout=TIMEOUT)
                if answer.status_code != 200 or len(answer.json()["predictions"]) != len(some):
                    lost.append(f"{answer.status_code}: {answer.text[:100]}")
            except requests.RequestException as error:
                lost.append(type(error).__name__)
    raise AssertionError


def check_health(url: str, seconds: float, done: Any) -> None:
    """Put into the queue the milliseconds that each health check waited. Runs in a process of its own."""
    waited, end = [], time.monotonic() + seconds
    with requests.Session() as session:
        while time.monotonic() < end:
            begin = time.perf_counter()
            session.get(f"{url}/v2/health/live", timeout=TIMEOUT).raise_for_status()
            waited.append(1000 * (time.perf_counter() - begin))
            time.sleep(BETWEEN)
    done.put(waited)


def measure(seconds: float, texts: Sequence[str], *, hostile: bool) -> dict[str, Any]:
    """Return what honest clients of a service see for some seconds. Raises UserError when nobody answers."""
    context, stop = multiprocessing.get_context("spawn"), threading.Event()
    with load.service() as running, ThreadPoolExecutor(HONEST) as pool:
        address = urlsplit(running.url).hostname or "", urlsplit(running.url).port or 0
        waited, attacked = context.Queue(), context.Queue()
        others = [context.Process(target=check_health, args=(running.url, seconds, waited))]
        if hostile:
            others.append(context.Process(target=attack, args=(address, seconds, attacked)))
        for process in others:
            process.start()
        honest = [pool.submit(ask, running.url, texts, stop, number) for number in range(HONEST)]
        memory = []
        for _ in track(range(int(seconds)), desc="attacks" if hostile else "quiet", unit="s"):
            time.sleep(1)
            memory.append(psutil.Process(running.process.pid).memory_info().rss / 1e6)
        stop.set()
        results = [each.result() for each in honest]
        counts = attacked.get(timeout=TIMEOUT + SLICE) if hostile else {}
        health = waited.get(timeout=TIMEOUT)
        for process in others:
            process.join()
    lost = [why for _, some in results for why in some]
    fifth = max(1, len(memory) // 5)
    return {
        "honest_requests": sum(sent for sent, _ in results),
        "lost": dict(Counter(lost)),
        "health_ms": {f"p{level}": float(np.percentile(health, level)) for level in (50, 99, 100)},
        "health_checks": len(health),
        "attacks": counts,
        "megabytes": {
            "first_fifth": float(np.mean(memory[:fifth])),
            "second_fifth": float(np.mean(memory[fifth : 2 * fifth])),
            "last_fifth": float(np.mean(memory[-fifth:])),
            "highest": max(memory),
        },
    }


def explain(report: dict[str, Any]) -> str:
    """Return what was measured, as a Markdown list."""
    quiet, found = report["quiet"], report["attacked"]
    health, before, memory = found["health_ms"], quiet["health_ms"], found["megabytes"]
    return (
        f"- {sum(found['attacks'].values()):,} attacks of {len(found['attacks'])} kinds in {report['seconds']:g} s\n"
        f"- honest requests: {found['honest_requests']:,}, {sum(found['lost'].values())} of them lost\n"
        f"- health check: p50 {health['p50']:.0f} ms, p99 {health['p99']:.0f} ms, at most {health['p100']:.0f} ms;"
        f" without attacks p50 {before['p50']:.0f} ms, p99 {before['p99']:.0f} ms\n"
        f"- memory: {memory['second_fifth']:.0f} MB in the second fifth of the time, {memory['last_fifth']:.0f} MB in"
        f" the last, {memory['highest']:.0f} MB at most"
    )


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    seconds = parser.parse_args().seconds
    if seconds < SLICE:
        raise UserError(f"--seconds {seconds:g}: needs at least {SLICE}, which one kind of attack takes")
    texts = tables.read_parquet(load.TWEETS)["raw"].tolist()
    report = {
        "seconds": seconds,
        "quiet": measure(min(QUIET, seconds), texts, hostile=False),
        "attacked": measure(seconds, texts, hostile=True),
        "machine": machine(),
    }
    files.write_json(RESULT, report)
    print(explain(report))
    if lost := report["attacked"]["lost"]:
        raise UserError(f"honest requests were lost: {json.dumps(lost)}")


if __name__ == "__main__":
    command.run("attacks", main)
