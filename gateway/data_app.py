"""The data port's other routes: health, metadata, readiness. Inference itself never comes here (see `lane`)."""

from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from bundles.schema import TensorSpec
from gateway.admission import Admission
from gateway.errors import InferenceError, Unavailable
from gateway.extension_routes import extension_routes
from gateway.extensions import Extensions
from gateway.head import HEALTH_PATHS
from gateway.openapi import data_plane
from gateway.predict import Predictor
from gateway.readiness import why_not_ready, why_version_not_ready

LANE_PATHS = (
    "/v2/models/{name}/infer",
    "/v2/models/{name}/versions/{version}/infer",
    "/v1/models/{name}:predict",
    "/v1/models/{name}/versions/{version}:predict",
)
"""What the lane answers, when it is posted."""
OTHER_METHODS = ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
VERSION = "0.1.0"


def create_data_app(
    predictor: Predictor,
    extensions: Extensions,
    admission: Admission,
) -> FastAPI:
    """Build the application for everything on the data port but inference."""
    app = FastAPI(title="Snowgate data plane", openapi_url=None, docs_url=None, redoc_url=None)
    _errors(app)
    _health(app, predictor)

    @app.get("/v2")
    @app.get("/v2/")
    async def server() -> dict[str, Any]:
        return {"name": "snowgate", "version": VERSION, "extensions": extensions.names}

    @app.get("/openapi.json")
    async def description() -> dict[str, Any]:
        return data_plane(VERSION)

    @app.get("/v2/models")
    async def models() -> dict[str, Any]:
        return {"models": sorted(predictor.table.models)}

    # Before the routes of one model, of which none may be called `stats`.
    app.include_router(extension_routes(extensions))

    for path in LANE_PATHS:
        app.add_api_route(path, _only_post, methods=OTHER_METHODS, include_in_schema=False)

    @app.get("/v2/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        return _metadata(predictor, name, None)

    @app.get("/v2/models/{name}/versions/{version}")
    async def model_version(name: str, version: str) -> dict[str, Any]:
        return _metadata(predictor, name, version)

    @app.get("/v2/models/{name}/ready")
    async def model_ready(name: str) -> dict[str, Any]:
        return _ready(predictor, name, None)

    @app.get("/v2/models/{name}/versions/{version}/ready")
    async def model_version_ready(name: str, version: str) -> dict[str, Any]:
        return _ready(predictor, name, version)

    app.include_router(_v1_routes(predictor))
    app.add_middleware(Admit, admission=admission)
    if admission.origins:
        # Outermost: a browser asks before it sends, without a key.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=[origin.decode() for origin in admission.origins],
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    return app


class Admit:
    """Health is for everybody; the rest is asked for as inference is."""

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a refusal, or pass the request on."""
        if scope["type"] == "http" and scope["path"].encode() not in HEALTH_PATHS:
            headers = dict(scope["headers"])
            key = headers.get(b"x-api-key") or headers.get(b"authorization", b"").removeprefix(b"Bearer ")
            refused = self._admission.refusal(
                headers.get(b"host"), key, headers.get(b"origin"), headers.get(b"sec-fetch-site")
            )
            if refused is not None:
                await _error(refused.status, refused.message)(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _only_post(request: Request) -> JSONResponse:
    return _error(405, f"{request.method} {request.url.path}: Method Not Allowed, expected POST", {"Allow": "POST"})


def _v1_routes(predictor: Predictor) -> APIRouter:
    """KServe's first protocol, beside `:predict`, which the lane answers."""
    router = APIRouter()

    @router.get("/")
    async def alive() -> dict[str, Any]:
        """KServe's clients ask here whether the server lives."""
        return {"status": "alive"}

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"models": sorted(predictor.table.models)}

    @router.post("/v1/models/{name}:explain")
    async def explain(name: str) -> JSONResponse:
        predictor.table.model(name)
        sentence = "no explainer runs here; `snowgate prediction show ID --chain` tells what stands behind an answer"
        return _error(404, f"explain: {sentence}")

    @router.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        return _ready(predictor, name, None)

    return router


def _health(app: FastAPI, predictor: Predictor) -> None:
    @app.get("/livez")
    @app.get("/v2/health/live")
    async def live() -> dict[str, Any]:
        return {"live": True}

    @app.get("/readyz")
    @app.get("/v2/health/ready")
    async def ready() -> JSONResponse:
        why = why_not_ready(predictor)
        if why is not None:
            return JSONResponse({"live": True, "ready": False, "error": f"not ready: {why}"}, 503)
        return JSONResponse({"live": True, "ready": True})


def _errors(app: FastAPI) -> None:
    @app.exception_handler(InferenceError)
    async def inference_error(_request: Request, error: InferenceError) -> JSONResponse:
        return _error(error.status, error.message)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, f"{request.method} {request.url.path}: {error.detail}", error.headers)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        return _error(400, f"{request.method} {request.url.path}: {error}")

    @app.exception_handler(Exception)
    async def unexpected(_request: Request, _error_of_ours: Exception) -> JSONResponse:
        # The server writes the traceback.
        return _error(500, "an error of ours; the gateway's own log has the traceback")


def _error(status: int, message: str, headers: Any = None) -> JSONResponse:
    """The protocol's own error body."""
    if status == Unavailable.status:
        headers = {"Retry-After": "1", **(headers or {})}
    return JSONResponse({"error": message}, status, headers)


def _metadata(predictor: Predictor, name: str, version: str | None) -> dict[str, Any]:
    served = predictor.table.model(name).named(version)
    tensors = {
        side: [_tensor(one) for one in specs]
        for side, specs in (("inputs", served.schema.inputs), ("outputs", served.schema.outputs))
    }
    versions = sorted(predictor.table.model(name).versions, key=lambda one: (len(one), one))
    parameters = {"engine": served.engine}
    return {"name": name, "versions": versions, "platform": served.platform, **tensors, "parameters": parameters}


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    """A tensor as the protocol has it; what an element is stands in `parameters`, as in MLServer."""
    described: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
    if spec.content_type is not None:
        described["parameters"] = {"content_type": spec.content_type}
    return described


def _ready(predictor: Predictor, name: str, version: str | None) -> dict[str, Any]:
    served = predictor.table.model(name).named(version)
    why = why_version_not_ready(predictor, served)
    if why is not None:
        raise Unavailable(f"model '{name}' version '{served.version}' is not ready: {why}")
    return {"name": name, "ready": True}
