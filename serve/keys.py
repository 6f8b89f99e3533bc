"""API keys. The service knows their SHA-256 only: a key is 256 random bits, which no list of words finds.

    python -m serve.keys

Prints a new key, for the client, and its hash, for TWEETS_API_KEYS or TWEETS_ADMIN_KEY.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable

from tweets import command


def hashed(key: str) -> str:
    """Return the SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def is_known(key: str, hashes: Iterable[str]) -> bool:
    """Tell whether the key is one of those; the time taken does not depend on which, or how much of it is right."""
    digest = hashed(key)
    return any([hmac.compare_digest(digest, known) for known in hashes])  # noqa: C419  all are compared


def main() -> None:
    key = secrets.token_urlsafe(32)
    print(f"key, for the client:   {key}\nhash, for the service: {hashed(key)}")


if __name__ == "__main__":
    command.run("keys", main, __doc__)
