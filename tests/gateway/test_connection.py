"""A connection within its limits, over raw sockets: slow and greedy clients, pages from elsewhere, deadlines."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import orjson
import pytest

from bundles.home import Home
from bundles.packing import pack
from gateway.connection import PIPELINED_MAX
from tests.conftest import Gateway, snowgate, wait_until, write_model

INFER = "/v2/models/signs/infer"
PAGE = "https://lab.example"
LIMITS = {
    "SNOWGATE_SERVER__HEADER_SECONDS": "1",
    "SNOWGATE_SERVER__BODY_SECONDS": "2",
    "SNOWGATE_SERVER__MAX_CONNECTIONS": "8",
    "SNOWGATE_SERVER__MAX_BODY_BYTES": "1000000",
    "SNOWGATE_SERVER__MAX_WAITING_BYTES": "1200000",
    "SNOWGATE_SERVER__ALLOWED_ORIGINS": f"{PAGE}, https://other.example",
}
SLOW = "        total ="
SLEEPS = "        if (x == 500).any():\n            import time\n            time.sleep(1.0)\n        total ="


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with small limits, and a model that takes a second for a row with 500 in it."""
    folder = tmp_path_factory.mktemp("strict")
    model = write_model(folder / "model")
    (model / "model.py").write_text((model / "model.py").read_text().replace(SLOW, SLEEPS))
    home = Home(folder / "home").make()
    pack(home, model, model="signs")
    snowgate(home.path, "deploy", "signs@1")
    running = Gateway(home.path, folder / "serve.log", variables=LIMITS)
    yield running
    assert running.stop() == 0


def connect(gateway: Gateway) -> socket.socket:
    """Open a raw connection."""
    host, port = gateway.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def read_all(end: socket.socket) -> bytes:
    """Read until the server closes, or resets what it has answered."""
    parts = []
    try:
        while part := end.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def read_answer(end: socket.socket) -> tuple[int, bytes]:
    """Read one answer from a connection that stays open."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += end.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    lines = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
    while len(body) < int(lines[b"content-length"]):
        body += end.recv(65536)
    return int(head.split()[1]), body


def call(rows: int = 1, first: float = 1.0, **headers: str) -> bytes:
    """One whole request."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 3], "data": [first, 2, 3] * rows}
    body = orjson.dumps({"inputs": [tensor]})
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def memory(gateway: Gateway) -> float:
    """The worker's memory, in megabytes."""
    (pid,) = gateway.children("gateway.worker")
    line = next(one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def error(answer: bytes) -> str:
    """The protocol's error in a raw answer."""
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["error"])


@pytest.mark.parametrize("sent", [b"", b"POST /v2/mod", b"GET /v2 HTTP/1.1\r\nHost: local"])
def test_headers_that_do_not_come(strict: Gateway, sent: bytes) -> None:
    """A connection that says nothing, or half a head, is told so and ends."""
    with connect(strict) as end:
        end.sendall(sent)
        answer = read_all(end)
    assert b" 408 " in answer.splitlines()[0]
    assert "not complete within 1 s" in error(answer)


def test_a_head_that_drips(strict: Gateway) -> None:
    """More of the head does not move its deadline."""
    with connect(strict) as end:
        end.sendall(call())
        assert read_answer(end)[0] == 200, "the deadline is for each head, not only a connection's first"
        end.sendall(b"GET /v2 HTTP/1.1\r\n")
        end.settimeout(0.1)
        answer = b""
        deadline = time.monotonic() + 20
        while not answer:
            assert time.monotonic() < deadline
            end.sendall(b"X-A: b\r\n")
            with suppress(TimeoutError):
                answer = end.recv(65536)
    assert b" 408 " in answer.splitlines()[0]


def test_too_many_headers(strict: Gateway) -> None:
    """Headers without end are cut off at their limit."""
    with connect(strict) as end:
        end.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n" + b"X-Name: 0123456789\r\n" * 10_000)
        answer = read_all(end)
    assert b" 400 " in answer.splitlines()[0]
    assert "more than 65536 bytes" in error(answer)


@pytest.mark.parametrize("begun", [b"GET /", b"GET /v2 HTTP/1.1\r\nX-Name: "])
def test_a_head_without_end(strict: Gateway, begun: bytes) -> None:
    """One header, or the URL, that does not end is cut off at the limit, and not only when the time is over."""
    with connect(strict) as end:
        end.sendall(begun)
        with suppress(ConnectionError):  # It is cut off while we send.
            for _ in range(10):
                end.sendall(b"a" * 1_000_000)
        answer = read_all(end)
    assert b" 400 " in answer.splitlines()[0]
    assert "more than 65536 bytes" in error(answer)


