"""KServe's first protocol on real models: rows and columns, JSON objects, images, and what is refused."""

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pytest
import tritonclient.grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundles.home import Home
from bundles.packing import pack
from bundles.schema import TensorSpec
from gateway.call import Arrived
from gateway.errors import InferenceError
from gateway.kserve_v1 import KServeV1
from gateway.schema import Schema
from monitors.log.reader import LogReader
from tests.conftest import Gateway, snowgate

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\xff\xfe"
MODELS = {
    "people": (
        '[{ name = "person", datatype = "BYTES", shape = [-1], content_type = "application/json" }]',
        '[{ name = "name", datatype = "BYTES", shape = [-1] }, { name = "age", datatype = "INT64", shape = [-1] }]',
        """
        import json
        people = [json.loads(one) for one in inputs["person"].ravel().tolist()]
        people = [one if isinstance(one, dict) else {} for one in people]
        ages = np.array([one.get("age", 0) for one in people], np.int64)
        return {"name": np.array([one.get("name", "").encode() for one in people] + [None], object)[:-1], "age": ages}
        """,
        {"person": np.array(['{"name": "Ada", "age": 36}'] * 100)},
    ),
    "pictures": (
        '[{ name = "image", datatype = "BYTES", shape = [-1, 1], content_type = "image/*" }]',
        '[{ name = "head", datatype = "BYTES", shape = [-1] }]',
        """
        return {"head": np.array([one[:4] for one in inputs["image"].ravel().tolist()] + [None], object)[:-1]}
        """,
        {"image": np.array([[b"\x89PNG picture"]] * 100)},
    ),
    "pair": (
        '[{ name = "a", datatype = "FP32", shape = [-1, 2] }, { name = "b", datatype = "INT32", shape = [-1] }]',
        '[{ name = "sum", datatype = "FP32", shape = [-1, 2] }]',
        """
        return {"sum": inputs["a"] + inputs["b"][:, None].astype(np.float32)}
        """,
        {"a": np.ones((100, 2), np.float32), "b": np.ones(100, np.int32)},
    ),
}
SOURCE = """
import numpy as np

class Model:
    def load(self, directory):
        pass

    def predict(self, inputs):{body}"""


