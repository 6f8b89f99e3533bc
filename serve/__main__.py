"""Run the service.

    python -m serve

Settings come from TWEETS_* variables: see serve/settings.py. SIGTERM drains it, SIGHUP lets it read the model's folder
anew.
"""

import asyncio
import logging
import signal
from asyncio import TimerHandle
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve import app, logs, settings
from serve.requests import Requests
from tweets import errors

log = logging.getLogger("serve")


class Protocol(HttpToolsProtocol):
    """HTTP on a connection that is closed when the head of a request takes longer than RECEIVE_TIMEOUT to arrive."""

    receive_timeout: float
    _late: TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._late = self.loop.call_later(self.receive_timeout, transport.close)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._late:  # of the first request it runs since the connection was made
            self._late = self.loop.call_later(self.receive_timeout, self.transport.close)

    def on_headers_complete(self) -> None:
        self._in_time()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)

    def _in_time(self) -> None:
        if self._late:
            self._late.cancel()
            self._late = None


class Server(uvicorn.Server):
    """A server that stops being ready before it stops answering, and reloads its model on SIGHUP."""

    def __init__(self, config: uvicorn.Config, application: FastAPI, requests: Requests, delay: float) -> None:
        super().__init__(config)
        self.service: app.Service = application.state.service
        self.requests, self.delay = requests, delay
        self._reloading: asyncio.Task[None] | None = None

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        if hasattr(signal, "SIGHUP"):
            self.loop.add_signal_handler(signal.SIGHUP, self._reload)
        for server in self.servers:
            for socket in server.sockets:
                log.info("serving version %s at port %s", self.service.served.version, socket.getsockname()[1])

    def _reload(self) -> None:
        if not self._reloading or self._reloading.done():
            self._reloading = self.loop.create_task(self.service.reload())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.requests.draining or not self.started:
            super().handle_exit(sig, frame)
            return
        self.requests.draining, self.service.is_ready = True, False
        self.loop.call_soon_threadsafe(self.loop.call_later, self.delay, super().handle_exit, sig, frame)


def main() -> None:
    chosen = settings.load()
    application, requests = app.create(chosen)
    Protocol.receive_timeout = chosen.receive_timeout
    listener = logs.start(chosen.log_level, requests.metrics.dropped_logs)
    config = uvicorn.Config(
        requests,
        host=chosen.host,
        port=chosen.port,
        http=Protocol,
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        limit_concurrency=chosen.max_connections,
        timeout_graceful_shutdown=max(1, int(chosen.drain_timeout)),
        forwarded_allow_ips=chosen.trusted_proxies,
        proxy_headers=bool(chosen.trusted_proxies),
    )
    logging.getLogger("uvicorn.error").setLevel("WARNING")
    try:
        Server(config, application, requests, chosen.drain_delay).run()
    finally:
        listener.stop()


if __name__ == "__main__":
    errors.run("serve", main)
