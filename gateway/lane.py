"""The fast lane: inference is answered inside the HTTP server's protocol class, below ASGI.

Going through ASGI, a task, a scope, an application stack and three awaited messages a call, costs as much as all the
rest of a small prediction. So `LaneProtocol` takes `POST /v2/models/{model}[/versions/{version}]/infer` itself and
leaves everything else, with keep-alive, pipelining, limits, TLS and shutdown, to uvicorn's own protocol class.

It fits in because a lane call looks to that class like one of its own request cycles (`response_complete`,
`keep_alive`, `message_event`): pipelined calls, of either kind, are answered in the order in which they came.
"""

import asyncio
from asyncio import TimerHandle
from functools import lru_cache
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.call import Answer, Arrived
from gateway.errors import (
    BadCall,
    BodyTimeout,
    InferenceError,
    Unavailable,
)
from gateway.head import Head, LaneSettings, lane_place, too_large
from gateway.predict import hang_up
from gateway.protocol import OpenInference
from gateway.steps import start

HEADER_BYTES_MAX = 64 * 1024
"""All headers of one request. nginx takes 32 KiB, Triton 64 KiB; a trace header and a key need 1 KiB."""
HEAD_END = b"\r\n\r\n"
HEADS_MAX = 4_096
"""Heads that a worker remembers: 64 clients whose bodies have 64 lengths; at 1 KB each (500 B usually) 4 MB."""
LINGER_SECONDS = 2.0
"""How long a connection whose body was cut short stays half open: long enough for a round trip and a read."""
OPEN_INFERENCE = OpenInference()
STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus} | {
    499: b"HTTP/1.1 499 Client Closed Request\r\n"
}


class LaneCall:
    """One inference call on one connection; to uvicorn's class it is a request cycle."""

    begun = False
    cut_short = False
    disconnected = False
    more_body = True
    response_complete = False

    def __init__(self, protocol: "LaneProtocol", head: Head) -> None:
        self.protocol = protocol
        self.head = head
        self.keep_alive = head.keep_alive
        self.body: bytes | bytearray = b""
        self.arrived = Arrived(
            head.model,
            head.version,
            OPEN_INFERENCE,
            b"",
            head.json_length,
            head.unit,
            head.request_id,
            head.traceparent,
            head.tracestate,
        )

    @property
    def message_event(self) -> "LaneCall":
        """The event that uvicorn sets when the connection is lost."""
        return self

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
        protocol = self.protocol
        transport = protocol.transport
        if not transport.is_closing() and not protocol.ended:
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
        source = b"" if answer.bundle is None else _source_lines(answer.bundle, answer.variant)
        more = b""
        if answer.json_length is not None:
            more = b"Inference-Header-Content-Length: %d\r\n" % answer.json_length
        if answer.status == Unavailable.status:
            more += b"Retry-After: 1\r\n"
        if self.arrived.request_id is not None:
            more += f"X-Request-Id: {self.arrived.request_id}\r\n".encode("latin-1")
        if answer.traceparent is not None:
            more += f"traceparent: {answer.traceparent}\r\n".encode()
        if not self.keep_alive:
            more += b"Connection: close\r\n"
        return b"%bContent-Type: %b\r\nContent-Length: %d\r\nSnowgate-Prediction-Id: %b\r\n%b%b\r\n%b" % (
            STATUS_LINES[answer.status],
            b"application/json" if answer.json_length is None else b"application/octet-stream",
            len(answer.body),
            answer.prediction_id.encode(),
            source,
            more,
            answer.body,
        )


@lru_cache(maxsize=1024)
def _source_lines(bundle: str, variant: str | None) -> bytes:
    lines = f"Snowgate-Bundle: {bundle}\r\n"
    return (lines if variant is None else f"{lines}Snowgate-Variant: {variant}\r\n").encode()


