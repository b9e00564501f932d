"""Schemathesis asks a gateway for all that a description promises: no 5xx, and nothing that is not described."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles.home import Home
from bundles.packing import pack
from gateway.admission import Admission
from gateway.data_app import LANE_PATHS, create_data_app
from tests.conftest import Gateway, snowgate, write_model

EXAMPLES = "8"
"""Per operation and phase; the whole takes some seconds."""


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a model that answers any finite row, and where models may be loaded."""
    folder = tmp_path_factory.mktemp("calm")
    model = write_model(folder / "model")
    source = (model / "model.py").read_text().replace("x.sum(axis=1)", "np.nan_to_num(np.tanh(x)).sum(axis=1)")
    (model / "model.py").write_text(source.replace("(x > 1000).any()", "False"))
    home = Home(folder / "home").make()
    pack(home, model, model="signs")
    snowgate(home.path, "deploy", "signs@1")
    running = Gateway(home.path, folder / "serve.log", variables={"SNOWGATE_SERVER__REPOSITORY_API": "true"})
    yield running
    assert running.stop() == 0


def ask_everything(url: str, document: dict[str, Any], folder: Path, *arguments: str) -> None:
    """Let schemathesis ask, with headers and bodies good and bad, and check each answer against the document."""
    file = folder / "openapi.json"
    file.write_text(json.dumps(document))
    program = Path(sys.executable).parent / "schemathesis"
    command = [str(program), "run", str(file), "--url", url, "--seed", "1", "--max-examples", EXAMPLES]
    # A call that fits the description may still not fit the model, and is then refused.
    command += ["--phases", "examples,coverage,fuzzing", "--exclude-checks", "positive_data_acceptance"]
    done = subprocess.run(
        [*command, "--no-color", "--warnings", "off", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=115,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def served(gateway: Gateway) -> dict[str, Any]:
    """The description that the gateway gives of itself."""
    status, document = gateway.get("/openapi.json")
    assert status == 200
    return dict(document)


def with_names(document: dict[str, Any]) -> dict[str, Any]:
    """Narrow paths and tensors to the model that is there, so that the answers are more than 404."""
    there = {"name": "signs", "MODEL_NAME": "signs", "version": "1", "MODEL_VERSION": "1"}
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] in there:
                    parameter["schema"] = {"enum": [there[parameter["name"]]]}
    # A boolean among numbers is taken as one: to look for it would cost every call a look at each of its numbers.
    data = {"type": "array", "items": {"type": ["number", "boolean"]}}
    document["components"]["schemas"]["Input"] = {
        "type": "object",
        "properties": {
            "name": {"enum": ["x"]},
            "datatype": {"enum": ["FP32"]},
            "shape": {"enum": [[1, 3]]},
            "data": {**data, "minItems": 3, "maxItems": 3},
        },
        "required": ["name", "datatype", "shape", "data"],
    }
    return document


def test_our_own_description(calm: Gateway, tmp_path: Path) -> None:
    """Whatever names and bodies come, each answer of each route has a status and a shape that is described."""
    # Not unload: it learns the model's name from the index, and the other routes would find nothing any more.
    ask_everything(calm.url, served(calm), tmp_path, "--exclude-path-regex", "unload$")
    assert calm.call()[0] == 200


def test_our_own_description_of_what_is_there(calm: Gateway, tmp_path: Path) -> None:
    """The same with the names of a model that answers, and calls that mostly fit it."""
    ask_everything(calm.url, with_names(served(calm)), tmp_path, "--exclude-path-regex", "load$")
    assert calm.call()[0] == 200


def test_the_description_is_of_all_routes(gateway: Gateway) -> None:
    """No route is left out, and none is described that is not there."""
    predictor: Any = None
    app = create_data_app(predictor, predictor, Admission(keys=None, hosts=None))
    there = {path: set(methods) for path, methods in app.openapi()["paths"].items()}
    there |= {path: {"post"} for path in LANE_PATHS}
    described = {path: set(methods) for path, methods in served(gateway)["paths"].items()}
    assert described == there


def published() -> dict[str, Any]:
    """The protocol's own description (`open_inference_rest.yaml`): routes, shapes, and the statuses that it names."""

    def tensor(data: bool) -> dict[str, Any]:
        described: dict[str, Any] = {
            "name": {"type": "string"},
            "datatype": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer"}},
        }
        more = {"data": {"type": "array"}, "parameters": {"type": "object"}} if data else {}
        required = [*described, *(["data"] if data else [])]
        return {"type": "object", "properties": described | more, "required": required}

    def shape(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
        return {"type": "object", "properties": required | optional, "required": list(required)}

    text = {"type": "string"}
    error = {"type": "object", "properties": {"error": text}, "required": ["error"]}
    server = shape({"name": text, "version": text, "extensions": {"type": "array", "items": text}})
    tensors = {"type": "array", "items": tensor(data=False)}
    model = shape(
        {"name": text, "platform": text}, versions={"type": "array", "items": text}, inputs=tensors, outputs=tensors
    )
    outputs = {"type": "array", "items": tensor(data=True)}
    answer = shape({"model_name": text, "outputs": outputs}, model_version=text, id=text, parameters={"type": "object"})
    wanted = {"type": "array", "items": shape({"name": text}, parameters={"type": "object"})}
    inputs = {"type": "array", "items": {"$ref": "#/components/schemas/Input"}}
    request = shape({"inputs": inputs}, id=text, parameters={"type": "object"}, outputs=wanted)

    def answers(good: dict[str, Any] | None) -> dict[str, Any]:
        content = {} if good is None else {"content": {"application/json": {"schema": good}}}
        refused = {"description": "refused", "content": {"application/json": {"schema": error}}}
        return {"200": {"description": "OK", **content}, "400": refused, "default": refused}

    names = [{"name": name, "in": "path", "required": True, "schema": text} for name in ("MODEL_NAME", "MODEL_VERSION")]
    place = "/v2/models/{MODEL_NAME}/versions/{MODEL_VERSION}"
    body = {"content": {"application/json": {"schema": request}}}
    return {
        "openapi": "3.0.0",
        "info": {"title": "Data Plane", "version": "2.0"},
        "paths": {
            "/v2/health/live": {"get": {"responses": answers(None)}},
            "/v2/health/ready": {"get": {"responses": answers(None)}},
            "/v2/": {"get": {"responses": answers(server)}},
            f"{place}/ready": {"get": {"parameters": names, "responses": answers(None)}},
            place: {"get": {"parameters": names, "responses": answers(model)}},
            f"{place}/infer": {"post": {"parameters": names, "responses": answers(answer), "requestBody": body}},
        },
        "components": {"schemas": {"Input": tensor(data=True)}},
    }


@pytest.mark.parametrize("narrowed", [False, True])
def test_the_published_description(calm: Gateway, tmp_path: Path, narrowed: bool) -> None:
    """What the protocol's authors describe is what they get, for any names and for those of a model that answers."""
    document = with_names(published()) if narrowed else published()
    # A null for an optional field, which it does not allow, is what clients that were generated from it send.
    ask_everything(calm.url, document, tmp_path, "--exclude-checks", "positive_data_acceptance,negative_data_rejection")


def test_the_control_ports_description(calm: Gateway, tmp_path: Path) -> None:
    """The admin API has no answer of 5xx, and none of a shape that it does not describe."""
    document = calm.http.request("GET", calm.control + "/openapi.json").json()
    ask_everything(calm.control, document, tmp_path)
    assert calm.call()[0] == 200
