"""The control port's application: the admin API, the console, the metrics and the health of one gateway.

    /                   the console (gateway.console)
    /api/v1/…           what `Operations` can do, as JSON; errors are problem details
    /docs               the same, described (from /openapi.json)
    /metrics            Prometheus
    /livez /readyz      for whoever restarts and routes

`create_app` puts it together from what it is given: no globals, and nothing happens on import. Operations touch disks,
so their handlers are plain functions, which the framework runs on threads.
"""

import asyncio
import re
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from time import time
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import Metric
from pydantic import BeforeValidator, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from gateway import metrics_page
from gateway.admin_bodies import Act, Actor, Body, Reason
from gateway.console.live import Live
from gateway.console.pages import add_console
from gateway.guard import Guard
from gateway.operations import Operations
from gateway.prediction import LISTED_SECONDS, ROWS_MAX
from gateway.problems import DESCRIBED, add_problem_handlers
from gateway.proposal_routes import proposal_routes
from gateway.traffic import Sampler, Traffic
from monitors.log.question import Question

WHERE_MAX = 2_048
"""Of a condition in SQL: it stands in the address, where each letter may take twelve bytes, and 64 KiB is the end."""


YEAR = re.compile(r"\d{4}-")


def _rfc3339(given: str) -> str:
    """Refuse what pydantic would take too, seconds since 1970. Raises ValueError."""
    if not YEAR.match(given):
        raise ValueError("expected a time in RFC 3339, such as 2026-11-25T03:00:00Z")
    return given


Moment = Annotated[datetime, BeforeValidator(_rfc3339)]


class Deploy(Body):
    """Which bundle an environment shall serve."""

    reference: str = Field(max_length=512, description="model@version, model@branch or sha256:…")
    canary: int | None = Field(None, ge=1, le=99, description="Percent of the traffic; null for all of it.")
    again: bool = Field(default=False, description="Take back a rejection; needs a reason.")
    actor: Actor = "api"
    reason: Reason = ""


class Scale(Act):
    """How many runners the versions of a model get."""

    replicas: int | None = Field(description="Runners of each version that has traffic; null as the settings say.")


class Decide(Body):
    """A human's decision about an incident."""

    verdict: str = Field(description="model-broken, world-changed, data-pipeline, expected-event or false-alarm.")
    actor: Actor = "api"
    reason: Reason


class Label(Body):
    """What turned out to be true of a prediction, which is named by its id or by the client's own."""

    prediction_id: str | None = Field(None, description="The prediction's id, or ID.row for a row of several.")
    client_id: str | None = Field(None, description="The client's own id of its request: the protocol's `id`.")
    row: StrictInt | None = Field(None, description="The row of a request with several; null for all of it.")
    value: StrictBool | StrictInt | StrictFloat | StrictStr = Field(description="The truth: a class, or a number.")
    name: str = Field("label", description="What is labelled: an output's name where there are several.")
    time: StrictFloat | StrictInt | StrictStr | None = Field(
        None, description="When it was found out: RFC 3339, or seconds since 1970; null: now."
    )
    source: str = Field("api", description="Who says so.")


def create_app(
    operations: Operations,
    *,
    families: Callable[[], Iterable[Metric]],
    ready: Callable[[], bool],
    allowed_hosts: Collection[str],
    key_digests: frozenset[str] | None,
) -> FastAPI:
    """Build the application.

    `families` returns what the workers have counted, added up; it is called on the event loop. `ready` says whether the
    gateway serves. `allowed_hosts` and `key_digests` are as in `Guard`. `app.state.live.end()` ends the open event
    streams, so that a server can stop at once.
    """
    app = FastAPI(
        title="Snowgate",
        summary="What an operator can do with a running gateway.",
        openapi_url="/openapi.json",
        responses=DESCRIBED,
        docs_url=None,
        redoc_url=None,
    )
    traffic = Traffic()
    sampler = Sampler(traffic, families)
    app.state.live = Live()
    add_problem_handlers(app)
    _health(app, ready)
    app.include_router(_deployments(operations), prefix="/api/v1", tags=["deployments"])
    app.include_router(_incidents(operations), prefix="/api/v1", tags=["incidents"])
    app.include_router(_looking(operations, traffic), prefix="/api/v1", tags=["looking"])
    app.include_router(proposal_routes(operations), prefix="/api/v1", tags=["proposals"])
    add_console(app, operations, traffic, app.state.live)

    @app.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        # The labels may be waited for, while somebody writes ten thousand of them.
        counted = [*families(), *await asyncio.to_thread(operations.labels.families)]
        body, media_type = metrics_page.render(counted, operations.state, request.headers.get("accept", ""))
        return Response(body, media_type=media_type)

    app.add_middleware(Guard, allowed_hosts=allowed_hosts, key_digests=key_digests, on_first=sampler.start)
    return app


def _health(app: FastAPI, ready: Callable[[], bool]) -> None:
    @app.get("/livez", tags=["health"])
    async def livez() -> dict[str, bool]:
        """Whether this process answers."""
        return {"live": True}

    @app.get("/readyz", tags=["health"])
    async def readyz() -> JSONResponse:
        """Whether every worker serves and every deployment has gone as far as it can."""
        if ready():
            return JSONResponse({"live": True, "ready": True})
        return JSONResponse({"live": True, "ready": False}, 503, {"Retry-After": "1"})


