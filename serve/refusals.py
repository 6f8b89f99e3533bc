"""A request that gets no answer: why, in one line of JSON."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from serve.metrics import RequestMetrics


class Refused(Exception):  # noqa: N818  not an error of the service
    """Something in a request, or in the state of the service, that stands against an answer."""

    def __init__(self, status: int, message: str, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.headers = status, reason, headers or {}

    def response(self) -> JSONResponse:
        return problem(str(self), self.status, self.headers)


def problem(message: str, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return an answer that says what is wrong. The message may quote half of a surrogate pair, which JSON allows."""
    return JSONResponse({"error": message.encode("utf-8", "backslashreplace").decode()}, status, headers)


def answer_errors(app: FastAPI, metrics: RequestMetrics) -> None:
    """Let the application answer each error with one line of JSON."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        metrics.refused.labels(error.reason).inc()
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return problem("; ".join(describe(detail) for detail in error.errors()[:5]), 422)

    @app.exception_handler(HTTPException)
    async def of_framework(_: Request, error: HTTPException) -> JSONResponse:
        return problem(str(error.detail), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> JSONResponse:
        return problem("an error in the service; its log has it under the request's id", 500)


def describe(detail: Any) -> str:
    """Return what is wrong, and where. What was sent is not repeated: it may be anything, the name of a part too."""
    parts = (str(part)[:40] for part in detail["loc"])
    where = ".".join(part if part.isidentifier() or part.isdecimal() else repr(part) for part in parts)
    return f"{where}: {detail['msg'].removeprefix('Value error, ').removeprefix('Input ')}"
