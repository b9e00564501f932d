"""The way of one call, from its bytes to its answer: `Predictor.predict` reads top to bottom.

Every call ends in exactly one answer and one record, in this order: the record is on disk before the answer leaves.
That holds for refused calls as well, so that a client's mistake can be found again at three in the morning; but for
those of which not even the model is known, which are counted (`unknown`).
"""

from collections.abc import Callable
from random import random
from time import perf_counter_ns

from gateway.batching import Computed
from gateway.call import Answer, Arrived, Call, Source
from gateway.call_lines import CallLines
from gateway.errors import BadCall, ClientGone, InferenceError, Unavailable
from gateway.keys import unit_hash
from gateway.ledger import Ledger
from gateway.metrics import WorkerMetrics
from gateway.routing import Choice
from gateway.schema import shown
from gateway.table import Model, Served, Table
from gateway.tracing import Finished, Trace, Tracing
from gateway.unknown import UnknownRefusals
from monitors.log.record import Payload, Record, new_id

NO_CALL = Call([])
"""What the record of a call that could not be decoded has in its place."""


class _Progress:
    """How far a call has come: what its record can tell."""

    __slots__ = (
        "call",
        "choice",
        "computed",
        "decoded_ns",
        "model",
        "rollout",
        "route_revision",
        "rows",
        "served",
        "trace",
    )

    def __init__(self) -> None:
        self.model: Model | None = None
        self.call: Call | None = None
        self.served: Served | None = None
        self.choice: Choice | None = None
        self.route_revision = 0
        self.rollout: str | None = None
        self.rows = 0
        self.computed: Computed | None = None
        self.decoded_ns = 0
        self.trace: Trace | None = None


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
    ) -> None:
        self.table = Table()
        self.draining = False
        self._open = 0
        """Calls that have no answer yet."""
        self.unknown = UnknownRefusals(ledger)
        self._ledger = ledger
        self._metrics = metrics
        self._tracing = tracing
        self._lines = lines
        self._timeout_ns = int(timeout_seconds * 1e9)
        self._unit_key = unit_key

    async def predict(self, arrived: Arrived, reply: Callable[[Answer], None]) -> None:
        """Answer one call: decode, route, check, compute, encode, record, reply."""
        self._metrics.received += 1
        self._open += 1
        progress, wire = _Progress(), arrived.wire
        prediction_id = new_id(arrived.admitted_ns)
        trace = progress.trace = self._tracing.begin(arrived)
        try:
            if arrived.refused is not None:
                progress.model = None if arrived.refused.stranger else self.table.models.get(arrived.model)
                raise arrived.refused
            model = progress.model = self.table.model(arrived.model)
            progress.route_revision, progress.rollout = model.route.revision, model.route.rollout
            progress.served, progress.choice = model.place(arrived.version, arrived.unit, random())
            served, schema = progress.served, progress.served.schema
            call = progress.call = wire.decode(arrived, schema)
            progress.rows = schema.check(call.inputs, call.outputs)
            progress.decoded_ns = perf_counter_ns()
            waiting = served.queue.submit(call.inputs, progress.rows, arrived.started_ns + self._wait_ns(arrived, call))
            arrived.waiting = waiting
            computed = progress.computed = await waiting
            source = Source(served.model, served.version, served.digest, progress.choice.variant.variant)
            body, json_length = wire.encode(call, computed.outputs, source, prediction_id)
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
        try:
            if progress.model is not None:
                await self._ledger.append(record, lone=self._open == 1)
        except Unavailable as error:
            status, failure = error.status, error
            body, json_length = wire.refuse(error, prediction_id), None
        self._open -= 1
        finished_ns = perf_counter_ns()
        self._metrics.done(record, status, (finished_ns - arrived.started_ns) / 1e9)
        traceparent = None if trace is None else trace.traceparent
        reply(Answer(status, body, prediction_id, record.bundle, record.variant, json_length, traceparent))
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
        served, choice, computed, call = progress.served, progress.choice, progress.computed, progress.call or NO_CALL
        now = perf_counter_ns()
        timings = {"total": (now - arrived.started_ns) / 1e6}
        if progress.decoded_ns:
            timings["decode"] = (progress.decoded_ns - arrived.started_ns) / 1e6
        if computed is not None:
            timings["queue"] = computed.queue_ns / 1e6
            timings["compute"] = computed.compute_ns / 1e6
        record = Record(
            id=prediction_id,
            kind="answered" if failure is None else "refused",
            time=arrived.admitted_ns / 1e9,
            endpoint=arrived.wire.operation,
            model=shown(arrived.model) if served is None else served.model,
            version=None if served is None else served.version,
            bundle=None if served is None else served.digest,
            variant=None if choice is None else choice.variant.variant,
            reason=None if choice is None else choice.reason,
            probability=None if choice is None else choice.probability,
            route_revision=progress.route_revision,
            rollout=progress.rollout,
            status=status,
            error_type=None if failure is None else failure.error_type,
            rows=progress.rows,
            group=None if arrived.unit is None else unit_hash(arrived.unit, self._unit_key),
            signals={} if computed is None else computed.signals,
            timings=timings,
            batch_size=0 if computed is None else computed.batch_rows,
            engine=None if served is None else served.engine,
            trace_id=None if progress.trace is None else progress.trace.trace_id,
            span_id=None if progress.trace is None else progress.trace.span_id,
            payload=Payload(
                unit=arrived.unit,
                client_id=call.client_id,
                request_id=arrived.request_id,
                parameters=call.parameters,
                inputs=call.inputs,
                outputs=[] if computed is None else computed.outputs,
                model_inputs=[] if computed is None else computed.model_inputs,
                model_outputs=[] if computed is None else computed.model_outputs,
                error=None if failure is None else failure.message,
            ),
        )
        if progress.model is not None and progress.model.keeping is not None:
            progress.model.keeping.apply(record, frozenset() if served is None else served.schema.json_inputs)
        return record


def hang_up(arrived: Arrived) -> None:
    """The client is gone: a call that waits is dropped from its queue; its record says so."""
    arrived.gone = True
    if arrived.waiting is not None:
        arrived.waiting.complete(error=ClientGone("the client closed the connection before the answer"))
