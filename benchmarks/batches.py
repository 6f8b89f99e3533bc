"""How the service may put texts into batches: what each way gives lists, and how long single texts wait.

    python -m benchmarks.batches

The service's own queue runs in this process, on the exported model, without HTTP. THREADS threads compute: in one
engine, or in an engine each. Of each way, by turns:

- lists: the texts a second of lists of LIST
- clients: those of CLIENTS clients that each send a text once they have the answer to the one before
- half, most: how long 95 % of single texts wait that come at fixed rates, whether or not others are answered yet:
  half and MOST of what one engine gave the clients
- beside lists: how long half of the single texts wait that come while lists are computed, FEW_A_SECOND of them

Prints a table, with how long the model takes for a text by itself, and writes benchmarks/results/batches.json.
"""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import turns
from benchmarks.machine import machine
from serve import models
from serve.batching import FEW, Batcher, Job
from serve.models import Served
from serve.settings import ServiceSettings
from tweets import command, files, markdown
from tweets.data import tables
from tweets.model import exported

ONNX = Path("models/onnx")
TWEETS = Path("data/prepared/test.parquet")
RESULT = Path("benchmarks/results/batches.json")
THREADS = 2
ROUNDS = 5
SECONDS = 3  # of a measurement
LIST = 512
CLIENTS = 64
FEW_A_SECOND = 20
MOST = 0.8
ALONE = 300  # texts by the model itself
BUDGET = 256  # tokens of a batch, padding included, where they bound it
PATIENCE = 0.005  # seconds that the first texts of a batch wait for others
QUEUE = 100_000
TOGETHER, EACH = 1, THREADS  # engines
OURS = "ours: an engine for each thread, 8 texts"

Batch = list[tuple[Job, int]]


class ByTokens(Batcher):
    """Bounds a batch by its tokens, not by its texts."""

    def _take(self) -> Batch:
        batch: Batch = []
        longest = 0
        while self._jobs:
            job = self._jobs[0]
            model = job.served.model
            longest = max(longest, len(model.tokenizer.encode(job.texts[job.taken]).ids))
            if batch and longest * (len(batch) + 1) > BUDGET:
                break
            batch.append((self._jobs.popleft(), job.taken))
            job.taken += 1
            self.waiting -= 1
            if job.taken < len(job.texts):
                self._jobs.append(job)
        return batch


class Overtaking(Batcher):
    """Lets single texts have every second batch for themselves."""

    turn = False

    def _take(self) -> Batch:
        singles, lists = ([job for job in self._jobs if (len(job.texts) > 1) == is_list] for is_list in (False, True))
        self.turn = not self.turn
        if not (self.turn and singles and lists):
            return super()._take()
        others = self.waiting - len(singles)
        self._jobs.clear()
        self._jobs.extend(singles)
        self.waiting = len(singles)
        batch = super()._take()
        self.waiting += others
        self._jobs.extend(lists)
        return batch


class Patient(Batcher):
    """Lets a few texts wait for others, with which they can share a batch."""

    async def _run(self, threads: ThreadPoolExecutor) -> None:
        while True:
            await self._wake.wait()
            if self.waiting < FEW:
                await asyncio.sleep(PATIENCE)
            if batch := self._take():
                await self._compute(batch, threads)
            else:
                self._wake.clear()


@dataclass(frozen=True, kw_only=True)
class Way:
    """How texts are put into batches."""

    engines: int = EACH
    batch_size: int = 8
    kind: type[Batcher] = Batcher


WAYS = {
    "one engine on all threads, 32 texts": Way(engines=TOGETHER, batch_size=32),
    "one engine on all threads, 8 texts": Way(engines=TOGETHER),
    "an engine for each thread, 32 texts": Way(batch_size=32),
    "an engine for each thread, 16 texts": Way(batch_size=16),
    OURS: Way(),
    f"ours, with {BUDGET} tokens instead of 8 texts": Way(kind=ByTokens),
    "ours, where single texts overtake lists": Way(kind=Overtaking),
    f"ours, where a few texts wait {1000 * PATIENCE:.0f} ms for others": Way(kind=Patient),
}
FIRST = next(iter(WAYS))


