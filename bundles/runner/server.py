"""Batches in, answers out: a loop over one unix socket, on one thread.

While a batch is computed, frames of all workers gather in their sockets. The next turn takes one frame of every worker
that has one, joins those that fit together into one call of the model, and answers each worker with its own rows. A
call that fails is made again frame by frame, so that one worker's bad input does not fail another's.
"""

import argparse
import ctypes
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .frames import Decoder, FrameError, encode, from_array, to_array
from .loaders import Loaded, declared, load
from .signals import signals

Array = np.ndarray[Any, Any]
RECEIVE_BYTES = 1024 * 1024
PR_SET_PDEATHSIG = 1


@dataclass
class Frame:
    """One worker's batch, waiting."""

    connection: "Connection"
    header: dict[str, Any]
    inputs: dict[str, Array]

    @property
    def key(self) -> tuple[Any, ...]:
        """Frames with the same key can go in one call."""
        return tuple((name, array.dtype.str, array.shape[1:]) for name, array in self.inputs.items())


class Connection:
    """One worker's end."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.decoder = Decoder()
        self.waiting: deque[Frame] = deque()
        self.open = True

    def receive(self) -> None:
        """Take what the socket holds; one that fails or talks nonsense is closed."""
        try:
            data = self.end.recv(RECEIVE_BYTES)
            for header, body in self.decoder.feed(data):
                self.waiting.append(Frame(self, header, _arrays(header["inputs"], body)))
        except (OSError, FrameError, KeyError, ValueError) as error:
            print(f"runner: a connection is closed: {error}", file=sys.stderr)
            data = b""
        self.open = bool(data)

    def answer(self, header: dict[str, Any], buffers: list[bytes]) -> None:
        """Send an answer; a worker that is gone misses it."""
        try:
            self.end.sendall(encode(header, buffers))
        except OSError:
            self.open = False


def _arrays(specs: list[dict[str, Any]], body: memoryview) -> dict[str, Array]:
    arrays, offset = {}, 0
    for spec in specs:
        arrays[spec["name"]] = to_array(spec, body[offset : offset + spec["size"]])
        offset += spec["size"]
    return arrays


class Server:
    """Answers frames with one loaded model."""

    def __init__(self, loaded: Loaded, config: dict[str, Any], listening: socket.socket) -> None:
        self._loaded = loaded
        self._outputs = config["outputs"]
        self._meanings = [(spec["name"], spec.get("semantic")) for spec in config["outputs"]]
        inputs = config["inputs"]
        self._batched = bool(inputs) and all(spec["shape"][:1] == [-1] for spec in inputs)
        self._max_batch_size = config["max_batch_size"]
        self._selector = selectors.DefaultSelector()
        self._selector.register(listening, selectors.EVENT_READ)
        self._listening = listening
        self._connections: list[Connection] = []

    def run(self) -> None:
        """Serve until the process is ended."""
        while True:
            waiting = any(connection.waiting for connection in self._connections)
            for key, _events in self._selector.select(0 if waiting else None):
                if key.fileobj is self._listening:
                    self._accept()
                else:
                    key.data.receive()
            for connection in [one for one in self._connections if not one.open]:
                self._selector.unregister(connection.end)
                connection.end.close()
                self._connections.remove(connection)
            self._turn()

    def _accept(self) -> None:
        end, _address = self._listening.accept()
        connection = Connection(end)
        self._connections.append(connection)
        self._selector.register(end, selectors.EVENT_READ, connection)

    def _turn(self) -> None:
        """Answer one frame of each worker, joined where they fit."""
        frames = [connection.waiting.popleft() for connection in self._connections if connection.waiting]
        # Fair: who came first this time comes last the next.
        if self._connections:
            self._connections.append(self._connections.pop(0))
        while frames:
            batch, rows = [frames[0]], frames[0].header["rows"]
            rest: list[Frame] = []
            for frame in frames[1:]:
                fits = frame.key == batch[0].key and rows + frame.header["rows"] <= self._max_batch_size
                (batch if fits else rest).append(frame)
                rows += frame.header["rows"] if fits else 0
            self._answer(batch)
            frames = rest

    def _answer(self, batch: list[Frame]) -> None:
        rows = [frame.header["rows"] for frame in batch]
        joined = batch[0].inputs
        if len(batch) > 1:
            joined = {name: np.concatenate([frame.inputs[name] for frame in batch]) for name in joined}
        began = time.perf_counter_ns()
        try:
            outputs = self._predict(joined, sum(rows))
        except Exception as error:  # noqa: BLE001 - a model's code may raise anything, and the runner must live on
            if len(batch) > 1:
                for frame in batch:
                    self._answer([frame])
                return
            failure = {"type": type(error).__name__, "message": str(error)[:2000]}
            batch[0].connection.answer({"id": batch[0].header["id"], "error": failure}, [])
            return
        measured = signals(joined, outputs, self._meanings)
        spent = time.perf_counter_ns() - began
        first = 0
        for frame, count in zip(batch, rows, strict=True):
            part = slice(first, first + count)
            first += count
            out = [from_array(spec["name"], outputs[spec["name"]][part], spec["datatype"]) for spec in self._outputs]
            follow = [from_array(name, _plain(values[part])) for name, values in measured.items()]
            header = {
                "id": frame.header["id"],
                "outputs": [spec for spec, _data in out],
                "signals": [spec for spec, _data in follow],
                "compute_ns": spent,
                "batch_rows": sum(rows),
            }
            frame.connection.answer(header, [data for _spec, data in (*out, *follow)])

    def _predict(self, inputs: dict[str, Array], rows: int) -> dict[str, Array]:
        if self._batched:
            answer = self._loaded.predict(inputs)
        else:
            # A model without a batch axis sees one row at a time; the rows are put together out here.
            answers = [
                self._loaded.predict({name: array[row] for name, array in inputs.items()}) for row in range(rows)
            ]
            answer = {name: np.stack([one[name] for one in answers]) for name in answers[0]}
        return {spec["name"]: declared(spec["name"], answer[spec["name"]], spec, rows) for spec in self._outputs}


def _plain(values: Array) -> Array:
    """Signals travel as FP32, INT64 or BYTES."""
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    return values if values.dtype.kind in "OSU" else values.astype(np.int64)


def main() -> None:
    """Load the bundle, say so in one line on standard output, serve."""
    parser = argparse.ArgumentParser(prog="runner")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != arguments.parent:
        sys.exit(f"runner: the parent process {arguments.parent} is gone")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The model's own prints go to standard error: standard output is one line that the parent reads.
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    began = time.monotonic()
    try:
        config = json.loads((arguments.directory / "config.json").read_text())
        loaded = load(arguments.directory / "model", config)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(arguments.socket)
        listening.listen(128)
    except Exception as error:
        print(json.dumps({"ready": False, "error": f"{type(error).__name__}: {error}"}), file=said, flush=True)
        raise SystemExit(1) from error
    ready = {
        "ready": True,
        "load_seconds": time.monotonic() - began,
        "platform": loaded.platform,
        "engine": loaded.engine,
    }
    print(json.dumps(ready), file=said, flush=True)
    said.close()
    Server(loaded, config, listening).run()
