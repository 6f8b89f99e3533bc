"""What holds for every request: it has an id, arrives whole and in time, is answered in time, counted and logged."""

import asyncio
import logging
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.metrics import RequestMetrics
from serve.refusals import Refused

REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
JSON = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json")
LEFT = 499  # nginx's status for a client that left; nobody receives it
PATH = 200  # characters of a path that are logged

log = logging.getLogger("serve.requests")


@dataclass
class _Answer:
    request_id: str
    begin: float = field(default_factory=time.perf_counter)
    status: int = 500
    started: bool = False
    complete: bool = False


class Limits(Protocol):
    """The settings that bound a request."""

    max_body_bytes: int
    max_requests: int
    receive_timeout: float
    request_timeout: float


class Middleware:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: Limits, metrics: RequestMetrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.draining = False
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        answer = _Answer(given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex)

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status, answer.started = message["status"], True
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = answer.request_id
                headers["X-Content-Type-Options"] = "nosniff"
                if self.draining:
                    headers["Connection"] = "close"
            await send(message)
            answer.complete = message["type"] == "http.response.body" and not message.get("more_body")

        async def refuse(refused: Refused) -> None:
            answer.status = refused.status
            self.metrics.refused.labels(refused.reason).inc()
            if not answer.started and refused.status != LEFT:
                await refused.response()(scope, receive, send_on)

        scope.setdefault("state", {}).update(log={}, request_id=answer.request_id)
        self.metrics.in_progress.inc()
        self.under_way += 1
        try:
            self._check_room(scope)
            await self._answer(scope, receive, send_on, answer)
        except Refused as refused:
            await refuse(refused)
        except asyncio.CancelledError:
            if not self.draining:
                raise
            await refuse(Refused(503, "the service is shutting down; try again", "draining", {"Retry-After": "1"}))
        except Exception:
            answer.status = 500  # Starlette has sent it, and raises on what it was, for the log
            log.exception("error", extra={"request_id": answer.request_id})
        finally:
            self.under_way -= 1
            self.metrics.in_progress.dec()
            self._record(scope, answer)

    def _check_room(self, scope: Scope) -> None:
        """Raise Refused when too many requests are under way. Others than POST compute nothing: health, metrics."""
        limit = self.settings.max_requests
        if self.under_way > limit and scope["method"] == "POST":
            message = f"busy: {limit} requests are under way; try again in 1 s"
            raise Refused(503, message, "too_many_requests", {"Retry-After": "1", **_CLOSE})

    async def _answer(self, scope: Scope, receive: Receive, send: Send, answer: _Answer) -> None:
        """Let the application answer. Raises Refused when it takes too long or the client leaves; it stops then."""
        body = await self._body(scope, receive)
        if body:
            _check_type(Headers(scope=scope))
        given = False

        async def replay() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            await leaving
            return {"type": "http.disconnect"}

        leaving = asyncio.ensure_future(receive())
        answering = asyncio.ensure_future(self.app(scope, replay, send))
        seconds = self.settings.request_timeout
        try:
            await asyncio.wait({answering, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if answering.done() or answer.complete:  # after a whole answer the server says that the client has left
                return await answering
            if leaving.done():
                raise Refused(LEFT, "the client has left", "client_left")
            message = f"no answer within {seconds:g} s; try again later, or send less"
            raise Refused(503, message, "timeout", {"Retry-After": "1"})
        finally:
            leaving.cancel()
            answering.cancel()

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Return the body of the request. Raises Refused when it is too large, or too slow, or its client leaves."""
        limit = self.settings.max_body_bytes
        too_large = Refused(413, f"the body is too large: {limit} bytes are allowed", "body_too_large", _CLOSE)
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal():
            raise Refused(400, "Content-Length is not a number", "bad_length", _CLOSE)
        if len(length) > 18 or int(length) > limit:
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.settings.receive_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(LEFT, "the client has left", "client_left")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise too_large
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            message_late = f"the body did not arrive within {self.settings.receive_timeout:g} s"
            raise Refused(408, message_late, "slow_request", _CLOSE) from None

    def _record(self, scope: Scope, answer: _Answer) -> None:
        seconds = time.perf_counter() - answer.begin
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.metrics.requests.labels(method, route, str(answer.status)).inc()
        self.metrics.seconds.labels(route, str(answer.status)).observe(seconds)
        facts: dict[str, Any] = {
            "request_id": answer.request_id,
            "method": method,
            "route": route,
            "path": scope["path"][:PATH],
            "status": answer.status,
            "ms": round(1000 * seconds, 2),
            "client": scope["client"][0] if scope.get("client") else None,
            **scope["state"]["log"],
        }
        log.info("request", extra=facts)


def _check_type(headers: Headers) -> None:
    """Raise Refused for a body that is compressed, or no JSON by its name."""
    encoding = headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        message = f"Content-Encoding is {encoding[:PATH]}; send the body uncompressed"
        raise Refused(415, message, "content_encoding")
    kind = headers.get("content-type", "")
    if not JSON.fullmatch(kind.split(";")[0].strip().lower()):
        message = f"Content-Type is {kind[:PATH] or 'missing'}; the body needs Content-Type: application/json"
        raise Refused(415, message, "content_type")


_CLOSE = {"Connection": "close"}  # what is left of the request stays unread
