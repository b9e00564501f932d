"""From many calls to one frame: the queue in front of the replicas of one version.

There is no timer. While all replicas compute, calls wait; the moment one is free it gets all that wait, up to the
bundle's batch size, in one frame over a unix socket; several that are free share them out evenly. So a lone call
leaves at once, and a busy server batches by itself. Calls whose tensors have other trailing sizes wait for a frame of
their own.

What a call can count on: it is resumed exactly once. A frame that fails is sent again call by call, so that one bad
input does not fail its mates. The calls of a replica that dies go to another one, call by call, so that the one that
killed it takes no mates along; a call whose second replica dies too, or for which there is no other, fails with
`Unavailable`. A call past its deadline fails with `TimedOut`, and if it was still waiting nobody computes it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from math import prod
from time import perf_counter_ns
from typing import Any

import msgspec
from msgspec import Raw

from bundles.runner import frames
from bundles.runner.rows import unpacked
from gateway.errors import BadInput, ClientGone, ModelFailed, TimedOut, Unavailable
from gateway.replica import Replica
from gateway.schema import Key, Schema
from gateway.steps import Step
from monitors.log.record import Signals, Tensor

IN_FLIGHT_FRAMES = 2
"""One that is computed and one that is in the socket: the runner never waits for the worker's next turn."""
LENGTH_BYTES = 4
"""Before each element of a BYTES tensor."""
SWEEP_SECONDS = 0.05
"""How often deadlines are looked at; a timer a call would cost more than the whole queue."""


class Computed(msgspec.Struct, gc=False):
    """What the runner made of one call: its own rows of the batch."""

    outputs: list[Tensor]
    signals: Signals
    queue_ns: int
    compute_ns: int
    batch_rows: int
    received_ns: int
    runner_pid: int
    model_inputs: list[Tensor]
    model_outputs: list[Tensor]


Part = tuple[dict[str, Any], memoryview, Callable[[int], int]]
"""A tensor of a batch: its description, its bytes, and where each row begins in them."""


class Waiting(Step):
    """One call in the queue: the step that it waits for, and what goes into the frame."""

    __slots__ = ("deadline_ns", "inputs", "key", "moved", "queued_ns", "rows", "sent_ns")

    def __init__(self, inputs: list[Tensor], rows: int, deadline_ns: int, key: Key) -> None:
        super().__init__()
        self.inputs = inputs
        self.rows = rows
        self.deadline_ns = deadline_ns
        self.key = key
        self.queued_ns = perf_counter_ns()
        self.sent_ns = 0
        self.moved = False


