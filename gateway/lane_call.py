"""One inference call on one connection, from its head to the bytes of its answer."""

from asyncio import Future
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from gateway.call import Answer, Arrived
from gateway.coding import COMPRESSED_BYTES_MIN, accepted_coding, compress, inflate
from gateway.connection import STATUS_LINES, Connection
from gateway.errors import BadCall, ClientGone, InferenceError, Unavailable
from gateway.head import Head
from gateway.predict import hang_up
from gateway.steps import start


class LaneCall:
    """One inference call on one connection; to uvicorn's class it is a request cycle."""

    begun = False
    cut_short = False
    disconnected = False
    held = 0
    """Bytes of this call that count as waiting in the worker."""
    more_body = True
    response_complete = False

    def __init__(self, protocol: Connection, head: Head) -> None:
        self.protocol = protocol
        self.head = head
        self.keep_alive = head.keep_alive
        self.body: bytes | bytearray = b""
        self.arrived = Arrived(
            head.model,
            head.version,
            head.wire,
            b"",
            head.json_length,
            head.unit,
            head.request_id,
            head.traceparent,
            head.tracestate,
            head.timeout_ns,
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
        if not self.begun:
            self._release()  # It never had its turn, and nobody waits for it any more.

    def refuse(self, error: InferenceError) -> None:
        """Answer with an error without waiting for the rest of the body; the connection can't be used again."""
        if self.arrived.refused is None:
            self.arrived.refused = error
        self.keep_alive = False
        self.protocol.deaf = True
        self.cut_short |= self.more_body
        self.more_body = False
        self.begin()

    def hold(self, size: int) -> bool:
        """Count bytes as waiting in the worker; when it holds too many the call is refused, and the answer is no."""
        try:
            self.protocol.shared.waiting.take(size)
        except Unavailable as error:
            self.refuse(error)
            return False
        self.held += size
        return True

    def _release(self) -> None:
        self.protocol.shared.waiting.release(self.held)
        self.held = 0

    def begin(self) -> None:
        """Predict, once the body is whole and it is this call's turn on the connection."""
        if self.more_body or self.begun or self.protocol.cycle_in_turn() is not self:
            return
        self.begun = True
        self.arrived.body = self.body
        if self.head.coding is not None and self.arrived.refused is None:
            limit = self.protocol.shared.body_bytes_max
            self._on_thread(self._inflated, inflate, self.head.coding, self.body, limit)
            return
        start(self.protocol.shared.predictor.predict(self.arrived, self.reply))

    def _on_thread(self, then: Callable[[Any], None], work: Callable[..., bytes], *arguments: Any) -> None:
        self.protocol.loop.run_in_executor(self.protocol.shared.compressors, work, *arguments).add_done_callback(then)

    def _inflated(self, done: "Future[bytes]") -> None:
        try:
            body = self.arrived.body = done.result()
        except InferenceError as error:
            self.arrived.refused = error
        else:
            self.hold(len(body))
        if self.arrived.gone:
            self.arrived.refused = ClientGone("the client closed the connection before its body was inflated")
        start(self.protocol.shared.predictor.predict(self.arrived, self.reply))

    def reply(self, answer: Answer) -> None:
        """Write the answer, compressed when the client asked for that and it pays, and let the connection go on."""
        if self.head.accepts is not None and len(answer.body) >= COMPRESSED_BYTES_MIN:
            coding = accepted_coding(self.head.accepts)
            if coding is not None:
                self._on_thread(partial(self._compressed, answer, coding), compress, coding, answer.body)
                return
        self._write(answer, answer.body, None)

    def _compressed(self, answer: Answer, coding: str, done: "Future[bytes]") -> None:
        body = done.result()
        if len(body) < len(answer.body):
            self._write(answer, body, coding)
        else:
            self._write(answer, answer.body, None)

    def _write(self, answer: Answer, body: bytes, coding: str | None) -> None:
        self.response_complete = True
        if self.held:
            self._release()
        protocol = self.protocol
        transport = protocol.transport
        if not transport.is_closing() and not protocol.ended:
            transport.write(self._encode(answer, body, coding))
            if self.cut_short:
                protocol.end()
            elif not self.keep_alive:
                transport.close()
        protocol.on_response_complete()

    def _encode(self, answer: Answer, body: bytes, coding: str | None) -> bytes:
        source = b"" if answer.bundle is None else _source_lines(answer.bundle, answer.variant)
        more = self.head.cors
        if answer.json_length is not None:
            # Of the plain body: clients look at it when they have inflated what came.
            more += b"Inference-Header-Content-Length: %d\r\n" % answer.json_length
        if coding is not None:
            more += b"Content-Encoding: %b\r\nVary: Accept-Encoding\r\n" % coding.encode()
        if answer.status == Unavailable.status:
            more += b"Retry-After: 1\r\n"
        if not answer.logged:
            more += b"Snowgate-Logged: false\r\n"
        if self.arrived.request_id is not None:
            more += f"X-Request-Id: {self.arrived.request_id}\r\n".encode("latin-1")
        if answer.traceparent is not None:
            more += f"traceparent: {answer.traceparent}\r\n".encode()
        if not self.keep_alive:
            more += b"Connection: close\r\n"
        return b"%bContent-Type: %b\r\nContent-Length: %d\r\nSnowgate-Prediction-Id: %b\r\n%b%b\r\n%b" % (
            STATUS_LINES[answer.status],
            b"application/json" if answer.json_length is None else b"application/octet-stream",
            len(body),
            answer.prediction_id.encode(),
            source,
            more,
            body,
        )


@lru_cache(maxsize=1024)
def _source_lines(bundle: str, variant: str | None) -> bytes:
    lines = f"Snowgate-Bundle: {bundle}\r\n"
    return (lines if variant is None else f"{lines}Snowgate-Variant: {variant}\r\n").encode()
