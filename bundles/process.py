"""The host's side of a runner: how one is started, asked, and checked against its golden examples.

Packing, serving and reproducing all go through here, so that what was measured is what serves.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from bundles.errors import RunnerFailed
from bundles.runner import frames

Array = np.ndarray[Any, Any]
RUNNER = Path(__file__).parent / "runner"
PREDICT_SECONDS = 300.0
STDERR_SHOWN = 4_000


def command(directory: Path, socket_path: str, python: str = sys.executable) -> list[str]:
    """Return the command line of a runner for an unpacked bundle; the caller must be its parent process."""
    place = ["--directory", str(directory), "--socket", socket_path, "--parent", str(os.getpid())]
    return [python, "-I", "-u", str(RUNNER), *place]


class RunnerConnection:
    """A connection to a running runner, one call at a time."""

    def __init__(self, socket_path: str) -> None:
        """Connect. Raises RunnerFailed."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(PREDICT_SECONDS)
        self._decoder = frames.Decoder()
        try:
            self._socket.connect(socket_path)
        except OSError as error:
            msg = f"runner at {socket_path}: can't be reached: {error}"
            raise RunnerFailed(msg) from error

    def predict(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Predict a batch: arrays with rows first, by input name. Returns the outputs and the signals.

        Raises:
            RunnerFailed: the model raised, or the runner is gone.
        """
        described = [frames.from_array(name, array) for name, array in inputs.items()]
        rows = len(next(iter(inputs.values())))
        header = {"id": 1, "rows": rows, "inputs": [spec for spec, _data in described]}
        try:
            self._socket.sendall(frames.encode(header, [data for _spec, data in described]))
            answer, body = self._receive()
        except OSError as error:
            msg = f"runner: gone in the middle of a batch: {error}"
            raise RunnerFailed(msg) from error
        if "error" in answer:
            msg = f"the model failed: {answer['error']['type']}: {answer['error']['message']}"
            raise RunnerFailed(msg)
        found: list[dict[str, Array]] = []
        offset = 0
        for part in ("outputs", "signals"):
            arrays = {}
            for spec in answer[part]:
                arrays[spec["name"]] = frames.to_array(spec, body[offset : offset + spec["size"]])
                offset += spec["size"]
            found.append(arrays)
        return found[0], found[1]

    def _receive(self) -> tuple[dict[str, Any], memoryview]:
        while True:
            data = self._socket.recv(1 << 20)
            if not data:
                msg = "it closed the connection"
                raise OSError(msg)
            for frame in self._decoder.feed(data):
                return frame

    def close(self) -> None:
        """Close the connection; the runner goes on."""
        self._socket.close()


class RunnerProcess:
    """A runner of one's own, for packing and reproducing: `with RunnerProcess(directory) as runner: …`."""

    def __init__(self, directory: Path, python: str = sys.executable) -> None:
        self._directory = directory
        self._python = python

    def __enter__(self) -> Self:
        """Start it and wait until it is ready. Raises RunnerFailed."""
        self._folder = tempfile.TemporaryDirectory(prefix="snowgate-")
        self._errors = tempfile.TemporaryFile()
        path = str(Path(self._folder.name) / "runner.sock")
        self._process = subprocess.Popen(
            command(self._directory, path, self._python),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        try:
            self.ready = self._wait_ready()
            self._connection = RunnerConnection(path)
        except BaseException:
            self._end()
            raise
        return self

    def _wait_ready(self) -> dict[str, Any]:
        assert self._process.stdout is not None, "it was opened as a pipe"
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"ready": False, "error": "it ended without a word"}
        if not answer["ready"]:
            raise RunnerFailed(f"the model can't be loaded: {answer['error']}{self._said()}")
        return answer

    def _said(self) -> str:
        self._errors.seek(0)
        said = self._errors.read()[-STDERR_SHOWN:].decode(errors="replace").strip()
        return f"\nits standard error ends with:\n{said}" if said else ""

    def predict(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """As `RunnerConnection.predict`."""
        return self._connection.predict(inputs)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._connection.close()
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()
        self._folder.cleanup()


@dataclass(frozen=True, slots=True)
class GoldenReport:
    """How far a loaded bundle is from the answers that it gave when it was packed; `output` is the worst one."""

    agrees: bool
    output: str | None
    worst_absolute: float
    tolerance: dict[str, float]

    def __str__(self) -> str:
        """One sentence."""
        if self.agrees:
            return f"the golden examples are reproduced (largest difference {self.worst_absolute:.2g})"
        return (
            f"output '{self.output}' of the golden examples differs by {self.worst_absolute:.3g}, expected at most "
            f"{self.tolerance['absolute']:g} + {self.tolerance['relative']:g} × the recorded value"
        )


class HasGolden(Protocol):
    """What the check needs of a bundle."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration blob."""
        ...

    def golden(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """The recorded inputs and outputs, rows first."""
        ...


class Predicts(Protocol):
    """A runner that can be asked: a connection to one, or a process of one's own."""

    def predict(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return the outputs and the signals of a batch."""
        ...


def reproduces_golden(bundle: HasGolden, connection: Predicts) -> GoldenReport:
    """Predict a bundle's golden inputs and compare with the recorded outputs.

    Numbers agree within `absolute + relative × |recorded|`, NaN with NaN; everything else agrees when it is equal.

    Raises:
        RunnerFailed: the model raised.
    """
    inputs, recorded = bundle.golden()
    tolerance = dict(bundle.config["tolerance"])
    outputs, _signals = connection.predict(inputs)
    worst_output, worst, agrees = None, 0.0, True
    for name, expected in recorded.items():
        got = outputs[name]
        if expected.dtype.kind != "f":
            same = bool(got.shape == expected.shape and (got == expected).all())
            difference = 0.0 if same else float("inf")
        else:
            close = np.isclose(got, expected, rtol=tolerance["relative"], atol=tolerance["absolute"], equal_nan=True)
            same = got.shape == expected.shape and bool(close.all())
            gap = np.abs(got.astype(np.float64) - expected)
            difference = float(np.nanmax(gap)) if np.isfinite(gap).any() else (0.0 if same else float("inf"))
        agrees &= same
        if difference > worst or (not same and worst_output is None):
            worst_output, worst = name, difference
    return GoldenReport(agrees, worst_output, worst, tolerance)
