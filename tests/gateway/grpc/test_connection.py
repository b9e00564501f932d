"""HTTP/2 as no well-behaved client speaks it: windows, limits, broken rules, attacks."""

import gzip
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytest

from bundles.home import Home
from bundles.packing import Packed
from gateway.grpc import http2
from gateway.grpc.connection import RESETS_MAX, STREAMS_MAX
from monitors.log.reader import LogReader
from tests.conftest import Gateway, snowgate, wait_until
from tests.gateway.grpc.peer import INFER, Peer, prefixed, response, row

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


@pytest.fixture
def address(gateway: Gateway) -> str:
    """Where the gateway takes gRPC; after the test it still answers."""
    address: str = gateway.ready["grpc"]
    return address


def works(address: str) -> bool:
    """Whether a new connection gets an answer."""
    with Peer(address) as peer:
        peer.call(1)
        return peer.answer(1)[2] == {"grpc-status": "0"}


def test_an_answer_in_small_windows(address: str) -> None:
    """An answer larger than the client's window comes piece by piece, as the client makes room, and is whole."""
    with Peer(address, window=100) as peer:
        peer.call(1, row(size=200))
        data, room = b"", 100
        while len(data) < 5 or len(data) < 5 + int.from_bytes(data[1:5], "big"):
            piece = peer.wait(http2.DATA).payload
            room -= len(piece)
            assert room >= 0
            data += piece
            if room == 0:
                peer.send(http2.WINDOW_UPDATE, 0, 1, http2.number(300))
                room = 300
        np.testing.assert_allclose(np.frombuffer(response(data).raw_output_contents[0], "<f4")[:2], [3, -3])
        assert peer.headers(peer.wait(http2.HEADERS, http2.END_STREAM))["grpc-status"] == "0"


def test_a_window_that_grows_by_settings(address: str) -> None:
    """A larger initial window in new SETTINGS lets an answer go on that waits."""
    with Peer(address, window=0) as peer:
        peer.call(1)
        assert peer.headers(peer.wait(http2.HEADERS))["snowgate-variant"]
        peer.send(http2.SETTINGS, 0, 0, http2.SETTING.pack(http2.INITIAL_WINDOW_SIZE, 65_535))
        np.testing.assert_allclose(
            np.frombuffer(response(peer.wait(http2.DATA).payload).raw_output_contents[0], "<f4"), [3, -3]
        )


def test_large_messages_both_ways(address: str) -> None:
    """A call and an answer of some megabytes, far beyond the windows that HTTP/2 starts with."""
    rows = 400_000
    with Peer(address, window=http2.WINDOW_MAX) as peer:
        peer.send(http2.WINDOW_UPDATE, 0, 0, http2.number(2**30))
        peer.call(1, row(size=rows))
        _first, data, last = peer.answer(1)
        assert last == {"grpc-status": "0"}
        assert np.frombuffer(response(data).raw_output_contents[0], "<f4").shape == (2 * rows,)


def test_calls_in_pieces_and_frames_in_any_shape(address: str) -> None:
    """Headers over several frames, padding, priority, a message byte by byte, trailers: all are the same call."""
    with Peer(address) as peer:
        block, data = peer.block(), row()
        peer.send(http2.HEADERS, http2.PADDED | http2.PRIORITISED, 1, b"\2" + b"\0" * 5 + block[:9] + b"\0\0")
        peer.send(http2.CONTINUATION, 0, 1, block[9:20])
        peer.send(http2.CONTINUATION, http2.END_HEADERS, 1, block[20:])
        peer.send(http2.PRIORITY, 0, 1, b"\0" * 5)
        peer.send(0xEE, 0, 1, b"a frame of a type that nobody knows")
        for byte in data[:20]:
            peer.send(http2.DATA, http2.PADDED, 1, bytes((3, byte, 0, 0, 0)))
        peer.send(http2.DATA, 0, 1, data[20:])
        peer.send(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, peer.encoder.encode([("some", "trailer")]))
        assert peer.answer(1)[2] == {"grpc-status": "0"}
        peer.send(http2.PING, 0, 0, b"12345678")
        assert peer.wait(http2.PING, http2.ACK).payload == b"12345678"


