"""HTTP/2's frames, as far as a gRPC server needs them (RFC 9113), and header fields without a table (RFC 7541)."""

from collections.abc import Iterator
from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME = Struct(">HBBBL")
"""Length (24 bits, as 16 and 8), type, flags, stream."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITISED = 0x20

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 5, 6, 7, 8, 9
ENHANCE_YOUR_CALM = 11

MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 3, 4, 5, 6

FRAME_BYTES = 16_384
"""The largest frame that each side must take. With the default a frame that is cut is short, and cheap to keep."""
WINDOW_START = 65_535
WINDOW_MAX = 2**31 - 1
SETTING = Struct(">HL")


class ConnectionFault(Exception):
    """The peer broke a rule of HTTP/2 or one of our limits: the connection ends with this code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Encode one frame.

    >>> frame(PING, ACK, 0, b"12345678").hex()
    '0000080601000000003132333435363738'
    """
    size = len(payload)
    return FRAME.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def headers(stream: int, block: bytes, *, end: bool = False) -> bytes:
    """Encode a header block as HEADERS, and CONTINUATION where one frame can't hold it."""
    flags = END_STREAM if end else 0
    if len(block) <= FRAME_BYTES:
        return frame(HEADERS, flags | END_HEADERS, stream, block)
    pieces = [block[at : at + FRAME_BYTES] for at in range(0, len(block), FRAME_BYTES)]
    frames = [frame(HEADERS, flags, stream, pieces[0])]
    frames += [frame(CONTINUATION, 0, stream, piece) for piece in pieces[1:-1]]
    return b"".join([*frames, frame(CONTINUATION, END_HEADERS, stream, pieces[-1])])


def settings(values: dict[int, int]) -> bytes:
    """Encode our settings."""
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(name, value) for name, value in values.items()))


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """Yield the peer's settings. Raises ConnectionFault."""
    if len(payload) % SETTING.size:
        raise ConnectionFault(FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes, expected a multiple of 6")
    yield from SETTING.iter_unpack(payload)


def number(value: int) -> bytes:
    """Encode 32 bits: an error code or a window's increment."""
    return value.to_bytes(4, "big")


def field(name: str, value: str) -> bytes:
    """Encode a header field as a literal that no table remembers: the same bytes on every connection.

    >>> field("grpc-status", "0").hex()
    '000b677270632d7374617475730130'
    """
    name_bytes, value_bytes = name.encode("latin-1"), value.encode("latin-1", "replace")
    return b"".join((b"\0", _length(len(name_bytes)), name_bytes, _length(len(value_bytes)), value_bytes))


def _length(size: int) -> bytes:
    """A string's length: 7 bits, the rest in groups of 7 (RFC 7541, section 5.1)."""
    if size < 127:
        return bytes((size,))
    rest, groups = size - 127, bytearray(b"\x7f")
    while rest >= 128:
        groups.append(rest & 127 | 128)
        rest >>= 7
    groups.append(rest)
    return bytes(groups)


def unpadded(flags: int, payload: bytes) -> bytes:
    """Cut padding and priority off the payload of DATA or HEADERS. Raises ConnectionFault."""
    start, padding = 0, 0
    if flags & PADDED:
        start, padding = 1, payload[0] if payload else 0
    if flags & PRIORITISED:
        start += 5
    if start + padding > len(payload):
        raise ConnectionFault(PROTOCOL_ERROR, "padding is longer than its frame")
    return payload[start : len(payload) - padding]
