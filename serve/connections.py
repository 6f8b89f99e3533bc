"""Connections: the socket that a server listens at, and limits for clients that are slow, silent or greedy."""

import socket
from asyncio import TimerHandle
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serve.metrics import RequestMetrics
from serve.refusals import Refused
from tweets.errors import UserError

LAST = 0.5  # seconds that a connection without a request has when the service ends, and one to read why it is refused
PIECE = 16 * 1024  # bytes that the parser gets at once: it may find several requests in them
HEAD = 32 * 1024  # bytes before a body; of chunks' sizes, extensions and trailers, so many more than of the body itself
AFTER = 1024 * 1024  # bytes that may come after what was refused, while its client has not read why
LINE = 8 * 1024  # bytes of the request line's target, or of a header
HEADERS = 100

MALFORMED = Refused(400, "this is no HTTP/1.1 request", "malformed")
LARGE_HEAD = Refused(431, f"the head of the request is too large: {HEAD} bytes are allowed", "head_too_large")
LONG_TARGET = Refused(414, f"the path and query are too long: {LINE} bytes are allowed", "target_too_long")
LONG_HEADER = Refused(431, f"a header is too long: {LINE} bytes are allowed", "head_too_large")
MANY_HEADERS = Refused(431, f"too many headers: {HEADERS} are allowed", "head_too_large")
LARGE_FRAMES = Refused(400, "the chunks of the body have more around them than in them", "frames_too_large")


class _Flow(FlowControl):
    """Flow control that stays paused while received bytes wait to be parsed."""

    holds = False

    def resume_reading(self) -> None:
        if not self.holds:
            super().resume_reading()


class Protocol(HttpToolsProtocol):
    """HTTP on a connection that nobody can hold for ever, and that costs constant work per byte.

    It is closed when the head of a request takes longer than RECEIVE_TIMEOUT to arrive, and when its client does not
    take an answer within REQUEST_TIMEOUT. A head, or the framing of a body, that is too large is refused before it is
    parsed: httptools copies a header again for each piece that arrives. Pipelined requests are parsed one at a time,
    each when the one before it has its answer.
    """

    receive_timeout: float
    send_timeout: float
    metrics: RequestMetrics
    flow: _Flow
    _late: TimerHandle | None = None
    _unread: TimerHandle | None = None
    _running: Any = None  # uvicorn's cycle of the request that is being answered
    _found: Refused | None = None  # what a callback of the parser has against the request
    _is_refused = False
    _after = AFTER
    _allowed = HEAD  # bytes that may come until the parser gets somewhere
    _in_head = True
    _is_whole = False  # the latest request, its body included

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self._received = bytearray()  # and not parsed yet
        self._late = self.loop.call_later(self.receive_timeout, transport.close)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            self._after -= len(data)
            if self._after < 0:
                self.transport.abort()
        else:
            self._received += data
            self._parse()

    def _parse(self) -> None:
        """Parse what was received, up to the first request without an answer."""
        while self._received and not self._waits() and not self._is_refused and not self.transport.is_closing():
            piece = bytes(self._received[: min(PIECE, self._allowed)])
            if not piece:
                self._refuse(LARGE_HEAD if self._in_head else LARGE_FRAMES)
                return
            del self._received[: len(piece)]
            self._allowed -= len(piece)
            super().data_received(piece)
        self.flow.holds = bool(self._received)
        if self.flow.holds:
            self.flow.pause_reading()
        idle = self.cycle is None or self.cycle.response_complete
        if idle and not self.timeout_keep_alive_task and not self._late:  # line breaks, which begin no request
            self._late = self.loop.call_later(self.receive_timeout, self.transport.close)

    def _waits(self) -> bool:
        return self._is_whole and not self.cycle.response_complete

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._is_whole = True, False
        if not self._late:  # of the first request it runs since the connection was made
            self._late = self.loop.call_later(self.receive_timeout, self.transport.close)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > LINE:
            self._fail(LONG_TARGET)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # a trailer: nobody here needs one, and it must not count as a header
            return
        if len(name) + len(value) > LINE:
            self._fail(LONG_HEADER)
        if len(self.headers) == HEADERS:
            self._fail(MANY_HEADERS)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_time()
        self._in_head, self._allowed = False, HEAD
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._allowed = min(HEAD, self._allowed + 2 * len(body))  # itself, and as much around what comes
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_whole, self._allowed = True, HEAD
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.flow.holds = False
        super().on_response_complete()
        if self._received:
            self._parse()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  uvicorn's
        self._refuse(self._found or MALFORMED)

    def _fail(self, refused: Refused) -> None:
        """Stop the parser; uvicorn then calls `send_400_response`."""
        self._found = refused
        raise ValueError(refused)

    def _refuse(self, refused: Refused) -> None:
        """Answer with an error, and close the connection. Earlier requests get their answers first."""
        self.metrics.refused.labels(refused.reason).inc()
        self._received.clear()
        waiting = self._running and not self._running.response_complete
        if waiting and (self._in_head or self._is_whole):
            self.cycle.keep_alive = False
        elif waiting and (self._running is not self.cycle or self._running.response_started):
            self.transport.abort()
        else:
            answer = refused.response()
            answer.headers["Connection"] = "close"
            head = b"".join(name + b": " + value + b"\r\n" for name, value in answer.raw_headers)
            self.transport.write(STATUS_LINE[refused.status] + head + b"\r\n" + bytes(answer.body))
            self._end()

    def _end(self) -> None:
        """Close the connection soon; a client that is still sending would not see the answer if it closed at once."""
        self._is_refused = True
        self._give_up()
        self._in_time()
        self._late = self.loop.call_later(LAST, self.transport.close)
        self.transport.write_eof()

    def _give_up(self) -> None:
        """Tell the request that is being answered that its client has left; uvicorn tells only the latest one."""
        if self._running and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.send_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read()

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        self._read()
        self._received.clear()
        self.pipeline.clear()
        super().connection_lost(exc)
        self._give_up()

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
