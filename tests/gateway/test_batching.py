"""The queue in front of a version's replicas, over real sockets, with runners that do what the test tells them."""

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import perf_counter_ns

import numpy as np
import pytest

from bundles.runner import frames
from bundles.schema import TensorSpec
from gateway.batching import Computed, RunnerQueue, Waiting
from gateway.errors import InferenceError, Unavailable
from gateway.schema import Schema
from gateway.steps import start
from monitors.log.record import Tensor

WAITING_CALLS_MAX = 1_000


class FakeRunner:
    """Takes frames over a real socket and answers them when it is told to: with the number of rows, per row."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.held: list[tuple[int, int]] = []
        self.connections = 0
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        """Begin to listen."""
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        decoder = frames.Decoder()
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                self.held += [(header["id"], header["rows"]) for header, _body in decoder.feed(data)]
        writer.close()

    def answer(self) -> None:
        """Answer the oldest frame."""
        number, rows = self.held.pop(0)
        spec, data = frames.from_array("y", np.full([rows, 1], rows, dtype=np.float32))
        description = frames.describe(rows, (("outputs", (spec,)),))
        self._writers[-1].write(frames.encode(description, [data], id=number, compute_ns=1, batch_rows=rows))

    def hang_up(self) -> None:
        """Close the connections; the runner lives."""
        for writer in self._writers:
            writer.close()
        self.held.clear()

    def die(self) -> None:
        """Be gone."""
        assert self._server is not None
        self._server.close()
        self.hang_up()
        Path(self.path).unlink(missing_ok=True)


class Bench:
    """A queue, and what came of the calls that were put into it."""

    def __init__(self, folder: Path, hang_seconds: float = 60.0) -> None:
        self.folder = folder
        self.hangs: list[str] = []
        self.batches: list[int] = []
        self.let_go = 0
        self.made: list[FakeRunner] = []
        self.answers: list[float | InferenceError] = []
        self.queue = RunnerQueue(
            "model 'm' version '1'",
            max_batch_size=64,
            waiting_calls_max=WAITING_CALLS_MAX,
            schema=Schema((TensorSpec("x", "FP32", (-1, 1)),), (TensorSpec("y", "FP32", (-1, 1)),)),
            hang_seconds=hang_seconds,
            on_batch=self.batches.append,
            on_hang=self.hangs.append,
            on_let_go=self._let_go,
        )

    def _let_go(self) -> None:
        self.let_go += 1

    async def runners(self, count: int) -> list[FakeRunner]:
        """Have so many runners that the queue is connected to."""
        self.made = [FakeRunner(self.folder / f"{number}.sock") for number in range(count)]
        for one in self.made:
            await one.listen()
        await self.queue.follow([one.path for one in self.made])
        await until(lambda: all(one.connections for one in self.made), "the connections")
        return self.made

    def call(self, count: int = 1) -> None:
        """Put calls of one row each into the queue."""
        for _ in range(count):
            tensor = Tensor("x", "FP32", [1, 1], np.zeros(1, dtype=np.float32).tobytes())
            start(self._wait(self.queue.submit([tensor], 1, perf_counter_ns() + 60_000_000_000)))

    async def _wait(self, waiting: Waiting) -> None:
        try:
            computed: Computed = await waiting
        except InferenceError as error:
            self.answers.append(error)
        else:
            self.answers.append(float(np.frombuffer(computed.outputs[0].data, dtype=np.float32)[0]))


async def until(true: Callable[[], object], what: str) -> None:
    """Let the loop run until something is true."""
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - the two ends meet in sockets
            await asyncio.sleep(0.002)
    assert true(), what


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a name that is short enough for sockets."""
    made = Path(tempfile.mkdtemp(prefix="sg-"))
    yield made
    shutil.rmtree(made)


def on_a_bench(folder: Path, story: Callable[[Bench], Awaitable[None]], hang_seconds: float = 60.0) -> Bench:
    """Let a story happen on an event loop; every one ends with the queue let go of."""

    async def run() -> Bench:
        bench = Bench(folder, hang_seconds)
        await story(bench)
        bench.queue.retire()
        await until(lambda: not bench.queue.replicas, "the end of the queue")
        for runner in bench.made:
            runner.die()
        await until(lambda: len(asyncio.all_tasks()) == 1, "the end of all connections")
        return bench

    return asyncio.run(run())


def test_free_replicas_share_what_waits(folder: Path) -> None:
    """Ten calls at once before two idle replicas: five each, not ten for the first."""

    async def story(bench: Bench) -> None:
        one, two = await bench.runners(2)
        bench.call(10)
        await until(lambda: one.held and two.held, "a frame for each")
        assert ([rows for _id, rows in one.held], [rows for _id, rows in two.held]) == ([5], [5])
        bench.call(3)
        two.answer()
        await until(lambda: two.held, "what waited goes to the one that is free")
        assert [rows for _id, rows in two.held] == [3]
        one.answer()
        two.answer()
        await until(lambda: len(bench.answers) == 13, "all answers")

    assert on_a_bench(folder, story).answers == [5.0] * 10 + [3.0] * 3


