"""Run the runner, in a checkout with the pipeline's environment.

    python -m runner

Settings come from TWEETS_* variables: see runner/settings.py. SIGTERM ends it and what it runs; the next start resumes
that from the last checkpoint.
"""

import logging
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

import uvicorn
from filelock import FileLock, Timeout
from starlette.types import ASGIApp

from repository import isolated
from runner import app, overrides
from runner.settings import RunnerSettings
from runner.store import Queue
from runner.workers import Workers
from serve import logs
from serve.connections import Protocol, bound
from serve.metrics import RequestMetrics
from serve.settings import read
from tweets import command, environment
from tweets.errors import UserError

FOLDER = Path(".cache/runner")

log = logging.getLogger("runner")


class Server(uvicorn.Server):
    """A server that says where it answers, and tells the workers at once that it has to end."""

    def __init__(self, config: uvicorn.Config, workers: Workers) -> None:
        super().__init__(config)
        self.workers = workers

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        log.info("running experiments, at port %s", (sockets or [])[0].getsockname()[1])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        first = not self.should_exit  # another one may come in the midst of this
        super().handle_exit(sig, frame)
        if first:
            self.workers.begin_to_stop()  # before requests under way are answered, for seconds


def main() -> None:
    chosen = read(RunnerSettings)
    environment.check()
    root, folder = Path.cwd(), Path.cwd() / FOLDER
    isolated.check_identity(root)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / "lock", timeout=0).acquire()
    except Timeout:
        raise UserError(f"{folder}: another runner works here; end it first") from None
    with lock:
        metrics = RequestMetrics()
        workers = Workers(root, folder, Queue(folder / "queue.db", chosen.queue_size), chosen.jobs)
        application = app.create(chosen, workers, metrics)
        overrides.import_stages()
        serve(application, workers, bound(chosen.host, chosen.port), chosen, metrics)


def serve(
    application: ASGIApp, workers: Workers, listener: socket.socket, chosen: RunnerSettings, metrics: RequestMetrics
) -> None:
    """Answer until SIGTERM."""
    Protocol.receive_timeout, Protocol.send_timeout = chosen.receive_timeout, chosen.request_timeout
    Protocol.metrics = metrics
    writer = logs.start(chosen.log_level, metrics.dropped_logs)
    config = uvicorn.Config(
        application,
        http=Protocol,
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    logging.getLogger("uvicorn.error").setLevel("WARNING")
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again when it has ended
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        Server(config, workers).run([listener])
    finally:
        writer.stop()


if __name__ == "__main__":
    command.run("runner", main, __doc__)
