"""One connection of the data port within its limits, whatever it carries: uvicorn's protocol class, made strict.

A client costs what it sends, and here is what it can't do: hold a connection open without a request, or with half of
one; send requests faster than their answers leave; make answers and not read them; take all connections. What is beyond
a limit is answered with the reason where it still can be, and the connection ends.

Requests of one connection are answered in the order in which they came. `pending` are those without an answer yet,
each one uvicorn's request cycle or something that looks like one (`response_complete`, `keep_alive`, `message_event`).
"""

from asyncio import BaseTransport, TimerHandle
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.head import HEALTH_PATHS, LaneSettings

HEADER_BYTES_MAX = 64 * 1024
"""All headers of one request. nginx takes 32 KiB, Triton 64 KiB; a trace header and a key need 1 KiB."""
TOO_MANY_HEADER_BYTES = f"headers: more than {HEADER_BYTES_MAX} bytes, expected at most that"
UPGRADE_HEADERS = frozenset({b"connection", b"upgrade", b"http2-settings"})
LINGER_SECONDS = 2.0
"""How long a connection whose body was cut short stays half open: long enough for a round trip and a read."""
PIPELINED_MAX = 128
"""Requests of one connection that wait for their turn; some 2 KB each beside their bodies."""
HEALTH_CONNECTIONS = 64
"""Connections beyond the limit, which may only ask for health: a prober has one or two."""
HEALTH_SECONDS = 1.0
STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus} | {
    499: b"HTTP/1.1 499 Client Closed Request\r\n"
}


