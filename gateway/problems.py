"""The one shape of an error on the control port: problem details, RFC 9457."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Route

from bundles.errors import BundleError
from gateway.operations import OperationError
from state import Conflict

log = logging.getLogger("snowgate.admin")

TEXT = {"type": "string"}
SHAPE = {
    "type": "object",
    "properties": {
        "type": TEXT,
        "title": TEXT,
        "status": {"type": "integer"},
        "detail": TEXT,
        "instance": TEXT,
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": TEXT, "problem": TEXT},
                "required": ["field", "problem"],
            },
        },
    },
    "required": ["type", "title", "status", "detail", "instance"],
}
DESCRIBED: dict[int | str, dict[str, Any]] = {
    status: {
        "description": HTTPStatus(status).phrase,
        "content": {"application/problem+json": {"schema": SHAPE}},
    }
    for status in (400, 401, 403, 404, 409, 411, 413, 421, 422, 500)
}
"""What OpenAPI says of every route that can go wrong."""


def problem(
    status: int,
    detail: str,
    instance: str,
    *,
    headers: Mapping[str, str] | None = None,
    errors: list[dict[str, str]] | None = None,
) -> JSONResponse:
    """Return a problem document. `errors` name the fields of a body, each with what is wrong with it."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": instance,
    }
    if errors is not None:
        document["errors"] = errors
    return JSONResponse(document, status, dict(headers or {}), media_type="application/problem+json")


def add_problem_handlers(app: FastAPI) -> None:
    """Make every error of an application a problem document."""

    @app.exception_handler(OperationError)
    async def operation(request: Request, error: OperationError) -> JSONResponse:
        return problem(error.status, str(error), request.url.path)

    @app.exception_handler(BundleError)
    async def bundle(request: Request, error: BundleError) -> JSONResponse:
        return problem(422, str(error), request.url.path)

    @app.exception_handler(Conflict)
    async def conflict(request: Request, error: Conflict) -> JSONResponse:
        return problem(409, f"{error}; look at it again", request.url.path)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        detail = f"{request.method} {request.url.path[:256]}: {error.detail}; /docs lists what there is"
        headers = error.headers
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers = {"Allow": ", ".join(sorted(_methods(app, request.url.path)))}
        return problem(error.status_code, detail, request.url.path, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> JSONResponse:
        found = [{"field": ".".join(map(str, one["loc"])), "problem": str(one["msg"])} for one in error.errors()]
        detail = "; ".join(f"{one['field']}: {one['problem']}" for one in found)
        return problem(422, detail, request.url.path, errors=found)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return problem(500, "an error of ours; the gateway's own log has the traceback", request.url.path)


def _methods(app: FastAPI, path: str) -> set[str]:
    """Return the methods of all routes of a path: Starlette names those of the first one only (RFC 9110, 10.2.1)."""
    routes = [one for one in app.routes if isinstance(one, Route) and one.path_regex.match(path)]
    return {method for one in routes for method in one.methods or ()}