def _deployments(operations: Operations) -> APIRouter:
    router = APIRouter()

    @router.post("/environments/{environment}/deployments")
    def deploy(environment: str, body: Deploy) -> dict[str, Any]:
        """Desire a bundle in an environment, for all traffic or as a canary."""
        return operations.deploy(
            body.reference, environment, canary=body.canary, actor=body.actor, reason=body.reason, again=body.again
        )

    @router.get("/environments/{environment}/deployments/{model}")
    def deployment(environment: str, model: str) -> dict[str, Any]:
        """What is desired, what is, and why they differ."""
        return operations.deployment(model, environment)

    @router.post("/environments/{environment}/deployments/{model}/withdraw")
    def withdraw(environment: str, model: str, body: Act) -> dict[str, Any]:
        """Serve a model no more; calls that are in flight are answered."""
        return operations.withdraw(model, environment, actor=body.actor, reason=body.reason)

    @router.get("/rollouts")
    def rollouts() -> list[dict[str, Any]]:
        """How far the way to the desired version is, of every model."""
        return operations.rollouts()

    @router.get("/environments/{environment}/rollouts/{model}")
    def rollout(environment: str, model: str) -> dict[str, Any]:
        """How far the way to the desired version is."""
        return operations.rollout(model, environment)

    @router.post("/environments/{environment}/rollouts/{model}/promote")
    def promote(environment: str, model: str, body: Act) -> dict[str, Any]:
        """Give the canary all traffic."""
        return operations.promote(model, environment, actor=body.actor, reason=body.reason)

    @router.post("/environments/{environment}/rollouts/{model}/abort")
    def abort(environment: str, model: str, body: Act) -> dict[str, Any]:
        """Reject the canary's bundle; its traffic goes back to the stable version."""
        return operations.abort(model, environment, actor=body.actor, reason=body.reason)

    @router.post("/environments/{environment}/rollouts/{model}/scale")
    def scale(environment: str, model: str, body: Scale) -> dict[str, Any]:
        """Have so many runners of each version that has traffic."""
        return operations.scale(model, environment, body.replicas, actor=body.actor, reason=body.reason)

    return router


def _incidents(operations: Operations) -> APIRouter:
    router = APIRouter()

    @router.get("/incidents")
    def incidents(model: Annotated[str | None, Query(max_length=128)] = None) -> list[dict[str, Any]]:
        """All incidents, newest first."""
        return operations.incidents(model)

    @router.get("/incidents/{id}")
    def incident(id: str) -> dict[str, Any]:
        """One incident."""
        return operations.incident(id)

    @router.post("/incidents/{id}/acknowledge")
    def acknowledge(id: str, body: Act) -> dict[str, Any]:
        """Take care of an incident."""
        return operations.acknowledge(id, actor=body.actor, reason=body.reason)

    @router.post("/incidents/{id}/decide")
    def decide(id: str, body: Decide) -> dict[str, Any]:
        """Decide an incident; `effect` says what comes of it."""
        return operations.decide(id, body.verdict, actor=body.actor, reason=body.reason)

    return router


def _looking(operations: Operations, traffic: Traffic) -> APIRouter:
    router = APIRouter()

    @router.get("/overview")
    def overview() -> dict[str, Any]:
        """All that the console shows."""
        return operations.overview(traffic)

    @router.get("/predictions")
    def predictions(
        model: Annotated[str | None, Query(max_length=128)] = None,
        since: Annotated[Moment | None, Query(description="From when on, RFC 3339; null: the last 24 hours.")] = None,
        until: Annotated[Moment | None, Query(description="Up to when, RFC 3339.")] = None,
        where: Annotated[str | None, Query(max_length=WHERE_MAX, description="A condition in SQL.")] = None,
        limit: Annotated[int, Query(ge=1, le=ROWS_MAX)] = 100,
    ) -> list[dict[str, Any]]:
        """Rows of the inference table, newest first."""
        begin = time() - LISTED_SECONDS if since is None else _seconds(since)
        end = None if until is None else _seconds(until)
        return operations.predictions(Question(model, begin, end, where, limit))

    @router.get("/predictions/{id}")
    def prediction(id: str, *, chain: bool = False) -> dict[str, Any]:
        """One prediction; with `chain`, all that stands behind it."""
        return operations.prediction(id, chain_wanted=chain)

    @router.post("/labels")
    def label(body: Label | list[Label]) -> dict[str, Any]:
        """Say what turned out to be true: one label or a list; `problems` name those that were not taken as meant."""
        labels = body if isinstance(body, list) else [body]
        return operations.label([one.model_dump(exclude_none=True) for one in labels], actor="api")

    @router.get("/bundles")
    def bundles() -> list[dict[str, Any]]:
        """All bundles, newest first."""
        return operations.bundles()

    @router.get("/bundles/{reference}")
    def bundle(reference: str) -> dict[str, Any]:
        """All that is known of one bundle."""
        return operations.bundle(reference)

    @router.post("/bundles/{reference}/engines/forget")
    def forget_engines(reference: str, body: Act) -> list[dict[str, Any]]:
        """Have the engines tried again when the bundle is next loaded; what was known of them is returned."""
        return operations.forget_engines(reference, actor=body.actor, reason=body.reason)

    @router.get("/monitors")
    def monitors() -> list[dict[str, Any]]:
        """Every watched signal, and how far its evidence is from its limit."""
        return operations.monitors()

    return router


def _seconds(moment: datetime) -> float:
    """Return seconds since the epoch; a time without a zone is UTC."""
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
