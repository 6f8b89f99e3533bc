"""The application: experiments are queued, shown and cancelled, all of it with the admin key."""

import asyncio
import contextlib
import secrets
import sqlite3
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field
from starlette.types import ASGIApp

from repository import isolated
from repository.git import git
from runner import overrides
from runner.settings import RunnerSettings
from runner.store import Experiment, Full, State, Taken
from runner.workers import Workers
from serve.access import Access
from serve.metrics import RequestMetrics
from serve.middleware import Middleware
from serve.refusals import Refused, answer_errors, problem
from serve.schemas import Strict
from tweets.errors import UserError, one_line

ENDED = ("done", "failed", "cancelled")
MESSAGE = 500  # characters of what is wrong with a param
SECONDS_TO_CANCEL = 20.0
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class Wanted(Strict):
    """An experiment to queue."""

    params: Annotated[dict[str, Any], Field(min_length=1, max_length=100)]  # by dotted key
    name: Name | None = None


class Shown(BaseModel):
    """An experiment."""

    name: str
    state: State
    params: dict[str, Any]
    commit: str
    created: str
    started: str | None
    ended: str | None
    interruptions: int
    cancelling: bool
    error: str
    live: dict[str, Any] | None  # while it runs: its stage, the metrics of its training, each evaluation's macro-F1
    result: dict[str, Any] | None


class AllShown(BaseModel):
    """All experiments, the newest first."""

    experiments: list[Shown]


def create(settings: RunnerSettings, workers: Workers, metrics: RequestMetrics) -> ASGIApp:
    """Return the application, which starts and stops the workers, and closes their queue.

    Raises UserError when the workers' checkout has no commit with the stages.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(workers.start)
        yield
        await asyncio.to_thread(workers.stop)
        workers.queue.close()

    app = FastAPI(title="Experiments", lifespan=lifespan, openapi_url=None)  # all but health needs the key
    answer_errors(app, metrics)

    @app.exception_handler(sqlite3.Error)
    async def of_queue(_: Request, error: sqlite3.Error) -> JSONResponse:
        return problem(f"the queue cannot be used: {error}", 503, {"Retry-After": "10"})

    @app.get("/health")
    async def health() -> dict[str, bool]:
        """Tell that the process answers."""
        return {"live": True}

    app.include_router(_routes(workers))
    requests = Middleware(app, settings, metrics, Access([settings.admin_key], watching=["/health"]))
    if not settings.page_origin:
        return requests
    return CORSMiddleware(
        requests,
        allow_origins=[settings.page_origin],
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["Authorization", "Content-Type"],
    )


def _routes(workers: Workers) -> APIRouter:
    queue, code = workers.queue, overrides.code(workers.root, "HEAD")
    router = APIRouter(prefix="/experiments")

    def shown(experiment: Experiment) -> Shown:
        live = workers.live(experiment.name) if experiment.state == "running" else None
        return Shown(**vars(experiment), live=live)

    def known(name: str) -> Experiment:
        try:
            return queue.get(name)
        except KeyError:
            raise Refused(404, f"no experiment {name[:64]!r}", "unknown_name") from None

    @router.get("")
    def show_all() -> AllShown:
        return AllShown(experiments=[shown(experiment) for experiment in queue.all()])

    @router.post("", status_code=202)
    def add(body: Wanted, response: Response) -> Shown:
        added = _add(workers, code, body)
        response.headers["Location"] = f"/experiments/{added.name}"
        return shown(added)

    @router.get("/{name}")
    def show(name: str) -> Shown:
        return shown(known(name))

    @router.get("/{name}/log", response_class=PlainTextResponse)
    def show_log(name: str) -> str:
        return workers.tail(known(name).name)

    @router.delete("/{name}")
    async def cancel(name: str, response: Response) -> Shown:
        """Cancel an experiment: 200 when it has ended, 202 where its processes are still being ended."""
        experiment = await asyncio.to_thread(known, name)
        if experiment.state in ENDED:
            raise Refused(
                409, f"{experiment.name} is {experiment.state}: there is nothing to cancel", "nothing_to_cancel"
            )
        experiment = await asyncio.to_thread(workers.cancel, name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SECONDS_TO_CANCEL):
                while experiment.state not in ENDED:
                    await asyncio.sleep(0.1)
                    experiment = await asyncio.to_thread(known, name)
        response.status_code = 200 if experiment.state in ENDED else 202
        return shown(experiment)

    return router


def _add(workers: Workers, code: str, body: Wanted) -> Experiment:
    """Queue what was asked for. Raises Refused when its params, its name or the queue stand against it.

    So does other code than that of the start: the schema is imported, and would be held against newer params.
    """
    root = workers.root
    commit = git("rev-parse", "HEAD", folder=root)
    if overrides.code(root, commit) != code:
        raise Refused(503, "the code has changed since the runner started; restart it", "code_changed")
    try:
        values = overrides.checked(overrides.committed(root, commit), body.params)
    except UserError as error:
        raise Refused(422, one_line(error)[:MESSAGE], "bad_params") from None
    name = body.name or f"runner-{secrets.token_hex(3)}"
    if name in isolated.experiments(root):
        raise Refused(409, f"there is an experiment {name} already: `dvc exp remove {name}`, or another name", "taken")
    try:
        return workers.add(name, values, commit)
    except Taken:
        raise Refused(409, f"an experiment {name} waits or runs already", "taken") from None
    except Full:
        message = f"{workers.queue.size} experiments wait already; try again when one has ended"
        raise Refused(503, message, "queue_full", {"Retry-After": "60"}) from None