def test_an_upgrade_is_ignored(strict: Gateway) -> None:
    """A wish for another protocol changes nothing: the body is read, and so is the next request, on either route."""
    wish = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"}
    wishes = "".join(f"{name}: {value}\r\n" for name, value in wish.items())
    health = f"GET /livez HTTP/1.1\r\nHost: localhost\r\n{wishes}\r\n".encode()
    head, _, body = call(1, 1.0, **wish).partition(b"\r\n\r\n")
    with connect(strict) as end:
        for sent in (call(1, 1.0, **wish), health, call(2, 1.0, **wish), call()):
            end.sendall(sent)
            assert read_answer(end)[0] == 200
        end.sendall(head + b"\r\n\r\n" + body[:10])
        end.sendall(body[10:])
        assert read_answer(end)[0] == 200
    with connect(strict) as end:
        end.sendall(b"CONNECT a.example:1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert "no proxy" in error(read_all(end))


def test_what_is_no_http(strict: Gateway) -> None:
    """Noise is refused in the protocol's form; behind a call, that call still has its answer."""
    with connect(strict) as end:
        end.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = read_all(end)
    assert b" 400 " in answer.splitlines()[0]
    assert "Invalid HTTP" in error(answer)
    with connect(strict) as end:
        end.sendall(call() + b"\x00\x01\x02\r\n\r\n")
        answer = read_all(end)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b" 200 " in answer.splitlines()[0]


def test_beyond_the_limit_only_health_is_answered(strict: Gateway) -> None:
    """With all connections taken a call is 503 with Retry-After, and a prober still hears that the worker lives."""
    with ExitStack() as stack:
        taken = [stack.enter_context(connect(strict)) for _ in range(8)]
        for end in taken:
            end.sendall(call())
            assert read_answer(end)[0] == 200
        with connect(strict) as end:
            end.sendall(call())
            answer = read_all(end)
        assert b" 503 " in answer.splitlines()[0]
        assert b"retry-after: 1" in answer.lower()
        assert "8 connections are open" in error(answer)
        for path in ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready?x=1"):
            with connect(strict) as end:
                end.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                assert b" 200 " in read_all(end).splitlines()[0]
        taken[0].sendall(call())
        assert read_answer(taken[0])[0] == 200, "those who were there first are served"

    def served() -> bool:
        with connect(strict) as end:
            end.sendall(call(Connection="close"))
            return b" 200 " in read_all(end).splitlines()[0]

    wait_until(served, what="a free connection")


def test_pipelining_is_bounded(strict: Gateway) -> None:
    """A flood of requests on one connection is answered up to the limit, in order, and no memory grows with it."""
    request = call()
    before = memory(strict)
    with connect(strict) as end:
        end.settimeout(1.0)
        try:
            for _ in range(200):
                end.sendall(request * 100)
        except (TimeoutError, ConnectionError):
            pass  # It is not read any more.
        assert memory(strict) - before < 64
        end.settimeout(20)
        answer = read_all(end)
    statuses = [line.split()[1] for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    assert set(statuses) <= {b"200"}
    assert 1 <= len(statuses) <= 20_000
    assert strict.call()[0] == 200


def test_pipelined_calls_within_the_limit(strict: Gateway) -> None:
    """As many as may wait are all answered, and the connection goes on."""
    with connect(strict) as end:
        end.sendall(call() * PIPELINED_MAX)
        data = b""
        while data.count(b"HTTP/1.1 200") < PIPELINED_MAX or not data.endswith(b"}"):
            data += end.recv(65536)
        end.sendall(call())
        assert read_answer(end)[0] == 200


def test_a_client_that_does_not_read(strict: Gateway) -> None:
    """Answers that nobody reads stop the reading of requests, and after the time the connection is cut off."""
    request = call(5_000)  # Some 100 KB of answer each.
    before = memory(strict)
    with connect(strict) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        end.settimeout(0.5)
        deadline = time.monotonic() + 30
        cut = False
        while not cut:
            assert time.monotonic() < deadline, "it was never cut off"
            assert memory(strict) - before < 64
            try:
                end.sendall(request)
            except TimeoutError:
                continue
            except ConnectionError:
                cut = True
    assert strict.call()[0] == 200


@pytest.mark.parametrize(
    ("chunks", "status", "words"),
    [
        (b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n", 413, "at most 1000000"),
        (b"nonsense\r\n", 400, "no HTTP"),
        (b"1\r\nxyz\r\n", 400, "no HTTP"),
    ],
)
def test_chunks_without_end(strict: Gateway, chunks: bytes, status: int, words: str) -> None:
    """Chunks are read up to the limit of a body; what is no chunk ends the call with the reason."""
    with connect(strict) as end:
        end.sendall(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        try:
            for _ in range(100):
                end.sendall(chunks)
        except ConnectionError:
            pass  # Cut off while we were still sending: the answer is there all the same.
        answer = read_all(end)
    assert int(answer.split()[1]) == status
    assert words in error(answer)


def test_a_chunk_extension_without_end(strict: Gateway) -> None:
    """What is no body does not move the body's deadline."""
    with connect(strict) as end:
        end.sendall(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5;".encode())
        end.settimeout(0.05)
        deadline = time.monotonic() + 20
        answer = b""
        while not answer:
            assert time.monotonic() < deadline
            try:
                end.sendall(b"extension" * 10)
                answer = end.recv(65536)
            except TimeoutError:
                continue
    assert answer.split()[1] in (b"408", b"400")


def test_a_body_for_another_route_that_does_not_come(strict: Gateway) -> None:
    """Routes beside inference have the same deadline for a body."""
    with connect(strict) as end:
        end.sendall(b"POST /v2/repository/index HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        assert b"200" not in read_all(end)[:20]


def test_waiting_bytes_are_bounded(strict: Gateway) -> None:
    """Beyond what all calls of a worker may hold the next is refused; when they are gone it is taken."""
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n".encode()
    big = call(10_000)
    assert len(big) < 900_000
    with connect(strict) as first, connect(strict) as second:
        first.sendall(head + b"x" * 800_000)
        # What is in the socket is not yet in the worker: the second is refused as soon as it is.
        second.sendall(head + b"x" * 800_000)
        ends = {first: b"", second: b""}
        refused = wait_until(lambda: next((one for one in ends if _has_answer(one)), None), what="the refusal")
        answer = read_all(refused)
        assert b" 503 " in answer.splitlines()[0]
        assert b"retry-after: 1" in answer.lower()
        assert "max_waiting_bytes" in error(answer)

    def taken() -> bool:
        with connect(strict) as end:
            end.sendall(big)
            return read_answer(end)[0] == 200

    wait_until(taken, what="room for a large body")


def _has_answer(end: socket.socket) -> bool:
    end.settimeout(0.05)
    try:
        return bool(end.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False
    finally:
        end.settimeout(20)


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", ""])
def test_a_timeout_that_is_none(strict: Gateway, value: str) -> None:
    """What is no time is refused with what was expected."""
    status, answer, _headers = strict.call(X_Request_Timeout=value)
    assert status == 400
    assert "expected seconds above 0" in answer["error"]


def test_a_deadline_by_header(strict: Gateway) -> None:
    """A call past the header's deadline is 504, the shorter of header and parameter counts, and others go on."""
    status, answer, _headers = strict.call(values=[500.0, 0.0, 0.0], X_Request_Timeout="0.1")
    assert status == 504
    assert "the deadline of the call" in answer["error"]
    body = orjson.dumps(
        {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [500, 0, 0]}],
            "parameters": {"timeout": 100_000},
        }
    )
    assert strict.post(INFER, body, X_Request_Timeout="15")[0] == 504
    assert strict.call(values=[500.0, 0.0, 0.0], X_Request_Timeout="15")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "https://evil.example", "Sec_Fetch_Site": "cross-site"},
    ],
)
def test_pages_from_elsewhere(strict: Gateway, headers: dict[str, str]) -> None:
    """A page of another origin may not call, and not look; health is answered to everybody."""
    status, answer, came = strict.call("signs", None, **headers)
    assert status == 403
    assert "allowed_origins" in answer["error"]
    assert "Access-Control-Allow-Origin" not in came
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    for path, expected in (("/v2/models", 403), ("/v2/health/live", 200)):
        assert strict.http.request("GET", strict.url + path, headers=named).status == expected


def test_pages_that_are_allowed(strict: Gateway) -> None:
    """A page of our own host passes; one that is allowed passes, is told so, and may ask before it sends."""
    own = strict.url
    assert strict.call(Origin=own, Sec_Fetch_Site="same-origin")[0] == 200
    status, _answer, headers = strict.call(Origin=PAGE, Sec_Fetch_Site="cross-site")
    assert (status, headers["Access-Control-Allow-Origin"]) == (200, PAGE)
    asked = strict.http.request(
        "OPTIONS",
        strict.url + INFER,
        headers={
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        },
    )
    assert (asked.status, asked.headers["Access-Control-Allow-Origin"]) == (200, PAGE)
    looked = strict.http.request("GET", strict.url + "/v2/models", headers={"Origin": PAGE})
    assert (looked.status, looked.headers["Access-Control-Allow-Origin"]) == (200, PAGE)
