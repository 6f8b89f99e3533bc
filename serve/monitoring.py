"""What the service learns of its own predictions, off the path of requests: a collection of them, drift, accuracy.

Requests leave what they predicted in a queue. A thread empties it: it writes to the collection, slides the window of
the latest texts along, and compares that with the model's reference. True labels that come in it writes down too.
"""

import asyncio
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from serve.collection import Asked, Collection, Row
from serve.metrics import Metrics
from serve.models import Served
from serve.settings import ServiceSettings
from tweets.evaluation import drift_statistics
from tweets.model.exported import Outputs

WRITE = 0.5  # seconds between two looks at the queue: what a process that is killed may lose
COMPARE = 5.0  # seconds between two comparisons with the reference
WAITING = 20_000  # texts that may wait for the thread
LABELS = 100  # requests with labels that may
LAST = 1.0  # seconds that the thread has at the end

log = logging.getLogger("serve")


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a request predicted."""

    served: Served
    asked: Asked
    texts: Sequence[str]
    outputs: Outputs
    at: float


@dataclass(frozen=True, slots=True)
class Labelled:
    """True labels that a request tells, and where it waits for the number of one whose prediction is not kept."""

    asked: Asked
    truths: Sequence[str | None]
    missing: Future[int | None]


class Window:
    """The latest texts that a model has seen, as many as its reference says."""

    def __init__(self, served: Served) -> None:
        self.served, self.size = served, served.reference.window
        self.comparison = drift_statistics.Comparison(served.reference.axes, served.reference.sample)
        self._parts: deque[drift_statistics.Texts] = deque()
        self.filled = 0

    def add(self, texts: drift_statistics.Texts) -> None:
        """Take in the texts, and forget those that they push out."""
        self._parts.append(texts)
        self.filled += len(texts)
        while self.filled - len(self._parts[0]) >= self.size:
            self.filled -= len(self._parts.popleft())

    def texts(self) -> drift_statistics.Texts | None:
        """Return the latest `size` texts; None before there are so many."""
        if self.filled < self.size:
            return None
        texts = drift_statistics.concatenate(self._parts)
        return texts.take(np.arange(len(texts) - self.size, len(texts)))


class Monitoring:
    """The queue and its thread. `add` is for the event loop: it waits for nothing and cannot fail."""

    def __init__(self, settings: ServiceSettings, metrics: Metrics, served: Served) -> None:
        """Open the collection, where one is asked for. Raises UserError when its folder cannot be written to."""
        self.metrics, self.keeps_text, self.looks_for_drift = metrics, settings.collect_text, settings.drift
        self.collection: Collection | None = None
        if settings.collect:
            max_bytes, max_days = settings.collect_bytes, settings.collect_days
            self.collection = Collection(settings.collect, max_bytes=max_bytes, max_days=max_days, metrics=metrics)
        self._queue: deque[Predicted] = deque()
        self._added, self._taken = 0, 0  # texts; each is counted by one side only
        self._labels: deque[Labelled] = deque()
        self._woken, self._ending = threading.Event(), threading.Event()
        self._clock = time.time() - time.monotonic()  # a clock that is set while the service runs moves nothing
        self._thread = threading.Thread(target=self._run, name="monitoring", daemon=True)
        self.watch(served)

    def now(self) -> float:
        """Return the seconds since 1970, by the clock as it was at the start."""
        return self._clock + time.monotonic()

    def watch(self, served: Served) -> None:
        """Look for drift in what this model predicts, from now on."""
        self._window = Window(served)

    def start(self) -> None:
        if self.collection or self.looks_for_drift:
            self._thread.start()

    def stop(self) -> None:
        """Write what still waits. What the disk does not take within LAST seconds is lost."""
        self._ending.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(LAST)

    def add(self, served: Served, asked: Asked, texts: Sequence[str], outputs: Outputs) -> None:
        """Leave what a request predicted to the thread; where too much waits, count it as lost."""
        if not self._thread.is_alive():
            return
        if self._added - self._taken + len(texts) > WAITING:
            self.metrics.lost_rows.inc(len(texts))
            return
        self._added += len(texts)
        self._queue.append(Predicted(served, asked, texts, outputs, self.now()))

    async def label(self, asked: Asked, truths: Sequence[str | None]) -> int | None:
        """Let the thread write down the true labels of a request's predictions, but for those that are None.

        Where one of them is not kept, nothing is written, and its number is returned. Raises OSError when they cannot
        be written.
        """
        if not self.collection:
            return 0
        if len(self._labels) >= LABELS:
            raise OSError(f"{LABELS} requests with labels wait to be written")
        labelled = Labelled(asked, truths, Future())
        self._labels.append(labelled)
        self._woken.set()
        return await asyncio.wrap_future(labelled.missing)

    def _run(self) -> None:
        compared = time.monotonic()
        self._tell_accuracy()
        while not self._ending.is_set():
            self._woken.wait(WRITE)
            self._woken.clear()
            try:
                self._take()
                self._label()
                if time.monotonic() - compared >= COMPARE:
                    compared = time.monotonic()
                    self._compare()
                    self._tell_accuracy()  # another service may have had feedback, and the model may be another
            except Exception:
                log.exception("monitoring: an error; it goes on with what comes next")
        self._take()
        self._label()
        if self.collection:
            self.collection.close()

    def _take(self) -> None:
        """Empty the queue, into the collection and the window."""
        rows: list[Row] = []
        window = self._window
        for _ in range(len(self._queue)):
            predicted = self._queue.popleft()
            self._taken += len(predicted.texts)
            try:
                seen = drift_statistics.describe(predicted.texts, predicted.outputs)
                of_request = rows_of(predicted, seen, self.keeps_text) if self.collection else []
            except Exception:
                self.metrics.lost_rows.inc(len(predicted.texts))
                log.exception("monitoring: the request %s is left out", predicted.asked.request)
                continue
            if predicted.served is window.served:
                window.add(seen)
            rows += of_request
        if self.collection:
            self.collection.write(rows, self.now())
        self.metrics.window_texts.set(window.filled)

    def _label(self) -> None:
        """Write down the labels that came in; their predictions may be of a moment ago, so those come first."""
        if not self.collection or not self._labels:
            return
        failed: OSError | None = None
        done: list[tuple[Future[int | None], int | None]] = []
        for _ in range(len(self._labels)):
            labelled = self._labels.popleft()
            if not labelled.missing.set_running_or_notify_cancel():
                continue  # its client has left
            try:
                if failed:
                    raise failed  # a file that is locked would take seconds for each
                done.append((labelled.missing, self.collection.label(labelled.asked, labelled.truths)))
            except OSError as error:
                failed = error
                labelled.missing.set_exception(error)
        try:
            self._tell_accuracy()
        finally:  # last: whoever is answered finds the accuracy in the metrics
            for missing, number in done:
                missing.set_result(number)

    def _compare(self) -> None:
        window = self._window
        texts = window.texts() if self.looks_for_drift else None
        statistics = window.comparison.statistics(texts) if texts else {}
        if window is not self._window:
            return
        if not statistics:  # as after a reload: what was found of another model's texts says nothing of these
            self.metrics.drift.clear()
            self.metrics.drift_threshold.clear()
        for name, value in statistics.items():
            self.metrics.drift.labels(name).set(value)
            self.metrics.drift_threshold.labels(name).set(window.served.reference.thresholds[name])

    def _tell_accuracy(self) -> None:
        counts = self.collection.right(self._window.served.version) if self.collection else None
        if counts:
            self.metrics.tell_accuracy(*counts)


def rows_of(predicted: Predicted, seen: drift_statistics.Texts, keeps_text: bool) -> list[Row]:
    labels = predicted.served.labels
    return [
        Row(
            at=predicted.at,
            request=predicted.asked.request,
            key=predicted.asked.key,
            number=number,
            version=predicted.served.version,
            label=labels[seen.labels[number]],
            confidence=float(seen.confidence[number]),
            probabilities=json.dumps(dict(zip(labels, output["probabilities"].round(6).tolist(), strict=True))),
            length=int(output["tokens"]),
            unknown=float(seen.unknown[number]),
            capitals=float(seen.capitals[number]),
            embedding=output["embedding"].astype(np.float16).tobytes(),
            text=predicted.texts[number] if keeps_text else None,
        )
        for number, output in enumerate(predicted.outputs)
    ]