class Connection(HttpToolsProtocol):
    """uvicorn's protocol class within limits."""

    def __init__(self, shared: LaneSettings, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shared = shared
        self.pending: list[Any] = []
        self.ended = False
        """Whether our side is closed: nothing can be written any more."""
        self.deaf = False
        """Whether the connection ends with the requests that came: what comes behind them is not looked at."""
        self.health_only = False
        self._taken = False
        self._between = True
        """Whether the parser is between two requests: it has nothing of the next one."""
        self._in_head = False
        self._header_bytes = 0
        self._head_bytes: int | None = None
        """Bytes that came for the head since the segment that it began in."""
        self._late: Callable[[], None] | None = None
        self._late_timer: TimerHandle | None = None
        self._write_timer: TimerHandle | None = None
        self._idle_since = 0.0

    def cycle_in_turn(self) -> Any:
        """The oldest request of this connection that has no answer yet."""
        return self.pending[0] if self.pending else None

    def connection_made(self, transport: BaseTransport) -> None:
        """Take a connection, if there is room for one more."""
        super().connection_made(transport)  # type: ignore[arg-type]
        beyond = len(self.connections) - self.shared.connections_max
        if beyond > HEALTH_CONNECTIONS:
            self.transport.abort()
            return
        self.health_only = beyond > 0
        seconds = HEALTH_SECONDS if self.health_only else self.shared.header_seconds
        self._set_deadline(self._head_late, seconds)

    def on_message_begin(self) -> None:
        """Start to count the next request's header bytes."""
        self._between = False
        self._in_head = True
        self._header_bytes = 0
        self._head_bytes = None
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, within the limit."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > HEADER_BYTES_MAX:
            self.turn_away(400, TOO_MANY_HEADER_BYTES)
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Take the request, unless something speaks against it."""
        self._in_head = False
        self._taken = not self.parser.should_upgrade() and self._may_be_taken()
        if self._taken:
            self.take()

    def take(self) -> None:
        """Let ASGI answer the request whose headers are complete."""
        super().on_headers_complete()
        if self.health_only:
            self.cycle.keep_alive = False
        self.pending.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        """Hand on a part of the body of a request that was taken."""
        if self._taken:
            self.take_body(body)

    def take_body(self, body: bytes) -> None:
        """Give a part of the body to ASGI."""
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is whole."""
        self._between = True
        if self._taken:
            self.take_end()

    def take_end(self) -> None:
        """Tell ASGI that the body is whole."""
        super().on_message_complete()

    def _may_be_taken(self) -> bool:
        """Whether the request is to be answered; else the reason is on its way already."""
        if self.deaf or self.transport.is_closing():
            return False
        if self.health_only and self.url.partition(b"?")[0] not in HEALTH_PATHS:
            limit = self.shared.connections_max
            self.turn_away(503, f"{limit} connections are open, no more are taken ([server] max_connections)")
            return False
        if len(self.pending) >= PIPELINED_MAX:
            self.turn_away(503, f"{PIPELINED_MAX} requests wait on this connection, expected to wait for their answers")
            return False
        return True

    def turn_away(self, status: int, message: str) -> None:
        """Say what is wrong and end the connection; if answers are due on it, it ends with the last of them."""
        if self.deaf or self.ended or self.transport.is_closing():
            return
        self.deaf = True
        if self.pending:
            self.pending[-1].keep_alive = False
            self.flow.pause_reading()
            return
        body = orjson.dumps({"error": message})
        retry = b"Retry-After: 1\r\n" if status == 503 else b""
        head = b"Content-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n" % len(body)
        self.transport.write(b"%b%b%b\r\n%b" % (STATUS_LINES[status], head, retry, body))
        self.end()

    def end(self) -> None:
        """Close our side, and the rest in a moment.

        Closing at once, with bytes still on their way to us, resets the connection, and a reset takes the answer with
        it. So the client has a moment to read.
        """
        self.ended = True
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        """What the parser can't read is refused in the protocol's own form."""
        self.turn_away(400, f"{msg} Expected HTTP/1.1.")

    def data_received(self, data: bytes) -> None:
        """Feed the parser; a request that is still incomplete gets a deadline for the rest."""
        if self.ended:
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._read_without_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        if self._in_head:
            # The parser keeps a header to itself until it is whole, and the URL has no limit of its own.
            self._head_bytes = 0 if self._head_bytes is None else self._head_bytes + len(data)
            if self._head_bytes > HEADER_BYTES_MAX:
                self.turn_away(400, TOO_MANY_HEADER_BYTES)
        self._set_deadline(*self._waits_for())

    def _read_without_upgrade(self, rest: bytes) -> None:
        """Ignore a wish for another protocol, as RFC 9110 (7.8) allows: the request is read again without it.

        Some HTTP clients send `Upgrade: h2c` with every first request, and the parser leaves its body unread.
        """
        if self.parser.get_method() == b"CONNECT":
            self.turn_away(400, "CONNECT: this is no proxy, expected a request for this server")
            return
        kept = [b"%b: %b\r\n" % one for one in self.headers if one[0] not in UPGRADE_HEADERS]
        if not self.parser.should_keep_alive():
            kept.append(b"connection: close\r\n")
        line = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join([line, *kept, b"\r\n", rest]))

    def _waits_for(self) -> tuple[Callable[[], None] | None, float]:
        """What the connection waits for, as the function that is called when it is late, and the seconds for it."""
        if self._in_head:
            return self._head_late, HEALTH_SECONDS if self.health_only else self.shared.header_seconds
        return (None, 0.0) if self._between else (self.body_late, self.shared.body_seconds)

    def _set_deadline(self, late: Callable[[], None] | None, seconds: float) -> None:
        if late == self._late:
            return
        if self._late_timer is not None:
            self._late_timer.cancel()
        self._late = late
        self._late_timer = None if late is None else self.loop.call_later(seconds, self._deadline_passed, late)

    def _deadline_passed(self, late: Callable[[], None]) -> None:
        self._late = self._late_timer = None
        if self.flow.read_paused:
            # It is us who did not read.
            self._set_deadline(late, self.shared.body_seconds)
        elif not self.ended:
            late()

    def _head_late(self) -> None:
        # Not only half a head: nothing at all since the connection was made is late as well.
        if self._in_head or self.cycle is None:
            seconds = HEALTH_SECONDS if self.health_only else self.shared.header_seconds
            self.turn_away(408, f"headers: not complete within {seconds:g} s ([server] header_seconds)")

    def body_late(self) -> None:
        """A body that ASGI waits for does not come: whoever reads it is told that the client is gone."""
        self.transport.close()

    def pause_writing(self) -> None:
        """The client does not read: nothing more is read from it, and it must go on within the time."""
        super().pause_writing()
        self.flow.pause_reading()
        if self._write_timer is None:
            self._watch_writing(self.transport.get_write_buffer_size())

    def _watch_writing(self, before: int) -> None:
        self._write_timer = self.loop.call_later(self.shared.body_seconds, self._look_at_writing, before)

    def _look_at_writing(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left < before:
            self._watch_writing(left)
        else:
            self.transport.abort()

    def resume_writing(self) -> None:
        """The client reads again: the next of its requests has its turn."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        if not self.transport.is_closing():
            self.next_turn()

    def next_turn(self) -> None:
        """Go on after an answer: read again, when few enough requests wait."""
        if len(self.pending) <= 1 and not self.flow.write_paused:
            self.flow.resume_reading()

    def eof_received(self) -> Any:
        """A client that ends its side gets the answers that are due."""
        if self.pending:
            self.pending[-1].keep_alive = False
            return True  # The transport stays open for writing.
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        for timer in (self._late_timer, self._write_timer, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def keep_alive_from_now(self) -> None:
        """Close the connection when it is idle for too long.

        One timer for as long as the connection lives: to set and cancel one for each request costs more than to look at
        the time.
        """
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it was idle all the time, else wait for the rest of it."""
        self.timeout_keep_alive_task = None
        idle = self.loop.time() - self._idle_since
        if self.pending or not self._between or idle < self.timeout_keep_alive:
            remaining = max(self.timeout_keep_alive - idle, 1.0)
            self.timeout_keep_alive_task = self.loop.call_later(remaining, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """Drain: what was accepted is answered, then the connection closes."""
        if self.pending:
            self.pending[-1].keep_alive = False
            self.deaf = True
        else:
            self.transport.close()
