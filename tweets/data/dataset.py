"""The splits of the data set, by name, and what tells one set of rows from another."""

import hashlib
from collections.abc import Iterable

TEST, VALID, TRAIN = SPLITS = ("test", "valid", "train")


def hash_of_ids(ids: Iterable[str]) -> str:
    """Return 16 hexadecimal digits that tell one set of rows from another: the head of their sorted ids' SHA-256."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]
