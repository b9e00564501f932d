"""Spans of sampled calls, built from what their records tell, and exported by OTLP over HTTP.

    POST /v2/models/{model}/infer     from the end of the headers to the durable answer
    ├── decode                        the rest of the body, reading it, the version's choice, the check by its schema
    ├── queue                         until the call left for the runner
    ├── runner                        until the runner's answer was here
    │   └── compute                   the model, for the whole batch
    ├── encode                        the answer
    └── log                           until the record was on stable storage

This module needs the extra `otel`; it is imported only by a worker that has an endpoint. Names and attributes are
OpenTelemetry's semantic conventions where there are some; for model inference there are none, so `snowgate.*` is ours.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from random import getrandbits
from threading import Thread
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from gateway.grpc.status import code
from gateway.keeping import words
from gateway.metrics import WorkerMetrics
from gateway.tracing import Finished

log = logging.getLogger("snowgate.tracing")

SPANS_A_CALL = 7
WAITING_SPANS_MAX = 2_048 * SPANS_A_CALL
"""Spans that wait for the collector: at 2 KB each 29 MB, or 100 s of the default limit of 20 traces a second."""
EXPORTED_TOGETHER_MAX = 64
"""Encoding a span takes 50 µs of the interpreter, for which the event loop has to wait: 3 ms at a time, not more."""
EXPORT_SECONDS = 1.0
"""How long a span waits for others at most, so that somebody who looks for a trace finds it at once."""


class Spans:
    """The exporter of one worker. `add` is called on the event loop's thread, and never waits."""

    def __init__(self, endpoint: str, *, worker: str, environment: str, version: str, metrics: WorkerMetrics) -> None:
        self._metrics = metrics
        self._counted = _Counted(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces"), endpoint, metrics)
        # Room is kept count of here, so the processor's own queue, which drops without telling, is never full.
        self._processor = BatchSpanProcessor(
            self._counted, 2 * WAITING_SPANS_MAX, EXPORT_SECONDS * 1e3, EXPORTED_TOGETHER_MAX
        )
        self._scope = InstrumentationScope("snowgate", version)
        said: dict[str, str | int] = {
            "service.name": "snowgate",
            "service.version": version,
            "deployment.environment.name": environment,
            "snowgate.worker": worker,
            "process.pid": os.getpid(),
        }
        # What the operator says by OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES goes before what we would say.
        self._resource = Resource.create(said).merge(OTELResourceDetector().detect())
        self._given = 0

    @property
    def waiting(self) -> int:
        """Spans that the collector has neither taken nor refused yet."""
        return self._given - self._counted.taken

    def add(self, finished: Finished) -> None:
        """Build the spans of one call and queue them; they are dropped, and counted, when there is no room."""
        spans = list(self._spans(finished))
        if self.waiting + len(spans) > WAITING_SPANS_MAX:
            self._metrics.spans_dropped["queue_full"] += len(spans)
            return
        self._given += len(spans)
        for span in spans:
            self._processor.on_end(span)

    def _spans(self, finished: Finished) -> Iterator[ReadableSpan]:
        """Yield the spans of one call, its own last.

        They are made whole, not begun and ended by a tracer: all of their times have passed, and it would cost ten
        times as much.
        """
        trace, arrived, status = finished.trace, finished.arrived, Status(StatusCode.UNSET)
        trace_id, flags = int(trace.trace_id, 16), TraceFlags(trace.flags)
        state = TraceState.from_header([trace.state]) if trace.state else None
        offset = arrived.admitted_ns - arrived.started_ns
        own = SpanContext(trace_id, int(trace.span_id, 16), is_remote=False, trace_flags=flags, trace_state=state)
        contexts = {"": own}
        common: dict[str, Any] = {"resource": self._resource, "instrumentation_scope": self._scope}
        for name, parent, first, last, attributes in _stages(finished):
            context = SpanContext(trace_id, getrandbits(64) or 1, is_remote=False, trace_flags=flags, trace_state=state)
            contexts[name] = context
            begin, end = first + offset, last + offset
            above = contexts[parent]
            yield ReadableSpan(name, context, above, attributes=attributes, start_time=begin, end_time=end, **common)
        remote = None
        if trace.parent_id is not None:
            remote = SpanContext(
                trace_id, int(trace.parent_id, 16), is_remote=True, trace_flags=flags, trace_state=state
            )
        if finished.status >= 500:
            # By the conventions a client's own mistake is no error of the server: then `error.type` alone says it.
            said = None if finished.failure is None else words(finished.record, finished.failure)
            status = Status(StatusCode.ERROR, said)
        name, attributes = _operation(finished)
        yield ReadableSpan(
            name,
            own,
            remote,
            attributes=attributes | _attributes(finished),
            kind=SpanKind.SERVER,
            status=status,
            start_time=arrived.admitted_ns,
            end_time=finished.finished_ns + offset,
            **common,
        )

    def close(self, seconds: float) -> None:
        """Export what waits; what the collector does not take in time is dropped, and counted."""
        # The processor waits 30 s for a collector that hangs, and can't be told otherwise.
        flushing = Thread(target=self._processor.shutdown, daemon=True)
        flushing.start()
        flushing.join(seconds)
        left = self.waiting
        if left:
            self._metrics.spans_dropped["shutdown"] += left
            log.warning("%d spans could not be exported within %.0f s at the end", left, seconds)


class _Counted(SpanExporter):
    """The exporter of the processor's thread, with counts, and with one line when it begins to fail or works again."""

    def __init__(self, exporter: SpanExporter, endpoint: str, metrics: WorkerMetrics) -> None:
        self.taken = 0
        self._exporter = exporter
        self._endpoint = endpoint
        self._metrics = metrics
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            failed = result is not SpanExportResult.SUCCESS
            if failed:
                self._metrics.spans_dropped["export_failed"] += len(spans)
            else:
                self._metrics.spans_exported += len(spans)
            if failed and not self._failing:
                log.warning("%s does not take spans; they are dropped and counted until it does", self._endpoint)
            elif self._failing and not failed:
                log.info("%s takes spans again", self._endpoint)
            self._failing = failed
            self.taken += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _stages(finished: Finished) -> Iterator[tuple[str, str, int, int, dict[str, Any]]]:
    """Yield each stage that the call came to: name, parent, begin and end on the worker's clock, attributes."""
    began, timings, computed = finished.arrived.started_ns, finished.record.timings, finished.computed
    encoded = began + int(timings["total"] * 1e6)
    if "decode" in timings:
        decoded = began + int(timings["decode"] * 1e6)
        yield "decode", "", began, decoded, {}
        if computed is not None:
            sent = decoded + computed.queue_ns
            batch = {
                "snowgate.batch.rows": computed.batch_rows,
                "snowgate.engine": finished.record.engine or "",
                "snowgate.runner.pid": computed.runner_pid,
            }
            yield "queue", "", decoded, sent, {}
            yield "runner", "", sent, computed.received_ns, batch
            # How long it took is known exactly; it is placed at the end of the runner's part, where it belongs but
            # for the way back.
            computing = max(sent, computed.received_ns - computed.compute_ns)
            yield "compute", "runner", computing, computed.received_ns, batch
            yield "encode", "", computed.received_ns, encoded, {}
    yield "log", "", encoded, finished.finished_ns, {}


def _operation(finished: Finished) -> tuple[str, dict[str, Any]]:
    """Return the name of a call's span and what the conventions for its transport ask for."""
    operation, version = finished.arrived.wire.operation, finished.arrived.version
    method, _space, route = operation.rpartition(" ")
    if not method:
        name = code(finished.status).name
        return operation, {"rpc.system.name": "grpc", "rpc.method": operation, "rpc.response.status_code": name}
    if version is not None:
        route = route.replace("{model}", "{model}/versions/{version}")
    path = route.replace("{model}", finished.record.model).replace("{version}", version or "")
    return f"{method} {route}", {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": finished.status,
        "url.scheme": "http",
        "url.path": path,
    }


def _attributes(finished: Finished) -> dict[str, Any]:
    """Return what is said of any call. Nothing of what a client predicts on is in it."""
    record, failure = finished.record, finished.failure
    said = {
        "snowgate.prediction.id": record.id,
        "snowgate.model.name": record.model,
        "snowgate.model.version": record.version,
        "snowgate.bundle": record.bundle,
        "snowgate.rows": record.rows,
        "error.type": None if failure is None else failure.error_type,
    }
    if record.variant is not None:
        said |= {
            "feature_flag.key": record.model,
            "feature_flag.provider.name": "snowgate",
            "feature_flag.result.variant": record.variant,
            "feature_flag.result.reason": record.reason,
            "feature_flag.version": str(record.route_revision),
        }
    return {name: value for name, value in said.items() if value is not None}
