"""The way of one call, from its bytes to its answer: `Predictor.predict` reads top to bottom.

Every call ends in exactly one answer and one record, in this order: the record is on disk before the answer leaves, or
handed to the log where `durability = "async"` says so. That holds for refused calls as well, so that a client's mistake
can be found again at three in the morning; but for those of which not even the model is known, which are counted
(`unknown`). Where the log can't be written, the call is refused, or answered with a word that it is not logged, as its
model's operator chose.
"""

from collections.abc import Callable
from random import random
from time import perf_counter_ns

import msgspec

from gateway.batching import Computed
from gateway.call import Answer, Arrived, Call
from gateway.call_lines import CallLines
from gateway.errors import BadCall, ClientGone, InferenceError, Unavailable
from gateway.keys import unit_hash
from gateway.ledger import Ledger
from gateway.metrics import WorkerMetrics
from gateway.schema import shown
from gateway.table import Model, Placed, Table
from gateway.tracing import Finished, Trace, Tracing
from gateway.unknown import UnknownRefusals
from monitors.log.record import Payload, Record, new_id, shallow_copy

NO_CALL = Call([])
"""What the record of a call that could not be decoded has in its place."""


class _Progress(msgspec.Struct):
    """How far a call has come: what its record can tell."""

    trace: Trace | None
    model: Model | None = None
    placed: Placed | None = None
    call: Call | None = None
    rows: int = 0
    computed: Computed | None = None
    decoded_ns: int = 0


