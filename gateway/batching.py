"""From many calls to one frame: the queue in front of one runner.

There is no timer. While the runner computes, calls wait; the moment it is free it gets all that wait, up to the
bundle's batch size, in one frame over a unix socket. So a lone call leaves at once, and a busy server batches by
itself. Calls whose tensors have other trailing sizes wait for a frame of their own.

What a call can count on: it is resumed exactly once. A frame that fails is sent again call by call, so that one bad
input does not fail its mates; a runner that dies fails what it held with `Unavailable`; a call past its deadline
fails with `TimedOut`, and if it was still waiting nobody computes it.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from math import prod
from struct import unpack
from time import perf_counter_ns
from typing import Any, cast

from bundles.runner import frames
from gateway.errors import ClientGone, ModelFailed, TimedOut, Unavailable
from gateway.steps import Step
from monitors.log.record import Tensor

WAITING_CALLS_MAX = 2_048
"""Calls in one queue. At 12 KB a call (a small image) that is 25 MB; beyond it a client does better to back off."""
IN_FLIGHT_FRAMES = 2
"""One that is computed and one that is in the socket: the runner never waits for the worker's next turn."""
SWEEP_SECONDS = 0.05
"""How often deadlines are looked at; a timer a call would cost more than the whole queue."""


@dataclass(slots=True)
class Computed:
    """What the runner made of one call: its own rows of the batch."""

    outputs: list[Tensor]
    signals: dict[str, list[Any]]
    queue_ns: int
    compute_ns: int
    batch_rows: int
    received_ns: int
    runner_pid: int


class Waiting(Step):
    """One call in the queue: the step that it waits for, and what goes into the frame."""

    __slots__ = ("deadline_ns", "inputs", "key", "queued_ns", "rows", "sent_ns")

    def __init__(self, inputs: list[Tensor], rows: int, deadline_ns: int, *, batched: bool) -> None:
        super().__init__()
        self.inputs = inputs
        self.rows = rows
        self.deadline_ns = deadline_ns
        self.key = tuple([(one.name, one.datatype, *(one.shape[1:] if batched else one.shape)) for one in inputs])
        self.queued_ns = perf_counter_ns()
        self.sent_ns = 0


