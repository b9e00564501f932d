"""What a call's head says: the request line and the headers, as far as the fast lane cares."""

from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from gateway.admission import Admission
from gateway.call import Wire
from gateway.coding import compressors, content_coding
from gateway.errors import BadCall, InferenceError, TooLarge, Unsupported
from gateway.kserve_v1 import KServeV1
from gateway.media import MEDIA, Media
from gateway.predict import Predictor
from gateway.protocol import OpenInference
from gateway.tracing import joined
from gateway.waiting_bytes import WaitingBytes

HEALTH_PATHS = frozenset({b"/", b"/livez", b"/readyz", b"/v2/health/live", b"/v2/health/ready"})
"""Answered for everybody, whatever else is refused."""
OPEN_INFERENCE = OpenInference()
PREFIX = b"/v2/models/"
SUFFIX = b"/infer"
KSERVE_V1 = KServeV1()
V1_PREFIX = b"/v1/models/"
V1_SUFFIX = b":predict"


class LaneSettings:
    """What all connections of one worker share."""

    def __init__(
        self,
        predictor: Predictor,
        admission: Admission,
        *,
        unit_header: str,
        body_bytes_max: int,
        body_seconds: float,
        header_seconds: float,
        connections_max: int,
        waiting_bytes_max: int,
    ) -> None:
        self.predictor = predictor
        self.admission = admission
        self.unit_header = unit_header.lower().encode()
        self.body_bytes_max = body_bytes_max
        self.body_seconds = body_seconds
        self.header_seconds = header_seconds
        self.connections_max = connections_max
        self.waiting = WaitingBytes(waiting_bytes_max)
        self.heads: dict[bytes, Head] = {}
        self.compressors = compressors()


class Head:
    """What the request line and the headers of a call say, as far as the lane cares.

    A client that keeps its connection sends the same bytes before each body, but for its length. So a head that was
    parsed and was in order is remembered under its bytes, and the parser is not asked again.
    """

    __slots__ = (
        "accepts",
        "coding",
        "cors",
        "json_length",
        "keep_alive",
        "length",
        "model",
        "request_id",
        "timeout_ns",
        "traceparent",
        "tracestate",
        "unit",
        "version",
        "wire",
    )

    def __init__(self, wire: Wire, model: str, version: str | None, *, keep_alive: bool) -> None:
        self.wire = wire
        self.model = model
        self.version = version
        self.keep_alive = keep_alive
        self.accepts: bytes | None = None
        self.coding: str | None = None
        self.cors = b""
        self.timeout_ns: int | None = None
        self.length: int | None = None
        self.json_length: int | None = None
        self.unit: str | None = None
        self.request_id: str | None = None
        self.traceparent: str | None = None
        self.tracestate: str | None = None

    def read(self, headers: Iterable[tuple[bytes, bytes]], shared: "LaneSettings") -> InferenceError | None:
        """Read the headers; return why the call can't be taken, or None."""
        refusal: InferenceError | None = None
        key, host, origin, site = None, None, None, None
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
                self.traceparent = joined(self.traceparent, value)
            elif name == b"tracestate":
                self.tracestate = joined(self.tracestate, value)
            elif name == b"content-encoding":
                refusal = self._take_coding(value) or refusal
            elif name == b"content-type":
                if value[:6].lower() in MEDIA:
                    self.wire = Media(self.wire, value.decode("latin-1"))
            elif name == b"accept-encoding":
                self.accepts = value if self.accepts is None else self.accepts + b"," + value
            elif name == b"x-request-timeout":
                self.timeout_ns = _nanoseconds(value)
                if self.timeout_ns is None:
                    refusal = BadCall(f"X-Request-Timeout: {_text(value)!r}, expected seconds above 0, such as 0.5")
            elif name == b"origin":
                origin = value
            elif name == b"sec-fetch-site":
                site = value
            elif name == b"host":
                if host is not None:
                    refusal = BadCall("Host: given twice, expected once")  # RFC 9112, section 3.2
                host = value
            elif name == b"x-api-key":
                key = value
            elif name == b"authorization" and value[:7].lower() == b"bearer ":
                key = value[7:]
        if origin is not None and origin in shared.admission.origins:
            self.cors = (
                b"Access-Control-Allow-Origin: %b\r\nAccess-Control-Expose-Headers: *\r\nVary: Origin\r\n" % origin
            )
        return shared.admission.refusal(host, key, origin, site) or refusal

    def _take_coding(self, value: bytes) -> InferenceError | None:
        if self.coding is not None:
            return Unsupported(f"Content-Encoding: {self.coding} and another, expected one")
        try:
            self.coding = content_coding(value)
        except Unsupported as error:
            return error
        return None


def lane_place(method: bytes, url: bytes) -> tuple[Wire, str, str | None] | None:
    """Return the wire, the model and the version of an inference URL, or None when it is for ASGI.

    >>> lane_place(b"POST", b"/v2/models/signs/infer")[1:]
    ('signs', None)
    >>> lane_place(b"POST", b"/v2/models/signs/versions/7/infer")[1:]
    ('signs', '7')
    >>> lane_place(b"POST", b"/v1/models/signs:predict")[1:]
    ('signs', None)
    >>> lane_place(b"GET", b"/v2/models/signs/infer")
    """
    if method != b"POST":
        return None
    path = url.partition(b"?")[0]
    wire: Wire
    if path.startswith(PREFIX) and path.endswith(SUFFIX):
        wire, middle = OPEN_INFERENCE, path[len(PREFIX) : -len(SUFFIX)]
    elif path.startswith(V1_PREFIX) and path.endswith(V1_SUFFIX):
        wire, middle = KSERVE_V1, path[len(V1_PREFIX) : -len(V1_SUFFIX)]
    else:
        return None
    parts = [unquote_to_bytes(part).decode("utf-8", "replace") for part in middle.split(b"/")]
    if len(parts) == 1 and parts[0]:
        return wire, parts[0], None
    if len(parts) == 3 and parts[1] == "versions" and parts[0]:
        return wire, parts[0], parts[2]
    return None


def _count(value: bytes) -> int | None:
    return int(value) if value.isdigit() and len(value) < 16 else None


def _no_count(name: bytes, value: bytes) -> BadCall:
    return BadCall(f"{name.decode('latin-1')}: {_text(value)!r}, expected a count of bytes")


def _nanoseconds(value: bytes) -> int | None:
    """Read seconds above 0; what a day is longer than is as good as none.

    >>> _nanoseconds(b"0.25"), _nanoseconds(b"0"), _nanoseconds(b"nan"), _nanoseconds(b"soon")
    (250000000, None, None, None)
    """
    try:
        seconds = float(value)
    except ValueError:
        return None
    return int(min(seconds, 86_400.0) * 1e9) if seconds > 0 else None


def _text(value: bytes) -> str:
    return value[:32].decode("latin-1")


def too_large(came: int, limit: int) -> TooLarge:
    """Say that a body of so many bytes is beyond the limit."""
    return TooLarge(f"body: {came} bytes, expected at most {limit} ([server] max_body_bytes)")
