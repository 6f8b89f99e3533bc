"""Spread work over the machines of a Ray cluster, or over this machine's cores by Ray.

Ray schedules the work, does again what a lost process or machine did not finish, and carries what goes in and out.
requirements-cluster.txt installs it, and only this module imports it.
"""

import logging
import os
import secrets
import socket
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tweets.errors import UserError, one_line

VARIABLE = "TWEETS_CLUSTER"
LOCAL = "local"
PORT = 6379  # of a cluster's head, where the address has none
SECONDS_TO_ANSWER = 10
RETRIES = 5  # of a piece whose process or machine is lost
# What the machines of a cluster get of this folder: its code.
CODE = {
    "working_dir": ".",
    "excludes": [
        "/.[!.]*",
        "/data",
        "/models",
        "/metrics",
        "/plots",
        "/tests",
        "/docs",
        "/benchmarks/results",
        "*.log",
    ],
}

T = TypeVar("T")
R = TypeVar("R")


def address() -> str | None:
    """Return what VARIABLE says: LOCAL, or the address of a cluster; None where it says nothing."""
    return os.environ.get(VARIABLE) or None


def in_order(work: Callable[[T], R], pieces: Iterator[T], where: str) -> Iterator[R]:
    """Yield what `work` makes of each piece, in their order, each on a core of the cluster.

    Raises what `work` raises, and UserError where Ray is not installed, no cluster is at the address, or a piece loses
    its process RETRIES times.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told of this run, unless the user says so
    if where == LOCAL:  # it listens on all addresses, and who can give it work can run anything
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray  # noqa: PLC0415  an extra
    except ImportError:
        raise UserError(
            f"{VARIABLE} = {where}: Ray is not installed; `pip install -r requirements-cluster.txt` does that"
        ) from None
    options: dict[str, Any] = {"include_dashboard": False} if where == LOCAL else {"runtime_env": CODE}
    if where != LOCAL:
        _check(where)
    try:
        ray.init(where, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError, AssertionError) as error:
        raise UserError(f"{VARIABLE} = {where}: no cluster there: {one_line(error)[:200]}") from None
    waiting: deque[Any] = deque()
    try:
        task: Any = ray.remote(max_retries=RETRIES)(_perform)
        shared = ray.put(work)  # once, and not with each piece
        resources: Any = ray.cluster_resources  # without types
        most = 2 * int(resources()["CPU"])
        for piece in pieces:
            waiting.append(task.remote(shared, piece))
            if len(waiting) > most:
                yield ray.get(waiting.popleft())
        while waiting:
            yield ray.get(waiting.popleft())
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise UserError(f"{VARIABLE} = {where}: the work was lost: {one_line(error)[:200]}") from None
    finally:
        ray.shutdown()


def _check(where: str) -> None:
    """Raise UserError where nobody answers at an address: Ray itself would try for minutes, and end the process."""
    parts = urlsplit(where if "://" in where else f"//{where}")
    try:
        socket.create_connection((parts.hostname, parts.port or PORT), timeout=SECONDS_TO_ANSWER).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"{VARIABLE} = {where}: no cluster there: {one_line(error)}; it needs {LOCAL}, or an address such as"
            " 10.0.0.1:6379"
        ) from None


def _perform(work: Callable[[T], R], piece: T) -> R:
    return work(piece)
