"""Who may ask for what: public paths are open, all others need a key. This is decided before a body is read."""

import ipaddress
import re
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.routing import compile_path
from starlette.types import Scope

from serve import keys
from serve.refusals import Refused

READING = ("GET", "HEAD")
PART = 100  # characters of what a client sends that it is told
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class Access:
    """The rules of an application: who may ask for which path, and by which name of the host."""

    def __init__(
        self,
        known: Iterable[str],
        *,
        public: Iterable[str] = (),
        watching: Iterable[str] = (),
        hosts: Iterable[str] = (),
        logs_keys: bool = False,
    ) -> None:
        """Take the hashes of the keys, without which everything is public, and paths as routes have them.

        Paths in `public` and `watching` may be read without a key; those in `watching` are health checks and metrics.
        With `hosts`, requests for other hosts are refused: a web page can make a browser send requests here under the
        page's own name. With `logs_keys`, the log has the first digits of the key's hash.
        """
        self.keys, self.hosts, self.logs_keys = tuple(known), tuple(hosts), logs_keys
        self._watching = [compile_path(path)[0] for path in watching]
        self._public = [*self._watching, *(compile_path(path)[0] for path in public)]

    def check(self, scope: Scope) -> None:
        """Raise Refused unless the request may be answered. Its state gets the first digits of its key's hash."""
        headers = Headers(scope=scope)
        host = re.sub(r":\d*$", "", headers.get("host", "").lower())
        if self.hosts and host not in self.hosts:
            names = " or ".join(self.hosts)
            message = f"this is {names}, and not {host[:PART]!r}; TWEETS_API_KEYS or TWEETS_TRUSTED_PROXIES opens it"
            raise Refused(421, message, "host")
        kind, _, key = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and keys.is_known(key.strip(), self.keys):
            scope["state"]["key"] = keys.hashed(key.strip())[:8]
            if self.logs_keys:
                scope["state"]["log"]["key"] = scope["state"]["key"]
        elif self.keys and not self.is_public(scope):
            what = "an unknown key" if key else "no key"
            message = f"{what}: send `Authorization: Bearer KEY`"
            raise Refused(401, message, "unauthorised", {"WWW-Authenticate": "Bearer"})

    def is_public(self, scope: Scope) -> bool:
        """Tell whether a request may be answered without a key."""
        return _reads(scope, self._public)

    def is_watching(self, scope: Scope) -> bool:
        """Tell whether this is a health check or asks for metrics, which are answered even when busy."""
        return _reads(scope, self._watching)


def _reads(scope: Scope, paths: Iterable[re.Pattern[str]]) -> bool:
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return scope["method"] in READING and any(pattern.match(path) for pattern in paths)


def is_loopback(host: str) -> bool:
    """Tell whether a server at this address is reached from its own machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
