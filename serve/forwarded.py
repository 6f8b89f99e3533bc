"""What a trusted proxy tells of a request: who sent it, by which scheme, and what it took off the path."""

import re

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from serve.settings import PREFIXES


class Forwarded(ProxyHeadersMiddleware):
    """uvicorn's middleware for X-Forwarded-For and X-Forwarded-Proto, which takes X-Forwarded-Prefix too."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # type: ignore[override]
        client = scope.get("client")
        if scope["type"] == "http" and client and client[0] in self.trusted_hosts:
            prefix = Headers(scope=scope).get("x-forwarded-prefix", "").rstrip("/")
            if re.fullmatch(PREFIXES, prefix):
                root = scope["root_path"]
                scope["root_path"] = prefix
                scope["path"] = prefix + scope["path"].removeprefix(root)
                scope["raw_path"] = prefix.encode() + scope["raw_path"].removeprefix(root.encode())
        await super().__call__(scope, receive, send)  # type: ignore[arg-type]
