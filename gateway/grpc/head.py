"""What stands before a call's messages: its method, its metadata, its deadline."""

from collections.abc import Iterable
from typing import NamedTuple

from gateway.tracing import joined

UNITS_NS = {"H": 3_600 * 10**9, "M": 60 * 10**9, "S": 10**9, "m": 10**6, "u": 10**3, "n": 1}


class Head(NamedTuple):
    """The header fields of a call that mean something here."""

    path: str
    authority: bytes | None
    key: bytes | None
    unit: str | None
    request_id: str | None
    traceparent: str | None
    tracestate: str | None
    timeout_ns: int | None
    encoding: str
    grpc: bool
    """Whether it says that it is a gRPC call at all."""


def read_head(fields: Iterable[tuple[bytes, bytes]], unit_header: bytes) -> Head:
    """Pick out the fields. `unit_header` is in lower case, as all names in HTTP/2 are."""
    path, encoding, kind = "", "identity", b""
    authority = key = unit = request_id = traceparent = tracestate = timeout_ns = None
    for name, value in fields:
        if name == b":path":
            path = value.decode("latin-1")
        elif name == b":authority":
            authority = value
        elif name == b"content-type":
            kind = value
        elif name == b"grpc-timeout":
            timeout_ns = read_timeout(value.decode("latin-1"))
        elif name == b"grpc-encoding":
            encoding = value.decode("latin-1")
        elif name == unit_header:
            unit = value.decode("latin-1")
        elif name == b"x-request-id":
            request_id = value.decode("latin-1")
        elif name == b"traceparent":
            traceparent = joined(traceparent, value)
        elif name == b"tracestate":
            tracestate = joined(tracestate, value)
        elif name == b"x-api-key":
            key = value
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            key = value[7:]
    grpc = kind == b"application/grpc" or kind.startswith((b"application/grpc+", b"application/grpc;"))
    return Head(path, authority, key, unit, request_id, traceparent, tracestate, timeout_ns, encoding, grpc)


def read_timeout(text: str) -> int | None:
    """Read `grpc-timeout`, at most eight digits and a unit, as nanoseconds; None for what is none.

    >>> read_timeout("250m"), read_timeout("2S"), read_timeout("soon")
    (250000000, 2000000000, None)
    """
    count, unit = text[:-1], text[-1:]
    if not count.isascii() or not count.isdigit() or len(count) > 8 or unit not in UNITS_NS:
        return None
    return int(count) * UNITS_NS[unit]
