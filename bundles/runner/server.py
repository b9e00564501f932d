"""Batches in, answers out: a loop over one unix socket, on one thread.

While a batch is computed, frames of all workers gather in their sockets. The next turn takes them round after round,
one of every worker, as long as they fit together into one call of the model. Who came first comes last the next time.
"""

import argparse
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from . import trial
from .around import brings_code
from .batches import Batches
from .connections import Connection, Frame
from .declared import LoadError
from .engines import CPU, EAGER
from .lineage import die_with
from .loaders import describe, load


class Server:
    """Serves a listening socket with one model."""

    def __init__(self, batches: Batches, listening: socket.socket) -> None:
        listening.settimeout(0)
        self._batches = batches
        self._listening = listening
        self._selector = selectors.DefaultSelector()
        self._selector.register(listening, selectors.EVENT_READ)
        self._connections: deque[Connection] = deque()

    def run(self) -> None:
        """Serve until the process is ended."""
        while True:
            waiting = any(connection.waiting for connection in self._connections)
            for key, events in self._selector.select(0 if waiting else None):
                if key.fileobj is self._listening:
                    self._accept()
                    continue
                if events & selectors.EVENT_WRITE:
                    key.data.send()
                if events & selectors.EVENT_READ:
                    key.data.receive()
            self._turn()
            self._attend()

    def _accept(self) -> None:
        try:
            end, _address = self._listening.accept()
        except BlockingIOError:
            return
        end.settimeout(0)
        connection = Connection(end)
        self._connections.append(connection)
        self._selector.register(end, selectors.EVENT_READ, connection)

    def _turn(self) -> None:
        """Answer the frames of one call."""
        frames = self._take()
        if frames:
            for frame, answer in zip(frames, self._batches.answers(frames), strict=True):
                frame.connection.answer(frame.id, answer)

    def _take(self) -> list[Frame]:
        """Take the frames of the next call: the first worker's next one, and all that fit with it, in rounds."""
        taken: list[Frame] = []
        rows = 0
        ring = [connection for connection in self._connections if connection.waiting]
        while ring:
            fitting = []
            for connection in ring:
                frame = connection.waiting[0]
                if not taken or (frame.key == taken[0].key and rows + frame.rows <= self._batches.max_batch_size):
                    taken.append(connection.waiting.popleft())
                    rows += frame.rows
                    fitting.append(connection)
            ring = [connection for connection in fitting if connection.waiting]
        self._connections.rotate(-1)
        return taken

    def _attend(self) -> None:
        """Forget the connections that ended, and wait for room in the sockets of those that have answers to take."""
        for connection in [one for one in self._connections if not one.open]:
            self._selector.unregister(connection.end)
            connection.end.close()
            self._connections.remove(connection)
        for connection in self._connections:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.must_write else 0)
            if self._selector.get_key(connection.end).events != events:
                self._selector.modify(connection.end, events, connection)


def main(confined: Mapping[str, str]) -> None:
    """Load the bundle, say so in one line on standard output, serve; or say what its file carries; or try the
    engines, in a line each.

    `confined` is what `confine` did.
    """
    parser = argparse.ArgumentParser(prog="runner")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--socket")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--confine", metavar="SCRATCH")  # Done by now.
    parser.add_argument("--engine", default=EAGER)
    parser.add_argument("--device", default=CPU)
    parser.add_argument("--trial", type=float, metavar="SECONDS")
    parser.add_argument("--describe", action="store_true")
    parser.add_argument("--hardware", action="store_true")
    arguments = parser.parse_args()
    die_with(arguments.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which drains first.
    # The model's own prints go to standard error: standard output is what the parent reads.
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if arguments.hardware:
        _say(said, trial.hardware())
        return
    began = time.monotonic()
    try:
        config = json.loads((arguments.directory / "config.json").read_text())
        if brings_code(config):
            sys.path.insert(0, str(arguments.directory / "model"))
        if arguments.describe:
            _say(said, {"ready": True, **describe(arguments.directory, config)})
            return
        if arguments.trial is not None:
            for outcome in trial.run(arguments.directory, config, arguments.trial):
                _say(said, outcome)
            return
        loaded = load(arguments.directory, config, arguments.engine, arguments.device)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(arguments.socket)
        listening.listen(128)
    except LoadError as error:  # Said in words for whoever made the bundle; where in our code helps nobody.
        _say(said, {"ready": False, "error": str(error)})
        raise SystemExit(1) from error
    except (Exception, SystemExit) as error:
        traceback.print_exc(file=sys.stderr)
        _say(said, {"ready": False, "error": f"{type(error).__name__}: {error}"})
        raise SystemExit(1) from error
    ready = {
        "ready": True,
        "load_seconds": time.monotonic() - began,
        "platform": loaded.platform,
        "engine": loaded.engine,
        "confined": confined,
    }
    _say(said, ready)
    said.close()
    Server(Batches(loaded, config), listening).run()


def _say(said: TextIO, answer: Mapping[str, Any]) -> None:
    print(json.dumps(answer), file=said, flush=True)
