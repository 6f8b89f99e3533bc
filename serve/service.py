"""What the routes share: the model, the queue, the rates of the clients."""

import asyncio
import concurrent.futures
import ipaddress
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import limits
from fastapi import Request
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from serve import models
from serve.batching import Batcher
from serve.collection import Asked
from serve.monitoring import Monitoring
from serve.refusals import Refused
from serve.settings import ServiceSettings
from tweets.errors import one_line
from tweets.model.exported import Floats

T = TypeVar("T")
log = logging.getLogger("serve")


class Service:
    """One model, served: replaced by `reload`, asked by `predict`."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.served = models.load(settings)
        self.batcher = Batcher(settings.batch_size, settings.queue_size, len(self.served.model.engines))
        self.metrics = self.batcher.metrics
        self.is_ready = False
        self.limits = limits.parse_many(settings.rate_limit) if settings.rate_limit else []
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self.monitoring = Monitoring(settings, self.metrics, self.served)
        self._tell_metrics()

    def _tell_metrics(self) -> None:
        served = self.served
        self.metrics.model.info({"name": served.name, "version": served.version, "commit": served.commit or ""})
        self.metrics.model_time.set(served.written)

    async def reload(self) -> None:
        """Serve the model that lies in the folder now; where it is not whole or does not work, keep the one that is.

        A read from a dead disk may never return. Its thread is then abandoned; the next reload starts another.
        """
        seconds = self.settings.reload_timeout
        try:
            async with asyncio.timeout(seconds):
                served = await in_thread(lambda: models.load(self.settings))
        except asyncio.CancelledError:
            self._keep("it was given up")
            raise
        except TimeoutError:
            self._keep(f"{self.settings.model}: not read within {seconds:g} s (TWEETS_RELOAD_TIMEOUT)")
        except Exception as error:  # noqa: BLE001  whatever is wrong with the new one, the old one serves on
            self._keep(one_line(error))
        else:
            self.served = served
            self.monitoring.watch(served)
            self._tell_metrics()
            self.metrics.reloads.labels("done").inc()
            self.metrics.last_reload.set(1)
            log.info("reloaded: version %s", served.version)

    def _keep(self, why: str) -> None:
        self.metrics.reloads.labels("failed").inc()
        self.metrics.last_reload.set(0)
        log.error("reload failed: %s; version %s stays", why, self.served.version)

    async def predict(self, request: Request, texts: Sequence[str]) -> tuple[models.Served, Floats]:
        """Return the model that was asked, and the probabilities, (N, K). Raises Refused when there is no room."""
        facts = request.scope["state"]["log"]
        facts["texts"] = len(texts)
        if self.settings.log_text:
            facts["text"] = list(texts)
        self.batcher.check_room(len(texts))  # what is refused costs the client nothing
        await self.spend(request, len(texts))
        served = self.served
        outputs = await self.batcher.predict(served, texts)
        self.monitoring.add(served, asked(request), texts, outputs)
        probabilities: Floats = outputs["probabilities"]
        for number in probabilities.argmax(1):
            self.metrics.predictions.labels(served.labels[number]).inc()
        return served, probabilities

    async def spend(self, request: Request, texts: int, purpose: str = "") -> None:
        """Count texts against what the client may ask for this purpose. Raises Refused where that is too much."""
        key = request.scope["state"].get("key")
        client = purpose + (key or network(request.client.host if request.client else ""))
        for limit in self.limits:
            if texts > limit.amount:
                raise Refused(422, f"too many texts in a request: {limit} are allowed", "rate_limit")
            if not await self._limiter.test(limit, client, cost=texts):
                message, seconds = f"too many texts: {limit} are allowed", str(limit.get_expiry())
                raise Refused(429, message, "rate_limit", {"Retry-After": seconds})
        for limit in self.limits:
            await self._limiter.hit(limit, client, cost=texts)


def in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Run `work` in a daemon thread, which does not keep the process from ending, and return its future result."""
    done: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001  the future has it
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return asyncio.wrap_future(done)


def asked(request: Request, request_id: str | None = None) -> Asked:
    """Return whose request this is, or one of that id of the same client."""
    state = request.scope["state"]
    return Asked(request_id or state["request_id"], state.get("key", ""))


def network(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or the network of an IPv6 address, which is one customer's."""
    try:
        ip_address = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip_address, ipaddress.IPv4Address):
        return address
    if ip_address.ipv4_mapped:  # as a socket for both versions shows an IPv4 client
        return str(ip_address.ipv4_mapped)
    return str(ipaddress.ip_network((int(ip_address), 64), strict=False))
