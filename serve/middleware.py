"""What holds for every request: it may ask, arrives whole and in time, is answered in time, counted and logged."""

import asyncio
import logging
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.access import Access
from serve.metrics import RequestMetrics
from serve.refusals import Refused

REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
WITH_BODY = METHODS - {"GET", "HEAD", "OPTIONS"}
JSON = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json")
LEFT = 499  # nginx's status for a client that left; nobody receives it
PATH = 200  # characters of a path that are logged
BODIES = 16  # of the largest size, that may be in memory at once
STRUCTURE = 128 * 1024  # bytes of a body that may lie outside its strings: each can become an object

log = logging.getLogger("serve.requests")


@dataclass
class _Answer:
    request_id: str
    begin: float = field(default_factory=time.perf_counter)
    status: int = 500
    started: bool = False
    complete: bool = False
    has_body: bool = False  # that is not read yet


class Limits(Protocol):
    """The settings that bound a request."""

    max_body_bytes: int
    max_requests: int
    receive_timeout: float
    request_timeout: float


class Middleware:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: Limits, metrics: RequestMetrics, access: Access) -> None:
        self.app, self.settings, self.metrics, self.access = app, settings, metrics, access
        self.draining = False
        self.under_way = 0
        self.bodies = self.body_bytes = 0  # that are arriving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = self._begin(scope)

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status, answer.started = message["status"], True
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = answer.request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "no-store")
                if self.draining or answer.has_body:
                    headers["Connection"] = "close"
            await send(message)
            answer.complete = message["type"] == "http.response.body" and not message.get("more_body")

        async def refuse(refused: Refused) -> None:
            answer.status = refused.status
            self.metrics.refused.labels(refused.reason).inc()
            if not answer.started and refused.status != LEFT:
                await refused.response()(scope, receive, send_on)

        self.metrics.in_progress.inc()
        self.under_way += 1
        try:
            self._check_room(scope)
            await self._check_access(scope, receive, answer)
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

    def _begin(self, scope: Scope) -> _Answer:
        """Return the answer to be given, and put its id into the scope.

        With keys, a client may choose the id. Without keys, anybody could reuse the id of somebody else's request, and
        label its texts.
        """
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        given = given if REQUEST_ID.fullmatch(given) else ""
        request_id = (self.access.keys and given) or uuid.uuid4().hex
        facts = {"client_request_id": given} if given not in ("", request_id) else {}
        scope.setdefault("state", {}).update(log=facts, request_id=request_id)
        has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        return _Answer(request_id, has_body=has_body)

    def _check_room(self, scope: Scope) -> None:
        """Raise Refused when too many requests are under way, except for health checks and metrics."""
        limit = self.settings.max_requests
        if self.under_way > limit and not self.access.is_watching(scope):
            raise _busy(f"{limit} requests are under way", "too_many_requests")

    async def _check_access(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        """Raise Refused unless the request may be answered.

        Its body is discarded first: a client that is still sending would not see the answer.
        """
        try:
            self.access.check(scope)
        except Refused:
            await self._body(scope, receive, answer, keep=False)
            raise

    async def _answer(self, scope: Scope, receive: Receive, send: Send, answer: _Answer) -> None:
        """Let the application answer. Raises Refused when it takes too long or the client leaves; it stops then."""
        body = b""
        if answer.has_body and scope["method"] in WITH_BODY:
            body = await self._body(scope, receive, answer)
        if body:
            _check_type(Headers(scope=scope))
        if len(body) > STRUCTURE:
            await asyncio.to_thread(_check_structure, body)
        given = False

        async def replay() -> Message:
            nonlocal given, body
            if not given:
                message = {"type": "http.request", "body": body, "more_body": False}
                given, body = True, b""
                return message
            await leaving
            return {"type": "http.disconnect"}

        leaving = asyncio.ensure_future(_until_left(receive))
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

    async def _body(self, scope: Scope, receive: Receive, answer: _Answer, *, keep: bool = True) -> bytes:
        """Return the body of the request, or discard it.

        Raises Refused when it is too large, or too slow, or there is no room for it, or its client leaves.
        """
        headers, limit = Headers(scope=scope), self.settings.max_body_bytes
        too_large = Refused(413, f"the body is too large: {limit} bytes are allowed", "body_too_large")
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            raise Refused(400, "Content-Length is not a number", "bad_length")
        if len(length) > 18 or int(length) > limit:
            raise too_large
        body, size = bytearray(), 0
        self.bodies += 1
        try:
            async with asyncio.timeout(self.settings.receive_timeout):
                while answer.has_body:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(LEFT, "the client has left", "client_left")
                    part = message.get("body", b"")
                    size += len(part)
                    if size > limit:
                        raise too_large
                    if keep:
                        body += part
                        self.body_bytes += len(part)
                        self._check_bodies(size)
                    answer.has_body = message.get("more_body", False)
        except TimeoutError:
            message_late = f"the body did not arrive within {self.settings.receive_timeout:g} s"
            raise Refused(408, message_late, "slow_request") from None
        finally:
            self.bodies -= 1
            self.body_bytes -= len(body)
        return bytes(body)

    def _check_bodies(self, size: int) -> None:
        """Raise Refused for a body of this size that exceeds its share, when bodies take up all the memory allowed."""
        room = BODIES * self.settings.max_body_bytes
        if self.body_bytes > room and size > room / self.bodies:
            raise _busy(f"bodies of {room} bytes are arriving", "bodies")

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


async def _until_left(receive: Receive) -> None:
    """Wait until the client has left, and discard what it still sends."""
    while (await receive())["type"] != "http.disconnect":
        pass


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


def _check_structure(body: bytes) -> None:
    """Raise Refused for JSON that would become a million objects: parsing it takes half a second.

    Other bodies are parsed within 15 ms. That runs in the event loop's thread, because json keeps the GIL: in another
    thread it would block the event loop just as long.
    """
    message = f"the body has more than {STRUCTURE} bytes outside its strings, or is not UTF-8"
    refused = Refused(422, message, "structure")
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"")  # now each quote begins or ends a string
    if b"\0" in body or plain.count(b'"') > STRUCTURE:
        raise refused
    if sum(map(len, plain.split(b'"')[::2])) > STRUCTURE:
        raise refused


def _busy(why: str, reason: str) -> Refused:
    return Refused(503, f"busy: {why}; try again in 1 s", reason, {"Retry-After": "1"})
