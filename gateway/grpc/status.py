"""gRPC's status codes: which one says what our errors say, and the header fields that carry them.

Source: gRPC's `statuscodes.md`, and `PROTOCOL-HTTP2.md` for the fields.
"""

from urllib.parse import quote

from gateway.grpc.http2 import field

OK = 0
CODES = {
    200: OK,
    400: 3,  # INVALID_ARGUMENT
    401: 16,  # UNAUTHENTICATED
    403: 7,  # PERMISSION_DENIED
    404: 5,  # NOT_FOUND
    408: 4,  # DEADLINE_EXCEEDED
    409: 10,  # ABORTED
    413: 8,  # RESOURCE_EXHAUSTED
    415: 12,  # UNIMPLEMENTED
    499: 1,  # CANCELLED
    500: 13,  # INTERNAL
    501: 12,  # UNIMPLEMENTED
    503: 14,  # UNAVAILABLE
    504: 4,  # DEADLINE_EXCEEDED
}
"""From the statuses of `gateway.errors`; one that is not here is UNKNOWN."""
UNKNOWN = 2
MESSAGE_BYTES_MAX = 4096
"""Of an error's sentence. Clients take 8 KiB of header fields in all."""
PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")

START = b"\x88" + field("content-type", "application/grpc")
"""`:status 200` from the static table, and the type: what stands before every answer."""
DONE = field("grpc-status", "0")


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
    return field("grpc-status", str(CODES.get(status, UNKNOWN))) + field("grpc-message", text) + pushback
