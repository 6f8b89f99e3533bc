"""Connections: the socket that a server listens at, and clients that are slow or silent."""

import socket
from asyncio import TimerHandle
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tweets.errors import UserError

LAST = 0.5  # seconds that a connection without a request has when the service ends
PIPELINED = 16  # requests that a client may send before it has the first one's answer


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
