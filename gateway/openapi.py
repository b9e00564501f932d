"""The description of the data port, as OpenAPI 3.1: every route, inference included, with what each status looks like.

It is written out rather than derived: inference never reaches the framework, and the shapes are the protocol's. A test
holds it against the routes that there are, and another asks a gateway for everything that it promises.
"""

from typing import Any

Json = dict[str, Any]

TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 0}
DURATION: Json = {"$ref": "#/components/schemas/Duration"}
STAGES = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)
SAID = {
    400: "The call is wrong; the sentence names the field, what came and what was expected.",
    401: "An API key is asked for, and missing or unknown.",
    403: "A web page from elsewhere, or an API that is switched off.",
    404: "No such model or version is served here.",
    408: "The headers or the body did not come in time.",
    413: "A body beyond the limit.",
    415: "A content type or coding that is not taken here.",
    500: "The model failed, or answered what can't be written as asked.",
    503: "Starting, full or draining; try again.",
    504: "The deadline passed.",
}
ADMISSION = (400, 401, 403)
CALL = (*ADMISSION, 404, 408, 413, 415, 500, 503, 504)
TENSOR_REQUEST = {"type": "object", "properties": {"binary_data_size": COUNT}}


def data_plane(version: str) -> Json:
    """Return the document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Snowgate data plane",
            "version": version,
            "summary": "The Open Inference Protocol, version 2, with extensions, and KServe's first protocol.",
        },
        "paths": {
            **_health(),
            **_models("/v2/models/{name}"),
            **_models("/v2/models/{name}/versions/{version}"),
            **_server(),
            **_repository("/v2/repository"),
            **_repository("/v2/repository/{repository}"),
            **_kserve_v1(),
        },
        "components": {"schemas": _schemas()},
    }


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(of: Json) -> Json:
    return {"type": "array", "items": of}


def _object(required: Json, optional: Json | None = None) -> Json:
    properties = {**required, **(optional or {})}
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _answers(good: Json | None, *errors: int, media: tuple[str, ...] = ("application/json",)) -> Json:
    """The answers of a route: 200 with a body, or without one, and errors in the protocol's form."""
    content: Json = {}
    if good is not None:
        content = {"content": {one: {"schema": good if "json" in one else {}} for one in media}}
    found: Json = {"200": {"description": "As asked.", **content}}
    for status in errors:
        found[str(status)] = {"description": SAID[status], "content": {"application/json": {"schema": _ref("Error")}}}
    return found


def _operation(method: str, path: str, summary: str, answers: Json, body: Json | None = None) -> Json:
    names = [part[1 : part.index("}")] for part in path.split("/") if part.startswith("{")]
    operation: Json = {"summary": summary, "operationId": f"{method} {path}", "responses": answers}
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in names
        ]
    if body is not None:
        operation["requestBody"] = body
    return {path: {method: operation}}


def _body(*schemas: tuple[str, Json], required: bool = True) -> Json:
    return {"required": required, "content": {media: {"schema": schema} for media, schema in schemas}}


def _health() -> Json:
    live, ready = _answers(_object({"live": {"const": True}})), _answers(_ref("Ready"))
    ready["503"] = {"description": SAID[503], "content": {"application/json": {"schema": _ref("NotReady")}}}
    alive = _answers(_object({"status": {"const": "alive"}}))
    return {
        **_operation("get", "/", "Whether the server lives, as KServe's clients ask.", alive),
        **_operation("get", "/livez", "Whether the server lives.", live),
        **_operation("get", "/readyz", "Whether every model can answer.", ready),
        **_operation("get", "/v2/health/live", "Whether the server lives.", live),
        **_operation("get", "/v2/health/ready", "Whether every model can answer.", ready),
    }


def _server() -> Json:
    names = _answers(_object({"models": _list(TEXT)}), *ADMISSION)
    metadata = _answers(_ref("Server"), *ADMISSION)
    return {
        **_operation("get", "/v2", "The server: name, version, extensions.", metadata),
        **_operation("get", "/v2/", "The server: name, version, extensions.", metadata),
        **_operation("get", "/v2/models", "The models' names.", names),
        **_operation(
            "get",
            "/v2/models/stats",
            "Statistics of all loaded versions.",
            _answers(_ref("Statistics"), *ADMISSION, 503),
        ),
        **_operation("get", "/openapi.json", "This document.", _answers({"type": "object"}, *ADMISSION)),
    }


def _models(path: str) -> Json:
    looked = (*ADMISSION, 404, 503)
    infer = _answers(_ref("Response"), *CALL, media=("application/json", "application/octet-stream"))
    body = _body(
        ("application/json", _ref("Request")), ("application/octet-stream", {}), ("image/*", {}), ("audio/*", {})
    )
    return {
        **_operation("get", path, "Metadata.", _answers(_ref("Model"), *looked)),
        **_operation("get", f"{path}/ready", "Whether it can answer.", _answers(_ref("ModelReady"), *looked)),
        **_operation("get", f"{path}/config", "Configuration, in Triton's form.", _answers(_ref("Config"), *looked)),
        **_operation("get", f"{path}/stats", "Statistics, in Triton's form.", _answers(_ref("Statistics"), *looked)),
        **_operation("post", f"{path}/infer", "Inference.", infer, body),
    }


