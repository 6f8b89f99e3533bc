"""Logs as lines of JSON on stderr, written by a thread of its own: a slow or full disk never holds up a request."""

import logging
import queue
import sys
from logging.handlers import QueueHandler, QueueListener
from typing import TextIO

from prometheus_client import Counter
from pythonjsonlogger.json import JsonFormatter

RECORDS = 10_000  # that may wait to be written


class BoundedHandler(QueueHandler):
    """Puts records into the queue, and counts those for which it has no room."""

    def __init__(self, waiting: "queue.Queue[logging.LogRecord]", dropped: Counter) -> None:
        super().__init__(waiting)
        self.dropped = dropped

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped.inc()


class _Writer(logging.StreamHandler[TextIO]):
    """Writes records to stderr, and counts those that it could not write, as where the disk is full."""

    def __init__(self, dropped: Counter) -> None:
        super().__init__(sys.stderr)
        self.dropped = dropped

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802  as logging has it
        self.dropped.inc()


def start(level: str, dropped: Counter) -> QueueListener:
    """Let all loggers write so, from `level` on. `stop()` of what is returned writes what still waits."""
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(RECORDS)
    writer = _Writer(dropped)
    fields = {"levelname": "level", "name": "logger", "asctime": "time"}
    writer.setFormatter(JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s", rename_fields=fields))
    root = logging.getLogger()
    root.handlers, root.level = [BoundedHandler(waiting, dropped)], logging.getLevelNamesMapping()[level.upper()]
    listener = QueueListener(waiting, writer)
    listener.start()
    return listener
