"""Every datatype of the protocol, through a real model that gives back what it gets: in binary, and in JSON."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundles.home import Home
from bundles.packing import pack
from bundles.schema import DATATYPES
from tests.conftest import Gateway, snowgate

MODEL = '''
class Model:
    """Gives back what it gets."""

    def load(self, directory):
        pass

    def predict(self, inputs):
        return {name.replace("in", "out"): array for name, array in inputs.items()}
'''
JSON_TYPES = [name for name in DATATYPES if name not in ("FP16", "BF16")]
COLUMNS = 2


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with one model that has an input and an output of every datatype."""
    folder = tmp_path_factory.mktemp("echo")
    tensors = [f'{{ name = "{{0}}_{name}", datatype = "{name}", shape = [-1, {COLUMNS}] }}' for name in DATATYPES]
    inputs, outputs = (", ".join(tensors).replace("{0}", side) for side in ("in", "out"))
    recipe = 'loader = "python"\nentrypoint = "model:Model"\nholdout = "holdout.npz"\n'
    (folder / "bundle.toml").write_text(f"{recipe}inputs = [{inputs}]\noutputs = [{outputs}]\n")
    (folder / "model.py").write_text(MODEL)
    rows = {f"in_{name}": np.zeros((100, COLUMNS), dtype) for name, (dtype, _width) in DATATYPES.items()}
    rows["in_BYTES"] = np.full((100, COLUMNS), b"a")
    np.savez(folder / "holdout.npz", **rows)  # type: ignore[arg-type]
    home = Home(folder / "home").make()
    pack(home, folder, model="echo")
    snowgate(home.path, "deploy", "echo@1")
    running = Gateway(home.path, folder / "serve.log")
    yield running
    assert running.stop() == 0


def rows_of(datatype: str, count: int, draw: Any) -> np.ndarray[Any, Any]:
    """Draw random rows of a datatype; BYTES are objects."""
    if datatype == "BYTES":
        elements = draw(st.lists(st.binary(max_size=20), min_size=count * COLUMNS, max_size=count * COLUMNS))
        return np.array([*elements, None], object)[:-1].reshape(count, COLUMNS)
    dtype, width = DATATYPES[datatype]
    raw = draw(st.binary(min_size=count * COLUMNS * width, max_size=count * COLUMNS * width))
    if datatype == "BOOL":
        raw = bytes(one & 1 for one in raw)
    return np.frombuffer(raw, dtype).reshape(count, COLUMNS)


def to_bytes(array: np.ndarray[Any, Any]) -> bytes:
    """Write an array as the protocol does."""
    if array.dtype != object:
        return array.tobytes()
    return b"".join(len(one).to_bytes(4, "little") + one for one in array.ravel())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_binary_both_ways(echo: Gateway, data: st.DataObject) -> None:
    """Whatever the bits of all fourteen datatypes are (NaN, NUL, no UTF-8), the same bits come back."""
    count = data.draw(st.integers(1, 3))
    arrays = {name: rows_of(name, count, data.draw) for name in DATATYPES}
    inputs, tail = [], b""
    for name, array in arrays.items():
        raw = to_bytes(array)
        size = {"binary_data_size": len(raw)}
        inputs.append({"name": f"in_{name}", "datatype": name, "shape": [count, COLUMNS], "parameters": size})
        tail += raw
    head = orjson.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}})
    answer = echo.http.request(
        "POST",
        echo.url + "/v2/models/echo/infer",
        body=head + tail,
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    assert answer.status == 200, answer.data
    part = int(answer.headers["Inference-Header-Content-Length"])
    offset = part
    for output in orjson.loads(answer.data[:part])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        assert output["shape"] == [count, COLUMNS]
        came = answer.data[offset : offset + size]
        expected = to_bytes(arrays[output["datatype"]])
        assert came == expected, output["datatype"]
        offset += size
    assert offset == len(answer.data)


def json_values(datatype: str) -> st.SearchStrategy[Any]:
    """Every value of a datatype that JSON can carry."""
    dtype = DATATYPES[datatype][0]
    if datatype == "BYTES":
        return st.text(max_size=12)
    if datatype == "BOOL":
        return st.booleans()
    if dtype.kind == "f":
        return st.floats(width=dtype.itemsize * 8, allow_nan=False, allow_infinity=False)  # type: ignore[arg-type]
    limits = np.iinfo(dtype)
    return st.integers(int(limits.min), int(limits.max))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_json_both_ways(echo: Gateway, data: st.DataObject) -> None:
    """Every value that JSON can carry comes back as it went, to the last bit of a 64-bit integer and of a float."""
    values = {
        name: data.draw(st.lists(json_values(name), min_size=COLUMNS, max_size=COLUMNS)) if name in JSON_TYPES else None
        for name in DATATYPES
    }
    inputs: list[dict[str, Any]] = []
    tail = b""
    for name, drawn in values.items():
        item: dict[str, Any] = {"name": f"in_{name}", "datatype": name, "shape": [1, COLUMNS]}
        if drawn is None:  # Mixed with JSON in one call, as the two need it.
            item["parameters"] = {"binary_data_size": 2 * COLUMNS}
            tail += bytes(2 * COLUMNS)
        else:
            item["data"] = drawn
        inputs.append(item)
    head = orjson.dumps({"inputs": inputs, "outputs": [{"name": f"out_{name}"} for name in JSON_TYPES]})
    status, answer, _headers = echo.post(
        "/v2/models/echo/infer", head + tail, Inference_Header_Content_Length=str(len(head))
    )
    assert status == 200, answer
    for output in answer["outputs"]:
        assert output["data"] == values[output["datatype"]], output["datatype"]


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_floats_are_binary_only(echo: Gateway, datatype: str) -> None:
    """In JSON they are refused both ways, and the sentence says how they can travel."""
    item = {"name": f"in_{datatype}", "datatype": datatype, "shape": [1, COLUMNS], "data": [0, 0]}
    status, answer, _headers = echo.post("/v2/models/echo/infer", orjson.dumps({"inputs": [item]}))
    assert status == 400
    assert f"{datatype} in JSON, expected binary data" in answer["error"]
