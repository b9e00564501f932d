"""One call on a connection: gRPC's messages in and out of HTTP/2's data, within the windows.

Source: gRPC's `PROTOCOL-HTTP2.md`: each message is a flag (compressed or not), its length in 32 bits, and its bytes.
"""

import zlib
from collections import deque
from struct import Struct
from time import perf_counter_ns
from typing import Protocol

from gateway.errors import BadCall, InferenceError, TooLarge, Unsupported
from gateway.grpc.head import Head
from gateway.grpc.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME,
    FRAME_BYTES,
    HEADERS,
    WINDOW_UPDATE,
    frame,
    headers,
    number,
)
from gateway.grpc.status import START, trailers

PREFIX = Struct(">BL")
ZLIB_WINDOWS = {"gzip": 31, "deflate": 15}
"""How zlib is told which of the encodings it is."""


class Carrier(Protocol):
    """What a stream needs of its connection."""

    window: int
    """Bytes that may be sent on the connection as a whole."""

    def write(self, data: bytes) -> None:
        """Send frames."""
        ...

    def wait(self, stream: "Stream") -> None:
        """Call the stream's `pump` when there is room in a window again."""
        ...

    def take(self, size: int) -> None:
        """Count bytes as waiting in the worker. Raises Unavailable: there would be too many."""
        ...

    def give_back(self, size: int) -> None:
        """Take notice that so many of them wait no longer."""
        ...

    def release(self, size: int) -> None:
        """Take notice that so many received bytes are no longer held."""
        ...

    def close(self, stream: "Stream") -> None:
        """Forget a stream that has its whole answer."""
        ...


class Handler(Protocol):
    """Answers one call."""

    patient: bool
    """Whether the client may take its time: a stream of messages, not one that is waited for."""

    def message(self, data: bytes) -> None:
        """Take one message."""
        ...

    def ended(self) -> None:
        """Take notice that the client has sent all."""
        ...

    def refuse(self, error: InferenceError) -> None:
        """Answer with an error: what the client sends can't be taken."""
        ...

    def gone(self) -> None:
        """Take notice that nobody waits for the answer any more."""
        ...

    def drain(self) -> None:
        """Come to an end soon; a call with one answer does so by itself."""
        ...


