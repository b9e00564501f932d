"""The routes of the protocol's extensions on the data port. Their bodies are small: no tensor comes this way."""

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from gateway.errors import BadCall, TooLarge
from gateway.extensions import Extensions
from gateway.schema import kind

BODY_BYTES_MAX = 1024 * 1024
"""A name and a flag take 100 bytes; a client that sends a whole model with `load` shall still hear why not."""


def extension_routes(extensions: Extensions) -> APIRouter:
    """Build the routes."""
    router = APIRouter()

    @router.post("/v2/repository/index")
    @router.post("/v2/repository/{repository}/index")
    async def index(request: Request) -> list[dict[str, str]]:
        ready = (await _document(request)).get("ready", False)
        if type(ready) is not bool:
            raise BadCall(f"ready: {kind(ready)}, expected a boolean")
        return await extensions.index(ready=ready)

    # A name may hold what it must not, such as a slash, so that it is refused by its own rule.
    @router.post("/v2/repository/models/{name:path}/load")
    @router.post("/v2/repository/{repository}/models/{name:path}/load")
    async def load(name: str, request: Request) -> Response:
        await extensions.load(name, (await _document(request)).get("parameters"))
        return Response()

    @router.post("/v2/repository/models/{name:path}/unload")
    @router.post("/v2/repository/{repository}/models/{name:path}/unload")
    async def unload(name: str, request: Request) -> Response:
        await extensions.unload(name, (await _document(request)).get("parameters"))
        return Response()

    @router.get("/v2/models/stats")
    async def all_statistics() -> dict[str, Any]:
        return await extensions.statistics(None, None)

    @router.get("/v2/models/{name}/stats")
    async def model_statistics(name: str) -> dict[str, Any]:
        return await extensions.statistics(name, None)

    @router.get("/v2/models/{name}/versions/{version}/stats")
    async def version_statistics(name: str, version: str) -> dict[str, Any]:
        return await extensions.statistics(name, version)

    @router.get("/v2/models/{name}/config")
    async def model_configuration(name: str) -> dict[str, Any]:
        return extensions.configuration(name, None)

    @router.get("/v2/models/{name}/versions/{version}/config")
    async def version_configuration(name: str, version: str) -> dict[str, Any]:
        return extensions.configuration(name, version)

    return router


async def _document(request: Request) -> dict[str, Any]:
    """Read a JSON object; an empty body is one without fields."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_BYTES_MAX:
            raise TooLarge(f"body: more than {BODY_BYTES_MAX} bytes, expected a small object")
    if not body:
        return {}
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadCall(f"body: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadCall(f"body: {kind(document)}, expected an object")
    return document