class Predictor:
    """Answers calls from the table of the moment, and records each."""

    def __init__(
        self,
        ledger: Ledger,
        metrics: WorkerMetrics,
        tracing: Tracing,
        lines: CallLines,
        *,
        timeout_seconds: float,
        unit_key: bytes,
        serves_unlogged: bool = False,
    ) -> None:
        """`serves_unlogged` says it of calls for which no version was chosen; each version says it of its own."""
        self.table = Table()
        self.draining = False
        self._open = 0
        """Calls that have no answer yet."""
        self.unknown = UnknownRefusals(ledger, metrics)
        self._ledger = ledger
        self._metrics = metrics
        self._tracing = tracing
        self._lines = lines
        self._timeout_ns = int(timeout_seconds * 1e9)
        self._unit_key = unit_key
        self._serves_unlogged = serves_unlogged

    @property
    def in_hands(self) -> int:
        """How many calls have no answer yet."""
        return self._open

    @property
    def log_failing(self) -> str | None:
        """Why the log can't be written; None while it can."""
        return self._ledger.failing

    async def predict(self, arrived: Arrived, reply: Callable[[Answer], None]) -> None:
        """Answer one call: decode, route, check, compute, encode, record, reply."""
        self._metrics.received += 1
        self._open += 1
        wire = arrived.wire
        prediction_id = new_id(arrived.admitted_ns)
        trace = self._tracing.begin(arrived)
        progress = _Progress(trace)
        try:
            if arrived.refused is not None:
                progress.model = None if arrived.refused.stranger else self.table.models.get(arrived.model)
                raise arrived.refused
            model = progress.model = self.table.model(arrived.model)
            placed = progress.placed = model.place(arrived.version, arrived.unit, random())
            served = placed.served
            schema = served.schema
            call = progress.call = wire.decode(arrived, schema)
            progress.rows = schema.check(call.inputs, call.outputs)
            progress.decoded_ns = perf_counter_ns()
            waiting = served.queue.submit(call.inputs, progress.rows, arrived.started_ns + self._wait_ns(arrived, call))
            arrived.waiting = waiting
            computed = progress.computed = await waiting
            body, json_length = wire.encode(call, computed.outputs, placed.source, prediction_id)
            status, failure = 200, None
        except InferenceError as error:
            status, failure = error.status, error
        except Exception as error:  # noqa: BLE001 - it is written with its traceback, when the answer is away
            # The one place where anything unforeseen ends: the client gets an answer, the record its line, and the
            # process lives on for the others.
            failure = InferenceError(f"internal error; the gateway's log has it under {prediction_id}")
            failure.__cause__ = error
            status = failure.status
        if failure is not None:
            if progress.model is None:
                prediction_id = self.unknown.count(failure)
            body, json_length = wire.refuse(failure, prediction_id), None
        record = self._record(prediction_id, arrived, progress, status, failure)
        logged = True
        try:
            if progress.model is not None:
                await self._ledger.append(record, lone=self._open == 1)
        except Unavailable as error:
            logged = False
            if not (self._serves_unlogged if progress.placed is None else progress.placed.served.serves_unlogged):
                status, failure = error.status, error
                body, json_length = wire.refuse(error, prediction_id), None
            self._metrics.unlogged["answered" if status == 200 else "refused"] += 1
        self._open -= 1
        finished_ns = perf_counter_ns()
        self._metrics.done(record, status, (finished_ns - arrived.started_ns) / 1e9)
        traceparent = None if trace is None else trace.traceparent
        reply(Answer(status, body, prediction_id, record.bundle, record.variant, json_length, traceparent, logged))
        if trace is not None and trace.sampled:
            self._tracing.finish(Finished(trace, arrived, record, progress.computed, status, failure, finished_ns))
        if status >= 500 or self._lines.access:
            self._lines.write(record, status, failure)

    def _wait_ns(self, arrived: Arrived, call: Call) -> int:
        """The client's `timeout` parameter (microseconds, Triton's name for it), capped by deadline and setting."""
        longest = self._timeout_ns if arrived.timeout_ns is None else min(arrived.timeout_ns, self._timeout_ns)
        timeout = call.parameters.get("timeout")
        if timeout is None:
            return longest
        if type(timeout) is not int or timeout <= 0:
            msg = f"parameters.timeout: {shown(timeout)}, expected microseconds as an integer above 0"
            raise BadCall(msg)
        return min(timeout * 1_000, longest)

    def _record(
        self,
        prediction_id: str,
        arrived: Arrived,
        progress: _Progress,
        status: int,
        failure: InferenceError | None,
    ) -> Record:
        computed, call, trace = progress.computed, progress.call or NO_CALL, progress.trace
        timings = {"total": (perf_counter_ns() - arrived.started_ns) / 1e6}
        if progress.decoded_ns:
            timings["decode"] = (progress.decoded_ns - arrived.started_ns) / 1e6
        record = _blank(arrived, progress)
        record.id = prediction_id
        record.time = arrived.admitted_ns / 1e9
        record.endpoint = arrived.wire.operation
        record.rows = progress.rows
        record.timings = timings
        payload = record.payload = Payload(
            unit=arrived.unit,
            client_id=call.client_id,
            request_id=arrived.request_id,
            parameters=call.parameters,
            inputs=call.inputs,
        )
        if computed is not None:
            timings["queue"] = computed.queue_ns / 1e6
            timings["compute"] = computed.compute_ns / 1e6
            record.signals, record.batch_size = computed.signals, computed.batch_rows
            payload.outputs = computed.outputs
            payload.model_inputs, payload.model_outputs = computed.model_inputs, computed.model_outputs
        if failure is not None:
            record.kind, record.status, record.error_type = "refused", status, failure.error_type
            payload.error = failure.message
        if arrived.unit is not None:
            record.group = unit_hash(arrived.unit, self._unit_key)
        if trace is not None:
            record.trace_id, record.span_id = trace.trace_id, trace.span_id
        if progress.model is not None and progress.model.keeping is not None:
            placed = progress.placed
            progress.model.keeping.apply(record, frozenset() if placed is None else placed.served.schema.json_inputs)
        return record


def _blank(arrived: Arrived, progress: _Progress) -> Record:
    """Return a record with what is known of who answers; nobody, when a call was refused before it had a version."""
    if progress.placed is not None:
        return shallow_copy(progress.placed.blank)
    record = Record(id="", kind="", time=0.0, model=shown(arrived.model), status=0)
    if progress.model is not None:
        record.route_revision, record.rollout = progress.model.route.revision, progress.model.route.rollout
    return record


def hang_up(arrived: Arrived) -> None:
    """The client is gone: a call that waits is dropped from its queue; its record says so."""
    arrived.gone = True
    if arrived.waiting is not None:
        arrived.waiting.complete(error=ClientGone("the client closed the connection before the answer"))