class RunnerQueue:
    """The queue of one version, and its replicas. All of it runs on the event loop's thread."""

    def __init__(
        self,
        name: str,
        *,
        max_batch_size: int,
        waiting_calls_max: int,
        schema: Schema,
        hang_seconds: float,
        on_batch: Callable[[int], None],
        on_hang: Callable[[str], None],
        on_let_go: Callable[[], None],
    ) -> None:
        self.name = name
        self.max_batch_size = max_batch_size
        self._waiting_calls_max = waiting_calls_max
        self._schema = schema
        self.on_batch = on_batch
        self._hang_ns = int(hang_seconds * 1e9)
        self._on_hang = on_hang
        self._on_let_go = on_let_go
        self.connected = False
        """Whether any replica can be given calls."""
        self._replicas: dict[str, Replica] = {}
        self._retiring = False
        self._waiting: deque[Waiting] = deque()
        self._waiting_rows = 0
        self._alone: deque[Waiting] = deque()
        self._frame_ids = count(1)
        self._gathering = False
        self._gathered = 0
        self._loop = asyncio.get_running_loop()
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    @property
    def replicas(self) -> list[str]:
        """The sockets of the runners that are not let go yet."""
        return list(self._replicas)

    async def follow(self, paths: Sequence[str]) -> None:
        """Use the runners behind these sockets: connect to the new ones, then let go of all others."""
        for path in paths:
            if path not in self._replicas:
                replica = self._replicas[path] = Replica(path, self)
                await replica.connect()
        for replica in [one for path, one in self._replicas.items() if path not in paths]:
            replica.leave()
        self._look()

    def retire(self) -> None:
        """Let go of all runners once every call has its answer; no call may be submitted any more."""
        self._retiring = True

    def submit(self, inputs: list[Tensor], rows: int, deadline_ns: int) -> Waiting:
        """Queue one call, and return the step that gives a `Computed` or raises an InferenceError.

        Raises:
            Unavailable: no replica is connected, or the queue is full.
            TimedOut: the deadline has passed already.
        """
        if not self.connected:
            msg = f"{self.name}: its runner is starting again, try again in a second"
            raise Unavailable(msg)
        if len(self._waiting) >= self._waiting_calls_max:
            msg = (
                f"{self.name}: {len(self._waiting)} calls are waiting, no more are taken "
                "([server] max_waiting_calls, shared by the workers); try again in a second"
            )
            raise Unavailable(msg)
        waiting = Waiting(inputs, rows, deadline_ns, self._schema.key(inputs))
        if deadline_ns < waiting.queued_ns:
            raise TimedOut(f"{self.name}: not computed, the deadline of the call had passed when it was decoded")
        self._waiting.append(waiting)
        self._waiting_rows += rows
        if not self._gathering:
            self._gathering = True
            self._gathered = 0
            self._loop.call_soon(self._gather)
        return waiting

    def _gather(self) -> None:
        """Give the replicas what came, at the end of the turn of the loop; the next turn, while each brings more.

        The answers of one frame, and then the calls that their clients send next, come over several turns. To start
        with the first of them would make small frames of what is nearly one large one. A lone call does not wait.
        """
        waiting = len(self._waiting)
        if 1 < waiting > self._gathered and self._waiting_rows < self.max_batch_size:
            self._gathered = waiting
            self._loop.call_soon(self._gather)
            return
        self._gathering = False
        self.free()

    @property
    def depth(self) -> int:
        """Calls that wait, those in the runner's hands not counted."""
        return len(self._waiting) + len(self._alone)

    def joined(self) -> None:
        """Give a replica that was connected its first frame."""
        self._look()
        self.free()

    def _look(self) -> None:
        """Kept, and not asked of every replica with every call."""
        self.connected = any(one.takes for one in self._replicas.values())

    def free(self) -> None:
        """Give the replicas what they can take."""
        free = [one for one in self._replicas.values() if one.takes and not one.in_flight]
        for others, replica in zip(reversed(range(len(free))), free, strict=True):
            batch = self._take(-(-len(self._waiting) // (others + 1)))
            if not batch:
                return
            self._send(replica, batch)
        # While one frame is computed a second one waits in the socket, but only when it is full: a part-filled one
        # does better to wait here and grow. One that is tried alone waits for its turn; it must not meet others.
        for replica in self._replicas.values():
            if not replica.takes or len(replica.in_flight) >= IN_FLIGHT_FRAMES or self._alone:
                continue
            if self._waiting_rows < self.max_batch_size:
                return
            batch = self._take(len(self._waiting))
            if sum(one.rows for one in batch) < self.max_batch_size:
                self._waiting.extendleft(reversed(batch))
                self._waiting_rows += sum(one.rows for one in batch)
                return
            self._send(replica, batch)

    def _take(self, calls_max: int) -> list[Waiting]:
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
                self._waiting_rows -= one.rows
                one.complete(error=ClientGone("the client closed the connection while the call was waiting"))
                continue
            if batch and (len(batch) >= calls_max or one.key != batch[0].key or rows + one.rows > self.max_batch_size):
                break
            batch.append(self._waiting.popleft())
            rows += one.rows
        self._waiting_rows -= rows
        return batch

    def _send(self, replica: Replica, batch: list[Waiting]) -> None:
        frame_id = next(self._frame_ids)
        now = perf_counter_ns()
        rows = 0
        for one in batch:
            one.sent_ns = now
            rows += one.rows
        inputs, buffers = [], []
        for position, (name, datatype, *trailing) in enumerate(batch[0].key):
            data = [one.inputs[position].data for one in batch]
            inputs.append((name, datatype, (rows, *trailing), sum(map(len, data))))
            buffers.extend(data)
        self.on_batch(rows)
        description = frames.describe(rows, (("inputs", tuple(inputs)),))
        replica.send(frame_id, batch, frames.encode(description, buffers, id=frame_id))

    def answered(self, replica: Replica, batch: list[Waiting], header: dict[str, Any], body: memoryview) -> None:
        """Resume the calls of one frame."""
        failure = header.get("error")
        if failure is not None:
            self._fail(batch, failure)
            return
        try:
            self._share_out(batch, header, body, replica.pid)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with an answer, nobody may wait for ever
            for one in batch:
                one.complete(error=ModelFailed(f"{self.name}: its answer can't be read: {error!r}"))

    def _share_out(self, batch: list[Waiting], header: dict[str, Any], body: memoryview, pid: int) -> None:
        """Give each call its own rows of the batch's outputs and signals."""
        received = perf_counter_ns()
        parts = frames.parts(header, body)
        rows = header["rows"]
        signals = _signals(parts["signals"], rows, single=rows == len(batch))
        sides = [
            [(spec, data, _row_slices(spec, data, rows)) for spec, data in parts[side]]
            for side in ("outputs", "model_inputs", "model_outputs")
        ]
        first = 0
        for one in batch:
            last = first + one.rows
            outputs, seen, said = [self._own(side, first, last) if side else [] for side in sides]
            queue_ns, compute_ns, batch_rows = one.sent_ns - one.queued_ns, header["compute_ns"], header["batch_rows"]
            one.complete(
                Computed(outputs, signals(first, last), queue_ns, compute_ns, batch_rows, received, pid, seen, said)
            )
            first = last

    def _own(self, side: list[Part], first: int, last: int) -> list[Tensor]:
        """Return one call's rows of some tensors."""
        return [
            Tensor(
                name=spec["name"],
                datatype=spec["datatype"],
                shape=[last - first, *spec["shape"][1:]] if self._schema.batched else list(spec["shape"][1:]),
                data=bytes(data[edges(first) : edges(last)]),
            )
            for spec, data, edges in side
        ]

    def _fail(self, batch: list[Waiting], failure: dict[str, str]) -> None:
        if len(batch) > 1:
            self._alone.extend(batch)
        elif failure["fault"] == "client":
            batch[0].complete(error=BadInput(f"{self.name}: {failure['message']}"))
        else:
            batch[0].complete(error=ModelFailed(f"{self.name}: {failure['type']}: {failure['message']}"))

    def lost(self, held: list[Waiting]) -> None:
        """Move the calls of a replica that ended to another one, or fail them: it is for the client to try again."""
        self._look()
        if self.connected:
            first = [one for one in held if not one.moved]
            held = [one for one in held if one.moved]
            for one in first:
                one.moved = True
            self._alone.extend(first)
        else:
            held += [*self._alone, *self._waiting]
            self._alone.clear()
            self._waiting.clear()
            self._waiting_rows = 0
        for one in held:
            one.complete(error=Unavailable(f"{self.name}: its runner ended, try again in a second"))
        self.free()

    def let_go(self, replica: Replica) -> None:
        """Forget a replica that nothing of ours is with."""
        if self._replicas.pop(replica.path, None) is not None:
            self._on_let_go()
        if self._retiring and not self._replicas:
            self._sweeper.cancel()

    @property
    def idle(self) -> bool:
        """Whether no call waits here or is with a runner."""
        return not (self._waiting or self._alone or any(one.in_flight for one in self._replicas.values()))

    def _sweep(self) -> None:
        """Fail the calls whose deadline has passed: the waiting ones leave, those in flight are computed for nobody."""
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)
        now = perf_counter_ns()
        replicas = list(self._replicas.values())
        late = [one for one in (*self._waiting, *self._alone) if one.deadline_ns < now]
        late += [one for replica in replicas for one in replica.calls() if one.deadline_ns < now]
        for one in late:
            waited = (now - one.queued_ns) / 1e9
            one.complete(error=TimedOut(f"{self.name}: no answer within {waited:.1f} s, the deadline of the call"))
        for replica in replicas:
            if replica.in_flight and now - replica.moved_ns > self._hang_ns:
                replica.moved_ns = now  # Said once in so many seconds, not twenty times a second.
                self._on_hang(replica.path)
        if self._retiring and self.idle:
            for replica in replicas:
                replica.leave()
            if not replicas:
                self._sweeper.cancel()


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


def _signals(tensors: list[tuple[dict[str, Any], memoryview]], rows: int, *, single: bool) -> Callable[[int, int], Any]:
    """Return what gives a call its rows' signals, as its record takes them.

    Calls of one row are the rule: a row goes into the record as it is.
    """
    if not tensors:
        return lambda _first, _last: {}
    [(spec, data)] = tensors
    if not single:
        columns = unpacked(spec["fields"], frames.to_array(spec, data))
        values = {name: column.tolist() for name, column in columns.items()}
        return lambda first, last: {name: column[first:last] for name, column in values.items()}
    begins = LENGTH_BYTES if spec["datatype"] == "BYTES" else 0
    edges = _row_slices(spec, data, rows)
    return lambda first, last: Raw(data[edges(first) + begins : edges(last)])
