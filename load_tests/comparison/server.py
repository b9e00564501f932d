"""What is compared: how a peer is started and spoken to, and one that is running."""

import os
import shutil
import socket
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import urllib3

from load_tests.comparison.models import Array, Model, oip_answer, oip_binary, oip_json
from load_tests.comparison.processes import Kept, tree_memory, tree_seconds

START_SECONDS_MAX = 180.0  # Ray Serve needs ten on a free machine.
PORTS = 5  # TorchServe takes five: three for HTTP, two for gRPC.
POLL_SECONDS = 0.1


class ServerError(Exception):
    """A server ended, did not become ready, or answers wrongly; the text ends with what it said last."""


@dataclass(frozen=True)
class Place:
    """Where one server runs: what it is given, and what it may use."""

    python: Path  # the interpreter of its environment
    models: Path  # network.py and the weights
    served: Sequence[str]  # the models to be served
    folder: Path  # an empty folder of its own, gone afterwards
    cores: int
    ports: Sequence[int]

    @property
    def variables(self) -> dict[str, str]:
        """The environment of its processes: the models can be imported; one thread for arithmetic."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SNOWGATE_", "PYTHON"))}
        bin_folder = self.python.parent
        return kept | {
            "COMPARISON_MODELS": str(self.models),
            "OMP_NUM_THREADS": "1",
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "PYTHONFAULTHANDLER": "1",  # A crash says where; it costs nothing until then.
            "PYTHONPATH": str(self.models),
            "PYTHONUNBUFFERED": "1",
            "VIRTUAL_ENV": str(bin_folder.parent),
        }


class Peer(ABC):
    """A server that can be compared. A subclass says what to install, what to run, and what its clients send."""

    name: str
    requirements: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()  # the distributions whose versions are told
    interpreter: str = sys.executable
    bodies: tuple[str, ...] = ("json",)

    @abstractmethod
    def configuration(self, cores: int) -> str:
        """Say in a sentence how it is set up for one or two cores."""

    @abstractmethod
    def commands(self, place: Place) -> list[list[str]]:
        """Write what it needs into the place's folder, and return the commands to run, the last one the server's."""

    def url(self, place: Place, model: str) -> str:
        """Return the address for inference."""
        return f"http://127.0.0.1:{place.ports[0]}/v2/models/{model}/infer"

    def variables(self, place: Place) -> Mapping[str, str]:
        """Return what its processes' environment has beside the place's."""
        return {}

    def request(self, body: str, model: str, rows: Array) -> tuple[bytes, dict[str, str]]:
        """Return the bytes and headers of a call with rows [n, …]; by default the Open Inference Protocol's."""
        return oip_binary(rows) if body == "binary" else oip_json(rows)

    def answer(self, content: bytes, header_length: int | None) -> Array:
        """Return the logits [n, classes] from an answer."""
        return oip_answer(content, header_length)

    def facts(self, place: Place) -> dict[str, Any]:
        """Return what its rows say beside the measurement."""
        return {"log": None, "monitor": False}

    def settled(self, place: Place, requests: int) -> str | None:
        """Wait until it has done all that belongs to so many answers; say what it owes after a while, or None."""
        return None


class Server:
    """A running peer; as a context manager it is ready inside, and gone with its folder after."""

    def __init__(
        self, peer: Peer, python: Path, models: dict[str, Model], *, work: Path, cores: int, cpus: Sequence[int]
    ) -> None:
        self.peer = peer
        self.models = models
        self.answered = 0  # by what is counted: checks and loads
        self._stack = ExitStack()
        self._cpus = cpus
        self._kept: list[Kept] = []
        self._http = urllib3.PoolManager(retries=False, timeout=30, maxsize=16, block=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{peer.name}-", dir=work))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        self.place = Place(python, work / "models", tuple(models), folder, cores, free_ports(PORTS))

    def __enter__(self) -> Self:
        """Start it, and wait until it answers."""
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        """End every process of it."""
        self._stack.close()

    def _start(self) -> None:
        variables = {**self.place.variables, **self.peer.variables(self.place)}
        for number, command in enumerate(self.peer.commands(self.place)):
            log = self.place.folder / f"server-{number}.log"
            kept = Kept(command, cpus=self._cpus, log=log, variables=variables, folder=self.place.folder)
            self._stack.callback(kept.stop)
            self._kept.append(kept)
        deadline = time.monotonic() + START_SECONDS_MAX
        waiting = list(self.models.values())
        complaint = "not asked yet"
        while waiting:
            self._complain_if_ended()
            if time.monotonic() > deadline:
                raise ServerError(
                    f"{self.peer.name} is not ready after {START_SECONDS_MAX:g} s: {complaint}\n{self.tail}"
                )
            try:
                self.ask("json", waiting[0], slice(0, 1))
                waiting.pop(0)
            except (ServerError, urllib3.exceptions.HTTPError, ValueError, LookupError) as error:
                complaint = f"{type(error).__name__}: {error}"
                time.sleep(POLL_SECONDS)

    def ask(self, body: str, model: Model, which: slice) -> Array:
        """Send some of a model's rows in one call and return the logits. Raises ServerError at another status."""
        content, headers = self.peer.request(body, model.name, model.rows[which])
        answer = self._http.request("POST", self.url(model.name), body=content, headers=headers)
        if answer.status // 100 != 2:
            raise ServerError(f"{self.peer.name}: status {answer.status}: {answer.data[:300]!r}")
        length = answer.headers.get("Inference-Header-Content-Length")
        return self.peer.answer(answer.data, None if length is None else int(length))

    def url(self, model: str) -> str:
        """Return the address for inference."""
        return self.peer.url(self.place, model)

    @property
    def pid(self) -> int:
        """The root of its processes."""
        return self._kept[-1].pid

    @property
    def cpu_seconds(self) -> float:
        """The CPU time of all of its processes, those that ended included."""
        return sum(tree_seconds(kept.pid) for kept in self._kept)

    @property
    def memory_bytes(self) -> int:
        """The memory of all of its processes, what they share counted once."""
        return sum(tree_memory(kept.pid) for kept in self._kept)

    @property
    def tail(self) -> str:
        """What it said last."""
        return "\n".join(kept.tail() for kept in self._kept)

    def _complain_if_ended(self) -> None:
        for kept in self._kept:
            if kept.status is not None:
                raise ServerError(f"{self.peer.name} ended with {kept.status}:\n{kept.tail()}")


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago; consecutive, for servers that count on from their first."""
    for _attempt in range(100):
        with ExitStack() as stack:
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            try:
                for port in range(first + 1, first + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except (OSError, OverflowError):
                continue
            return list(range(first, first + count))
    raise ServerError(f"found no {count} free ports in a row")
