"""gRPC's reflection: tools such as grpcurl ask what is served here, and need no `.proto` file.

Source: `grpc/reflection/v1/reflection.proto`; v1alpha is the same on the wire.
"""

from collections.abc import Iterable
from typing import Any

from google.protobuf.message import DecodeError

from gateway.errors import BadCall, InferenceError, TooLarge
from gateway.grpc.messages import FILES, POOL, message
from gateway.grpc.status import CODES, DONE, START, trailers
from gateway.grpc.stream import Stream
from gateway.schema import shown

Request = message("grpc.reflection.v1.ServerReflectionRequest")
Response = message("grpc.reflection.v1.ServerReflectionResponse")

PATHS = tuple(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha"))
SERVICES = sorted(f"{file.package}.{service.name}" for file in FILES for service in file.service)
ANSWER_BYTES_MAX = 1024 * 1024
"""Answers that a client may leave untaken; a descriptor has 8 KB."""


class Reflect:
    """One call: each question has its answer."""

    patient = True

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def message(self, data: bytes) -> None:
        """As `Handler.message`."""
        if self._stream.waiting_bytes > ANSWER_BYTES_MAX:
            raise TooLarge(f"stream: more than {ANSWER_BYTES_MAX} bytes of answers were not taken")
        try:
            request = Request.FromString(data)
        except DecodeError as error:
            raise BadCall(f"message: not a ServerReflectionRequest: {error}") from None
        self._stream.start(START)
        self._stream.send(answer(request).SerializeToString())

    def ended(self) -> None:
        """As `Handler.ended`."""
        self._stream.finish(DONE)

    def refuse(self, error: InferenceError) -> None:
        """As `Handler.refuse`."""
        self._stream.fail(error.status, error.message)

    def gone(self) -> None:
        """As `Handler.gone`."""

    def drain(self) -> None:
        """As `Handler.drain`."""
        self._stream.finish(trailers(503, "draining: ask over another connection"))


def answer(request: Any) -> Any:
    """Answer one question."""
    response = Response(valid_host=request.host, original_request=request)
    what = request.WhichOneof("message_request")
    if what == "list_services":
        for name in SERVICES:
            response.list_services_response.service.add(name=name)
        return response
    try:
        if what == "file_by_filename":
            found = [POOL.FindFileByName(request.file_by_filename)]
        elif what == "file_containing_symbol":
            found = [POOL.FindFileContainingSymbol(request.file_containing_symbol)]
        else:
            found = []  # Nothing here has extensions.
    except KeyError:
        found = []
    if found:
        response.file_descriptor_response.file_descriptor_proto.extend(_serialized(found))
    else:
        response.error_response.error_code = CODES[404]
        response.error_response.error_message = f"{shown(str(request).strip())}: not found"
    return response


def _serialized(files: Iterable[Any]) -> list[bytes]:
    return [file.serialized_pb for file in files]