class LaneProtocol(HttpToolsProtocol):
    """uvicorn's protocol class with a lane for inference."""

    def __init__(self, shared: LaneSettings, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shared = shared
        self.ended = False
        self._between = True
        """Whether the parser is between two requests: it has nothing of the next one."""
        self._header_bytes = 0
        self._body_timer: TimerHandle | None = None
        self._idle_since = 0.0
        self._pending: list[Any] = []

    def cycle_in_turn(self) -> Any:
        """The oldest request of this connection that has no answer yet."""
        return self._pending[0] if self._pending else None

    def on_message_begin(self) -> None:
        """Start to count the next request's header bytes."""
        self._between = False
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
        head = Head(*place, keep_alive=keep_alive)
        refusal = head.read(self.headers, self.shared)
        call = LaneCall(self, head)
        self.cycle = cast("Any", call)  # It has all that the class asks of a cycle.
        self._pending.append(call)
        if refusal is not None:
            call.refuse(refusal)
        if len(self._pending) > 1:
            self.flow.pause_reading()
        if self.expect_100_continue and call.arrived.refused is None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Collect a lane call's body, within the limit."""
        call: Any = self.cycle
        if not isinstance(call, LaneCall):
            super().on_body(body)
            return
        if not call.more_body:
            return
        if len(call.body) + len(body) > self.shared.body_bytes_max:
            call.refuse(too_large(len(call.body) + len(body), self.shared.body_bytes_max))
            return
        if not call.body:
            call.body = body  # Most bodies come in one piece, which then is not copied.
            return
        if isinstance(call.body, bytes):
            call.body = bytearray(call.body)
        call.body += body

    def on_message_complete(self) -> None:
        """The body is whole: predict, if it is this call's turn."""
        self._between = True
        call: Any = self.cycle
        if not isinstance(call, LaneCall):
            super().on_message_complete()
            return
        call.more_body = False
        call.begin()

    def data_received(self, data: bytes) -> None:
        """Take one whole request whose head is known, or feed the parser.

        A lane call whose body is still incomplete gets a deadline for the rest.
        """
        heads, raw = self.shared.heads, b""
        end = data.find(HEAD_END)
        if end > 0 and self._between and not self._pending:
            end += len(HEAD_END)
            raw = data[:end]
            head = heads.get(raw)
            if head is not None and len(data) - end == head.length:
                self._take(head, data[end:])
                return
        super().data_received(data)
        call: Any = self.cycle
        if raw and _can_be_remembered(call, raw, data):
            if len(heads) >= HEADS_MAX:
                heads.clear()
            heads[raw] = call.head
        waits = isinstance(call, LaneCall) and call.more_body
        if waits and self._body_timer is None:
            self._body_timer = self.loop.call_later(self.shared.body_seconds, self._body_late)
        elif not waits and self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _take(self, head: Head, body: bytes) -> None:
        """Take a whole request without the parser, which stays between two requests."""
        call = LaneCall(self, head)
        call.more_body = False
        call.body = body
        self.cycle = cast("Any", call)
        self._pending.append(call)
        call.begin()

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
        for timer in (self._body_timer, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
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
        self._idle_since = self.loop.time()
        following = self.cycle_in_turn()
        if following is not None and not isinstance(following, LaneCall):
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if following is not None:
            following.begin()
            return
        # One timer for as long as the connection lives: to set and cancel one for each request costs more than to look
        # at the time.
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it was idle all the time, else wait for the rest of it."""
        self.timeout_keep_alive_task = None
        idle = self.loop.time() - self._idle_since
        if self._pending or not self._between or idle < self.timeout_keep_alive:
            remaining = max(self.timeout_keep_alive - idle, 1.0)
            self.timeout_keep_alive_task = self.loop.call_later(remaining, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """Drain: the calls that were accepted are answered, then the connection closes."""
        if self._pending:
            for cycle in self._pending:
                cycle.keep_alive = False
        else:
            self.transport.close()


def _can_be_remembered(call: Any, raw: bytes, data: bytes) -> bool:
    """Whether these bytes were the head of one lane call, in order, and the rest of `data` its whole body."""
    if not isinstance(call, LaneCall) or call.arrived.refused is not None or not call.head.keep_alive:
        return False
    if call.head.traceparent is not None or call.head.request_id is not None:
        return False  # No other call has the same.
    return call.head.length == len(call.body) == len(data) - len(raw)


def lane_protocol(shared: LaneSettings) -> type[asyncio.Protocol]:
    """Return the class for uvicorn's `http=`, bound to what the worker's connections share."""

    class BoundLaneProtocol(LaneProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(shared, *args, **kwargs)

    return BoundLaneProtocol
