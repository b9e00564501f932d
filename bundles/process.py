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
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from bundles.errors import RunnerFailed, RunnerGone
from bundles.runner import frames
from bundles.runner.engines import CPU, EAGER
from bundles.runner.golden import worst_of
from bundles.runner.rows import unpacked

Array = np.ndarray[Any, Any]
RUNNER = Path(__file__).parent / "runner"
PREDICT_SECONDS = 300.0
END_SECONDS = 1.0
"""How long a runner that closed its connection may take to end, before it is said to be alive."""
STDERR_SHOWN = 4_000
SOCKET = "runner.sock"
VISIBLE = "CUDA_VISIBLE_DEVICES"
VARIABLES = frozenset({"LANG", "LANGUAGE", "LD_LIBRARY_PATH", "PATH", "TZ"})
VARIABLE_PREFIXES = ("CUDA_", "GOMP_", "KMP_", "LC_", "MKL_", "NVIDIA_", "OMP_", "OPENBLAS_", "TF_", "TORCH_", "XLA_")
"""Where to find things, and how many threads: all else that a model needs belongs in its bundle's parameters."""


def command(
    directory: Path,
    scratch: Path,
    python: str = sys.executable,
    engine: str = EAGER,
    device: str = CPU,
    *,
    confined: bool = True,
) -> list[str]:
    """Return the command line of a runner for an unpacked bundle; the caller must be its parent process.

    `scratch` is an empty folder of its own, in which its socket will be: the only place where it can write when it is
    confined (`bundles.runner.confine`). `device` is such as `cuda:1`; of those the process sees only its own, as the
    first (`environment`).
    """
    place = ["--socket", str(scratch / SOCKET), "--engine", engine, "--device", device.partition(":")[0]]
    return [*_program(python), *_of(directory, scratch, confined=confined), *place]


def trial_command(
    directory: Path, scratch: Path, seconds: float, python: str = sys.executable, *, confined: bool = True
) -> list[str]:
    """Return the command line that tries all engines of an unpacked bundle: a line of JSON each (`runner.trial`)."""
    return [*_program(python), *_of(directory, scratch, confined=confined), "--trial", str(seconds)]


