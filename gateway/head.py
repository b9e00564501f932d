"""What a call's head says: the request line and the headers, as far as the fast lane cares, and who may pass."""

import hmac
from collections.abc import Iterable
from hashlib import sha256
from urllib.parse import unquote_to_bytes

from gateway.errors import BadCall, InferenceError, TooLarge, Unauthorized, Unsupported
from gateway.predict import Predictor

PREFIX = b"/v2/models/"
SUFFIX = b"/infer"


class LaneSettings:
    """What all connections of one worker share."""

    def __init__(
        self,
        predictor: Predictor,
        *,
        unit_header: str,
        body_bytes_max: int,
        body_seconds: float,
        keys: frozenset[bytes] | None,
        hosts: frozenset[bytes] | None,
    ) -> None:
        self.predictor = predictor
        self.unit_header = unit_header.lower().encode()
        self.body_bytes_max = body_bytes_max
        self.body_seconds = body_seconds
        self.keys = keys
        self.hosts = hosts
        self.heads: dict[bytes, Head] = {}

    def refusal(self, host: bytes | None, key: bytes | None) -> InferenceError | None:
        """Say why a call with this Host header and API key may not pass, or None.

        Every stored digest is compared, in constant time. A port that only this machine can reach checks the name that
        it is called by, so that no web page can reach it through a name that it points at this machine.
        """
        if self.hosts is not None and host is not None and _host_name(host) not in self.hosts:
            return BadCall(f"Host: {host.decode('latin-1')}, expected a loopback name: this port is local")
        if self.keys is None:
            return None
        digest = sha256(key or b"").hexdigest().encode()
        if sum(hmac.compare_digest(digest, known) for known in self.keys) == 0:
            return Unauthorized("API key: missing or unknown, expected X-API-Key or Authorization: Bearer")
        return None


class Head:
    """What the request line and the headers of a call say, as far as the lane cares.

    A client that keeps its connection sends the same bytes before each body, but for its length. So a head that was
    parsed and was in order is remembered under its bytes, and the parser is not asked again.
    """

    __slots__ = (
        "json_length",
        "keep_alive",
        "length",
        "model",
        "request_id",
        "traceparent",
        "tracestate",
        "unit",
        "version",
    )

    def __init__(self, model: str, version: str | None, *, keep_alive: bool) -> None:
        self.model = model
        self.version = version
        self.keep_alive = keep_alive
        self.length: int | None = None
        self.json_length: int | None = None
        self.unit: str | None = None
        self.request_id: str | None = None
        self.traceparent: str | None = None
        self.tracestate: str | None = None

    def read(self, headers: Iterable[tuple[bytes, bytes]], shared: "LaneSettings") -> InferenceError | None:
        """Read the headers; return why the call can't be taken, or None."""
        refusal: InferenceError | None = None
        key, host = None, None
        for name, value in headers:
            if name == b"inference-header-content-length":
                self.json_length = _count(value)
                if self.json_length is None:
                    refusal = _no_count(name, value)
            elif name == b"content-length":
                self.length = _count(value)
                if self.length is None:
                    refusal = _no_count(name, value)
                elif self.length > shared.body_bytes_max:
                    refusal = too_large(self.length, shared.body_bytes_max)
            elif name == shared.unit_header:
                self.unit = value.decode("latin-1")
            elif name == b"x-request-id":
                self.request_id = value.decode("latin-1")
            elif name == b"traceparent":
                self.traceparent = _joined(self.traceparent, value)
            elif name == b"tracestate":
                self.tracestate = _joined(self.tracestate, value)
            elif name == b"content-encoding" and value.lower() != b"identity":
                shown = value.decode("latin-1")
                refusal = Unsupported(f"Content-Encoding: {shown}, expected none: send the body as it is")
            elif name == b"host":
                host = value
            elif name == b"x-api-key":
                key = value
            elif name == b"authorization" and value[:7].lower() == b"bearer ":
                key = value[7:]
        return shared.refusal(host, key) or refusal


def lane_place(method: bytes, url: bytes) -> tuple[str, str | None] | None:
    """Return the model and version of an inference URL, or None when it is for ASGI.

    >>> lane_place(b"POST", b"/v2/models/signs/infer")
    ('signs', None)
    >>> lane_place(b"POST", b"/v2/models/signs/versions/7/infer")
    ('signs', '7')
    >>> lane_place(b"GET", b"/v2/models/signs/infer")
    """
    path = url.partition(b"?")[0]
    if method != b"POST" or not path.startswith(PREFIX) or not path.endswith(SUFFIX):
        return None
    parts = [unquote_to_bytes(part).decode("utf-8", "replace") for part in path[len(PREFIX) : -len(SUFFIX)].split(b"/")]
    if len(parts) == 1 and parts[0]:
        return parts[0], None
    if len(parts) == 3 and parts[1] == "versions" and parts[0]:
        return parts[0], parts[2]
    return None


def _count(value: bytes) -> int | None:
    return int(value) if value.isdigit() and len(value) < 16 else None


def _joined(before: str | None, value: bytes) -> str:
    """A header that came twice means both; of two trace parents neither is valid then, as the specification wants."""
    text = value.decode("latin-1")
    return text if before is None else f"{before},{text}"


def _no_count(name: bytes, value: bytes) -> BadCall:
    return BadCall(f"{name.decode('latin-1')}: {value[:32].decode('latin-1')!r}, expected a count of bytes")


def too_large(came: int, limit: int) -> TooLarge:
    """Say that a body of so many bytes is beyond the limit."""
    return TooLarge(f"body: {came} bytes, expected at most {limit} ([server] max_body_bytes)")


def _host_name(host: bytes) -> bytes:
    """The name in a Host header, without the port.

    >>> _host_name(b"127.0.0.1:8080"), _host_name(b"[::1]:8080"), _host_name(b"localhost")
    (b'127.0.0.1', b'[::1]', b'localhost')
    """
    return host[: host.index(b"]") + 1] if host.startswith(b"[") and b"]" in host else host.partition(b":")[0]