class Stream:
    """One call. `handler` is set by whoever opened it."""

    __slots__ = (
        "_body",
        "_carrier",
        "_credit",
        "_held",
        "_inflated",
        "_limit",
        "_outgoing",
        "_refused",
        "_started",
        "_trailers",
        "closed",
        "ended",
        "handler",
        "head",
        "number",
        "started_ns",
        "waiting_bytes",
        "window",
    )

    def __init__(self, carrier: Carrier, number: int, head: Head, *, window: int, limit: int) -> None:
        """`window` is what the peer takes before it is asked again; `limit` is the largest message, in bytes."""
        self.number = number
        self.head = head
        self.window = window
        self.started_ns = perf_counter_ns()
        self.ended = False
        self.closed = False
        self.handler: Handler
        self._carrier = carrier
        self._limit = limit
        self._body = bytearray()
        self._credit = 0
        self._held = 0
        """Bytes of the connection's window, which the peer gets back with the answer."""
        self._inflated = 0
        """What compressed messages became."""
        self._outgoing: deque[memoryview] = deque()
        self.waiting_bytes = 0
        """Bytes of messages that wait for the client to take them."""
        self._trailers: bytes | None = None
        self._started = False
        self._refused = False

    @property
    def late_ns(self) -> int:
        """For how long the rest of the client's message has been waited for; 0 when nothing is."""
        waits = not (self.ended or self._refused or self.handler.patient)
        return perf_counter_ns() - self.started_ns if waits else 0

    def receive(self, data: bytes, *, end: bool) -> None:
        """Take what came for this call, and hand on each message that is whole."""
        if self._refused:
            self._carrier.release(len(data))
            self.ended |= end
            return
        self.ended |= end
        try:
            if not self._body and (message := self._whole(data)) is not None:
                self.handler.message(message)
            else:
                self._body += data
                while (message := self._take()) is not None:
                    self.handler.message(message)
            if end and self._body:
                raise BadCall(f"message: {len(self._body)} bytes came before the stream ended, expected more")
        except InferenceError as error:
            self.refuse(error)
            return
        if end and not self.closed:
            self.handler.ended()

    def _whole(self, data: bytes) -> bytes | None:
        """Return the one message that `data` is, neither more nor less; that is how most calls come."""
        if len(data) < PREFIX.size or data[0]:
            return None
        if int.from_bytes(data[1:5], "big") != len(data) - PREFIX.size:
            return None
        self._release(len(data))
        return data[PREFIX.size :]

    def _take(self) -> bytes | None:
        """Take one whole message off the body. Raises TooLarge, BadCall, Unsupported, Unavailable."""
        body = self._body
        if len(body) < PREFIX.size or self.closed:
            return None
        compressed, size = PREFIX.unpack_from(body)
        if size > self._limit:
            raise TooLarge(f"message: {size} bytes, expected at most {self._limit} ([server] max_body_bytes)")
        whole = PREFIX.size + size
        if len(body) < whole:
            return None
        with memoryview(body) as view:
            message = bytes(view[PREFIX.size : whole])
        del body[:whole]
        self._release(whole)
        if not compressed:
            return message
        message = self._inflate(message)
        if not self.handler.patient:
            self._carrier.take(len(message))
            self._inflated += len(message)
        return message

    def _inflate(self, message: bytes) -> bytes:
        encoding = self.head.encoding
        if encoding not in ZLIB_WINDOWS:
            raise Unsupported(f"grpc-encoding: {encoding!r}, expected identity, gzip or deflate")
        inflater = zlib.decompressobj(ZLIB_WINDOWS[encoding])
        try:
            inflated = inflater.decompress(message, self._limit + 1)
        except zlib.error as error:
            raise BadCall(f"message: not {encoding}: {error}") from None
        if len(inflated) > self._limit:
            raise TooLarge(f"message: more than {self._limit} bytes once inflated, expected at most so many")
        if not inflater.eof:
            raise BadCall(f"message: {encoding} that ends too early after {len(inflated)} bytes")
        return inflated

    def _release(self, size: int) -> None:
        """Let the client send more: at once on a stream of messages, else only when this call has its answer."""
        if not self.handler.patient:
            self._held += size
            return
        self._carrier.release(size)
        self._credit += size
        if not self.ended and self._credit >= FRAME_BYTES:
            self._carrier.write(frame(WINDOW_UPDATE, 0, self.number, number(self._credit)))
            self._credit = 0

    def refuse(self, error: InferenceError) -> None:
        """Take no more of this call, and let its handler say why."""
        if self._refused or self.closed:
            return
        self._refused = True
        self._drop_body()
        self.handler.refuse(error)

    def answer(self, initial: bytes, message: bytes, last: bytes) -> None:
        """Send a whole answer with one message: in one piece where the windows have room for it."""
        size = PREFIX.size + len(message)
        if self.closed:
            return
        if size > FRAME_BYTES or size > self._carrier.window or size > self.window or len(initial) > FRAME_BYTES:
            self.start(initial)
            self.send(message)
            self.finish(last)
            return
        self._carrier.window -= size
        parts = (
            FRAME.pack(len(initial) >> 8, len(initial) & 0xFF, HEADERS, END_HEADERS, self.number),
            initial,
            FRAME.pack(size >> 8, size & 0xFF, DATA, 0, self.number),
            PREFIX.pack(0, len(message)),
            message,
            FRAME.pack(len(last) >> 8, len(last) & 0xFF, HEADERS, END_HEADERS | END_STREAM, self.number),
            last,
        )
        self._carrier.write(b"".join(parts))
        self._close()

    def start(self, initial: bytes) -> None:
        """Send what stands before the messages."""
        if not (self.closed or self._started):
            self._started = True
            self._carrier.write(headers(self.number, initial))

    def send(self, message: bytes) -> None:
        """Send one message of several, as the windows allow."""
        if not self.closed:
            self._outgoing.append(memoryview(PREFIX.pack(0, len(message)) + message))
            self.waiting_bytes += PREFIX.size + len(message)
            self.pump()

    def finish(self, last: bytes) -> None:
        """Send what stands behind the messages, when they are gone."""
        if not self.closed and self._trailers is None:
            self._trailers = last
            self.pump()

    def fail(self, status: int, message: str) -> None:
        """End the call with an error."""
        self.finish(trailers(status, message))

    def pump(self) -> None:
        """Send what waits, as far as the windows have room."""
        while self._outgoing:
            first = self._outgoing[0]
            room = min(len(first), FRAME_BYTES, self._carrier.window, self.window)
            if room <= 0:
                self._carrier.wait(self)
                return
            self._carrier.window -= room
            self.window -= room
            self.waiting_bytes -= room
            self._carrier.write(frame(DATA, 0, self.number, bytes(first[:room])))
            if room == len(first):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = first[room:]
        if self._trailers is not None:
            # Where nothing was sent before, one block is both what stands before and behind.
            last = self._trailers if self._started else START + self._trailers
            self._carrier.write(headers(self.number, last, end=True))
            self._close()

    def _close(self) -> None:
        self._let_go()
        self._carrier.close(self)

    def _let_go(self) -> None:
        self.closed = True
        self._carrier.release(self._held)
        self._carrier.give_back(self._inflated)
        self._held = self._inflated = 0
        self._drop_body()

    def lose(self) -> None:
        """The client does not wait for the answer any more."""
        if self.closed:
            return
        self._let_go()
        self._outgoing.clear()
        self.waiting_bytes = 0
        self.handler.gone()

    def _drop_body(self) -> None:
        self._carrier.release(len(self._body))
        self._body.clear()
