"""What a worker's gRPC connections are held to, and the windows that follow from it."""

from dataclasses import dataclass

from gateway.grpc import http2

UNANSWERED_MAX = 16
"""Messages of the largest size that may come on one connection without an answer: 1 GiB by default."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker's connections are held to."""

    message_bytes: int
    body_seconds: float
    connection_seconds: float
    """How long a connection may be used: then the client opens another, perhaps to another worker."""
    grace_seconds: float
    """How long its open calls have after that."""

    @property
    def stream_window(self) -> int:
        """A whole message at once: nothing has to be asked for in between."""
        return min(self.message_bytes + http2.WINDOW_START, http2.WINDOW_MAX)

    @property
    def connection_window(self) -> int:
        """All messages without an answer together."""
        return min(self.message_bytes * UNANSWERED_MAX + http2.WINDOW_START, http2.WINDOW_MAX)
