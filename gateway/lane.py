"""The fast lane: inference is answered inside the HTTP server's protocol class, below ASGI.

Going through ASGI, a task, a scope, an application stack and three awaited messages a call, costs as much as all the
rest of a small prediction. So `LaneProtocol` takes `POST /v2/models/{model}[/versions/{version}]/infer` itself and
leaves everything else, with keep-alive, pipelining, limits, TLS and shutdown, to uvicorn's own protocol class.

It fits in because a lane call looks to that class like one of its own request cycles (`response_complete`,
`keep_alive`, `message_event`): pipelined calls, of either kind, are answered in the order in which they came.
"""

import asyncio
import hmac
from asyncio import TimerHandle
from hashlib import sha256
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.call import Answer, Arrived
from gateway.errors import (
    BadCall,
    BodyTimeout,
    InferenceError,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from gateway.predict import Predictor, hang_up
from gateway.protocol import OpenInference
from gateway.steps import start

HEADER_BYTES_MAX = 64 * 1024
"""All headers of one request. nginx takes 32 KiB, Triton 64 KiB; a trace header and a key need 1 KiB."""
LINGER_SECONDS = 2.0
"""How long a connection whose body was cut short stays half open: long enough for a round trip and a read."""
OPEN_INFERENCE = OpenInference()
PREFIX = b"/v2/models/"
SUFFIX = b"/infer"
STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus} | {
    499: b"HTTP/1.1 499 Client Closed Request\r\n"
}


class LaneSettings:
    """What all connections of one worker share."""

    def __init__(
        self,
        predictor: Predictor,
        *,
        unit_header: str,
        body_bytes_max: int,
        body_seconds: float,
        keys: frozenset[bytes] | None,
        hosts: frozenset[bytes] | None,
    ) -> None:
        self.predictor = predictor
        self.unit_header = unit_header.lower().encode()
        self.body_bytes_max = body_bytes_max
        self.body_seconds = body_seconds
        self.keys = keys
        self.hosts = hosts

    def refusal(self, host: bytes | None, key: bytes | None) -> InferenceError | None:
        """Say why a call with this Host header and API key may not pass, or None.

        Every stored digest is compared, in constant time. A port that only this machine can reach checks the name that
        it is called by, so that no web page can reach it through a name that it points at this machine.
        """
        if self.hosts is not None and host is not None and _host_name(host) not in self.hosts:
            return BadCall(f"Host: {host.decode('latin-1')}, expected a loopback name: this port is local")
        if self.keys is None:
            return None
        digest = sha256(key or b"").hexdigest().encode()
        if sum(hmac.compare_digest(digest, known) for known in self.keys) == 0:
            return Unauthorized("API key: missing or unknown, expected X-API-Key or Authorization: Bearer")
        return None


class LaneCall:
    """One inference call on one connection; to uvicorn's class it is a request cycle."""

    def __init__(self, protocol: "LaneProtocol", arrived: Arrived, *, keep_alive: bool) -> None:
        self.protocol = protocol
        self.arrived = arrived
        self.keep_alive = keep_alive
        self.body = bytearray()
        self.more_body = True
        self.begun = False
        self.cut_short = False
        self.disconnected = False
        self.response_complete = False
        self.message_event = self
        """uvicorn sets this when the connection is lost."""

    def set(self) -> None:
        """Take notice that the connection is gone."""
        if self.response_complete:
            return
        if self.more_body:
            self.refuse(BadCall(f"body: {len(self.body)} bytes came before the connection ended, expected all of it"))
        hang_up(self.arrived)

    def refuse(self, error: InferenceError) -> None:
        """Answer with an error without waiting for the rest of the body; the connection can't be used again."""
        if self.arrived.refused is None:
            self.arrived.refused = error
        self.keep_alive = False
        self.cut_short |= self.more_body
        self.more_body = False
        self.begin()

    def begin(self) -> None:
        """Predict, once the body is whole and it is this call's turn on the connection."""
        if self.more_body or self.begun or self.protocol.cycle_in_turn() is not self:
            return
        self.begun = True
        self.arrived.body = self.body
        start(self.protocol.shared.predictor.predict(self.arrived, self.reply))

    def reply(self, answer: Answer) -> None:
        """Write the answer and let the connection go on."""
        self.response_complete = True
        transport = self.protocol.transport
        if not transport.is_closing() and not self.protocol.ended:
            transport.write(self._encode(answer))
            if self.cut_short:
                # Closing at once, with bytes of the body still on their way, resets the connection, and a reset
                # takes the answer with it. So only our side ends, and the client has a moment to read.
                self.protocol.ended = True
                transport.write_eof()
                self.protocol.loop.call_later(LINGER_SECONDS, transport.close)
            elif not self.keep_alive:
                transport.close()
        self.protocol.on_response_complete()

    def _encode(self, answer: Answer) -> bytes:
        content_type = b"application/json" if answer.json_length is None else b"application/octet-stream"
        lines = [
            STATUS_LINES[answer.status],
            b"Content-Type: %b\r\nContent-Length: %d\r\n" % (content_type, len(answer.body)),
            f"Snowgate-Prediction-Id: {answer.prediction_id}\r\n".encode(),
        ]
        if answer.bundle is not None:
            lines.append(f"Snowgate-Bundle: {answer.bundle}\r\n".encode())
        if answer.variant is not None:
            lines.append(f"Snowgate-Variant: {answer.variant}\r\n".encode())
        if answer.json_length is not None:
            lines.append(b"Inference-Header-Content-Length: %d\r\n" % answer.json_length)
        if answer.status == Unavailable.status:
            lines.append(b"Retry-After: 1\r\n")
        if self.arrived.request_id is not None:
            lines.append(f"X-Request-Id: {self.arrived.request_id}\r\n".encode("latin-1"))
        if answer.traceparent is not None:
            lines.append(f"traceparent: {answer.traceparent}\r\n".encode())
        if not self.keep_alive:
            lines.append(b"Connection: close\r\n")
        lines.append(b"\r\n")
        lines.append(answer.body)
        return b"".join(lines)


