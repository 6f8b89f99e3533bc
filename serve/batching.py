"""One queue for the texts of all requests, and threads that compute them in batches.

A batch is made of what waits when an engine is free: alone, a text goes at once; under load, batches grow. It
has a power of two of texts, since the model computes faster in a shape that it has seen; where only a few wait, they go
one by one, which the model is made for. Requests take turns in a batch, a text each, so that a long list does not hold
up a single text.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from serve.metrics import Metrics
from serve.models import Served
from serve.refusals import Refused
from tweets.model.exported import Outputs

FEW = 4  # texts; a batch of fewer takes longer than they do one by one


@dataclass(eq=False)
class Job:
    """The texts of a request, with the model that was served when it came."""

    served: Served
    texts: Sequence[str]
    result: Outputs  # (N,), filled in for each text that is done
    done: asyncio.Future[None]
    taken: int = 0
    finished: int = 0


@dataclass
class Batcher:
    """Computes what is asked of it: `engines` batches at once, each of up to `batch_size` texts.

    At most `queue_size` texts wait.
    """

    batch_size: int
    queue_size: int
    engines: int = 1
    waiting: int = 0
    metrics: Metrics = field(init=False)
    _jobs: deque[Job] = field(default_factory=deque)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _seconds_per_text: float = 0.002

    def __post_init__(self) -> None:
        self.metrics = Metrics(waiting=lambda: self.waiting)

    async def predict(self, served: Served, texts: Sequence[str]) -> Outputs:
        """Return what the model makes of the texts, (N,), for which `check_room` has said that there is room."""
        result = np.empty(len(texts), served.dtype)
        job = Job(served, texts, result, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self.waiting += len(texts)
        self._wake.set()
        try:
            await job.done
        finally:
            self.waiting -= len(texts) - job.taken  # what nobody waits for any more
            job.taken = len(texts)
        return job.result

    def check_room(self, texts: int) -> None:
        """Raise Refused unless so many more texts may wait."""
        if self.waiting + texts > self.queue_size:
            seconds = math.ceil(self.waiting * self._seconds_per_text / self.engines) or 1
            message = f"busy: {self.waiting} texts wait, and {self.queue_size} may; try again in {seconds} s"
            raise Refused(503, message, "queue_full", {"Retry-After": str(seconds)})

    async def run(self) -> None:
        """Compute batches until cancelled."""
        threads = ThreadPoolExecutor(self.engines, "predict")
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.engines):
                    group.create_task(self._run(threads))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)  # the event loop has answers to send

    async def _run(self, threads: ThreadPoolExecutor) -> None:
        while True:
            await self._wake.wait()
            if batch := self._take():
                await self._compute(batch, threads)
            else:
                self._wake.clear()

    async def _compute(self, batch: list[tuple[Job, int]], threads: ThreadPoolExecutor) -> None:
        """Compute a batch and hand it out. Where that fails, each text has a try of its own."""
        served, texts = batch[0][0].served, [job.texts[number] for job, number in batch]
        begin = time.perf_counter()
        try:
            outputs = await asyncio.get_running_loop().run_in_executor(threads, served.predict, texts)
        except Exception as error:  # noqa: BLE001  whatever it is, its request has to hear of it
            if len(batch) == 1:
                self._fail(batch[0][0], error)
                return
            for job, number in batch:
                if not job.done.done():
                    await self._compute([(job, number)], threads)
            return
        seconds = time.perf_counter() - begin
        self._seconds_per_text += 0.1 * (seconds / len(texts) - self._seconds_per_text)
        self.metrics.batch_size.observe(len(texts))
        self.metrics.batch_seconds.observe(seconds)
        self._hand_out(batch, outputs)

    def _take(self) -> list[tuple[Job, int]]:
        """Take the texts of a batch, for the model of the first job: in turn, one of each job."""
        batch: list[tuple[Job, int]] = []
        passed: list[Job] = []
        size = 2 ** int(math.log2(max(1, min(self.waiting, self.batch_size))))
        size = size if size >= FEW else 1
        while self._jobs and len(batch) < size:
            job = self._jobs.popleft()
            if job.done.done():  # failed, or its client has left
                continue
            if batch and job.served is not batch[0][0].served:
                passed.append(job)
                continue
            batch.append((job, job.taken))
            job.taken += 1
            self.waiting -= 1
            if job.taken < len(job.texts):
                self._jobs.append(job)
        self._jobs.extendleft(reversed(passed))
        return batch

    @staticmethod
    def _hand_out(batch: list[tuple[Job, int]], outputs: Outputs) -> None:
        for (job, number), row in zip(batch, outputs, strict=True):
            job.result[number] = row
            job.finished += 1
            if job.finished == len(job.texts) and not job.done.done():
                job.done.set_result(None)

    @staticmethod
    def _fail(job: Job, error: Exception) -> None:
        if not job.done.done():
            job.done.set_exception(error)