def test_a_full_queue_refuses_and_says_so(folder: Path) -> None:
    """As many calls wait as may; the next one is refused with the setting's name, and those that wait are answered."""

    async def story(bench: Bench) -> None:
        (one,) = await bench.runners(1)
        bench.call(1)
        await until(lambda: one.held, "a frame in the runner's hands")
        bench.call(64)  # One full frame more, in the socket.
        await until(lambda: len(one.held) == 2, "a second frame")
        bench.call(WAITING_CALLS_MAX)
        with pytest.raises(Unavailable, match=f"{WAITING_CALLS_MAX} calls are waiting.*max_waiting_calls"):
            bench.call(1)
        while len(bench.answers) < 65 + WAITING_CALLS_MAX:
            await until(lambda: one.held or bench.queue.idle, "the next frame")
            if one.held:
                one.answer()

    answers = on_a_bench(folder, story).answers
    assert len(answers) == 65 + WAITING_CALLS_MAX
    assert not [one for one in answers if isinstance(one, InferenceError)]


def test_the_calls_of_a_dead_replica_move_once(folder: Path) -> None:
    """The first death moves them, call by call, to the other one; the second death fails the one that was with it."""

    async def story(bench: Bench) -> None:
        one, two, three = await bench.runners(3)
        bench.call(6)
        await until(lambda: one.held and two.held and three.held, "two calls each")
        one.die()
        two.answer()
        await until(lambda: two.held, "one of the dead one's calls, alone")
        assert [rows for _id, rows in two.held] == [1]
        two.die()
        await until(lambda: len(bench.answers) == 3, "the moved call fails")
        assert isinstance(bench.answers[-1], Unavailable)
        three.answer()
        await until(lambda: three.held, "the other moved call")
        three.answer()
        await until(lambda: len(bench.answers) == 6, "all answers")

    answers = on_a_bench(folder, story).answers
    assert sorted(one for one in answers if isinstance(one, float)) == [1.0, 2.0, 2.0, 2.0, 2.0]


def test_without_another_replica_calls_fail(folder: Path) -> None:
    """The last replica dies: what it had and what waited fails at once, and so does what comes."""

    async def story(bench: Bench) -> None:
        (one,) = await bench.runners(1)
        bench.call()
        await until(lambda: one.held, "a frame")
        bench.call(4)
        one.die()
        await until(lambda: len(bench.answers) == 5, "their end")
        with pytest.raises(Unavailable, match="starting again"):
            bench.call()
        await bench.queue.follow([])

    assert all(isinstance(one, Unavailable) for one in on_a_bench(folder, story).answers)


def test_a_lost_connection_to_a_living_runner_is_made_again(folder: Path) -> None:
    """The runner closes the connection and lives: the queue is connected again by itself, and calls are answered."""

    async def story(bench: Bench) -> None:
        (one,) = await bench.runners(1)
        one.hang_up()
        await until(lambda: not bench.queue.connected, "the loss")
        await until(lambda: bench.queue.connected, "the new connection")
        bench.call()
        await until(lambda: one.held, "a frame")
        one.answer()
        await until(lambda: bench.answers, "the answer")
        assert one.connections == 2

    assert on_a_bench(folder, story).answers == [1.0]


def test_a_replica_leaves_when_it_has_answered(folder: Path) -> None:
    """One that is taken out gets no more frames, answers those it has, and then is let go of, which is told."""

    async def story(bench: Bench) -> None:
        one, two = await bench.runners(2)
        bench.call(2)
        await until(lambda: one.held and two.held, "a call each")
        await bench.queue.follow([two.path])
        bench.call(3)
        assert bench.queue.replicas == [one.path, two.path]
        two.answer()
        await until(lambda: two.held, "all new calls go to the one that stays")
        assert ([rows for _id, rows in two.held], len(one.held), bench.let_go) == ([3], 1, 0)
        one.answer()
        await until(lambda: bench.queue.replicas == [two.path], "it is let go")
        assert bench.let_go == 1
        two.answer()
        await until(lambda: len(bench.answers) == 5, "all answers")

    assert on_a_bench(folder, story).answers == [1.0, 1.0, 3.0, 3.0, 3.0]


def test_a_queue_that_retires_answers_first(folder: Path) -> None:
    """A version leaves the table with calls in flight and waiting: all are answered before its runners are let go."""

    async def story(bench: Bench) -> None:
        (one,) = await bench.runners(1)
        bench.call()
        await until(lambda: one.held, "a frame")
        bench.call(2)
        bench.queue.retire()
        one.answer()
        await until(lambda: one.held, "what waited")
        assert bench.queue.replicas == [one.path]
        one.answer()
        await until(lambda: bench.let_go == 1, "the runner is let go")

    assert on_a_bench(folder, story).answers == [1.0, 2.0, 2.0]


def test_a_runner_that_hangs_is_told(folder: Path) -> None:
    """A frame without an answer for longer than it may take is told with the runner's socket; an idle one is not."""

    async def story(bench: Bench) -> None:
        one, two = await bench.runners(2)
        bench.call()
        await until(lambda: bench.hangs, "the complaint")
        assert not two.held
        one.die()
        await until(lambda: two.held, "its call moves")
        two.answer()
        await until(lambda: bench.answers, "the answer")
        assert set(bench.hangs) == {one.path}

    assert on_a_bench(folder, story, hang_seconds=0.3).answers == [1.0]
