"""Inference over gRPC: one call of `ModelInfer`, and a stream of them."""

from collections import deque
from functools import lru_cache
from time import perf_counter_ns

from google.protobuf.message import DecodeError

from gateway.call import Answer, Arrived
from gateway.errors import BadCall, ClientGone, InferenceError, TooLarge, Unavailable
from gateway.grpc.http2 import field
from gateway.grpc.messages import message
from gateway.grpc.status import DONE, START, trailers
from gateway.grpc.stream import Stream
from gateway.grpc.wire import GrpcInference, InferRequest, InferResponse, delimited
from gateway.predict import Predictor, hang_up
from gateway.steps import start
from gateway.waiting_bytes import WaitingBytes

ONE, STREAMED = GrpcInference("ModelInfer"), GrpcInference("ModelStreamInfer")
StreamResponse = message("inference.ModelStreamInferResponse")
BEFORE_PREDICTION_ID = field("snowgate-prediction-id", "0" * 36)[:-36]
"""Prediction ids are all of one length."""
UNLOGGED = InferResponse()
UNLOGGED.parameters["snowgate_logged"].bool_param = False
"""What stands in a stream's answer where a single call has `snowgate-logged: false` before it."""
INFER_RESPONSE = 2
"""The number of the field in `ModelStreamInferResponse`."""
STREAM_CALLS_MAX = 1_024
"""Calls of one stream that have no answer yet; a queue holds twice as many."""
STREAM_BYTES_MAX = 64 * 1024 * 1024
"""Calls of one stream that have no answer yet, and answers that its client has not taken."""


class InferCall:
    """One call of `ModelInfer`."""

    patient = False

    def __init__(self, stream: Stream, predictor: Predictor) -> None:
        self._stream = stream
        self._predictor = predictor
        self._message: bytes | None = None
        self._arrived: Arrived | None = None

    def message(self, data: bytes) -> None:
        """As `Handler.message`."""
        if self._message is not None:
            raise BadCall("message: a second one, expected one; ModelStreamInfer takes many")
        self._message = data

    def ended(self) -> None:
        """As `Handler.ended`: now the call is whole, and goes the way of all calls."""
        if self._message is None:
            self.refuse(BadCall("message: none came, expected a ModelInferRequest"))
        else:
            self._predict(self._message, None)

    def _predict(self, data: bytes, refused: InferenceError | None) -> None:
        if self._arrived is None:
            self._arrived = arrived_call(ONE, self._stream, data, self._stream.started_ns)
            self._arrived.refused = refused or self._arrived.refused
            start(self._predictor.predict(self._arrived, self._reply))

    def refuse(self, error: InferenceError) -> None:
        """As `Handler.refuse`: refused calls are in the log as well."""
        self._predict(self._message or b"", error)

    def gone(self) -> None:
        """As `Handler.gone`."""
        if self._arrived is not None:
            hang_up(self._arrived)
        else:
            self.refuse(ClientGone("the client took the call back before its message was whole"))

    def drain(self) -> None:
        """As `Handler.drain`: its answer is its end."""

    def _reply(self, answer: Answer) -> None:
        initial = initial_metadata(self._stream, answer)
        if answer.status == 200:
            self._stream.answer(initial, answer.body, DONE)
        else:
            self._stream.start(initial)
            self._stream.finish(trailers(answer.status, answer.body))


