"""Which calls are traced: the header by the specification's rules, chance, and the limit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from gateway.call import Arrived
from gateway.metrics import WorkerMetrics
from gateway.protocol import OpenInference
from gateway.tracing import Finished, Tracing, parse_traceparent

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
HEXADECIMAL = "0123456789abcdef"


class Kept:
    """An exporter that keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[Finished] = []

    def add(self, finished: Finished) -> None:
        """Keep a call."""
        self.calls.append(finished)

    def close(self, seconds: float) -> None:
        """Nothing waits here."""


def tracing(ratio: float, rate: float, *, exports: bool = True) -> tuple[Tracing, WorkerMetrics]:
    """Head sampling, and where it counts."""
    metrics = WorkerMetrics(CollectorRegistry())
    exporter = Kept() if exports else None
    return Tracing(exporter, metrics, sample_ratio=ratio, traces_per_second_max=rate), metrics


def call(traceparent: str | None = None, at_ns: int = 0) -> Arrived:
    """A call that came at a moment of the worker's clock."""
    arrived = Arrived("signs", None, OpenInference(), traceparent=traceparent)
    arrived.started_ns = at_ns
    return arrived


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"fe-{TRACE}-{SPAN}-01-what-comes-later", True),
        (f"01-{TRACE}-{SPAN}-01-", True),
    ],
)
def test_valid_headers(header: str, sampled: bool) -> None:
    """Flags are bits, of which unknown ones are not passed on; a later version is read as far as this one goes."""
    trace = parse_traceparent(header)
    assert trace is not None
    assert (trace.trace_id, trace.span_id, trace.sampled) == (TRACE, SPAN, sampled)
    assert trace.flags in range(4)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-",
        f"01-{TRACE}-{SPAN}-01more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"00-{TRACE}-{SPAN}-0G",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"00_{TRACE}_{SPAN}_01",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01",
        f"0٠-{TRACE}-{SPAN}-01",
    ],
)
def test_invalid_headers_are_as_good_as_none(header: str) -> None:
    """Version ff, ids of zeros, other lengths, upper case, and two headers in one make no trace."""
    assert parse_traceparent(header) is None
    decide, _metrics = tracing(0.0, 100.0)
    assert decide.begin(call(header)) is None


@given(
    st.text(HEXADECIMAL, min_size=32, max_size=32), st.text(HEXADECIMAL, min_size=16, max_size=16), st.integers(0, 3)
)
def test_what_is_written_is_read(trace_id: str, span_id: str, flags: int) -> None:
    """A header that was read and written again says the same, unless an id is all zeros."""
    header = f"00-{trace_id}-{span_id}-{flags:02x}"
    trace = parse_traceparent(header)
    if set(trace_id) == {"0"} or set(span_id) == {"0"}:
        assert trace is None
    else:
        assert trace is not None
        assert trace.traceparent == header


@given(st.one_of(st.text(max_size=80), st.text(f"{HEXADECIMAL}-", max_size=80)))
def test_nothing_that_comes_in_a_header_breaks_the_parser(header: str) -> None:
    """Any text is a trace with well-formed ids, or none."""
    trace = parse_traceparent(header)
    if trace is not None:
        assert (len(trace.trace_id), len(trace.span_id)) == (32, 16)
        assert set(trace.trace_id + trace.span_id) <= set(HEXADECIMAL)


def test_a_clients_trace_goes_on_with_a_span_of_ours() -> None:
    """Trace id and parent are the client's, the span id is new each time; the client's flag decides."""
    decide, _metrics = tracing(0.0, 100.0)
    first, second = (decide.begin(call(f"00-{TRACE}-{SPAN}-03")) for _ in range(2))
    assert first is not None
    assert second is not None
    assert (first.trace_id, first.parent_id, first.sampled, first.flags) == (TRACE, SPAN, True, 3)
    assert len({SPAN, first.span_id, second.span_id}) == 3
    unwanted = decide.begin(call(f"00-{TRACE}-{SPAN}-00"))
    assert unwanted is not None
    assert not unwanted.sampled


def test_without_an_exporter_nothing_is_sampled() -> None:
    """The client's ids are carried, and the flag says that nothing is recorded here."""
    decide, metrics = tracing(1.0, 100.0, exports=False)
    assert decide.begin(call()) is None
    trace = decide.begin(call(f"00-{TRACE}-{SPAN}-01"))
    assert trace is not None
    assert not trace.sampled
    assert metrics.traces_over_limit == 0


def test_chance_takes_its_share() -> None:
    """At ratio 0.25 about a quarter of 4,000 calls is traced (five standard deviations are 137)."""
    decide, _metrics = tracing(0.25, 1e6)
    calls = [decide.begin(call(at_ns=number * 1_000_000)) for number in range(4_000)]
    assert abs(sum(one is not None for one in calls) - 1_000) < 137


def test_the_limit_holds_for_clients_and_for_chance() -> None:
    """Ten a second: ten at once, one more for each tenth of a second; the others go on unsampled, and are counted."""
    decide, metrics = tracing(0.0, 10.0)
    wanted = f"00-{TRACE}-{SPAN}-01"
    begin = 10**15  # Far behind the moment at which the bucket was made.
    rush = [decide.begin(call(wanted, begin)) for _ in range(25)]
    assert [one.sampled for one in rush if one is not None] == [True] * 10 + [False] * 15
    later = [decide.begin(call(wanted, begin + number * 50_000_000 + 1)) for number in range(1, 21)]
    assert sum(one.sampled for one in later if one is not None) == 10
    assert metrics.traces_over_limit == 25
    chance, refused = tracing(1.0, 10.0)
    assert sum(chance.begin(call(at_ns=begin)) is not None for _ in range(25)) == 10
    assert refused.traces_over_limit == 15
