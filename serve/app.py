"""The application: its routes."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from serve import inference, keys, schemas
from serve.middleware import Middleware
from serve.refusals import Refused, answer_errors
from serve.service import Service
from serve.settings import ServiceSettings

PAGE = Path(__file__).parent / "page"
VERSION = "1.0.0"  # of this API; the model has its own
POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"
log = logging.getLogger("serve")


bearer = HTTPBearer(auto_error=False)


async def authorised(
    request: Request,
    credentials: HTTPAuthorizationCredentials | None = Depends(bearer),  # noqa: B008
) -> None:
    """Raise Refused unless the request has one of the keys."""
    known = request.app.state.service.settings.api_keys
    if not credentials or not keys.is_known(credentials.credentials, known):
        what = "an unknown key" if credentials else "no key"
        message = f"{what}: send `Authorization: Bearer KEY`"
        raise Refused(401, message, "unauthorised", {"WWW-Authenticate": "Bearer"})
    request.scope["state"]["log"]["key"] = keys.hashed(credentials.credentials)[:8]


def create(settings: ServiceSettings) -> tuple[FastAPI, Middleware]:
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
    return app, Middleware(app, settings, service.metrics)


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem, "description": description}
    for status, description in {
        400: "Not JSON",
        401: "A key is missing or wrong",
        408: "The body came too slowly",
        413: "The body is too large",
        415: "The body is compressed, or its Content-Type is not application/json",
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
        served, probabilities = await service.predict(request, texts)
        predictions = [
            schemas.Prediction(
                label=served.labels[row.argmax()],
                probabilities=dict(zip(served.labels, row.round(6).tolist(), strict=True)),
            )
            for row in probabilities
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
