"""A request that gets no answer: why, in one line of JSON."""

from starlette.responses import JSONResponse


class Refused(Exception):  # noqa: N818  not an error of the service
    """Something in a request, or in the state of the service, that stands against an answer."""

    def __init__(self, status: int, message: str, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.headers = status, reason, headers or {}

    def response(self) -> JSONResponse:
        return JSONResponse({"error": str(self)}, self.status, self.headers)
