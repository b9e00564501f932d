"""Calls with one message each way that are no inference: a function for each, from message to message."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from gateway.errors import BadCall, InferenceError, TooLarge
from gateway.grpc.status import DONE, START
from gateway.grpc.stream import Stream

log = logging.getLogger("snowgate.grpc")

MESSAGE_BYTES_MAX = 1024 * 1024
"""Names and parameters take some hundred bytes; little that is compressed must not become much that is held."""


@dataclass(frozen=True, slots=True)
class Method:
    """What a method takes, and the function that answers it."""

    request: Any
    """The class of its message."""
    answer: Callable[[Any], Awaitable[Any]]
    """Returns a message, or raises an InferenceError."""


class UnaryCall:
    """One call of such a method."""

    patient = False

    def __init__(self, stream: Stream, method: Method) -> None:
        self._stream = stream
        self._method = method
        self._message: bytes | None = None
        self._task: asyncio.Task[None] | None = None

    def message(self, data: bytes) -> None:
        """As `Handler.message`."""
        if self._message is not None:
            raise BadCall("message: a second one, expected one")
        if len(data) > MESSAGE_BYTES_MAX:
            raise TooLarge(f"message: {len(data)} bytes, expected at most {MESSAGE_BYTES_MAX}")
        self._message = data

    def ended(self) -> None:
        """As `Handler.ended`."""
        if self._message is None:
            self.refuse(BadCall("message: none came, expected one"))
        else:
            self._task = asyncio.create_task(self._answer(self._message))

    async def _answer(self, data: bytes) -> None:
        try:
            request = self._method.request.FromString(data)
        except DecodeError as error:
            self._stream.fail(400, f"message: not a {self._method.request.DESCRIPTOR.name}: {error}")
            return
        try:
            answer = await self._method.answer(request)
        except InferenceError as error:
            self.refuse(error)
        except Exception:
            # As in `predict`: whatever was not foreseen, the client gets an answer.
            log.exception("%s failed in the gateway itself", self._stream.head.path)
            self._stream.fail(500, "internal error; the gateway's log has it")
        else:
            self._stream.answer(START, answer.SerializeToString(), DONE)

    def refuse(self, error: InferenceError) -> None:
        """As `Handler.refuse`."""
        self._stream.fail(error.status, error.message)

    def gone(self) -> None:
        """As `Handler.gone`."""
        if self._task is not None:
            self._task.cancel()

    def drain(self) -> None:
        """As `Handler.drain`: its answer is its end."""