class LaneProtocol(HttpToolsProtocol):
    """uvicorn's protocol class with a lane for inference."""

    def __init__(self, shared: LaneSettings, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shared = shared
        self.ended = False
        self._header_bytes = 0
        self._body_timer: TimerHandle | None = None
        self._pending: list[Any] = []

    def cycle_in_turn(self) -> Any:
        """The oldest request of this connection that has no answer yet."""
        return self._pending[0] if self._pending else None

    def on_message_begin(self) -> None:
        """Start to count the next request's header bytes."""
        self._header_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, within the limit."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > HEADER_BYTES_MAX:
            self.send_400_response(f"headers: more than {HEADER_BYTES_MAX} bytes")
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Take the request into the lane when it is inference, else leave it to ASGI."""
        if self.transport.is_closing():
            return
        place = lane_place(self.parser.get_method(), self.url)
        if place is None:
            super().on_headers_complete()
            self._pending.append(self.cycle)
            return
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        call = LaneCall(self, Arrived(*place, OPEN_INFERENCE), keep_alive=keep_alive)
        self.cycle = cast("Any", call)  # It has all that the class asks of a cycle.
        self._pending.append(call)
        self._read_headers(call)
        if len(self._pending) > 1:
            self.flow.pause_reading()
        if self.expect_100_continue and call.arrived.refused is None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _read_headers(self, call: LaneCall) -> None:
        arrived, key, host = call.arrived, None, None
        for name, value in self.headers:
            if name == b"inference-header-content-length":
                arrived.json_length = _count(call, name, value)
            elif name == b"content-length":
                length = _count(call, name, value)
                if length is not None and length > self.shared.body_bytes_max:
                    call.refuse(_too_large(length, self.shared.body_bytes_max))
            elif name == self.shared.unit_header:
                arrived.unit = value.decode("latin-1")
            elif name == b"x-request-id":
                arrived.request_id = value.decode("latin-1")
            elif name == b"traceparent":
                arrived.traceparent = _joined(arrived.traceparent, value)
            elif name == b"tracestate":
                arrived.tracestate = _joined(arrived.tracestate, value)
            elif name == b"content-encoding" and value.lower() != b"identity":
                shown = value.decode("latin-1")
                call.refuse(Unsupported(f"Content-Encoding: {shown}, expected none: send the body as it is"))
            elif name == b"host":
                host = value
            elif name == b"x-api-key":
                key = value
            elif name == b"authorization" and value[:7].lower() == b"bearer ":
                key = value[7:]
        refusal = self.shared.refusal(host, key)
        if refusal is not None:
            call.refuse(refusal)

    def on_body(self, body: bytes) -> None:
        """Collect a lane call's body, within the limit."""
        call: Any = self.cycle
        if not isinstance(call, LaneCall):
            super().on_body(body)
            return
        if not call.more_body:
            return
        if len(call.body) + len(body) > self.shared.body_bytes_max:
            call.refuse(_too_large(len(call.body) + len(body), self.shared.body_bytes_max))
            return
        call.body += body

    def on_message_complete(self) -> None:
        """The body is whole: predict, if it is this call's turn."""
        call: Any = self.cycle
        if not isinstance(call, LaneCall):
            super().on_message_complete()
            return
        call.more_body = False
        call.begin()

    def data_received(self, data: bytes) -> None:
        """Feed the parser; a lane call whose body is still incomplete gets a deadline for the rest."""
        super().data_received(data)
        call: Any = self.cycle
        waits = isinstance(call, LaneCall) and call.more_body
        if waits and self._body_timer is None:
            self._body_timer = self.loop.call_later(self.shared.body_seconds, self._body_late)
        elif not waits and self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _body_late(self) -> None:
        self._body_timer = None
        call: Any = self.cycle
        if isinstance(call, LaneCall) and call.more_body:
            came, seconds = len(call.body), self.shared.body_seconds
            call.refuse(BodyTimeout(f"body: {came} bytes came within {seconds:g} s, expected all of it"))

    def eof_received(self) -> Any:
        """A client that ends its side in the middle of a body is told so; one that waits for answers gets them."""
        call: Any = self.cycle
        if isinstance(call, LaneCall) and call.more_body:
            call.refuse(BadCall(f"body: {len(call.body)} bytes came before the connection ended, expected all of it"))
        for cycle in self._pending:
            cycle.keep_alive = False
        if self._pending:
            return True  # The transport stays open for writing.
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop what waits on this connection."""
        if self._body_timer is not None:
            self._body_timer.cancel()
        pending, self._pending = self._pending, []
        for cycle in pending:
            if isinstance(cycle, LaneCall):
                cycle.disconnected = True
                self._pending = [cycle]
                cycle.set()
        self._pending = []
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Let the next request of this connection have its turn."""
        if self._pending:
            self._pending.pop(0)
        following = self.cycle_in_turn()
        if not isinstance(following, LaneCall):
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            following.begin()

    def shutdown(self) -> None:
        """Drain: the calls that were accepted are answered, then the connection closes."""
        if self._pending:
            for cycle in self._pending:
                cycle.keep_alive = False
        else:
            self.transport.close()


def lane_place(method: bytes, url: bytes) -> tuple[str, str | None] | None:
    """Return the model and version of an inference URL, or None when it is for ASGI.

    >>> lane_place(b"POST", b"/v2/models/signs/infer")
    ('signs', None)
    >>> lane_place(b"POST", b"/v2/models/signs/versions/7/infer")
    ('signs', '7')
    >>> lane_place(b"GET", b"/v2/models/signs/infer")
    """
    path = url.partition(b"?")[0]
    if method != b"POST" or not path.startswith(PREFIX) or not path.endswith(SUFFIX):
        return None
    parts = [unquote_to_bytes(part).decode("utf-8", "replace") for part in path[len(PREFIX) : -len(SUFFIX)].split(b"/")]
    if len(parts) == 1 and parts[0]:
        return parts[0], None
    if len(parts) == 3 and parts[1] == "versions" and parts[0]:
        return parts[0], parts[2]
    return None


def _count(call: LaneCall, name: bytes, value: bytes) -> int | None:
    if value.isdigit() and len(value) < 16:
        return int(value)
    call.refuse(BadCall(f"{name.decode('latin-1')}: {value[:32].decode('latin-1')!r}, expected a count of bytes"))
    return None


def _joined(before: str | None, value: bytes) -> str:
    """A header that came twice means both; of two trace parents neither is valid then, as the specification wants."""
    text = value.decode("latin-1")
    return text if before is None else f"{before},{text}"


def _too_large(came: int, limit: int) -> TooLarge:
    return TooLarge(f"body: {came} bytes, expected at most {limit} ([server] max_body_bytes)")


def _host_name(host: bytes) -> bytes:
    """The name in a Host header, without the port.

    >>> _host_name(b"127.0.0.1:8080"), _host_name(b"[::1]:8080"), _host_name(b"localhost")
    (b'127.0.0.1', b'[::1]', b'localhost')
    """
    return host[: host.index(b"]") + 1] if host.startswith(b"[") and b"]" in host else host.partition(b":")[0]


def lane_protocol(shared: LaneSettings) -> type[asyncio.Protocol]:
    """Return the class for uvicorn's `http=`, bound to what the worker's connections share."""

    class BoundLaneProtocol(LaneProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(shared, *args, **kwargs)

    return BoundLaneProtocol
