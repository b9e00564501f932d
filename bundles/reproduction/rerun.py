"""A recorded command run again: in a fresh folder, with its code and data at their places, and nothing else.

    SCRATCH/project/    the code as it was archived, the data put where the run read it
    SCRATCH/home/ tmp/  what the command takes for its home, and for temporary files
    SCRATCH/data/       data that lay outside of the project

The command is started through `bundles/runner/confine.py`: it can write in SCRATCH only, read what programs need, and
has no network. Words of the command line that name a place on the machine of the recording name the new one.
"""

import os
import re
import shutil
import signal
import subprocess
import tarfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from bundles.data import recorded_path
from bundles.errors import ReproductionError
from bundles.recording import OUTPUT_VARIABLE, pass_through
from bundles.source import HOME

CONFINE = Path(__file__).parent.parent / "runner" / "confine.py"
PYTHON = re.compile(r"python(3(\.\d+)?)?")
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
SECONDS_MIN, SECONDS_FACTOR = 600.0, 10.0
"""The machine may be ten times slower; what takes longer hangs. A short run gets ten minutes."""
MEMORY_BYTES_MIN, MEMORY_FACTOR = 4 << 30, 4
"""Four times the recorded peak: other versions of a framework need more, and what is mapped counts, used or not."""
NO_LIMIT = (1 << 63) - 1
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "__pycache__", HOME)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run happens. `moved` are places on the machine of the recording, and what stands for them here."""

    scratch: Path
    folder: Path
    output: Path
    moved: Mapping[str, str] = field(default_factory=dict)


def unpack(archive: Path, code: Path) -> None:
    """Unpack an archive of code into a folder. Raises ReproductionError when it holds what does not stay in there."""
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(code, filter="data")
    except (tarfile.TarError, OSError) as error:
        raise ReproductionError(f"code/source.tar can't be unpacked: {error}") from error


def lay_out(scratch: Path, code: Path, run: Mapping[str, Any], data: Mapping[str, Path]) -> Place:
    """Copy the code and put the data where the run read it; `data` are files by the name that the record has for them.

    Raises:
        ReproductionError: the folder in which the run was started is not in the code.
    """
    project = scratch / "project"
    for folder in ("home", "tmp", "data"):
        (scratch / folder).mkdir(parents=True)
    shutil.copytree(code, project, ignore=LEFT_OUT, symlinks=True)
    folder = (project / run["code"]["directory"]).resolve()
    if not folder.is_relative_to(project.resolve()) or not folder.is_dir():
        raise ReproductionError(f"the run was started in {run['code']['directory']!r}, which is not in the code")
    moved: dict[str, str] = {}
    for number, one in enumerate(run["data"]):
        relative = PurePosixPath(one["place"])
        target = (folder / relative).resolve()
        inside = target.is_relative_to(project.resolve())
        if not inside:
            target = scratch / "data" / str(number) / PurePosixPath(one["name"]).name
        if (path := recorded_path(one)) is not None:
            moved[str(path)] = str(target)
            if inside and str(path).endswith(f"/{relative}"):
                moved[str(path).removesuffix(f"/{relative}")] = str(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(data[one["name"]], target)
    output = (folder / run["output"]).resolve()
    if not output.is_relative_to(project.resolve()):
        output = scratch / "output"
    output.mkdir(parents=True, exist_ok=True)
    return Place(scratch, folder, output, moved)


def command_of(run: Mapping[str, Any], parameters: Mapping[str, str], place: Place, python: Path | None) -> list[str]:
    """Return the recorded command line for a new place: with other parameters, and another interpreter if any."""
    words = list(run["command"])
    for name, value in parameters.items():
        words = _with_option(words, name, value)
    originals = sorted(place.moved, key=len, reverse=True)
    moved = [_moved(word, originals, place.moved) for word in words]
    if python is not None and PYTHON.fullmatch(PurePosixPath(words[0]).name):
        moved[0] = str(python)
    return moved


def _with_option(words: Sequence[str], name: str, value: str) -> list[str]:
    """Give an option another value, or give it at all.

    >>> _with_option(["train.py", "--seed", "1"], "seed", "2"), _with_option(["train.py", "--seed=1"], "seed", "2")
    (['train.py', '--seed', '2'], ['train.py', '--seed=2'])
    """
    given = list(words)
    for position, word in enumerate(given):
        if word == f"--{name}" and position + 1 < len(given):
            given[position + 1] = value
            return given
        if word.startswith(f"--{name}="):
            given[position] = f"--{name}={value}"
            return given
    return [*given, f"--{name}", value]


def _moved(word: str, originals: Sequence[str], moved: Mapping[str, str]) -> str:
    option, equals, value = word.rpartition("=")
    for original in originals:
        if value == original or value.startswith(f"{original}/"):
            return f"{option}{equals}{moved[original]}{value.removeprefix(original)}"
    return word


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended: its status, what it said last, and what it was confined by."""

    status: int
    said: str
    confined: dict[str, str]


def run_confined(command: Sequence[str], place: Place, run: Mapping[str, Any], python: Path, seconds: float) -> Ran:
    """Run a command in its place, confined and limited, with the recorded variables and no others.

    Raises:
        ReproductionError: it took longer than `seconds`.
    """
    report = place.scratch / "confined.json"
    memory = max(MEMORY_BYTES_MIN, MEMORY_FACTOR * int(run.get("peak_memory_bytes") or 0))
    processors = os.cpu_count() or 1
    wrapped = [str(python), "-I", str(CONFINE), "--scratch", str(place.scratch), "--report", str(report)]
    wrapped += ["--cpu-seconds", str(int(seconds * processors) + 1), "--memory-bytes", str(min(memory, NO_LIMIT))]
    variables = dict(run.get("environment_variables", {})) | {
        "HOME": str(place.scratch / "home"),
        "TMPDIR": str(place.scratch / "tmp"),
        "PATH": f"{python.parent}:{SYSTEM_PATH}",
    }
    status, said = _run([*wrapped, "--", *command], place, variables, seconds)
    confined = orjson.loads(report.read_bytes()) if report.exists() else {}
    return Ran(status, said, confined)


def run_here(command: Sequence[str], place: Place, seconds: float) -> Ran:
    """Run a command in its place as it was run before, with the variables of who typed it. Raises ReproductionError."""
    return Ran(*_run(command, place, dict(os.environ), seconds), {})


def seconds_for(run: Mapping[str, Any]) -> float:
    """Return how long a recorded run may take when it is run again."""
    return max(SECONDS_MIN, SECONDS_FACTOR * float(run.get("seconds") or 0.0))


def _run(command: Sequence[str], place: Place, variables: Mapping[str, str], seconds: float) -> tuple[int, str]:
    log = place.scratch / "log.txt"
    given = dict(variables) | {OUTPUT_VARIABLE: str(place.output), "PYTHONUNBUFFERED": "1"}
    try:
        process = subprocess.Popen(
            command,
            cwd=place.folder,
            env=given,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise ReproductionError(f"{command[0]}: can't be started: {error.strerror}") from error
    late = threading.Event()

    def end() -> None:
        late.set()
        _kill(process)

    limit = threading.Timer(seconds, end)
    limit.start()
    try:
        pass_through(process, log)
        status = process.wait()
    finally:
        limit.cancel()
        _kill(process)  # Also what it has left running: nothing of a run outlives it.
        process.wait()
    if late.is_set():
        raise ReproductionError(f"{' '.join(command[-3:])}: took longer than {seconds:g} s; give more with --timeout")
    return status, _last_line(log)


def _last_line(log: Path) -> str:
    lines = log.read_bytes()[-4_000:].decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
