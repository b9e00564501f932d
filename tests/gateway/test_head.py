"""Heads that are remembered: however the bytes of calls are cut and repeated, each call gets its own answer."""

import shutil
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httptools
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.head import lane_place
from tests.conftest import Gateway, snowgate


class Answers:
    """Parses what comes back on one connection."""

    def __init__(self) -> None:
        self.found: list[tuple[int, bytes]] = []
        self._body = b""
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        """Begin an answer."""
        self._body = b""

    def on_body(self, body: bytes) -> None:
        """Collect its body."""
        self._body += body

    def on_message_complete(self) -> None:
        """Keep it."""
        self.found.append((self._parser.get_status_code(), self._body))


def call(first: int, *, version: str = "1", more: str = "", pad: int = 0) -> bytes:
    """One call whose answer tells which one it was; `pad` makes the body longer without changing it."""
    body = orjson.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [first, 0, 0]}]})
    body += b" " * pad
    head = f"POST /v2/models/signs/versions/{version}/infer HTTP/1.1\r\nHost: localhost\r\n{more}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def exchange(url: str, pieces: list[bytes], count: int) -> list[tuple[int, bytes]]:
    """Send pieces on one connection and return the answers."""
    answers = Answers()
    with closing(socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=20)) as end:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            end.sendall(piece)
        while len(answers.found) < count:
            data = end.recv(65_536)
            assert data, f"{len(answers.found)} of {count} answers, then the end"
            answers.feed(data)
    return answers.found


@given(
    calls=st.lists(
        st.tuples(st.integers(0, 900), st.sampled_from(["1", "2"]), st.integers(0, 2)), min_size=1, max_size=8
    ),
    cuts=st.lists(st.integers(1, 400), max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_each_call_gets_its_own_answer(gateway: Gateway, calls: list[tuple[int, str, int]], cuts: list[int]) -> None:
    """Calls with equal and different heads and lengths, pipelined and cut anywhere, are answered in their order."""
    stream = b"".join(call(first, version=version, pad=pad) for first, version, pad in calls)
    pieces = []
    for cut in cuts:
        pieces.append(stream[:cut])
        stream = stream[cut:]
    answers = exchange(gateway.url, [piece for piece in [*pieces, stream] if piece], len(calls))
    sign = {"1": 1, "2": 2}
    for (status, body), (first, version, _pad) in zip(answers, calls, strict=True):
        document = orjson.loads(body)
        assert (status, document["model_version"]) == (200, version)
        assert document["outputs"][0]["data"] == [sign[version] * first, -sign[version] * first]


def test_a_remembered_head_says_what_it_said(gateway: Gateway) -> None:
    """One after the other on one connection: the same head serves other bodies of its length, and no longer ones."""
    answers = Answers()
    with closing(socket.create_connection(("127.0.0.1", urlsplit(gateway.url).port or 0), timeout=20)) as end:
        for count, first in enumerate((1, 2, 3, 44, 5), start=1):
            end.sendall(call(first))
            while len(answers.found) < count:
                answers.feed(end.recv(65_536))
            status, body = answers.found[-1]
            assert (status, orjson.loads(body)["outputs"][0]["data"]) == (200, [first, -first])


def test_what_the_head_refuses_is_refused_each_time(
    packed_home: Path, start: Callable[..., Gateway], tmp_path: Path
) -> None:
    """Heads with a wrong key, and without one, are refused beside equal ones with a good key on the same connection."""
    keys = tmp_path / "keys.txt"
    keys.write_text("good\n")
    home = Path(shutil.copytree(packed_home, tmp_path / "home"))
    snowgate(home, "deploy", "signs@1", "--to", "production")
    gateway = start(home, "--api-keys-file", str(keys))
    keyed = [call(number, more=f"X-API-Key: {key}\r\n") for number, key in enumerate(["good", "evil", "good", "evil"])]
    for _round in range(2):
        statuses = []
        for one in keyed:
            (status, _body), *_rest = exchange(gateway.url, [one], 1)
            statuses.append(status)
        assert statuses == [200, 401, 200, 401]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (b"/v2/models/signs/infer?x=1", ("signs", None)),
        (b"/v2/models/a%2Fb/infer", ("a/b", None)),
        (b"/v2/models/signs/versions/7/infer", ("signs", "7")),
        (b"/v2/models//infer", None),
        (b"/v2/models/signs/versions/infer", None),
        (b"/v2/models/signs/other/7/infer", None),
        (b"/v2/health/ready", None),
    ],
)
def test_places(url: bytes, expected: tuple[str, str | None] | None) -> None:
    """Only inference is the lane's, with or without a version, whatever is escaped or asked behind it."""
    place = lane_place(b"POST", url)
    assert (place and place[1:]) == expected
