"""The data port, asked over real sockets: the protocol, bad input, slow and broken clients."""

import json
import socket
from typing import Any

import numpy as np
import orjson
import pytest
import tritonclient.http

from monitors.log.reader import LogReader
from tests.conftest import Gateway, wait_until
from tests.gateway.test_connection import call, connect, memory, read_all, read_answer

INFER = "/v2/models/signs/infer"


def tensor(**changes: Any) -> bytes:
    """A call with one good tensor, changed."""
    good = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
    return orjson.dumps({"inputs": [{key: value for key, value in (good | changes).items() if value is not None}]})


BAD = {
    "not JSON": (b'{"inputs": [', 400, ["body", "not JSON"]),
    "no object": (b"[1]", 400, ["body", "an array", "object"]),
    "no inputs": (b"{}", 400, ["inputs", "nothing", "at least one"]),
    "wrong datatype": (tensor(datatype="INT64"), 400, ["'x'", "INT64", "FP32"]),
    "unknown datatype": (tensor(datatype="FP31"), 400, ["'x'", "FP31", "FP32"]),
    "wrong shape": (tensor(shape=[1, 4], data=[1, 2, 3, 4]), 400, ["'x'", "[1, 4]", "[-1, 3]"]),
    "wrong rank": (tensor(shape=[3]), 400, ["'x'", "[3]", "[-1, 3]"]),
    "too few elements": (tensor(data=[1, 2]), 400, ["'x'", "2 elements", "3"]),
    "negative shape": (tensor(shape=[-1, 3]), 400, ["'x'", "[-1, 3]", "none below 0"]),
    "huge shape": (tensor(shape=[16, 2**60 + 2]), 400, ["'x'", "3 elements"]),
    "many sizes": (tensor(shape=[2**63] * 2_000), 400, ["'x'", "2000", "at most 64"]),
    "many inputs": (orjson.dumps({"inputs": [{}] * 1_025}), 400, ["inputs", "1025", "at most 1024"]),
    "many outputs": (
        tensor()[:-1] + b', "outputs": [%b]}' % b",".join([b"{}"] * 1_025),
        400,
        ["outputs", "1025", "1024"],
    ),
    "a long name": (tensor(name="n" * 2_000, data=[1]), 400, [f"'{'n' * 64}…'"]),
    "strings": (tensor(data=["a", "b", "c"]), 400, ["'x'", "strings", "numbers"]),
    "ragged": (tensor(data=[[1, 2], [3]]), 400, ["'x'", "ragged"]),
    "no data": (tensor(data=None), 400, ["'x'", "no data"]),
    "unknown input": (tensor(name="y"), 400, ["'y'", "unknown", "'x'"]),
    "out of range": (tensor(data=[1e300, 0, 0]), 400, ["'x'", "1e+300", "FP32"]),
    "no rows": (tensor(shape=[0, 3], data=[]), 400, ["'x'", "0 rows"]),
    "the model raises": (tensor(data=[2000, 0, 0]), 500, ["signs", "ValueError", "larger than 1000"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_calls_are_told_what_is_wrong(gateway: Gateway, shared_home: Any, case: str) -> None:
    """The error body names the field, what came and what was expected; the refusal is in the log under its id."""
    body, expected, words = BAD[case]
    status, answer, headers = gateway.post(INFER, body)
    assert status == expected
    for word in words:
        assert word in answer["error"]
    record = LogReader(shared_home.log).find(headers["Snowgate-Prediction-Id"])
    assert record is not None
    assert (record.kind, record.status) == ("refused", expected)
    assert gateway.call()[0] == 200


def test_unknown_model_and_version(gateway: Gateway, shared_home: Any) -> None:
    """404 with what there is; the refusal is counted, soon after."""
    status, answer, headers = gateway.call("stop-signs")
    assert status == 404
    assert answer["error"].startswith("Request for unknown model: 'stop-signs' is not found")
    record = wait_until(lambda: LogReader(shared_home.log).find(headers["Snowgate-Prediction-Id"]), what="the count")
    assert (record.kind, record.model, record.error_type) == ("refused", "_unknown", "not_found")
    status, answer, _headers = gateway.post("/v2/models/signs/versions/9/infer", tensor())
    assert status == 404
    assert "loaded: 1, 2" in answer["error"]


def test_an_answer_says_where_it_comes_from(gateway: Gateway, shared_home: Any) -> None:
    """Headers and parameters carry id, digest and variant; the client's id, request id and trace come back."""
    body = orjson.dumps({"id": "mine", **orjson.loads(tensor())})
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    status, answer, headers = gateway.post(INFER, body, X_Request_Id="r-1", traceparent=trace)
    assert status == 200
    assert answer["id"] == "mine"
    assert answer["parameters"]["snowgate_prediction_id"] == headers["Snowgate-Prediction-Id"]
    assert headers["Snowgate-Bundle"] == answer["parameters"]["snowgate_bundle"]
    assert headers["Snowgate-Variant"] in ("stable", "canary")
    assert headers["X-Request-Id"] == "r-1"
    assert headers["traceparent"].split("-")[1] == trace.split("-")[1]
    record = LogReader(shared_home.log).find(headers["Snowgate-Prediction-Id"])
    assert record is not None
    assert (record.trace_id, record.span_id) == tuple(headers["traceparent"].split("-")[1:3])
    assert record.payload is not None
    assert (record.payload.client_id, record.payload.request_id) == ("mine", "r-1")


def test_the_split_is_sticky_and_has_its_share(gateway: Gateway) -> None:
    """A unit always gets the same version, and 30 % of the units get the canary."""
    first = {unit: gateway.call(Snowgate_Unit=f"unit-{unit}")[1]["model_version"] for unit in range(300)}
    again = {unit: gateway.call(Snowgate_Unit=f"unit-{unit}")[1]["model_version"] for unit in range(300)}
    assert first == again
    share = sum(version == "2" for version in first.values()) / len(first)
    assert 0.2 < share < 0.4  # four standard deviations around 30 %


def test_triton_client(gateway: Gateway) -> None:
    """The reference client works as it comes: health, metadata, JSON and binary tensors both ways, errors."""
    client = tritonclient.http.InferenceServerClient(gateway.url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("signs")
    assert client.is_model_ready("signs", "2")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("signs")["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": [-1, 3]}
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    for binary in (True, False):
        given = tritonclient.http.InferInput("x", [2, 3], "FP32")
        given.set_data_from_numpy(rows, binary_data=binary)
        wanted = tritonclient.http.InferRequestedOutput("y", binary_data=binary)
        result = client.infer("signs", [given], model_version="1", outputs=[wanted], request_id="t")
        np.testing.assert_allclose(result.as_numpy("y"), [[3, -3], [12, -12]])
        assert result.get_response()["id"] == "t"
        np.testing.assert_allclose(client.infer("signs", [given], model_version="1").as_numpy("y")[:, 0], [3, 12])
    bad = tritonclient.http.InferInput("x", [1, 2], "FP32")
    bad.set_data_from_numpy(np.zeros((1, 2), np.float32))
    with pytest.raises(Exception, match="expected"):
        client.infer("signs", [bad])
    client.close()


def test_metadata_and_errors_of_the_other_routes(gateway: Gateway) -> None:
    """The protocol's other routes, and its error body for what is not there."""
    assert gateway.get("/v2")[1]["name"] == "snowgate"
    assert gateway.get("/v2/models/signs")[1]["versions"] == ["1", "2"]
    assert gateway.get("/v2/models/signs/versions/2/ready") == (200, {"name": "signs", "ready": True})
    assert gateway.get("/v2/health/ready")[0] == 200
    for path in ("/v2/models/nope", "/v2/models/signs/versions/9", "/nope", "/v2/models/nope/ready"):
        status, answer = gateway.get(path)
        assert (status, set(answer)) == (404, {"error"})
    assert gateway.get(INFER)[0] in (404, 405)


def test_a_half_sent_body(gateway: Gateway) -> None:
    """A client that ends its side in the middle of a body is told how much came; the server lives."""
    with connect(gateway) as end:
        end.sendall(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n".encode() + b'{"inputs"')
        end.shutdown(socket.SHUT_WR)
        answer = read_all(end)
    assert b" 400 " in answer.splitlines()[0]
    assert b"9 bytes came before the connection ended" in answer
    assert gateway.call()[0] == 200


def test_a_client_that_leaves(gateway: Gateway, shared_home: Any) -> None:
    """A connection cut in the middle of a body is a refused prediction in the log, and nothing else."""
    before = _refused(shared_home, "client_gone") + _refused(shared_home, "bad_call")
    with connect(gateway) as end:
        end.sendall(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{{".encode())
    wait_until(lambda: _refused(shared_home, "client_gone") + _refused(shared_home, "bad_call") > before, what="record")


def _refused(home: Any, error_type: str) -> int:
    return sum(one.error_type == error_type for one in LogReader(home.log).records())


def test_an_oversized_body(gateway: Gateway) -> None:
    """A body that says or turns out to be too large is refused with the limit, before it is read."""
    limit = 64 * 1024 * 1024
    with connect(gateway) as end:
        end.sendall(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {limit + 1}\r\n\r\n".encode())
        answer = read_all(end)
    assert b" 413 " in answer.splitlines()[0]
    assert str(limit).encode() in answer
    assert gateway.call()[0] == 200


def test_pipelined_calls_are_answered_in_order(gateway: Gateway) -> None:
    """Calls of both kinds on one connection, sent at once: the answers come in the order of the questions."""
    body = tensor()
    infer = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nX-Request-Id: %d\r\n\r\n"
    other = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with connect(gateway) as end:
        calls = [(infer % number).encode() + body for number in range(4)]
        end.sendall(calls[0] + calls[1] + other + calls[2] + calls[3] + last)
        answer = read_all(end).decode()
    marks = ["X-Request-Id: 0", "X-Request-Id: 1", '"live":true', "X-Request-Id: 2", "X-Request-Id: 3", '"extensions"']
    places = [answer.find(mark) for mark in marks]
    assert -1 not in places
    assert places == sorted(places)


def test_calls_behind_a_refused_one_harm_nobody(gateway: Gateway) -> None:
    """A call that is refused before its body ends its connection; what was pipelined behind it is nobody's problem."""
    body = tensor()
    bad = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    bad += "Inference-Header-Content-Length: none\r\n\r\n"
    good = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with connect(gateway) as end:
        end.sendall(bad.encode() + body + (good.encode() + body) * 3)
        answer = read_all(end)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b" 400 " in answer.splitlines()[0]
    assert gateway.call()[0] == 200


def test_noise_is_not_taken_for_the_call_before_it(gateway: Gateway) -> None:
    """What is no HTTP stays so, though a call with a body of the same length came before it on its connection."""
    good = call()
    noise = b"NO HTTP\r\n\r\n" + good.partition(b"\r\n\r\n")[2]
    for before in (good, b""):
        with connect(gateway) as end:
            if before:
                end.sendall(before)
                assert read_answer(end)[0] == 200
            end.sendall(noise)
            assert b" 400 " in read_all(end).splitlines()[0]


def test_long_heads_are_not_remembered(gateway: Gateway) -> None:
    """Calls whose heads are long, and all different, leave nothing behind in the worker."""
    with connect(gateway) as end:
        end.sendall(call())
        assert read_answer(end)[0] == 200
        before = memory(gateway)
        for number in range(500):
            end.sendall(call(x_padding=f"{number}" + "p" * 60_000))
            assert read_answer(end)[0] == 200
        assert memory(gateway) - before < 20, "500 of them would be 30 MB"


def test_chunked_bodies_and_strange_headers(gateway: Gateway) -> None:
    """A chunked body works; another host's name, an unknown encoding and a wrong length are refused by name."""
    body = tensor()
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    with connect(gateway) as end:
        end.sendall(head.encode() + chunks)
        assert b" 200 " in read_all(end).splitlines()[0]
    assert gateway.post(INFER, body, Content_Encoding="zstd")[0] == 415
    status, answer, _headers = gateway.post(INFER, body, Host="evil.example")
    assert (status, "evil.example" in answer["error"]) == (400, True)
    listed = gateway.http.request("GET", f"{gateway.url}/v2/models", headers={"Host": "evil.example"})
    assert (listed.status, b"evil.example" in listed.data) == (400, True)
    status, answer, _headers = gateway.post(INFER, body, Inference_Header_Content_Length="99999")
    assert (status, "99999" in answer["error"]) == (400, True)


def test_several_rows_are_one_prediction(gateway: Gateway, shared_home: Any) -> None:
    """A call with many rows, more than a batch holds, is one record with a signal for each row."""
    rows = np.random.default_rng(1).normal(size=(200, 3)).tolist()
    status, answer, headers = gateway.post(INFER, tensor(shape=[200, 3], data=rows))
    assert status == 200
    assert answer["outputs"][0]["shape"] == [200, 2]
    record = LogReader(shared_home.log).find(headers["Snowgate-Prediction-Id"])
    assert record is not None
    assert record.rows == 200
    assert len(record.signals["class"]) == 200


def test_the_deadline_is_the_clients(gateway: Gateway) -> None:
    """A `timeout` that is no number of microseconds is refused by name."""
    body = orjson.dumps({"parameters": {"timeout": "soon"}, **orjson.loads(tensor())})
    status, answer, _headers = gateway.post(INFER, body)
    assert (status, "timeout" in answer["error"]) == (400, True)


def test_the_command_line_finds_the_prediction(gateway: Gateway) -> None:
    """`prediction show --chain` leads from an answer to its bundle, intact."""
    _status, _answer, headers = gateway.call(Snowgate_Unit="camera-7")
    shown = gateway.snowgate("prediction", "show", headers["Snowgate-Prediction-Id"], "--chain")
    wanted = {"id", "model", "version", "bundle", "variant", "unit", "inputs", "outputs", "signals", "provenance"}
    assert wanted <= set(shown)
    assert shown["unit"] == "camera-7"
    assert shown["inputs"][0]["data"] == [1.0, 2.0, 3.0]
    assert shown["provenance"]["intact"] is True
    assert json.dumps(shown)


def test_nothing_hangs_when_many_leave(gateway: Gateway) -> None:
    """A hundred clients that send and leave at once cost nobody else the answer."""
    body = tensor()
    for _ in range(100):
        with connect(gateway) as end:
            end.sendall(
                f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
            )
    assert gateway.call()[0] == 200


def test_a_deadline_that_has_passed_already(gateway: Gateway) -> None:
    """A microsecond is over before the call is decoded: it is 504 every time, and no batch takes it along."""
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}
    with_parameter = orjson.dumps(body | {"parameters": {"timeout": 1}})
    for _again in range(10):
        status, answer, _headers = gateway.call(X_Request_Timeout="0.000001")
        assert (status, "the deadline of the call" in answer["error"]) == (504, True), answer
        assert gateway.post("/v2/models/signs/infer", with_parameter)[0] == 504