BROKEN: dict[str, tuple[Callable[[Peer], Any], int, str]] = {
    "a frame too large": (lambda peer: peer.socket.sendall(b"\x00\x40\x01\0\0\0\0\0\1"), 6, "16385 bytes"),
    "a short PING": (lambda peer: peer.send(http2.PING, 0, 0, b"1234"), 6, "type 6 with 4 bytes"),
    "half a setting": (lambda peer: peer.send(http2.SETTINGS, 0, 0, b"123"), 6, "multiple of 6"),
    "an even stream": (lambda peer: peer.send(http2.HEADERS, 4, 2, peer.block()), 1, "odd number"),
    "data of nothing": (lambda peer: peer.send(http2.DATA, 0, 7, b"x"), 1, "never opened"),
    "a push": (lambda peer: peer.send(http2.PUSH_PROMISE, 0, 1), 1, "PUSH_PROMISE"),
    "continuation of nothing": (lambda peer: peer.send(http2.CONTINUATION, 4, 1), 1, "CONTINUATION of nothing"),
    "a frame within headers": (
        lambda peer: peer.socket.sendall(http2.frame(http2.HEADERS, 0, 1) + http2.frame(http2.PING, 0, 0, b"12345678")),
        1,
        "in the middle of a header block",
    ),
    "headers twice": (
        lambda peer: peer.socket.sendall(http2.frame(http2.HEADERS, http2.END_HEADERS, 1, peer.block()) * 2),
        1,
        "second header block",
    ),
    "a broken header block": (lambda peer: peer.send(http2.HEADERS, 4, 1, b"\xff\xff\xff\xff"), 9, "header block"),
    "padding too long": (lambda peer: peer.send(http2.HEADERS, 4 | http2.PADDED, 1, b"\xff123"), 1, "padding"),
    "no room in a window": (lambda peer: peer.send(http2.WINDOW_UPDATE, 0, 0, b"\0\0\0\0"), 3, "WINDOW_UPDATE by 0"),
    "a window without end": (lambda peer: peer.send(http2.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), 3, "2147483647"),
    "a setting out of range": (
        lambda peer: peer.send(http2.SETTINGS, 0, 0, http2.SETTING.pack(http2.INITIAL_WINDOW_SIZE, 2**31)),
        3,
        "INITIAL_WINDOW_SIZE",
    ),
    "headers without end": (
        lambda peer: peer.socket.sendall(
            http2.frame(http2.HEADERS, 0, 1) + http2.frame(http2.CONTINUATION, 0, 1) * 100
        ),
        11,
        "header block of more than",
    ),
    "a header bomb": (
        lambda peer: peer.send(http2.HEADERS, 4, 1, peer.encoder.encode([("x", "a" * 4_000)]) + b"\xbe" * 5_000),
        9,
        "header block",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_rules_end_the_connection(address: str, case: str) -> None:
    """The peer is told which rule it broke, by HTTP/2's code and a sentence; others are served on."""
    provoke, code, words = BROKEN[case]
    with Peer(address) as peer:
        provoke(peer)
        said, sentence = peer.goaway()
    assert (said, words in sentence) == (code, True), sentence
    assert works(address)


def test_calls_taken_back_without_end(address: str) -> None:
    """A peer that opens calls only to reset them is cut off (CVE-2023-44487)."""
    with Peer(address) as peer:
        flood = b""
        for number in range(1, 2 * RESETS_MAX + 10, 2):
            flood += http2.frame(http2.HEADERS, http2.END_HEADERS, number, peer.block("/grpc.health.v1.Health/Check"))
            flood += http2.frame(http2.RST_STREAM, 0, number, http2.number(http2.CANCEL))
        peer.socket.sendall(flood)
        code, sentence = peer.goaway()
    assert (code, "taken back" in sentence) == (http2.ENHANCE_YOUR_CALM, True)
    assert works(address)


def test_more_calls_than_a_connection_may_have(address: str) -> None:
    """The call beyond the limit is refused so that the client may try it again; the others are not disturbed."""
    with Peer(address) as peer:
        for number in range(1, 2 * STREAMS_MAX + 2, 2):
            peer.send(http2.HEADERS, http2.END_HEADERS, number, peer.block("/grpc.health.v1.Health/Check"))
        refused = peer.wait(http2.RST_STREAM)
        assert (refused.stream, refused.payload) == (2 * STREAMS_MAX + 1, http2.number(http2.REFUSED_STREAM))
        peer.send(http2.DATA, http2.END_STREAM, 1, prefixed(b""))
        assert peer.answer(1)[1] == prefixed(b"\x08\x01")


def test_a_message_beyond_the_limit(address: str, shared_home: Any) -> None:
    """Its first five bytes are enough to refuse it, by name and in the log; what still comes of it harms nobody."""
    with Peer(address) as peer:
        peer.send(http2.HEADERS, http2.END_HEADERS, 1, peer.block())
        peer.send(http2.DATA, 0, 1, b"\0" + (64 * 2**20 + 1).to_bytes(4, "big"))
        first, _data, last = peer.answer(1)
        assert (last["grpc-status"], "expected at most 67108864" in last["grpc-message"]) == ("8", True)
        assert peer.wait(http2.RST_STREAM).payload == http2.number(http2.NO_ERROR)
        peer.send(http2.DATA, 0, 1, bytes(10_000))
        peer.call(3)
        assert peer.answer(3)[2] == {"grpc-status": "0"}
    # Which model it was for stands in the message, so it is counted among those of which nobody knows.
    reader = LogReader(shared_home.log)
    record = wait_until(lambda: reader.find(first["snowgate-prediction-id"]), what="the count")
    assert (record.kind, record.model, record.status) == ("refused", "_unknown", 413)


def test_messages_that_are_none(address: str) -> None:
    """Half a message, none, two, one that inflates too far, one that is no protobuf: each is refused in a sentence."""
    with Peer(address) as peer:
        cases = {
            1: (row()[:-1], {}, "3", "came before the stream ended"),
            3: (b"", {}, "3", "none came"),
            5: (row() + row(), {}, "3", "a second one"),
            7: (b"\1" + row()[1:], {}, "12", "expected identity, gzip or deflate"),
            9: (b"\1" + row()[1:], {"grpc_encoding": "gzip"}, "3", "not gzip"),
            11: (prefixed(b"\xff\xff\xff"), {}, "3", "not a ModelInferRequest"),
        }
        for stream, (data, metadata, code, words) in cases.items():
            peer.call(stream, data, INFER, **metadata)
            last = peer.answer(stream)[2]
            assert (last["grpc-status"], words in last["grpc-message"]) == (code, True), last
        peer.call(13)
        assert peer.answer(13)[2] == {"grpc-status": "0"}


def test_http1_is_told_where_it_is(address: str) -> None:
    """A client of the wrong protocol gets an answer that it can read."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as end:
        end.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while part := end.recv(1000):
            answer += part
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"speaks gRPC" in answer


def test_a_client_that_leaves(address: str, shared_home: Any) -> None:
    """Calls whose connection is cut before they are whole are counted in the log, and nothing else."""

    def gone() -> int:
        return sum(one.calls for one in LogReader(shared_home.log).records() if one.error_type == "client_gone")

    before = gone()
    for _ in range(20):
        with Peer(address) as peer:
            peer.send(http2.HEADERS, http2.END_HEADERS, 1, peer.block())
            peer.send(http2.DATA, 0, 1, row()[:9])
    wait_until(lambda: gone() >= before + 20, what="the counts")
    assert works(address)


def test_a_client_that_does_not_read(gateway: Gateway, address: str) -> None:
    """One that takes no answers is no longer read from, so that they can't pile up; others are served on."""
    with Peer(address, window=http2.WINDOW_MAX) as peer:
        peer.send(http2.WINDOW_UPDATE, 0, 0, http2.number(2**30))
        peer.socket.settimeout(5)
        with pytest.raises(TimeoutError):
            flood(gateway, peer)
        assert works(address)
        peer.socket.settimeout(20)
        assert peer.answer(1)[2] == {"grpc-status": "0"}


def flood(gateway: Gateway, peer: Peer) -> None:
    """Send calls, 216 MB of them, and read no answer; a few at a time, until no more answers are made.

    However slow the machine is, the sockets are then full of answers: a gateway that reads no more takes none of the
    calls that come after, and the sockets on the way hold some 10 MB of them.
    """
    before, growing = answered(gateway), True
    for sent in range(1, 901):
        peer.call(2 * sent - 1, row(size=20_000))
        if growing and sent % 8 == 0:
            growing = came(partial(_has_answered, gateway, before + sent), seconds=5)


def _has_answered(gateway: Gateway, calls: int) -> bool:
    return answered(gateway) >= calls


def came(true: Callable[[], bool], seconds: float) -> bool:
    """Whether something comes true in time."""
    deadline = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def answered(gateway: Gateway) -> int:
    """Calls that have their answers, those of this moment too: the worker says first what it has counted."""
    _status, document = gateway.get("/v2/models/signs/stats")
    return sum(one["inference_stats"]["success"]["count"] for one in document["model_stats"])


def test_small_messages_that_become_large(home: Home, packed: Packed, start: Callable[..., Gateway]) -> None:
    """What compressed messages become counts among the bytes that wait in a worker, until each call has its answer."""
    snowgate(home.path, "deploy", f"signs@{packed.version}", "--to", "production")
    address = start(home.path, variables={"SNOWGATE_SERVER__MAX_WAITING_BYTES": "1200000"}).ready["grpc"]
    squeezed = gzip.compress(row(size=75_000)[5:])  # 900 KB once inflated.
    large = b"\1" + len(squeezed).to_bytes(4, "big") + squeezed
    with Peer(address, window=2**30) as peer:
        peer.send(http2.WINDOW_UPDATE, 0, 0, http2.number(2**30))
        for first in (1, 5, 9):
            peer.send(http2.HEADERS, http2.END_HEADERS, first, peer.block(grpc_encoding="gzip"))
            peer.send(http2.DATA, 0, first, large)
            peer.call(first + 2, large, grpc_encoding="gzip")
            last = peer.answer(first + 2)[2]
            assert last["grpc-status"] == "14"
            assert "max_waiting_bytes" in last["grpc-message"]
            peer.send(http2.DATA, http2.END_STREAM, first)
            assert peer.answer(first)[2] == {"grpc-status": "0"}
        peer.call(13, large * 3, STREAM, grpc_encoding="gzip")
        _first, messages, last = peer.answer(13)
        assert last["grpc-status"] == "0"
        assert b"max_waiting_bytes" in messages
    with Peer(address) as peer:
        peer.call(1, prefixed(b"\0" * 1_100_000), "/inference.GRPCInferenceService/ModelMetadata")
        assert "at most 1048576" in peer.answer(1)[2]["grpc-message"]


def test_no_more_connections_than_may_be(home: Home, packed: Packed, start: Callable[..., Gateway]) -> None:
    """One too many is closed at once; when another one has ended there is room again."""
    snowgate(home.path, "deploy", f"signs@{packed.version}", "--to", "production")
    address = start(home.path, variables={"SNOWGATE_SERVER__MAX_CONNECTIONS": "2"}).ready["grpc"]
    with Peer(address) as first, Peer(address) as second:
        for peer in (first, second):
            peer.call(1, row())
            assert peer.answer(1)[2] == {"grpc-status": "0"}
        with Peer(address) as third:
            assert third.ended()
        first.call(3, row())
        assert first.answer(3)[2] == {"grpc-status": "0"}

    def room() -> bool:
        with suppress(AssertionError, OSError):  # Turned away: the gateway has not seen yet that the two have ended.
            return works(address)
        return False

    wait_until(room, what="room for another one")


def test_windows_one_by_one(address: str) -> None:
    """Answers wait for their own windows and for the connection's; whichever opens, what it held back goes on."""
    with Peer(address, window=0) as peer:
        for number in (1, 3, 5):
            peer.call(number, row(size=20_000))
        for number in (5, 1, 3):
            peer.send(http2.WINDOW_UPDATE, 0, number, http2.number(2**20))
            peer.send(http2.WINDOW_UPDATE, 0, 0, http2.number(2**20))
            assert peer.answer(number)[2] == {"grpc-status": "0"}
