"""Which calls are traced, and by which ids: W3C Trace Context and head sampling.

Nothing is measured for a trace that the record does not need anyway, so spans are built after the answer has left,
and only for calls that are sampled (`gateway.spans`). A call that is not pays for one comparison. One whose client
sent a `traceparent` goes on in the client's trace, sampled or not: its record carries the ids, and its answer our
own span's.

Who decides: the client, where it sends a valid `traceparent` (its flag says whether it records); else chance. Either
way no more than a number a second are traced, so that neither a client nor a rush can make tracing cost more than it
was given.
"""

import re
from dataclasses import dataclass
from random import getrandbits, random
from time import perf_counter_ns
from typing import Protocol

from gateway.batching import Computed
from gateway.call import Arrived
from gateway.errors import InferenceError
from gateway.metrics import WorkerMetrics
from monitors.log.record import Record

TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
LENGTH = 55
"""Of version 00; later ones may be longer."""
SAMPLED, RANDOM = 0x01, 0x02
"""The flags that the specification gives a meaning; all others are not passed on."""


@dataclass(slots=True)
class Trace:
    """A call's place in a trace: ids in lower-case hexadecimal, `span_id` ours, `parent_id` the client's."""

    trace_id: str
    span_id: str
    parent_id: str | None = None
    flags: int = SAMPLED
    state: str | None = None

    @property
    def sampled(self) -> bool:
        """Whether its spans are exported."""
        return bool(self.flags & SAMPLED)

    @property
    def traceparent(self) -> str:
        """The header that says where the trace went on."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


@dataclass(frozen=True, slots=True)
class Finished:
    """An answered call, as its spans need it."""

    trace: Trace
    arrived: Arrived
    record: Record
    computed: Computed | None
    status: int
    failure: InferenceError | None
    finished_ns: int


class Exporter(Protocol):
    """Where the spans of sampled calls go."""

    def add(self, finished: Finished) -> None:
        """Build the spans of one call and queue them. Never waits; what finds no room is dropped and counted."""
        ...

    def close(self, seconds: float) -> None:
        """Export what waits, for so long at most."""
        ...


class Tracing:
    """Decides about each call; without an exporter it only carries the ids of clients."""

    def __init__(
        self, exporter: Exporter | None, metrics: WorkerMetrics, *, sample_ratio: float, traces_per_second_max: float
    ) -> None:
        self._exporter = exporter
        self._ratio = 0.0 if exporter is None else sample_ratio
        self._tokens_max = max(1.0, traces_per_second_max)
        self._tokens_a_ns = traces_per_second_max / 1e9
        self._tokens = self._tokens_max if traces_per_second_max else 0.0
        self._filled_ns = perf_counter_ns()
        self._metrics = metrics

    def begin(self, arrived: Arrived) -> Trace | None:
        """Return the call's place in a trace; None for the many that belong to none."""
        if arrived.traceparent is not None:
            trace = parse_traceparent(arrived.traceparent)
            if trace is not None:
                trace.parent_id, trace.span_id, trace.state = trace.span_id, _span_id(), arrived.tracestate
                if trace.sampled and (self._exporter is None or not self._admit(arrived.started_ns)):
                    trace.flags &= ~SAMPLED
                return trace
        if random() < self._ratio and self._admit(arrived.started_ns):
            return Trace(f"{getrandbits(128) or 1:032x}", _span_id(), None, SAMPLED | RANDOM)
        return None

    def finish(self, finished: Finished) -> None:
        """Export a sampled call, and let the histogram of latencies point at it."""
        seconds = (finished.finished_ns - finished.arrived.started_ns) / 1e9
        self._metrics.point_at(finished.record, seconds)
        if self._exporter is not None:
            self._exporter.add(finished)

    def close(self, seconds: float) -> None:
        """Export what waits, for so long at most."""
        if self._exporter is not None:
            self._exporter.close(seconds)

    def _admit(self, now_ns: int) -> bool:
        """A bucket of tokens, one a trace, filled at the rate of the setting; it holds those of one second."""
        filled = self._tokens + max(0, now_ns - self._filled_ns) * self._tokens_a_ns
        self._tokens = min(self._tokens_max, filled)
        self._filled_ns = now_ns
        if self._tokens < 1:
            self._metrics.traces_over_limit += 1
            return False
        self._tokens -= 1
        return True


def parse_traceparent(text: str) -> Trace | None:
    """Read a `traceparent` header (W3C Trace Context, section 3.2); None when it is invalid.

    An invalid one is as good as none. A later version is read as far as this one goes. `span_id` is the sender's.

    >>> parse_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").trace_id
    '4bf92f3577b34da6a3ce929d0e0e4736'
    """
    match = TRACEPARENT.fullmatch(text)
    if match is None or (len(text) > LENGTH and text.startswith("00")):
        return None
    trace_id, span_id, flags = match.groups()
    return Trace(trace_id, span_id, None, int(flags, 16) & (SAMPLED | RANDOM))


def joined(before: str | None, value: bytes) -> str:
    """Return a header with one more value of it: one that came twice means both.

    Of two trace parents neither is valid then, as the specification wants.

    >>> joined(joined(None, b"a=1"), b"b=2")
    'a=1,b=2'
    """
    text = value.decode("latin-1")
    return text if before is None else f"{before},{text}"


def _span_id() -> str:
    return f"{getrandbits(64) or 1:016x}"