@dataclass(frozen=True)
class Bench:
    """A way with its model, and the texts."""

    way: Way
    model: Served
    texts: list[str]

    @contextlib.asynccontextmanager
    async def batcher(self) -> AsyncIterator[Batcher]:
        """Yield the running queue."""
        batcher = self.way.kind(self.way.batch_size, QUEUE, self.way.engines)
        running = asyncio.create_task(batcher.run())
        try:
            yield batcher
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def ask(self, batcher: Batcher, first: int, count: int = 1) -> float:
        """Have some texts labelled in one request; return the milliseconds that it took."""
        begin = time.perf_counter()
        numbers = range(first, first + count)
        await batcher.predict(self.model, [self.texts[number % len(self.texts)] for number in numbers])
        return 1000 * (time.perf_counter() - begin)

    async def closed(self, *, clients: int, count: int) -> float:
        """Return the texts a second of clients that each ask for `count` texts over and over."""
        async with self.batcher() as batcher:
            begin = time.perf_counter()

            async def client(first: int) -> int:
                done = 0
                while time.perf_counter() < begin + SECONDS:
                    await self.ask(batcher, first + done, count)
                    done += count
                return done

            done = await asyncio.gather(*(client(first) for first in range(0, 100 * clients, 100)))
            return sum(done) / (time.perf_counter() - begin)

    async def arriving(self, rate: float, *, lists: bool = False) -> list[float]:
        """Return what single texts wait that come at a rate, in ms; with `lists`, while lists are computed."""
        async with self.batcher() as batcher:

            async def one_after_another() -> None:
                while lists:
                    await self.ask(batcher, 0, LIST)

            listing = asyncio.create_task(one_after_another())
            asked, begin = [], time.perf_counter()
            for number in range(int(rate * SECONDS)):
                await asyncio.sleep(begin + number / rate - time.perf_counter())
                asked.append(asyncio.create_task(self.ask(batcher, number)))
            waits = await asyncio.gather(*asked)
            listing.cancel()
            return waits

    def measure(self, rates: tuple[float, float]) -> dict[str, float]:
        """Return each figure of this way."""
        half, most = (asyncio.run(self.arriving(rate)) for rate in rates)
        return {
            "lists": asyncio.run(self.closed(clients=1, count=LIST)),
            "clients": asyncio.run(self.closed(clients=CLIENTS, count=1)),
            "half": float(np.percentile(half, 95)),
            "most": float(np.percentile(most, 95)),
            "beside lists": float(np.median(asyncio.run(self.arriving(FEW_A_SECOND, lists=True)))),
            "alone": self.alone(),
        }

    def alone(self) -> float:
        """Return the median of the milliseconds that the model takes for a text, without a queue."""
        took = []
        for text in self.texts[:ALONE]:
            begin = time.perf_counter()
            self.model.predict([text])
            took.append(1000 * (time.perf_counter() - begin))
        return float(np.median(took))


def served(engines: int) -> Served:
    """Return the exported model with a number of engines on THREADS threads."""
    with mock.patch.object(exported, "ENGINES", engines):
        return models.load(ServiceSettings(model=ONNX, threads=THREADS, batch_size=1024))


def table(report: dict[str, Any]) -> str:
    """Return the figures of each way, as a Markdown table."""
    half, most = (f"p95 at {rate:.0f}/s, ms" for rate in report["rates"])
    titles = {
        "lists": "lists, texts/s",
        "clients": f"{CLIENTS} clients, texts/s",
        "half": half,
        "most": most,
        "beside lists": "p50 beside lists, ms",
        "alone": "p50 alone, ms",
    }
    ways = report["ways"]
    rows = [(name, *(turns.Spread.of(ways[name][figure]) for figure in titles)) for name in WAYS]
    return markdown.table(("", *titles.values()), rows)


def main() -> None:
    texts = tables.read_parquet(TWEETS)["raw"].tolist()
    with_engines = {engines: served(engines) for engines in (TOGETHER, EACH)}
    benches = {name: Bench(way, with_engines[way.engines], texts) for name, way in WAYS.items()}
    highest = [asyncio.run(benches[FIRST].closed(clients=CLIENTS, count=1)) for _ in range(2)][-1]  # the first warms up
    rates = (highest / 2, MOST * highest)
    measured: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in WAYS}

    def measure(name: str) -> float:
        for figure, value in benches[name].measure(rates).items():
            measured[name][figure].append(value)
        return 0

    turns.by_turns({name: partial(measure, name) for name in WAYS}, ROUNDS)
    measured = {name: {figure: values[1:] for figure, values in of.items()} for name, of in measured.items()}
    report = {"machine": machine(), "threads": THREADS, "rates": rates, "ways": measured}
    print(table(report))
    files.write_json(RESULT, report)


if __name__ == "__main__":
    command.run("batches", main, __doc__)
