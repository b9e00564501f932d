"""gRPC's status codes: which one says what our errors say, and the header fields that carry them.

Source: gRPC's `statuscodes.md`, and `PROTOCOL-HTTP2.md` for the fields.
"""

from enum import IntEnum
from urllib.parse import quote

from gateway.grpc.http2 import field


class Code(IntEnum):
    """The codes that we answer with, by gRPC's names."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


CODES = {
    200: Code.OK,
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    408: Code.DEADLINE_EXCEEDED,
    409: Code.ABORTED,
    413: Code.RESOURCE_EXHAUSTED,
    415: Code.UNIMPLEMENTED,
    499: Code.CANCELLED,
    500: Code.INTERNAL,
    501: Code.UNIMPLEMENTED,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}
"""From the statuses of `gateway.errors`; one that is not here is UNKNOWN."""
MESSAGE_BYTES_MAX = 4096
"""Of an error's sentence. Clients take 8 KiB of header fields in all."""
PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")

START = b"\x88" + field("content-type", "application/grpc")
"""`:status 200` from the static table, and the type: what stands before every answer."""
DONE = field("grpc-status", "0")


def code(status: int) -> Code:
    """Return the code for one of our statuses.

    >>> code(503).name, code(418).name
    ('UNAVAILABLE', 'UNKNOWN')
    """
    return CODES.get(status, Code.UNKNOWN)


def trailers(status: int, message: str) -> bytes:
    """Encode what stands behind the messages: the code for one of our statuses, and the sentence when it is no success.

    >>> trailers(200, "").hex()
    '000b677270632d7374617475730130'
    """
    if status == 200:
        return DONE
    # Percent-encoded UTF-8; a character that the limit cuts in half comes out as a replacement on the other side.
    text = quote(message, safe=PRINTABLE)[:MESSAGE_BYTES_MAX]
    pushback = field("grpc-retry-pushback-ms", "1000") if status == 503 else b""
    return field("grpc-status", str(int(code(status)))) + field("grpc-message", text) + pushback
