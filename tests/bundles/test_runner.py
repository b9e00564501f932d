"""The runner as it is: a process, a socket, several workers at once."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bundles import process
from bundles.runner import frames
from tests.bundles.unpacked import ECHO, running, tensor, unpack

Array = np.ndarray[Any, Any]
GATED = """
    import time

    class Model:
        def load(self, directory):
            self.gate = directory / "open"

        def predict(self, inputs):
            while not self.gate.exists():
                time.sleep(0.001)
            if (inputs["x"] < 0).any():
                raise ValueError("below zero")
            if (inputs["x"] > 1000).any():
                raise SystemExit("enough")
            return inputs["x"]
"""
"""Its first call lasts until the test has sent all that it wants to find joined."""


class Worker:
    """A worker's end, which sends what it likes."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.decoder = frames.Decoder()

    def frame(self, number: int, x: Array) -> bytes:
        """Return a request frame."""
        spec, data = frames.from_array("x", x)
        return frames.encode(frames.describe(len(x), (("inputs", (spec,)),)), [data], id=number)

    def send(self, number: int, x: Array) -> None:
        """Send a request."""
        self.socket.sendall(self.frame(number, x))

    def answers(self, count: int) -> list[tuple[dict[str, Any], Array | None]]:
        """Wait for answers: their headers and first outputs."""
        found: list[tuple[dict[str, Any], Array | None]] = []
        while len(found) < count:
            data = self.socket.recv(1 << 20)
            assert data, "the runner closed the connection"
            for header, body in self.decoder.feed(data):
                first = header["outputs"][0] if "outputs" in header else None
                found.append((header, frames.to_array(first, body[: first["size"]]) if first else None))
        return found

    def closed(self) -> bool:
        """Wait for the end of the connection."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


@contextmanager
def workers(runner: process.RunnerProcess, count: int) -> Iterator[list[Worker]]:
    """Connect some workers."""
    found = [Worker(runner.socket_path) for _number in range(count)]
    try:
        yield found
    finally:
        for worker in found:
            worker.socket.close()


def test_workers_get_their_own_rows_in_order(tmp_path: Path) -> None:
    """Many frames of several workers, joined as they come: row i of an answer belongs to row i of its request."""
    random = np.random.default_rng(2)
    with running(tmp_path, GATED) as runner, workers(runner, 4) as all_workers:
        sent: dict[tuple[int, int], Array] = {}
        for number in range(12):
            for index, worker in enumerate(all_workers):
                x = random.random(size=(1 + (number + index) % 5, 2), dtype=np.float32)
                sent[index, number] = x
                worker.send(number, x)
        (tmp_path / "model" / "open").touch()
        joined = 0
        for index, worker in enumerate(all_workers):
            answers = worker.answers(12)
            assert [header["id"] for header, _output in answers] == list(range(12))
            for header, output in answers:
                assert output is not None
                assert (output == sent[index, header["id"]]).all()
                assert header["batch_rows"] <= 8
                assert header["compute_ns"] > 0
                joined += header["batch_rows"] > len(output)
    assert joined, "not one frame was joined with another"


def test_frames_that_do_not_fit_together_are_not_joined(tmp_path: Path) -> None:
    """Other trailing sizes need calls of their own; both are answered."""
    wide = {"inputs": [tensor("x", [-1, -1])], "outputs": [tensor("y", [-1, -1])]}
    with running(tmp_path, ECHO, **wide) as runner, workers(runner, 2) as (one, two):
        for number in range(5):
            one.send(number, np.full((1, 2), number, dtype=np.float32))
            two.send(number, np.full((1, 3), number, dtype=np.float32))
        for worker, width in ((one, 2), (two, 3)):
            for header, output in worker.answers(5):
                assert output is not None
                assert output.tolist() == [[header["id"]] * width]


def test_more_rows_than_a_batch_are_cut(tmp_path: Path) -> None:
    """The model never sees more rows than its bundle allows, and the answer is whole."""
    code = """
        class Model:
            def load(self, directory):
                pass

            def predict(self, inputs):
                assert len(inputs["x"]) <= 8
                return inputs["x"] + 1
    """
    x = np.arange(50, dtype=np.float32).reshape(25, 2)
    with running(tmp_path, code) as runner:
        assert (runner.predict({"x": x})[0]["y"] == x + 1).all()


def test_a_bad_frame_does_not_fail_its_mates(tmp_path: Path) -> None:
    """A call that raises is made again frame by frame: only the frame that raises by itself gets the error."""
    with running(tmp_path, GATED) as runner, workers(runner, 3) as all_workers:
        for number in range(6):
            for index, worker in enumerate(all_workers):
                bad = {(1, 2): -1.0, (2, 4): 2000.0}.get((index, number))
                worker.send(number, np.full((1, 2), number if bad is None else bad, dtype=np.float32))
        (tmp_path / "model" / "open").touch()
        failed = {}
        for index, worker in enumerate(all_workers):
            for header, output in worker.answers(6):
                if output is None:
                    failed[index, header["id"]] = header["error"]
                else:
                    assert output.tolist() == [[header["id"]] * 2]
    assert failed == {
        (1, 2): {"type": "ValueError", "message": "below zero", "fault": "server"},
        (2, 4): {"type": "SystemExit", "message": "enough", "fault": "server"},
    }


def test_nan_is_an_answer(tmp_path: Path) -> None:
    """A model that says NaN is answered with NaN, and its row is marked as invalid in the signals."""
    with running(tmp_path, ECHO, outputs=[tensor("y", [-1, 2], semantic="logits")]) as runner:
        found, signals = runner.predict({"x": np.array([[np.nan, 1], [0, 1]], dtype=np.float32)})
    assert np.isnan(found["y"][0, 0])
    assert signals["class"].tolist() == [-1, 1]
    assert np.isnan(signals["energy"]).tolist() == [True, False]


def test_nonsense_from_one_worker_is_its_own(tmp_path: Path) -> None:
    """A tensor that is not as described is answered; what is no frame ends that connection; the others go on."""
    with running(tmp_path, ECHO) as runner, workers(runner, 3) as (good, wrong, babbling):
        x = np.ones((2, 2), dtype=np.float32)
        for rows, shape in ((2, (2, 3)), (3, (2, 2)), (0, (0, 2))):
            data = bytes(16 if rows else 0)
            description = frames.describe(rows, (("inputs", (("x", "FP32", shape, len(data)),)),))
            wrong.socket.sendall(frames.encode(description, [data], id=rows))
            ((header, _output),) = wrong.answers(1)
            assert (header["id"], header["error"]["type"]) == (rows, "FrameError")
        wrong.send(9, x)
        assert wrong.answers(1)[0][0]["id"] == 9
        babbling.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert babbling.closed()
        good.send(1, x)
        assert good.answers(1)[0][1] is not None


def test_a_worker_that_does_not_read_stops_nobody(tmp_path: Path) -> None:
    """Answers of a megabyte pile up for a worker that hangs; another one is served, and the first loses none."""
    wide = {"inputs": [tensor("x", [-1, -1])], "outputs": [tensor("y", [-1, -1])]}
    with running(tmp_path, ECHO, **wide) as runner, workers(runner, 2) as (hanging, good):
        for number in range(3):
            hanging.send(number, np.full((1, 262_144), number, dtype=np.float32))
        for number in range(20):
            good.send(number, np.ones((1, 2), dtype=np.float32))
            assert good.answers(1)[0][0]["id"] == number
        for header, output in hanging.answers(3):
            assert output is not None
            assert (output == header["id"]).all()


def test_a_worker_that_leaves_takes_nobody_with_it(tmp_path: Path) -> None:
    """One that ends in the middle of a frame, and one that does not wait for its answer."""
    with running(tmp_path, ECHO) as runner, workers(runner, 3) as (half, impatient, good):
        x = np.ones((1, 2), dtype=np.float32)
        half.socket.sendall(half.frame(1, x)[:-3])
        impatient.send(1, x)
        half.socket.close()
        impatient.socket.close()
        for number in range(3):
            good.send(number, x)
        assert [header["id"] for header, _output in good.answers(3)] == [0, 1, 2]


PARENT = """
    import subprocess, sys
    from bundles import process
    from pathlib import Path
    child = subprocess.Popen(process.command(Path(sys.argv[1]), Path(sys.argv[2])), stdout=subprocess.PIPE)
    print(child.pid, child.stdout.readline().decode(), flush=True)
    sys.stdin.read()
"""


def test_the_runner_dies_with_its_parent(tmp_path: Path) -> None:
    """SIGKILL of the parent, which can't pass anything on: the runner is gone too."""
    unpack(tmp_path, ECHO)
    with tempfile.TemporaryDirectory(prefix="snowgate-") as folder:
        parent = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path), folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert parent.stdin is not None
        assert parent.stdout is not None
        with parent.stdin, parent.stdout:
            pid, ready = parent.stdout.readline().split(maxsplit=1)
            assert json.loads(ready)["ready"]
            worker = Worker(f"{folder}/{process.SOCKET}")
            os.kill(parent.pid, signal.SIGKILL)
            parent.wait()
            assert worker.closed()
            worker.socket.close()
        deadline = time.monotonic() + 20
        while alive(int(pid)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not alive(int(pid))


def alive(pid: int) -> bool:
    """Say whether a process runs; one that waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_runner_whose_parent_is_already_gone_does_not_start(tmp_path: Path) -> None:
    """Between the fork and the request to die with the parent, the parent may have died."""
    command = process.command(unpack(tmp_path, ECHO), tmp_path)
    command[command.index("--parent") + 1] = "1"
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the parent process 1 is gone" in done.stderr