def describe(directory: Path, python: str = sys.executable) -> dict[str, Any]:
    """Return what the file of an unpacked model carries: its `inputs`, `outputs` and, of a table, `columns`.

    Raises RunnerFailed.
    """
    with tempfile.TemporaryDirectory(prefix="snowgate-") as folder:
        scratch = Path(folder)
        done = subprocess.run(
            [*_program(python), *_of(directory, scratch, confined=True), "--describe"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=scratch,
            env=environment(scratch),
            timeout=PREDICT_SECONDS,
            check=False,
        )
    return _answer(done.stdout, done.stderr if done.stdout else done.stderr + _ended(done.returncode))


def _ended(status: int) -> bytes:
    """Say how a process ended that wrote nothing: a library that is given half a file may abort, or worse."""
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return f"the runner ended with {how} over the model's file; is that whole, and of the loader's format?".encode()


def _answer(line: bytes, errors: bytes) -> dict[str, Any]:
    """Return what a runner says when it has loaded its model. Raises RunnerFailed, with what it wrote."""
    answer: dict[str, Any] = json.loads(line) if line else {"ready": False, "error": "it ended without a word"}
    if not answer["ready"]:
        raise RunnerFailed(f"the model can't be loaded: {answer['error']}{_said(errors)}")
    return answer


def _said(errors: bytes) -> str:
    said = errors[-STDERR_SHOWN:].decode(errors="replace").strip()
    return f"\nits standard error ends with:\n{said}" if said else ""


def hardware_command(python: str = sys.executable) -> list[str]:
    """Return the command line that says in a line of JSON what an engine's speed depends on here."""
    return [*_program(python), "--hardware"]


def _program(python: str) -> list[str]:
    return [python, "-I", "-u", str(RUNNER), "--parent", str(os.getpid())]


def _of(directory: Path, scratch: Path, *, confined: bool) -> list[str]:
    return ["--directory", str(directory.absolute()), *(["--confine", str(scratch)] if confined else [])]


def environment(scratch: Path, device: str = CPU) -> dict[str, str]:
    """Return the variables that a runner gets: what a framework needs of ours, and nothing that may be a secret.

    On a graphics card it sees no other; which cards there are, we may have been told ourselves.
    """
    ours = {
        name: value for name, value in os.environ.items() if name in VARIABLES or name.startswith(VARIABLE_PREFIXES)
    }
    return ours | {"HOME": str(scratch), "TMPDIR": str(scratch)} | _visible(device, ours.get(VISIBLE))


def _visible(device: str, seen: str | None) -> dict[str, str]:
    """Say which card a runner sees, of those that we see: all, or a list of them.

    >>> _visible("cuda:1", None), _visible("cuda:1", "4,GPU-7f"), _visible("cpu", "4")
    ({'CUDA_VISIBLE_DEVICES': '1'}, {'CUDA_VISIBLE_DEVICES': 'GPU-7f'}, {})
    """
    if device == CPU:
        return {}
    number = int(device.partition(":")[2])
    cards = None if seen is None else seen.split(",")
    if cards is not None and number >= len(cards):
        raise RunnerFailed(f"device {device}: {VISIBLE} names {len(cards)} of them, from 0")
    return {VISIBLE: str(number) if cards is None else cards[number]}


class RunnerConnection:
    """A connection to a running runner, one call at a time."""

    def __init__(self, socket_path: str) -> None:
        """Connect. Raises RunnerGone."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(PREDICT_SECONDS)
        self._decoder = frames.Decoder()
        self._ids = count(1)
        try:
            self._socket.connect(socket_path)
        except OSError as error:
            self._socket.close()
            msg = f"runner at {socket_path}: can't be reached: {error}"
            raise RunnerGone(msg) from error

    def predict(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Predict a batch: arrays with rows first, by input name. Returns the outputs and the signals.

        Raises:
            RunnerFailed: the model raised.
            RunnerGone: the runner ended.
            FrameError: an input is of a type that no tensor can hold.
        """
        described = [frames.from_array(name, array) for name, array in inputs.items()]
        rows = len(next(iter(inputs.values())))
        call = next(self._ids)
        description = frames.describe(rows, (("inputs", tuple(spec for spec, _data in described)),))
        try:
            self._socket.sendall(frames.encode(description, [data for _spec, data in described], id=call))
            answer, body = self._receive(call)
        except (OSError, frames.FrameError) as error:
            msg = f"runner: gone in the middle of a batch: {error}"
            raise RunnerGone(msg) from error
        if "error" in answer:
            msg = f"the model failed: {answer['error']['type']}: {answer['error']['message']}"
            raise RunnerFailed(msg)
        parts = frames.parts(answer, body)
        outputs = {spec["name"]: frames.to_array(spec, data) for spec, data in parts["outputs"]}
        [(spec, data)] = parts["signals"]
        return outputs, unpacked(spec["fields"], frames.to_array(spec, data))

    def _receive(self, expected_id: int) -> tuple[dict[str, Any], memoryview]:
        while True:
            data = self._socket.recv(1 << 20)
            if not data:
                msg = "it closed the connection"
                raise OSError(msg)
            for answer, body in self._decoder.feed(data):
                # One that comes after its call gave up is nobody's.
                if answer["id"] == expected_id:
                    return answer, body

    def close(self) -> None:
        """Close the connection; the runner goes on."""
        self._socket.close()


class RunnerProcess:
    """A runner of one's own, for packing, reproducing and replaying: `with RunnerProcess(directory) as runner: …`."""

    def __init__(
        self,
        directory: Path,
        python: str = sys.executable,
        engine: str = EAGER,
        device: str = CPU,
        *,
        confined: bool = True,
    ) -> None:
        self._directory = directory
        self._python = python
        self._engine = engine
        self._device = device
        self._confined = confined

    def __enter__(self) -> Self:
        """Start it and wait until it is ready. Raises RunnerFailed."""
        self._folder = tempfile.TemporaryDirectory(prefix="snowgate-")
        self._errors = tempfile.TemporaryFile()
        scratch = Path(self._folder.name)
        self.socket_path = str(scratch / SOCKET)
        self._process = subprocess.Popen(
            command(self._directory, scratch, self._python, self._engine, self._device, confined=self._confined),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=scratch,
            env=environment(scratch, self._device),
        )
        try:
            self.ready = self._wait_ready()
            self._connection = RunnerConnection(self.socket_path)
        except BaseException:
            self._end()
            raise
        return self

    def _wait_ready(self) -> dict[str, Any]:
        assert self._process.stdout is not None, "it was opened as a pipe"
        line = self._process.stdout.readline()
        return _answer(line, self._errors_said())

    def _errors_said(self) -> bytes:
        self._errors.seek(0)
        return self._errors.read()

    def predict(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """As `RunnerConnection.predict`; a runner that died says what it said last."""
        try:
            return self._connection.predict(inputs)
        except RunnerGone as error:
            if (status := self._status()) is not None:
                msg = f"the runner ended with status {status} in the middle of a batch{_said(self._errors_said())}"
                raise RunnerGone(msg) from error
            raise

    def _status(self) -> int | None:
        try:
            return self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return None

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

    Raises:
        RunnerFailed: the model raised.
    """
    inputs, recorded = bundle.golden()
    outputs, _signals = connection.predict(inputs)
    agrees, worst, output = worst_of(bundle.config, outputs, recorded)
    return GoldenReport(agrees, output, worst, dict(bundle.config["tolerance"]))
