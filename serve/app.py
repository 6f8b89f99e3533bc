"""The application: its routes."""

import asyncio
import base64
import contextlib
import hashlib
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from serve import inference, schemas
from serve.access import LOOPBACK, Access, is_loopback
from serve.middleware import Middleware
from serve.refusals import Refused, answer_errors
from serve.service import Service, asked
from serve.settings import ServiceSettings

PAGE = Path(__file__).parent / "page"
VERSION = "1.0.0"  # of this API; the model has its own
POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"
LATEST = {"Cache-Control": "no-cache"}  # kept, and asked for again each time: a new version shows at once
log = logging.getLogger("serve")


# Paths that may be read without a key: the page, the documentation, and what is served. All others need one.
PUBLIC = (
    "/",
    "/page/{path:path}",
    "/docs",
    "/openapi.json",
    "/static-offline-docs/{path:path}",
    "/model",
    "/v2",
    inference.NAMED,
    inference.VERSIONED,
)
# Health checks and metrics need no key either, and are answered even when the service is busy.
WATCHING = (
    "/metrics",
    "/v2/health/live",
    "/v2/health/ready",
    inference.NAMED + "/ready",
    inference.VERSIONED + "/ready",
)


class Assets(StaticFiles):
    """The files of the page."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        answer = super().file_response(*args, **kwargs)
        answer.headers.update(LATEST)
        return answer


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
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=ANYWHERE,
    )
    app.state.service = service
    answer_errors(app, service.metrics)
    # Access checks the key; this puts it into the documentation of the API.
    keyed = APIRouter(dependencies=[Depends(HTTPBearer(auto_error=False))] if settings.api_keys else [])
    _add_routes(app, keyed, service, PredictRequest, FeedbackRequest)
    inference.add_routes(app, keyed, service, InferRequest, PROBLEMS)
    app.include_router(keyed)
    _add_pages(app, settings)
    return app, Middleware(app, settings, service.metrics, _access(settings))


def _access(settings: ServiceSettings) -> Access:
    """Return who may ask. Without keys, a service on loopback answers only to this machine's names."""
    is_open = settings.api_keys or settings.trusted_proxies or settings.root_path or not is_loopback(settings.host)
    hosts = () if is_open else LOOPBACK
    return Access(settings.api_keys, public=PUBLIC, watching=WATCHING, hosts=hosts, logs_keys=True)


def _problems(descriptions: dict[int | str, str]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": schemas.Problem, "description": text} for status, text in descriptions.items()}


ANYWHERE = _problems(
    {
        414: "The path and query are too long",
        421: "The request names another host than this service",
        422: "What is wrong with the request",
        431: "The headers are too large, or too many",
    }
)
PROBLEMS = _problems(
    {
        400: "Not JSON",
        401: "A key is missing or wrong",
        408: "The body came too slowly",
        413: "The body is too large",
        415: "The body is compressed, or its Content-Type is not application/json",
        429: "More texts than the client's rate allows",
        503: "Too many texts wait, or it took too long; try again",
    }
)
NOT_KEPT = _problems(
    {
        404: "No such prediction is kept",
        409: "The model that is served has no such label",
    }
)


def _add_routes(app: FastAPI, keyed: APIRouter, service: Service, PredictRequest: Any, FeedbackRequest: Any) -> None:
    @keyed.post("/predict", responses=PROBLEMS, tags=["tweets"])
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

    @keyed.post("/feedback", status_code=204, responses=PROBLEMS | NOT_KEPT, tags=["tweets"])
    async def feedback(request: Request, body: FeedbackRequest) -> None:
        """Tell the true labels of texts that were labelled; the live accuracy is taken from them."""
        for label in body.labels:
            if label is not None and label not in service.served.labels:
                message = f"body.labels: {label[:40]!r} is none of the labels: {', '.join(service.served.labels)}"
                raise Refused(409, message, "unknown_label")
        await service.spend(request, len(body.labels), "feedback of ")
        try:
            missing = await service.monitoring.label(asked(request, body.request_id), body.labels)
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


def _add_pages(app: FastAPI, settings: ServiceSettings) -> None:
    """Add the page and the documentation of the API, which run no script from elsewhere."""
    experiments = settings.experiments_url
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    html = html.replace("<body>", f'<body data-experiments="{experiments}">')
    policy = f"{POLICY}; connect-src 'self' {experiments}"
    headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer", **LATEST}

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(html, headers=headers)

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        root = request.scope["root_path"]
        files = f"{root}/static-offline-docs"
        answer = get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title="Tweets: the API",
            swagger_js_url=f"{files}/swagger-ui-bundle.js",
            swagger_css_url=f"{files}/swagger-ui.css",
            swagger_favicon_url=f"{files}/favicon.png",
        )
        hashes = (
            _source_hash(script) for script in re.findall(rb"<script>(.*?)</script>", bytes(answer.body), re.DOTALL)
        )
        scripts = f"script-src 'self' {' '.join(hashes)}; style-src 'self' 'unsafe-inline'"
        answer.headers["Content-Security-Policy"] = f"{POLICY}; {scripts}"
        return answer

    app.mount("/page", Assets(directory=PAGE), name="page")


def _source_hash(script: bytes) -> str:
    """Return what allows a script within a page, as a Content-Security-Policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"