def _repository(path: str) -> Json:
    index = _body(
        ("application/json", {"type": "object", "properties": {"ready": {"type": "boolean"}}}), required=False
    )
    change = _body(
        ("application/json", {"type": "object", "properties": {"parameters": {"type": ["object", "null"]}}}),
        required=False,
    )
    row = _object(
        {"name": TEXT, "version": TEXT, "state": {"enum": ["READY", "LOADING", "UNAVAILABLE"]}, "reason": TEXT}
    )
    changed = _answers(None, *ADMISSION, 404, 408, 413, 503)
    return {
        **_operation(
            "post", f"{path}/index", "The models of the store.", _answers(_list(row), *ADMISSION, 408, 413, 503), index
        ),
        **_operation("post", f"{path}/models/{{name}}/load", "Serve a model.", changed, change),
        **_operation("post", f"{path}/models/{{name}}/unload", "Serve a model no more.", changed, change),
    }


def _kserve_v1() -> Json:
    path = "/v1/models/{name}"
    rows = _object({"predictions": _list({})})
    body = _body(
        ("application/json", {"oneOf": [_object({"instances": _list({})}), _object({"inputs": {}})]}), ("image/*", {})
    )
    nothing = _answers(None, *ADMISSION, 404)
    del nothing["200"]
    return {
        **_operation("get", "/v1/models", "The models' names.", _answers(_object({"models": _list(TEXT)}), *ADMISSION)),
        **_operation("get", path, "Whether it can answer.", _answers(_ref("ModelReady"), *ADMISSION, 404, 503)),
        **_operation("post", f"{path}:predict", "Inference, row by row.", _answers(rows, *CALL), body),
        **_operation(
            "post", f"{path}/versions/{{version}}:predict", "Inference, row by row.", _answers(rows, *CALL), body
        ),
        **_operation("post", f"{path}:explain", "There is no explainer here.", nothing),
    }


def _schemas() -> Json:
    parameters = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
    shape = _list({"type": "integer", "minimum": 0})
    sizes = _list({"type": "integer"})
    described = _object({"name": TEXT, "datatype": TEXT, "shape": sizes}, {"parameters": parameters})
    tensor = {"name": TEXT, "datatype": TEXT, "shape": shape}
    wanted = {"type": "object", "properties": {"name": TEXT}, "required": ["name"]}
    ready = {"live": {"const": True}, "ready": {"type": "boolean"}}
    batch = {"batch_size": COUNT, **dict.fromkeys(("compute_input", "compute_infer", "compute_output"), DURATION)}
    row = {
        "name": TEXT,
        "version": TEXT,
        **dict.fromkeys(("last_inference", "inference_count", "execution_count"), COUNT),
    }
    row |= {"inference_stats": _object(dict.fromkeys(STAGES, DURATION)), "response_stats": {"type": "object"}}
    row |= {"batch_stats": _list(_object(batch)), "memory_usage": _list({"type": "object"})}
    return {
        "Error": _object({"error": TEXT}, {"prediction_id": TEXT}),
        "Ready": _object(ready),
        "NotReady": _object({**ready, "error": TEXT}),
        "ModelReady": _object({"name": TEXT, "ready": {"const": True}}),
        "Server": _object({"name": TEXT, "version": TEXT, "extensions": _list(TEXT)}),
        "Model": _object(
            {
                "name": TEXT,
                "versions": _list(TEXT),
                "platform": TEXT,
                "inputs": _list(described),
                "outputs": _list(described),
                "parameters": parameters,
            }
        ),
        "Config": {
            "type": "object",
            "properties": {
                "name": TEXT,
                "platform": TEXT,
                "max_batch_size": COUNT,
                "input": _list({"type": "object", "required": ["name", "data_type", "dims"]}),
                "output": _list({"type": "object", "required": ["name", "data_type", "dims"]}),
            },
            "required": ["name", "platform", "max_batch_size", "input", "output"],
        },
        "Duration": _object({"count": COUNT, "ns": COUNT}),
        "Statistics": _object({"model_stats": _list(_object(row))}),
        "Request": {
            "type": "object",
            "properties": {
                "id": {"type": ["string", "null"]},
                "parameters": {**parameters, "type": ["object", "null"]},
                "inputs": {"type": "array", "minItems": 1, "items": _ref("Input")},
                "outputs": {"type": ["array", "null"], "items": wanted},
            },
            "required": ["inputs"],
        },
        "Input": {
            "type": "object",
            "properties": {**tensor, "data": {"type": "array"}, "parameters": TENSOR_REQUEST},
            "required": ["name", "datatype", "shape"],
        },
        "Response": _object(
            {
                "model_name": TEXT,
                "model_version": TEXT,
                "parameters": parameters,
                "outputs": _list(_object(tensor, {"data": {"type": "array"}, "parameters": TENSOR_REQUEST})),
            },
            {"id": TEXT},
        ),
    }
