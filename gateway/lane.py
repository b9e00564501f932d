"""The fast lane: inference is answered inside the HTTP server's protocol class, below ASGI.

Going through ASGI, a task, a scope, an application stack and three awaited messages a call, costs as much as all the
rest of a small prediction. So `LaneProtocol` takes `POST /v2/models/{model}[/versions/{version}]/infer` itself and
leaves everything else, with keep-alive, TLS and shutdown, to uvicorn's own protocol class (within `connection`'s
limits).

It fits in because a lane call looks to that class like one of its own request cycles (`response_complete`,
`keep_alive`, `message_event`): pipelined calls, of either kind, are answered in the order in which they came.
"""

import asyncio
from typing import Any, cast

from gateway.connection import Connection
from gateway.errors import BadCall, BodyTimeout
from gateway.head import Head, LaneSettings, lane_place, too_large
from gateway.lane_call import LaneCall

HEAD_END = b"\r\n\r\n"
HEADS_MAX = 4_096
"""Heads that a worker remembers: 64 clients whose bodies have 64 lengths."""
KNOWN_BYTES_MAX = 2_048
"""The longest head that is remembered (500 B are usual, a signed token takes 1 KB more): 8 MB in all."""


class LaneProtocol(Connection):
    """A connection with a lane for inference."""

    def take(self) -> None:
        """Take the request into the lane when it is inference, else leave it to ASGI."""
        place = lane_place(self.parser.get_method(), self.url)
        if place is None:
            super().take()
            return
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        head = Head(*place, keep_alive=keep_alive)
        refusal = head.read(self.headers, self.shared)
        call = LaneCall(self, head)
        self.cycle = cast("Any", call)  # It has all that the class asks of a cycle.
        self.pending.append(call)
        if refusal is not None:
            call.refuse(refusal)
        if len(self.pending) > 1:
            self.flow.pause_reading()
        if self.expect_100_continue and call.arrived.refused is None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def take_body(self, body: bytes) -> None:
        """Collect a lane call's body, within the limits."""
        call: Any = self.cycle
        if not isinstance(call, LaneCall):
            super().take_body(body)
            return
        if not call.more_body:
            return
        if len(call.body) + len(body) > self.shared.body_bytes_max:
            call.refuse(too_large(len(call.body) + len(body), self.shared.body_bytes_max))
            return
        if not call.hold(len(body)):
            return
        if not call.body:
            call.body = body  # Most bodies come in one piece, which then is not copied.
            return
        if isinstance(call.body, bytes):
            call.body = bytearray(call.body)
        call.body += body

    def take_end(self) -> None:
        """The body is whole: predict, if it is this call's turn."""
        call: Any = self.cycle
        if not isinstance(call, LaneCall):
            super().take_end()
            return
        call.more_body = False
        call.begin()

    def data_received(self, data: bytes) -> None:
        """Take one whole request whose head is known, or feed the parser."""
        heads, raw = self.shared.heads, b""
        end = data.find(HEAD_END)
        if end > 0 and self._between and not self.pending and not self.health_only and not self.ended:
            end += len(HEAD_END)
            raw = data[:end]
            head = heads.get(raw)
            if head is not None and len(data) - end == head.length:
                self._take_known(head, data[end:])
                return
        before = self.cycle
        super().data_received(data)
        call: Any = self.cycle
        # If it is the call before still, then this was no call: no head of its may stand for these bytes.
        if 0 < len(raw) <= KNOWN_BYTES_MAX and call is not before and _can_be_remembered(call, raw, data):
            if len(heads) >= HEADS_MAX:
                heads.clear()
            heads[raw] = call.head

    def _take_known(self, head: Head, body: bytes) -> None:
        """Take a whole request without the parser, which stays between two requests."""
        call = LaneCall(self, head)
        call.more_body = False
        self.cycle = cast("Any", call)
        self.pending.append(call)
        if call.hold(len(body)):
            call.body = body
            call.begin()

    def body_late(self) -> None:
        """A lane call's body does not come: the client is told how much of it did."""
        call: Any = self.cycle
        if not isinstance(call, LaneCall):
            super().body_late()
        elif call.more_body:
            came, seconds = len(call.body), self.shared.body_seconds
            call.refuse(BodyTimeout(f"body: {came} bytes came within {seconds:g} s, expected all of it"))

    def send_400_response(self, msg: str) -> None:
        """A lane call whose body can't be read, such as chunks that are none, is refused as any other."""
        call: Any = self.cycle
        if self._taken and isinstance(call, LaneCall) and call.more_body:
            call.refuse(BadCall(f"body: {len(call.body)} bytes came, and then no HTTP: {msg}"))
        else:
            super().send_400_response(msg)

    def eof_received(self) -> Any:
        """A client that ends its side in the middle of a body is told so; one that waits for answers gets them."""
        call: Any = self.cycle
        if isinstance(call, LaneCall) and call.more_body:
            call.refuse(BadCall(f"body: {len(call.body)} bytes came before the connection ended, expected all of it"))
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop what waits on this connection."""
        pending, self.pending = self.pending, []
        for cycle in pending:
            if isinstance(cycle, LaneCall):
                cycle.disconnected = True
                self.pending = [cycle]
                cycle.set()
        self.pending = []
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Let the next request of this connection have its turn."""
        if self.pending:
            self.pending.pop(0)
        self._idle_since = self.loop.time()
        following = self.cycle_in_turn()
        if following is not None and not isinstance(following, LaneCall):
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.next_turn()
            if following is None:
                self.keep_alive_from_now()

    def next_turn(self) -> None:
        """Read again, and begin the next call; unless the client does not read its answers."""
        super().next_turn()
        following = self.cycle_in_turn()
        if isinstance(following, LaneCall) and not self.flow.write_paused:
            following.begin()


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
