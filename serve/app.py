"""The application: its routes, and what they share."""

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import limits
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from serve import inference, keys, models, schemas
from serve.batching import Batcher
from serve.monitoring import Monitoring
from serve.refusals import Refused, answer_errors
from serve.requests import Requests
from serve.settings import Settings
from tweets.errors import one_line
from tweets.exported import Floats

PAGE = Path(__file__).parent / "page"
VERSION = "1.0.0"  # of this API; the model has its own
POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"
log = logging.getLogger("serve")


class Service:
    """What the routes share: the model, the queue, the rates of the clients."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.served = models.load(settings)
        self.batcher = Batcher(settings.batch_size, settings.queue_size)
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
        """Serve the model that lies in the folder now; where it is not whole or does not work, keep the one that is."""
        try:
            found = await asyncio.to_thread(models.load, self.settings)
        except Exception as error:  # noqa: BLE001  whatever is wrong with the new one, the old one serves on
            self.metrics.reloads.labels("failed").inc()
            self.metrics.last_reload.set(0)
            log.error("reload failed: %s; version %s stays", one_line(error), self.served.version)
            return
        self.served = found
        self.monitoring.watch(found)
        self._tell_metrics()
        self.metrics.reloads.labels("done").inc()
        self.metrics.last_reload.set(1)
        log.info("reloaded: version %s", found.version)

    async def predict(self, request: Request, texts: Sequence[str]) -> tuple[models.Served, Floats]:
        """Return the model that was asked, and the probabilities, (N, K). Raises Refused when there is no room."""
        facts = request.scope["state"]["log"]
        facts["texts"] = len(texts)
        if self.settings.log_text:
            facts["text"] = list(texts)
        self.batcher.check_room(len(texts))  # what is refused costs the client nothing
        await self._spend(facts.get("key") or network(request.client.host if request.client else ""), len(texts))
        served = self.served
        outputs = await self.batcher.predict(served, texts)
        self.monitoring.add(served, request.scope["state"]["request_id"], texts, outputs)
        found: Floats = outputs["probabilities"]
        for number in found.argmax(1):
            self.metrics.predictions.labels(served.labels[number]).inc()
        return served, found

    async def _spend(self, client: str, texts: int) -> None:
        for limit in self.limits:
            if texts > limit.amount:
                raise Refused(422, f"too many texts in a request: {limit} are allowed", "rate_limit")
            if not await self._limiter.test(limit, client, cost=texts):
                message, seconds = f"too many texts: {limit} are allowed", str(limit.get_expiry())
                raise Refused(429, message, "rate_limit", {"Retry-After": seconds})
        for limit in self.limits:
            await self._limiter.hit(limit, client, cost=texts)


def network(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or the network of an IPv6 address, which is one customer's."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped:  # as a socket for both versions shows an IPv4 client
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found), 64), strict=False))


bearer = HTTPBearer(auto_error=False)


async def authorised(
    request: Request,
    credentials: HTTPAuthorizationCredentials | None = Depends(bearer),  # noqa: B008
) -> None:
    """Raise Refused unless the request has one of the keys."""
    known = request.app.state.service.settings.api_keys
    if not credentials or not keys.is_known(credentials.credentials, known):
        what = "a key that is not known" if credentials else "no key"
        message = f"{what}: send `Authorization: Bearer KEY`"
        raise Refused(401, message, "unauthorised", {"WWW-Authenticate": "Bearer"})
    request.scope["state"]["log"]["key"] = keys.hashed(credentials.credentials)[:8]


def create(settings: Settings) -> tuple[FastAPI, Requests]:
    """Return the application, and the same within what holds for every request, which is what a server runs.

    Raises UserError when there is no model to serve.
    """
    service = Service(settings)
    PredictRequest, FeedbackRequest, InferRequest = schemas.requests(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batches = asyncio.create_task(service.batcher.run())
        service.monitoring.start()
        service.is_ready = True
        yield
        service.is_ready = False
        batches.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await batches
        await asyncio.to_thread(service.monitoring.stop)

    app = FastAPIOffline(
        title="Tweets",
        version=VERSION,
        description="Labels tweets by their sentiment.",
        redoc_url=None,
        lifespan=lifespan,
        responses={422: {"model": schemas.Problem, "description": "What is wrong with the request"}},
    )
    app.state.service = service
    answer_errors(app, service.metrics)
    guards = [Depends(authorised)] if settings.api_keys else []
    _add_routes(app, service, PredictRequest, FeedbackRequest, guards)
    inference.add_routes(app, service, InferRequest, guards, PROBLEMS)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    return app, Requests(app, settings, service.metrics)


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem, "description": description}
    for status, description in {
        400: "Not JSON",
        401: "A key is missing or wrong",
        408: "The body came too slowly",
        413: "The body is too large",
        422: "What is wrong with the request",
        429: "More texts than the client's rate allows",
        503: "Too many texts wait, or it took too long; try again",
    }.items()
}

NOT_KEPT: dict[int | str, dict[str, Any]] = {
    404: {"model": schemas.Problem, "description": "No such prediction is kept"},
    409: {"model": schemas.Problem, "description": "The model that is served has no such label"},
}


def _add_routes(app: FastAPI, service: Service, PredictRequest: Any, FeedbackRequest: Any, guards: list[Any]) -> None:
    @app.post("/predict", responses=PROBLEMS, dependencies=guards, tags=["tweets"])
    async def predict(request: Request, body: PredictRequest) -> schemas.PredictAnswer:
        """Label one tweet or a list of tweets."""
        texts = [body.text] if isinstance(body.text, str) else body.text
        served, found = await service.predict(request, texts)
        predictions = [
            schemas.Prediction(
                label=served.labels[row.argmax()],
                probabilities=dict(zip(served.labels, row.round(6).tolist(), strict=True)),
            )
            for row in found
        ]
        return schemas.PredictAnswer(model=served.name, version=served.version, predictions=predictions)

    @app.post("/feedback", status_code=204, responses=PROBLEMS | NOT_KEPT, dependencies=guards, tags=["tweets"])
    async def feedback(body: FeedbackRequest) -> None:
        """Tell the true labels of texts that were labelled; the live accuracy is taken from them."""
        for label in body.labels:
            if label is not None and label not in service.served.labels:
                message = f"body.labels: {label[:40]!r} is none of the labels: {', '.join(service.served.labels)}"
                raise Refused(409, message, "unknown_label")
        try:
            missing = await service.monitoring.label(body.request_id, body.labels)
        except OSError as error:
            log.error("feedback: %s", error)
            raise Refused(503, "the labels could not be kept; try again", "collection", {"Retry-After": "1"}) from None
        if missing is not None:
            why = "" if service.monitoring.collection else ": none are; TWEETS_COLLECT names a folder for them"
            message = f"no prediction {missing} of the request {body.request_id!r} is kept{why}"
            raise Refused(404, message, "unknown_prediction")

    @app.get("/model", tags=["tweets"])
    async def model() -> schemas.ModelAnswer:
        """Tell what exactly is being served: version, commit, hash, labels, and the model's card."""
        served = service.served
        return schemas.ModelAnswer(
            name=served.name,
            version=served.version,
            commit=served.commit,
            lock=schemas.Lock(**served.lock),
            labels=served.labels,
            max_tokens=served.model.settings.max_length,
            card=served.card,
        )

    @app.get("/metrics", tags=["operation"], response_class=Response)
    async def metrics() -> Response:
        """Return the metrics, for Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    experiments = service.settings.experiments_url
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    html = html.replace("<body>", f'<body data-experiments="{experiments}">')
    policy = f"{POLICY}; connect-src 'self' {experiments}"

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(html, headers={"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"})
