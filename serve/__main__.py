"""Run the service.

    python -m serve

Settings come from TWEETS_* variables: see serve/settings.py. SIGTERM drains it, SIGHUP lets it read the model's folder
anew.
"""

import asyncio
import gc
import logging
import signal
import socket
import sys
from asyncio import TimerHandle
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve import app, logs, settings
from serve.requests import Requests
from tweets import errors
from tweets.errors import UserError

LAST = 0.5  # seconds that a connection without a request has when the service ends
PIPELINED = 16  # requests that a client may send before it has the first one's answer

log = logging.getLogger("serve")


class Protocol(HttpToolsProtocol):
    """HTTP on a connection that nobody can hold for ever.

    It is closed when the head of a request takes longer than RECEIVE_TIMEOUT to arrive, when its client does not take
    an answer within REQUEST_TIMEOUT, and when a client sends one request after the other without waiting.
    """

    receive_timeout: float
    send_timeout: float
    _late: TimerHandle | None = None
    _unread: TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._late = self.loop.call_later(self.receive_timeout, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        idle = self.cycle is None or self.cycle.response_complete
        if idle and not self.timeout_keep_alive_task and not self._late:  # line breaks, which begin no request
            self._late = self.loop.call_later(self.receive_timeout, self.transport.close)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._late:  # of the first request it runs since the connection was made
            self._late = self.loop.call_later(self.receive_timeout, self.transport.close)

    def on_headers_complete(self) -> None:
        self._in_time()
        if len(self.pipeline) < PIPELINED:
            super().on_headers_complete()
        else:
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.send_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read()

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        self._read()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        if self.cycle:
            super().shutdown()
        else:  # accepted a moment ago: its request may be on the way
            self._in_time()
            self._late = self.loop.call_later(min(LAST, self.receive_timeout), self.transport.close)

    def _in_time(self) -> None:
        if self._late:
            self._late.cancel()
            self._late = None

    def _read(self) -> None:
        if self._unread:
            self._unread.cancel()
            self._unread = None


class Server(uvicorn.Server):
    """A server that stops being ready before it stops answering, and reloads its model on SIGHUP."""

    def __init__(self, config: uvicorn.Config, application: FastAPI, requests: Requests, delay: float) -> None:
        super().__init__(config)
        self.service: app.Service = application.state.service
        self.requests, self.delay = requests, delay
        self._reloading: asyncio.Task[None] | None = None
        self._stale = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        if hasattr(signal, "SIGHUP"):
            self.loop.add_signal_handler(signal.SIGHUP, self._reload)
        port = (sockets or [])[0].getsockname()[1]
        log.info("serving version %s at port %s", self.service.served.version, port)

    def _reload(self) -> None:
        self._stale = True
        if not self._reloading or self._reloading.done():
            self._reloading = self.loop.create_task(self._reload_while_stale())

    async def _reload_while_stale(self) -> None:
        while self._stale:  # asked again during a reload, it may have read what was there before
            self._stale = False
            await self.service.reload()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.requests.draining or not self.started:
            super().handle_exit(sig, frame)
            return
        self.requests.draining, self.service.is_ready = True, False
        self.loop.call_soon_threadsafe(self.loop.call_later, self.delay, super().handle_exit, sig, frame)


def bound(host: str, port: int) -> socket.socket:
    """Return a socket at the address. Raises UserError when there is none to be had."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise UserError(f"{host}:{port}: {error.strerror} (TWEETS_HOST, TWEETS_PORT)") from None
    return made


def main() -> None:
    chosen = settings.load()
    application, requests = app.create(chosen)
    listener = bound(chosen.host, chosen.port)
    Protocol.receive_timeout, Protocol.send_timeout = chosen.receive_timeout, chosen.request_timeout
    log_writer = logs.start(chosen.log_level, requests.metrics.dropped_logs)
    config = uvicorn.Config(
        requests,
        http=Protocol,
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=max(1, int(chosen.drain_timeout)),
        forwarded_allow_ips=chosen.trusted_proxies,
        proxy_headers=bool(chosen.trusted_proxies),
    )
    logging.getLogger("uvicorn.error").setLevel("WARNING")
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again when it has drained
        signal.signal(number, lambda *_: sys.exit(0))
    gc.collect()
    gc.freeze()  # what stays for ever need not be looked through again: that took up to 80 ms
    try:
        Server(config, application, requests, chosen.drain_delay).run([listener])
    finally:
        log_writer.stop()


if __name__ == "__main__":
    errors.run("serve", main)