@pytest.fixture(scope="module")
def kserve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a model for JSON objects, one for images, and one with two inputs."""
    folder = tmp_path_factory.mktemp("kserve")
    home = Home(folder / "home").make()
    for name, (inputs, outputs, body, rows) in MODELS.items():
        project = folder / name
        project.mkdir()
        start = 'loader = "python"\nentrypoint = "model:Model"\nholdout = "holdout.npz"\n'
        (project / "bundle.toml").write_text(f"{start}inputs = {inputs}\noutputs = {outputs}\n")
        (project / "model.py").write_text(SOURCE.replace("{body}", body))
        np.savez(project / "holdout.npz", **rows)  # type: ignore[arg-type]
        pack(home, project, model=name)
        snowgate(home.path, "deploy", f"{name}@1")
    running = Gateway(home.path, folder / "serve.log")
    yield running
    assert running.stop() == 0


def predict(gateway: Gateway, model: str, document: Any) -> tuple[int, Any]:
    """Ask for predictions."""
    status, answer, _headers = gateway.post(f"/v1/models/{model}:predict", orjson.dumps(document))
    return status, answer


def test_rows_and_columns(gateway: Gateway, shared_home: Home) -> None:
    """A row is a value or an object, a column a list or an object of them: the same numbers come, and are recorded."""
    rows = [[1, 2, 3], [4, 5, 6]]
    for document in (
        {"instances": rows},
        {"instances": [{"x": row} for row in rows]},
        {"inputs": rows},
        {"inputs": {"x": rows}},
    ):
        status, answer, headers = gateway.post(
            "/v1/models/signs:predict", orjson.dumps(document), Snowgate_Unit="unit-of-version-1"
        )
        assert status == 200
        record = LogReader(shared_home.log).find(headers["Snowgate-Prediction-Id"])
        assert record is not None
        assert record.payload is not None
        assert (record.rows, record.payload.inputs[0].shape) == (2, [2, 3])
        factor = int(record.version or 0)
        assert answer == {"predictions": [[6.0 * factor, -6.0 * factor], [15.0 * factor, -15.0 * factor]]}
    assert gateway.post("/v1/models/signs/versions/2:predict", orjson.dumps({"instances": rows}))[0] == 200


def test_several_inputs_and_outputs(kserve: Gateway) -> None:
    """Objects name the inputs of a row, or the columns; several outputs come as objects."""
    rows = {"instances": [{"a": [1, 2], "b": 10}, {"b": 20, "a": [3, 4]}]}
    assert predict(kserve, "pair", rows) == (200, {"predictions": [[11.0, 12.0], [23.0, 24.0]]})
    columns = {"inputs": {"a": [[1, 2], [3, 4]], "b": [10, 20]}}
    assert predict(kserve, "pair", columns) == (200, {"predictions": [[11.0, 12.0], [23.0, 24.0]]})
    people = {"instances": [{"name": "Ada", "age": 36}, {"name": "Grace", "age": 85}]}
    answer = {"predictions": [{"name": "Ada", "age": 36}, {"name": "Grace", "age": 85}]}
    assert predict(kserve, "people", people) == (200, answer)
    named = {"instances": [{"person": one} for one in people["instances"]]}
    assert predict(kserve, "people", named) == (200, answer)


def test_images(kserve: Gateway) -> None:
    """An image comes as base64 in JSON, or as it is with its own media type, by both protocols; bytes go as base64."""
    encoded = {"b64": b64encode(PNG).decode()}
    head = {"b64": b64encode(PNG[:4]).decode()}
    for row in (encoded, [encoded], {"image": encoded}):
        assert predict(kserve, "pictures", {"instances": [row]}) == (200, {"predictions": [head]})
    for kind in ("image/png", "IMAGE/JPEG; q=1"):
        status, answer, _headers = kserve.post("/v1/models/pictures:predict", PNG, Content_Type=kind)
        assert (status, answer) == (200, {"predictions": [head]})
        answer_raw = kserve.http.request(
            "POST", kserve.url + "/v2/models/pictures/infer", body=b"GIF89a\x00", headers={"Content-Type": kind}
        )
        assert answer_raw.status == 200
        assert orjson.loads(answer_raw.data)["outputs"][0]["data"] == ["GIF8"]
    for model, kind in (("pictures", "audio/wav"), ("people", "image/png"), ("pair", "image/png")):
        for path in (f"/v1/models/{model}:predict", f"/v2/models/{model}/infer"):
            status, answer, _headers = kserve.post(path, PNG, Content_Type=kind)
            assert status == 415
            assert kind in answer["error"]


@pytest.mark.parametrize(
    ("model", "document", "words"),
    [
        ("pair", [], "expected an object with either"),
        ("pair", {}, "neither of `instances` and `inputs`"),
        ("pair", {"instances": [], "inputs": []}, "both of `instances` and `inputs`"),
        ("pair", {"instances": []}, "instances: an empty array, expected an array of at least one row"),
        ("pair", {"instances": []}, "at least one row"),
        ("pair", {"instances": [{"a": [1, 2]}]}, "instances[0]: a, expected an object with a, b"),
        ("pair", {"instances": [[1, 2]]}, "instances[0]: an array, expected an object with a, b"),
        ("pair", {"inputs": {"a": [[1, 2]]}}, "inputs: a, expected an object with a, b"),
        ("pair", {"inputs": {"a": [], "b": []}}, "expected an array of at least one row"),
        ("pair", {"inputs": {"a": [[1, 2]], "b": [1, 2]}}, "rows, expected the same number"),
        ("pair", {"instances": [{"a": [1, 2], "b": "x"}]}, "strings"),
        ("pair", {"instances": [{"a": [1], "b": 1}]}, "shape [1, 1], expected [-1, 2]"),
        ("pair", {"instances": [{"a": 7, "b": 1}]}, "nested 1 deep, expected 2"),
        ("pair", {"instances": [{"a": [1, 2], "b": 1}, {"a": [1], "b": 1}]}, "ragged"),
        ("pictures", {"instances": [{"b64": "not base64!"}]}, "expected base64"),
        ("pictures", {"instances": [7]}, "expected a string or"),
    ],
)
def test_bad_rows_are_told_what_is_wrong(kserve: Gateway, model: str, document: Any, words: str) -> None:
    """The sentence names the row or input, what came and what was expected."""
    status, answer = predict(kserve, model, document)
    assert (status, words in answer["error"]) == (400, True), answer


def test_metadata_says_what_an_element_is(kserve: Gateway) -> None:
    """The metadata, and the configuration by both protocols, say that an input takes images as they are."""
    _status, metadata = kserve.get("/v2/models/pictures")
    (image,) = metadata["inputs"]
    assert image["parameters"] == {"content_type": "image/*"}
    assert all("parameters" not in one for one in kserve.get("/v2/models/pair")[1]["inputs"])
    _status, config = kserve.get("/v2/models/pictures/config")
    assert config["parameters"] == {"image.content_type": {"string_value": "image/*"}}
    with tritonclient.grpc.InferenceServerClient(kserve.ready["grpc"]) as client:
        assert client.get_model_config("pictures", as_json=True)["config"]["parameters"] == config["parameters"]


def test_models_and_readiness(kserve: Gateway) -> None:
    """The protocol's other routes; an explanation is refused in a sentence, and what is unknown is 404."""
    assert kserve.get("/v1/models") == (200, {"models": ["pair", "people", "pictures"]})
    assert kserve.get("/v1/models/pair") == (200, {"name": "pair", "ready": True})
    assert kserve.get("/v1/models/nope")[0] == 404
    assert predict(kserve, "nope", {"instances": [1]})[0] == 404
    status, answer, _headers = kserve.post("/v1/models/pair:explain", b"{}")
    assert status == 404
    assert "no explainer runs here" in answer["error"]
    assert kserve.post("/v1/models/nope:explain", b"{}")[0] == 404


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["x", "y", "b64", "z"]), inner),
    max_leaves=12,
)
SCHEMAS = [
    Schema((TensorSpec("x", datatype, shape),), ())
    for datatype in ("FP32", "INT8", "BOOL", "BYTES")
    for shape in ((-1, 2), (-1,), (2, -1), (1,))
] + [
    Schema((TensorSpec("x", "FP32", (-1, 2)), TensorSpec("y", "BYTES", (-1,))), ()),
    Schema((TensorSpec("x", "BYTES", (-1, 1), content_type="application/json"),), ()),
]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # A busy machine is no failure.
@given(JSON, st.sampled_from(SCHEMAS), st.sampled_from(["instances", "inputs"]))
def test_whatever_comes_is_a_call_or_a_refusal(value: Any, schema: Schema, field: str) -> None:
    """Any JSON either fits the schema or is the client's mistake; nothing else comes of it."""
    arrived = Arrived("m", None, KServeV1(), orjson.dumps({field: value}))
    try:
        call = arrived.wire.decode(arrived, schema)
        assert schema.check(call.inputs, ()) >= 1
    except InferenceError as error:
        status = error.status
    else:
        status = 400
    assert status == 400
