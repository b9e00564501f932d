"""One HTTP/2 connection: frames in, streams opened, fed and closed, and every limit that a peer could run into.

What a peer can make us hold is bounded: the bytes of messages that have no answer yet by the connection's window, the
header block by `HEADER_BYTES_MAX`, calls by `STREAMS_MAX`, answers that it does not take by no longer reading what it
sends. A connection ends gently: the peer is told to open no more calls, those that are open get their answers.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from hpack import Decoder, HPACKError

from gateway.errors import BodyTimeout
from gateway.grpc import http2
from gateway.grpc.head import Head, read_head
from gateway.grpc.http2 import ConnectionFault, frame
from gateway.grpc.limits import Limits
from gateway.grpc.stream import Stream
from gateway.head import LaneSettings

STREAMS_MAX = 1_024
"""Calls on one connection at the same time. A client waits with more; a queue holds 2,048 calls."""
HEADER_BYTES_MAX = 16 * 1024
"""The header fields of one call, as gRPC's own servers have it."""
CONTINUATIONS_MAX = 8
"""A block of the largest size fits into two frames."""
RESETS_MAX = 1_000
"""Calls that a client may take back beyond those that it let us answer: more is an attack (CVE-2023-44487)."""
HEADS_MAX = 64
"""Header blocks whose meaning is remembered; a client has one for each method."""
KEEPALIVE_SECONDS = 60.0
"""A connection that is quiet for so long is asked whether it lives, and closed when it does not say so."""
ROUND_TRIP_SECONDS = 1.0
"""How long a peer may take to learn that it shall open no more calls."""
DRAIN_PING = b"snowgate"
SIZES = {http2.RST_STREAM: 4, http2.PRIORITY: 5, http2.PING: 8, http2.WINDOW_UPDATE: 4}
NOT_HTTP2 = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"this port speaks gRPC over HTTP/2 without TLS; the HTTP port is in the ready line of `snowgate serve`\n"
)


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(
        self,
        limits: Limits,
        shared: LaneSettings,
        open_call: Callable[[Stream], None],
        on_end: Callable[["Connection"], None],
        *,
        crowded: bool,
    ) -> None:
        """`crowded`: there are as many connections as may be, and this one is closed as soon as it is there."""
        self._crowded = crowded
        self.window = http2.WINDOW_START
        self._limits = limits
        self._shared = shared
        self._open_call = open_call
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._made = self._heard = self._loop.time()
        self._transport: asyncio.Transport
        self._left = b""
        self._greeted = False
        self._streams: dict[int, Stream] = {}
        self._waiting: dict[int, Stream] = {}
        self._last = 0
        self._stream_window = http2.WINDOW_START
        self._receivable = limits.connection_window
        self._released = 0
        self._release_at = limits.connection_window // 4
        self._resets = 0
        self._decoder = Decoder(HEADER_BYTES_MAX)
        self._heads: dict[bytes, Head] = {}
        self._partial: tuple[int, bool, list[bytes]] | None = None
        self._asked = False
        self._paused = False
        self._drains_since: float | None = None
        self._closing = False
        self._on_frame = {
            http2.DATA: self._on_data,
            http2.HEADERS: self._on_headers,
            http2.CONTINUATION: self._on_continuation,
            http2.RST_STREAM: self._on_reset,
            http2.SETTINGS: self._on_settings,
            http2.PING: self._on_ping,
            http2.WINDOW_UPDATE: self._on_window,
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the client's first words: one that speaks HTTP/1 shall be able to read our answer."""
        self._transport = cast("asyncio.Transport", transport)
        if self._crowded:
            self._transport.close()

    def _greet(self) -> None:
        """Say what we take."""
        self._greeted = True
        ours = {
            http2.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
            http2.INITIAL_WINDOW_SIZE: self._limits.stream_window,
            http2.MAX_HEADER_LIST_SIZE: HEADER_BYTES_MAX,
        }
        more = self._limits.connection_window - http2.WINDOW_START
        self.write(http2.settings(ours) + frame(http2.WINDOW_UPDATE, 0, 0, http2.number(more)))

    def data_received(self, data: bytes) -> None:
        """Read frames; a peer that breaks the rules is told which, and its connection ends."""
        self._heard = self._loop.time()
        self._asked = False
        if self._closing and not self._streams:
            return
        data = self._left + data if self._left else data
        try:
            self._left = self._read(data)
        except ConnectionFault as fault:
            self._left = b""
            self._end(fault.code, str(fault))

    def _read(self, data: bytes) -> bytes:
        """Handle every whole frame, and return the rest."""
        at, size = 0, len(data)
        if not self._greeted:
            start = data[: len(http2.PREFACE)]
            if not http2.PREFACE.startswith(start):
                self.write(NOT_HTTP2)
                self._transport.close()
                return b""
            if len(start) < len(http2.PREFACE):
                return data
            self._greet()
            at = len(start)
        while size - at >= http2.FRAME.size:
            high, low, kind, flags, number = http2.FRAME.unpack_from(data, at)
            length = high << 8 | low
            if length > http2.FRAME_BYTES:
                raise ConnectionFault(http2.FRAME_SIZE_ERROR, f"frame of {length} bytes, expected at most 16384")
            after = at + http2.FRAME.size + length
            if after > size:
                break
            if SIZES.get(kind, length) != length:
                raise ConnectionFault(http2.FRAME_SIZE_ERROR, f"frame of type {kind} with {length} bytes")
            if self._partial is not None and kind != http2.CONTINUATION:
                raise ConnectionFault(http2.PROTOCOL_ERROR, f"frame of type {kind} in the middle of a header block")
            handle = self._on_frame.get(kind)
            if handle is not None:
                handle(flags, number & http2.WINDOW_MAX, data[at + http2.FRAME.size : after])
            elif kind == http2.PUSH_PROMISE:
                raise ConnectionFault(http2.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
            at = after
        return data[at:]

    def _on_data(self, flags: int, number: int, payload: bytes) -> None:
        shared, size = self._shared, len(payload)
        content = http2.unpadded(http2.PADDED, payload) if flags & http2.PADDED else payload
        stream = self._streams.get(number)
        if size > self._receivable:
            raise ConnectionFault(http2.FLOW_CONTROL_ERROR, "more data than the connection's window")
        if stream is None and number > self._last and not self._closing:
            raise ConnectionFault(http2.PROTOCOL_ERROR, f"DATA for stream {number}, which was never opened")
        # From here on every byte is counted, and released once.
        self._receivable -= size
        shared.waiting.held += size
        if stream is None or stream.ended:
            self.release(size)  # Of a call that has its answer already.
            return
        if size > len(content):
            self.release(size - len(content))
        if shared.waiting.held > shared.waiting.limit:
            stream.refuse(shared.waiting.refusal())
        stream.receive(content, end=bool(flags & http2.END_STREAM))

    def _on_headers(self, flags: int, number: int, payload: bytes) -> None:
        block, end = http2.unpadded(flags, payload), bool(flags & http2.END_STREAM)
        if flags & http2.END_HEADERS:
            self._on_block(number, block, end=end)
        else:
            self._partial = (number, end, [block])

    def _on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._partial is None or self._partial[0] != number:
            raise ConnectionFault(http2.PROTOCOL_ERROR, "CONTINUATION of nothing")
        _number, end, blocks = self._partial
        blocks.append(payload)
        if len(blocks) > CONTINUATIONS_MAX:
            raise ConnectionFault(http2.ENHANCE_YOUR_CALM, f"header block of more than {HEADER_BYTES_MAX} bytes")
        if flags & http2.END_HEADERS:
            self._partial = None
            self._on_block(number, b"".join(blocks), end=end)

    def _on_block(self, number: int, block: bytes, *, end: bool) -> None:
        """Open a call, or end one whose client sends trailers."""
        head = self._head(block)
        stream = self._streams.get(number)
        if stream is not None:
            if not end or stream.ended:
                raise ConnectionFault(http2.PROTOCOL_ERROR, f"a second header block for stream {number}")
            stream.receive(b"", end=True)
            return
        if number % 2 == 0:
            raise ConnectionFault(http2.PROTOCOL_ERROR, f"stream {number} from a client, expected an odd number")
        if number <= self._last or self._closing:
            return  # A call that has its answer already, or came after our last word.
        self._last = number
        if len(self._streams) >= STREAMS_MAX:
            self.write(frame(http2.RST_STREAM, 0, number, http2.number(http2.REFUSED_STREAM)))
            return
        stream = Stream(self, number, head, window=self._stream_window, limit=self._limits.message_bytes)
        self._streams[number] = stream
        self._open_call(stream)
        if end and not stream.closed:
            stream.receive(b"", end=True)

    def _head(self, block: bytes) -> Head:
        """Read a header block. One that only points into the table means the same as long as the table stays."""
        head = self._heads.get(block)
        if head is not None:
            return head
        try:
            fields = self._decoder.decode(block, raw=True)
        except HPACKError as error:
            raise ConnectionFault(http2.COMPRESSION_ERROR, f"header block: {error}") from None
        head = read_head(cast("list[tuple[bytes, bytes]]", fields), self._shared.unit_header)
        # Bytes from 0x80 to 0xfe are indexed fields of one byte each; anything else may have changed the table.
        if not block or min(block) < 0x80 or max(block) == 0xFF or len(self._heads) >= HEADS_MAX:
            self._heads.clear()
        else:
            self._heads[block] = head
        return head

    def _on_reset(self, _flags: int, number: int, _payload: bytes) -> None:
        self._waiting.pop(number, None)
        stream = self._streams.pop(number, None)
        if stream is not None:
            self._resets += 1
            stream.lose()
        if self._resets > RESETS_MAX:
            raise ConnectionFault(http2.ENHANCE_YOUR_CALM, f"{self._resets} calls were taken back, answered were fewer")
        self._close_when_done()

    def _on_settings(self, flags: int, _number: int, payload: bytes) -> None:
        if flags & http2.ACK:
            return
        initial = self._stream_window
        for name, value in http2.read_settings(payload):
            if name == http2.INITIAL_WINDOW_SIZE:
                if value > http2.WINDOW_MAX:
                    raise ConnectionFault(http2.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE of {value}")
                initial = value
        # The last word counts: one frame can say it 2,730 times, and each would walk all streams.
        if initial != self._stream_window:
            for stream in self._streams.values():
                stream.window += initial - self._stream_window
            self._stream_window = initial
        self.write(frame(http2.SETTINGS, http2.ACK, 0))
        self._pump()

    def _on_ping(self, flags: int, _number: int, payload: bytes) -> None:
        if not flags & http2.ACK:
            self.write(frame(http2.PING, http2.ACK, 0, payload))
        elif payload == DRAIN_PING and self._drains_since is not None and not self._closing:
            self._last_word()

    def _on_window(self, _flags: int, number: int, payload: bytes) -> None:
        more = int.from_bytes(payload, "big") & http2.WINDOW_MAX
        stream = self._streams.get(number)
        if number == 0:
            self.window += more
        elif stream is not None:
            stream.window += more
        if more == 0 or self.window > http2.WINDOW_MAX or (stream is not None and stream.window > http2.WINDOW_MAX):
            raise ConnectionFault(http2.FLOW_CONTROL_ERROR, f"WINDOW_UPDATE by {more}, outside of 1 to 2^31 - 1")
        if number == 0:
            self._pump()
        elif self._waiting.pop(number, None) is not None and stream is not None:
            stream.pump()

    def _pump(self) -> None:
        """Let the streams go on that waited for room in a window, as long as the connection has some."""
        if self.window <= 0:
            return
        waiting, self._waiting = self._waiting, {}
        for stream in waiting.values():
            stream.pump()

    def write(self, data: bytes) -> None:
        """As `Carrier.write`. What is written in one turn of the event loop leaves together."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def wait(self, stream: Stream) -> None:
        """As `Carrier.wait`."""
        self._waiting[stream.number] = stream

    def take(self, size: int) -> None:
        """As `Carrier.take`."""
        self._shared.waiting.take(size)

    def give_back(self, size: int) -> None:
        """As `Carrier.give_back`."""
        self._shared.waiting.release(size)

    def release(self, size: int) -> None:
        """As `Carrier.release`. The peer is told when a quarter of the window is free again."""
        self._shared.waiting.release(size)
        self._released += size
        if self._released >= self._release_at:
            self.write(frame(http2.WINDOW_UPDATE, 0, 0, http2.number(self._released)))
            self._receivable += self._released
            self._released = 0

    def close(self, stream: Stream) -> None:
        """As `Carrier.close`."""
        self._streams.pop(stream.number, None)
        self._resets = max(0, self._resets - 1)
        if not stream.ended:
            self.write(frame(http2.RST_STREAM, 0, stream.number, http2.number(http2.NO_ERROR)))
        self._close_when_done()

    def pause_writing(self) -> None:
        """The client does not take its answers: read no more of its questions."""
        self._paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It does again."""
        self._paused = False
        self._heard = self._loop.time()
        self._transport.resume_reading()

    def eof_received(self) -> None:
        """A client that ends its side waits for nothing; the transport closes."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits for any answer on this connection."""
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.lose()
        self._on_end(self)

    def drain(self) -> None:
        """Take no more calls, answer those that are open, and close.

        The peer learns it by a first GOAWAY; calls that were under way meanwhile are still taken. When it has answered
        our PING it knows, and the second GOAWAY says which was the last.
        """
        if not self._greeted:
            self._transport.close()
        elif self._drains_since is None:
            self._drains_since = self._loop.time()
            self.write(_goaway(http2.WINDOW_MAX, http2.NO_ERROR, "") + frame(http2.PING, 0, 0, DRAIN_PING))

    def _last_word(self) -> None:
        self._closing = True
        self.write(_goaway(self._last, http2.NO_ERROR, ""))
        for stream in list(self._streams.values()):
            stream.handler.drain()
        self._close_when_done()

    def _close_when_done(self) -> None:
        if self._closing and not self._streams:
            self._transport.close()

    def _end(self, code: int, message: str) -> None:
        """Say why, and end the connection with all that is open on it."""
        self.write(_goaway(self._last, code, message))
        self._transport.close()

    def tick(self, now: float) -> None:
        """Look at the clock: bodies that are late, silence, age. `now` is the event loop's time."""
        limits = self._limits
        for stream in list(self._streams.values()):
            if stream.late_ns > limits.body_seconds * 1e9:
                stream.refuse(BodyTimeout(f"message: not whole within {limits.body_seconds:g} s, expected all of it"))
        if not self._greeted and now - self._made > limits.body_seconds:
            self._transport.close()
        elif self._drains_since is not None:
            if now - self._drains_since > limits.grace_seconds:
                if self._transport.is_closing():
                    self._transport.abort()  # It does not even take our last words.
                self._end(http2.NO_ERROR, "the grace time is over")
            elif now - self._drains_since > ROUND_TRIP_SECONDS and not self._closing:
                self._last_word()
        elif now - self._made > limits.connection_seconds:
            self.drain()
        elif self._paused:
            pass  # Its silence is ours: while it takes what we have sent, we do not listen.
        elif now - self._heard > 2 * KEEPALIVE_SECONDS:
            self._transport.abort()
        elif now - self._heard > KEEPALIVE_SECONDS and not self._asked:
            self._asked = True
            self.write(frame(http2.PING, 0, 0, b"\0" * 8))


def _goaway(last: int, code: int, message: str) -> bytes:
    return frame(http2.GOAWAY, 0, 0, http2.number(last) + http2.number(code) + message.encode())
