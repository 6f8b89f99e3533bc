"""What it costs a service to keep its predictions and to look for drift.

    python -m benchmarks.monitoring

Starts two services, one with both and one with neither, and measures each by turns: the texts that it labels in a
second for a few clients, each of which sends a list when the one before is answered; and what the client of a single
text waits where nothing else is to be done. Prints both and writes benchmarks/results/monitoring.json.
"""

import contextlib
import itertools
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import requests

from benchmarks import load, turns
from benchmarks.machine import machine
from tweets import command, files
from tweets.data import tables

RESULT = Path("benchmarks/results/monitoring.json")
ROUNDS = 9
CLIENTS, LIST = 4, 32  # of so many texts
SECONDS = 8  # of a measurement of throughput
SINGLE = 300  # texts, of a measurement of what one waits
ON, OFF = "with monitoring", "without"


def throughput(url: str, texts: Sequence[str]) -> float:
    """Return how many texts the service labels in a second."""
    begin = time.perf_counter()

    def client(number: int) -> int:
        done = 0
        with requests.Session() as session:
            for start in itertools.count(number * LIST, CLIENTS * LIST):
                if time.perf_counter() - begin > SECONDS:
                    return done
                some = [texts[place % len(texts)] for place in range(start, start + LIST)]
                session.post(f"{url}/predict", json={"text": some}, timeout=60).raise_for_status()
                done += LIST
        raise AssertionError

    with ThreadPoolExecutor(CLIENTS) as pool:
        done = sum(pool.map(client, range(CLIENTS)))
    return done / (time.perf_counter() - begin)


def wait(url: str, texts: Sequence[str]) -> float:
    """Return the median of the milliseconds that a client waits for a text, one after the other."""
    took = []
    with requests.Session() as session:
        for text in texts[:SINGLE]:
            begin = time.perf_counter()
            session.post(f"{url}/predict", json={"text": text}, timeout=60).raise_for_status()
            took.append(1000 * (time.perf_counter() - begin))
    return float(np.median(took))


def measure(texts: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Return what `throughput` and `wait` measure of each service in each round."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        urls = {
            ON: stack.enter_context(load.service(collect=folder)).url,
            OFF: stack.enter_context(load.service(drift=False)).url,
        }
        return {
            name: turns.by_turns({way: partial(ask, url, texts) for way, url in urls.items()}, ROUNDS)
            for name, ask in (("texts_per_second", throughput), ("p50_ms", wait))
        }


def explain(report: dict[str, Any]) -> str:
    """Return what was measured, as a Markdown list."""
    rates, waits = report["texts_per_second"], report["p50_ms"]
    less = turns.Spread.of([100 * (1 - on / off) for on, off in zip(rates[ON], rates[OFF], strict=True)])
    longer = turns.Spread.of([on - off for on, off in zip(waits[ON], waits[OFF], strict=True)])
    on, off = (turns.Spread.of(rates[way]) for way in (ON, OFF))
    on_ms, off_ms = (turns.Spread.of(waits[way]) for way in (ON, OFF))
    return (
        f"- texts/s in lists of {LIST}: {on} with monitoring, {off} without: {less} % less\n"
        f"- p50 of a single text: {on_ms} ms with monitoring, {off_ms} ms without: {longer} ms longer"
    )


def main() -> None:
    texts = tables.read_parquet(load.TWEETS)["raw"].tolist()
    report = {**measure(texts), "machine": machine()}
    files.write_json(RESULT, report)
    print(explain(report))


if __name__ == "__main__":
    command.run("monitoring", main, __doc__)
