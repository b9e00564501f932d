"""One worker's end of the socket: its frames in, its answers out, and never a wait for a worker that hangs."""

import json
import socket
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .declared import Refused
from .frames import Buffer, Decoder, FrameError, encode, parts, to_array

Array = np.ndarray[Any, Any]
RECEIVE_BYTES = 256 * 1024
"""What a unix socket holds at most, unless the machine is set up otherwise."""
ANSWERS_WAITING_MAX = 64
"""Answers that a worker has not taken. It has two frames under way at most, so 64 are those of one that hangs."""

MESSAGE_CHARACTERS_MAX = 2_000
"""Of what a bundle's code said; a client reads a sentence, not a page."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One worker's batch, waiting. Frames with the same `key` can go in one call of the model."""

    connection: "Connection"
    id: Any
    rows: int
    inputs: dict[str, Array]
    key: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to a worker for one of its frames."""

    description: bytes
    buffers: Sequence[Buffer]
    compute_ns: int = 0
    batch_rows: int = 0


class Connection:
    """One worker's end. The socket must not block."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.waiting: deque[Frame] = deque()
        self.open = True
        self._decoder = Decoder()
        self._unsent: deque[memoryview] = deque()

    @property
    def must_write(self) -> bool:
        """Whether answers wait until the worker takes them."""
        return bool(self._unsent)

    def receive(self) -> None:
        """Take what the socket holds.

        A tensor that is not as described is answered with an error; what is not a frame ends the connection, because
        nobody can say where the next one begins.
        """
        try:
            data = self.end.recv(RECEIVE_BYTES)
            self.open = bool(data)
            for header, body in self._decoder.feed(data):
                self._take(header, body)
        except BlockingIOError:
            return
        except (OSError, FrameError, KeyError, TypeError) as error:
            self._end(f"{type(error).__name__}: {error}")

    def _take(self, header: dict[str, Any], body: memoryview) -> None:
        frame_id, rows = header["id"], header["rows"]
        inputs: dict[str, Array] = {}
        key = []
        try:
            for spec, data in parts(header, body)["inputs"]:
                array = to_array(spec, data)
                if rows < 1 or array.shape[:1] != (rows,):
                    raise FrameError(f"{spec['name']}: shape {spec['shape']}, expected {rows} rows, at least 1")
                inputs[spec["name"]] = array
                key.append((spec["name"], spec["datatype"], array.shape[1:]))
        except FrameError as error:
            self.answer(frame_id, failure(error))
            return
        self.waiting.append(Frame(self, frame_id, rows, inputs, tuple(key)))

    def answer(self, frame_id: int, answer: Answer) -> None:
        """Send an answer, or keep it until the worker takes it; a worker that is gone misses it."""
        data = encode(
            answer.description,
            answer.buffers,
            id=frame_id,
            compute_ns=answer.compute_ns,
            batch_rows=answer.batch_rows,
        )
        self._unsent.append(memoryview(data))
        self.send()
        if len(self._unsent) > ANSWERS_WAITING_MAX:
            self._end(f"a worker left {len(self._unsent)} answers untaken, expected at most {ANSWERS_WAITING_MAX}")

    def send(self) -> None:
        """Send what waits, as far as the socket takes it."""
        while self._unsent:
            waiting = self._unsent[0]
            try:
                sent = self.end.send(waiting)
            except BlockingIOError:
                return
            except OSError as error:
                self._end(f"{type(error).__name__}: {error}")
                return
            if sent < len(waiting):
                self._unsent[0] = waiting[sent:]
            else:
                self._unsent.popleft()

    def _end(self, why: str) -> None:
        sys.stderr.write(f"runner: a connection is closed: {why}\n")
        self.open = False
        self.waiting.clear()
        self._unsent.clear()


def failure(error: BaseException) -> Answer:
    """Return the answer that says what went wrong, and whose fault it is: the client's, or ours and the bundle's."""
    # The words may hold what a client sent, and no half of a pair of surrogates can be written further.
    message = str(error)[:MESSAGE_CHARACTERS_MAX].encode(errors="replace").decode()
    fault = "client" if isinstance(error, Refused) else "server"
    said = {"type": type(error).__name__, "message": message, "fault": fault}
    return Answer(json.dumps({"error": said}).encode(), [])
