"""The server: it stops being ready before it stops answering, and reads its model again on SIGHUP."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from types import FrameType

import uvicorn
from fastapi import FastAPI

from serve import app, logs, settings
from serve.connections import Protocol, bound
from serve.forwarded import Forwarded
from serve.middleware import Middleware
from serve.service import Service

END = settings.DRAIN - 0.3  # seconds after SIGTERM
PATIENCE = 10.0  # seconds that a reload has before the next one replaces it

log = logging.getLogger("serve")


class Server(uvicorn.Server):
    """A server that drains on SIGTERM, and reloads its model on SIGHUP."""

    def __init__(
        self, config: uvicorn.Config, application: FastAPI, requests: Middleware, delay: float, early: Sequence[int]
    ) -> None:
        super().__init__(config)
        self.service: Service = application.state.service
        self.requests, self.delay, self.early = requests, delay, early
        self._reloading: asyncio.Task[None] | None = None
        self._stale = False
        self._begun = 0.0  # the reload, by the loop's clock

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        if hasattr(signal, "SIGHUP"):
            self.loop.add_signal_handler(signal.SIGHUP, self._reload)
            if self.early:
                self._reload()
        port = (sockets or [])[0].getsockname()[1]
        log.info("serving version %s at port %s", self.service.served.version, port)

    def _reload(self) -> None:
        self._stale = True
        if self._reloading and not self._reloading.done():
            if self.loop.time() - self._begun < PATIENCE:
                return
            self._reloading.cancel()
        self._reloading = self.loop.create_task(self._reload_while_stale())

    async def _reload_while_stale(self) -> None:
        while self._stale:  # asked again during a reload, it may have read what was there before
            self._stale, self._begun = False, self.loop.time()
            await self.service.reload()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.requests.draining or not self.started:
            super().handle_exit(sig, frame)
            return
        self.requests.draining, self.service.is_ready = True, False
        end = threading.Timer(END, os._exit, (0,))  # a thread that hangs would keep the process
        end.daemon = True
        end.start()
        self.loop.call_soon_threadsafe(self.loop.call_later, self.delay, super().handle_exit, sig, frame)


def main(early: Sequence[int]) -> None:
    """Serve until SIGTERM. `early` collects the SIGHUPs that arrive before the server starts.

    Raises UserError when a setting is wrong, or there is no model to serve.
    """
    chosen = settings.load()
    application, requests = app.create(chosen)
    listener = bound(chosen.host, chosen.port)
    Protocol.receive_timeout, Protocol.send_timeout = chosen.receive_timeout, chosen.request_timeout
    Protocol.metrics = requests.metrics
    log_writer = logs.start(chosen.log_level, requests.metrics.dropped_logs)
    config = uvicorn.Config(
        Forwarded(requests, chosen.trusted_proxies) if chosen.trusted_proxies else requests,  # type: ignore[arg-type]
        http=Protocol,
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=max(1, int(chosen.drain_timeout)),
        proxy_headers=False,  # Forwarded does it
        root_path=chosen.root_path,
    )
    logging.getLogger("uvicorn.error").setLevel("WARNING")
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again when it has drained
        signal.signal(number, lambda *_: sys.exit(0))
    gc.collect()
    gc.freeze()  # what stays for ever need not be looked through again: that took up to 80 ms
    try:
        Server(config, application, requests, chosen.drain_delay, early).run([listener])
    finally:
        log_writer.stop()