class InferStream:
    """One call of `ModelStreamInfer`: each message is a call of its own, the answers come in the order of the calls.

    An error is an answer too, with `error_message`; the stream goes on.
    """

    patient = True

    def __init__(self, stream: Stream, predictor: Predictor, waiting_bytes: WaitingBytes) -> None:
        self._stream = stream
        self._predictor = predictor
        self._waiting_bytes = waiting_bytes
        self._waiting: deque[tuple[Arrived, list[bytes]]] = deque()
        self._held = 0
        self._last: bytes | None = None

    def message(self, data: bytes) -> None:
        """As `Handler.message`."""
        waiting = self._held + self._stream.waiting_bytes
        if len(self._waiting) >= STREAM_CALLS_MAX or waiting > STREAM_BYTES_MAX:
            raise TooLarge(
                f"stream: {len(self._waiting)} calls have no answer yet, and they and the answers that were not taken "
                f"are {waiting} bytes, expected less than {STREAM_CALLS_MAX} and {STREAM_BYTES_MAX}"
            )
        self._held += len(data)
        self._stream.start(START)
        arrived = arrived_call(STREAMED, self._stream, data, perf_counter_ns())
        answers: list[bytes] = []
        self._waiting.append((arrived, answers))
        counted = len(data)
        try:
            self._waiting_bytes.take(counted)
        except Unavailable as error:
            arrived.refused, counted = error, 0

        def reply(answer: Answer) -> None:
            self._held -= len(data)
            self._waiting_bytes.release(counted)
            answers.append(_stream_answer(arrived, answer))
            self._flush()

        start(self._predictor.predict(arrived, reply))

    def _flush(self) -> None:
        while self._waiting and self._waiting[0][1]:
            self._stream.send(self._waiting.popleft()[1][0])
        if self._last is not None and not self._waiting:
            self._stream.finish(self._last)

    def ended(self) -> None:
        """As `Handler.ended`."""
        self._last = self._last or DONE
        self._flush()

    def refuse(self, error: InferenceError) -> None:
        """As `Handler.refuse`: the stream ends when what came before has its answers."""
        self._last = trailers(error.status, error.message)
        self._flush()

    def gone(self) -> None:
        """As `Handler.gone`."""
        for arrived, _answers in self._waiting:
            hang_up(arrived)

    def drain(self) -> None:
        """As `Handler.drain`."""
        self._last = self._last or trailers(503, "draining: this connection takes no more calls, open another")
        self._flush()


def arrived_call(wire: GrpcInference, stream: Stream, data: bytes, started_ns: int) -> Arrived:
    """Put together what is known of one call before it is decoded."""
    refused = None
    try:
        request = InferRequest.FromString(data)
    except DecodeError as error:
        request = InferRequest()
        refused = BadCall(f"message: not a ModelInferRequest: {error}")
    head = stream.head
    arrived = Arrived(
        request.model_name,
        request.model_version or None,
        wire,
        request,
        unit=head.unit,
        request_id=head.request_id,
        traceparent=head.traceparent,
        tracestate=head.tracestate,
        timeout_ns=head.timeout_ns,
    )
    arrived.started_ns = started_ns
    arrived.refused = refused
    return arrived


def initial_metadata(stream: Stream, answer: Answer) -> bytes:
    """Encode what stands before an answer: the same fields as HTTP's headers, in lower case."""
    fields = _origin(answer.bundle, answer.variant) + BEFORE_PREDICTION_ID + answer.prediction_id.encode()
    if stream.head.request_id is not None:
        fields += field("x-request-id", stream.head.request_id)
    if answer.traceparent is not None:
        fields += field("traceparent", answer.traceparent)
    if not answer.logged:
        fields += field("snowgate-logged", "false")
    return fields


@lru_cache(maxsize=1024)
def _origin(bundle: str | None, variant: str | None) -> bytes:
    named = {"snowgate-bundle": bundle, "snowgate-variant": variant}
    return START + b"".join(field(name, value) for name, value in named.items() if value is not None)


def _stream_answer(arrived: Arrived, answer: Answer) -> bytes:
    if answer.status == 200:
        # Messages that are joined are merged: what is to be added stands behind.
        body = bytes(answer.body) if answer.logged else bytes(answer.body) + UNLOGGED.SerializeToString()
        return delimited(INFER_RESPONSE, len(body)) + body
    # Which of the calls failed the client sees by its own id, as Triton sends it back.
    failed = InferResponse(model_name=arrived.model, id=arrived.body.id)
    failed.parameters["snowgate_prediction_id"].string_param = answer.prediction_id
    if not answer.logged:
        failed.MergeFrom(UNLOGGED)
    refusal: bytes = StreamResponse(error_message=answer.body, infer_response=failed).SerializeToString()
    return refusal