class RunnerQueue(asyncio.Protocol):
    """The queue and the connection to one runner. All of it runs on the event loop's thread."""

    def __init__(self, name: str, *, max_batch_size: int, batched: bool, on_batch: Callable[[int], None]) -> None:
        self.name = name
        self.max_batch_size = max_batch_size
        self.batched = batched
        self.on_batch = on_batch
        self._waiting: deque[Waiting] = deque()
        self._alone: deque[Waiting] = deque()
        self._in_flight: dict[int, list[Waiting]] = {}
        self._frame_ids = count(1)
        self._decoder = frames.Decoder()
        self._transport: asyncio.Transport | None = None
        self._runner_pid = 0
        self._flush_scheduled = False
        self._loop = asyncio.get_running_loop()
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def submit(self, inputs: list[Tensor], rows: int, deadline_ns: int) -> Waiting:
        """Queue one call, and return the step that gives a `Computed` or raises an InferenceError.

        Raises:
            Unavailable: the runner is not connected, or the queue is full.
        """
        if self._transport is None:
            msg = f"{self.name}: its runner is starting again, try again in a second"
            raise Unavailable(msg)
        if len(self._waiting) >= WAITING_CALLS_MAX:
            msg = f"{self.name}: {WAITING_CALLS_MAX} calls are waiting, no more are taken; try again in a second"
            raise Unavailable(msg)
        waiting = Waiting(inputs, rows, deadline_ns, batched=self.batched)
        self._waiting.append(waiting)
        # One turn of the loop later: all calls that arrived in this turn then leave in one frame.
        if not self._flush_scheduled and len(self._in_flight) < IN_FLIGHT_FRAMES:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)
        return waiting

    @property
    def depth(self) -> int:
        """Calls that wait, those in the runner's hands not counted."""
        return len(self._waiting) + len(self._alone)

    @property
    def connected(self) -> bool:
        """Whether the runner can be reached."""
        return self._transport is not None

    def _flush(self) -> None:
        self._flush_scheduled = False
        while len(self._in_flight) < IN_FLIGHT_FRAMES and self._transport is not None:
            if self._in_flight and self._alone:
                return  # One that is tried alone waits for its turn; it must not meet others on the way.
            batch = self._take()
            if not batch:
                return
            # While one frame is computed a second one waits in the socket, but only when it is full: a part-filled
            # one does better to wait here and grow.
            if self._in_flight and sum(one.rows for one in batch) < self.max_batch_size:
                self._waiting.extendleft(reversed(batch))
                return
            self._send(batch)

    def _take(self) -> list[Waiting]:
        """Take the calls of the next frame: the oldest one, and those behind it that fit with it."""
        while self._alone:
            one = self._alone.popleft()
            if not one.done:
                return [one]
        batch: list[Waiting] = []
        rows = 0
        while self._waiting:
            one = self._waiting[0]
            if one.done:
                self._waiting.popleft()
                one.complete(error=ClientGone("the client closed the connection while the call was waiting"))
                continue
            if batch and (one.key != batch[0].key or rows + one.rows > self.max_batch_size):
                break
            batch.append(self._waiting.popleft())
            rows += one.rows
        return batch

    def _send(self, batch: list[Waiting]) -> None:
        frame_id = next(self._frame_ids)
        now = perf_counter_ns()
        rows = 0
        for one in batch:
            one.sent_ns = now
            rows += one.rows
        inputs, buffers = [], []
        for position, (name, datatype, *trailing) in enumerate(batch[0].key):
            data = [one.inputs[position].data for one in batch]
            shape = [rows, *trailing]
            inputs.append({"name": name, "datatype": datatype, "shape": shape, "size": sum(map(len, data))})
            buffers.extend(data)
        self._in_flight[frame_id] = batch
        self.on_batch(rows)
        assert self._transport is not None, "frames are sent only while connected"
        self._transport.write(frames.encode({"id": frame_id, "rows": rows, "inputs": inputs}, buffers))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection to the runner."""
        self._transport = cast("asyncio.Transport", transport)
        credentials = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self._runner_pid = unpack("3i", credentials)[0]  # struct ucred: process, user, group

    def data_received(self, data: bytes) -> None:
        """Take what the runner answered and resume the calls of each whole frame."""
        for header, body in self._decoder.feed(data):
            batch = self._in_flight.pop(header["id"])
            failure = header.get("error")
            if failure is not None:
                self._fail(batch, failure)
                continue
            try:
                self._share_out(batch, header, body)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with an answer, nobody may wait for ever
                for one in batch:
                    one.complete(error=ModelFailed(f"{self.name}: its answer can't be read: {error!r}"))
        self._flush()

    def _share_out(self, batch: list[Waiting], header: dict[str, Any], body: memoryview) -> None:
        """Give each call its own rows of the batch's outputs and signals."""
        received = perf_counter_ns()
        outputs, offset = [], 0
        for spec in header["outputs"]:
            outputs.append((spec, body[offset : offset + spec["size"]]))
            offset += spec["size"]
        signals = {}
        for spec in header["signals"]:
            values = frames.to_array(spec, body[offset : offset + spec["size"]]).tolist()
            signals[spec["name"]] = _readable(values) if spec["datatype"] == "BYTES" else values
            offset += spec["size"]
        rows = sum(one.rows for one in batch)
        slices = [_row_slices(spec, data, rows) for spec, data in outputs]
        first = 0
        for one in batch:
            last = first + one.rows
            mine = [
                Tensor(
                    name=spec["name"],
                    datatype=spec["datatype"],
                    shape=[one.rows, *spec["shape"][1:]] if self.batched else list(spec["shape"][1:]),
                    data=bytes(data[edges(first) : edges(last)]),
                )
                for (spec, data), edges in zip(outputs, slices, strict=True)
            ]
            part = {name: values[first:last] for name, values in signals.items()}
            queue_ns, compute_ns, batch_rows = one.sent_ns - one.queued_ns, header["compute_ns"], header["batch_rows"]
            one.complete(Computed(mine, part, queue_ns, compute_ns, batch_rows, received, self._runner_pid))
            first = last

    def _fail(self, batch: list[Waiting], failure: dict[str, str]) -> None:
        if len(batch) > 1:
            self._alone.extend(batch)
            return
        batch[0].complete(error=ModelFailed(f"{self.name}: {failure['type']}: {failure['message']}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all that the runner held or was about to get; it is for the client to try again."""
        del exc
        self._transport = None
        self._decoder = frames.Decoder()
        held = [one for batch in self._in_flight.values() for one in batch]
        self._in_flight.clear()
        held += [*self._alone, *self._waiting]
        self._alone.clear()
        self._waiting.clear()
        for one in held:
            one.complete(error=Unavailable(f"{self.name}: its runner ended, try again in a second"))

    def close(self) -> None:
        """Close the connection; calls in flight fail, so callers wait for them first."""
        self._sweeper.cancel()
        if self._transport is not None:
            self._transport.close()

    @property
    def idle(self) -> bool:
        """Whether no call waits here or is with the runner."""
        return not (self._in_flight or self._waiting or self._alone)

    def _sweep(self) -> None:
        """Fail the calls whose deadline has passed: the waiting ones leave, those in flight are computed for nobody."""
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)
        now = perf_counter_ns()
        late = [one for one in (*self._waiting, *self._alone) if one.deadline_ns < now]
        late += [one for batch in self._in_flight.values() for one in batch if one.deadline_ns < now]
        for one in late:
            waited = (now - one.queued_ns) / 1e9
            one.complete(error=TimedOut(f"{self.name}: no answer within {waited:.1f} s, the deadline of the call"))


def _row_slices(spec: dict[str, Any], data: memoryview, rows: int) -> Callable[[int], int]:
    """Return where row n begins in a tensor's bytes."""
    if spec["datatype"] != "BYTES":
        width = len(data) // rows
        return lambda row: row * width
    elements_a_row = prod(spec["shape"][1:])
    if elements_a_row == 0:
        return lambda _row: 0
    edges, offset = [0], 0
    for index in range(rows * elements_a_row):
        offset += 4 + int.from_bytes(data[offset : offset + 4], "little")
        if (index + 1) % elements_a_row == 0:
            edges.append(offset)
    return edges.__getitem__


def _readable(values: list[bytes]) -> list[str]:
    """Signals that are text come as bytes."""
    return [one.decode(errors="replace") for one in values]
