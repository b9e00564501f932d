"""Recording a training run: what ran, on what, with what, by whom, observed where it can be observed.

    output = record(["python", "train.py", "--seed", "1"], output=Path("model"), …)

The code is the tree as it is on disk before the command starts (see `bundles.source`), not a commit that may never
have been what ran. Data files are those that the command opened for reading: an audit hook in its Python processes
writes them down (`bundles/observer/`), so nobody has to remember. Each fact is `observed` here, or `declared` by the
person. No secret enters: the environment is an allow-list, credentials are cut out of URLs, and options that look like
secrets are refused.
"""

import codecs
import getpass
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from bundles import environment
from bundles.data import CARRIED_FILE_BYTES_MAX, carry
from bundles.digest import sha256_file
from bundles.errors import CommandFailed, RecordingError
from bundles.observer.sitecustomize import VARIABLE as OBSERVED_VARIABLE
from bundles.source import capture, git

FOLDER = ".snowgate"
"""In the output folder: what was recorded, for `pack` to take along."""
OUTPUT_VARIABLE = "SNOWGATE_OUTPUT"
ENVIRONMENT_KEPT = (
    "CUDA_VISIBLE_DEVICES",
    "LANG",
    "LC_ALL",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PYTHONHASHSEED",
    "TZ",
)
SECRET = re.compile(
    r"(^|[-_.])(token|secret|password|passwd|passphrase|credentials?|(api|access|private)[-_.]?key)$", re.IGNORECASE
)
SECRET_CHARACTERS_MIN = 8
"""What is shorter is no secret worth the name, but a `--pad-token` perhaps."""
NOT_DATA = (".py", ".pyc", ".pyi", ".so")
SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/", "/lib/", "/var/lib/")
SEEN = ("data", "environment")
"""What only the audit hook can tell."""
OBSERVER = Path(__file__).parent / "observer"
LOG_BYTES_MAX = 16 * 1024 * 1024
"""What a command says is kept up to here: some 200,000 lines; the rest is passed through only."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What the audit hook saw in the Python processes of a run.

    `path` and `interpreter` are those of the first one. `read` has the size and modification time (ns) of each file
    when it was first opened; what the run itself had made before is not in it.
    """

    path: list[str]
    interpreter: dict[str, str]
    prefixes: list[str]
    read: dict[str, tuple[int, int]]


def record(
    command: Sequence[str],
    *,
    output: Path,
    data: Sequence[Path] = (),
    parameters: Mapping[str, str] | None = None,
    carried_bytes_max: int = CARRIED_FILE_BYTES_MAX,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run a training command in the current folder and record it into `output/.snowgate`.

    Data files of up to `carried_bytes_max` bytes are copied there too, for the bundle to carry.

    Returns the facts, as in `run/run.json`.

    Raises:
        CommandFailed: the command failed; its output is in `output/.snowgate/log.txt`, and there are no facts.
        RecordingError: an option looks like a secret, a data file is missing, or there is too much code.
    """
    declared = dict(parameters or {})
    _refuse_secrets(command, declared)
    for path in data:
        if not path.is_file():
            msg = f"--data {path}: no such file"
            raise RecordingError(msg)
    folder = _folder(output)
    directory = Path.cwd()
    code = capture(directory, folder / "source.tar", [output, *data])
    say(f"recording: code {code['tree'] or code['archive']}{' (uncommitted changes)' if code['dirty'] else ''}")
    started, began = _now(), time.monotonic()
    status, observed = _run(command, output, folder / "log.txt")
    seconds = time.monotonic() - began
    if status != 0:
        how = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
        msg = f"{' '.join(command)}: {how}; nothing is packed; what it said is in {folder / 'log.txt'}"
        raise CommandFailed(msg, status)
    if observed is None:
        say("no Python process was seen: data and environment are not observed (was it started with -I or -E?)")
        text, summary = environment.lock()
    else:
        text, summary = environment.lock(observed.path, observed.interpreter)
    (folder / "pylock.toml").write_text(text)
    from_options = options_of(command)
    run = {
        "schema": 1,
        "id": str(uuid4()),
        "command": list(command),
        "folder": directory.name,
        "output": os.path.relpath(output.resolve(), directory),
        "started": started,
        "finished": _now(),
        "seconds": round(seconds, 3),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "parameters": from_options | declared,
        "seeds": {key: value for key, value in (from_options | declared).items() if "seed" in key.lower()},
        "environment_variables": {name: os.environ[name] for name in ENVIRONMENT_KEPT if name in os.environ},
        "environment": summary,
        "hardware": environment.hardware(),
        "code": code,
        "data": carry(_data(data, observed, output, directory), folder, carried_bytes_max),
        "outputs": _outputs(output),
        "log": sha256_file(folder / "log.txt"),
        "who": who(directory),
        "authority": {
            "observed": ["command", "code", "hardware", "log", "outputs", "who", *([] if observed is None else SEEN)],
            "declared": ["parameters", "seeds", *(SEEN if observed is None else [])],
        },
    }
    (folder / "run.json").write_text(json.dumps(run, indent=2) + "\n")
    return run


def who(directory: Path) -> dict[str, Any]:
    """Say who is at work here: the operating system's user, and the name that git knows, if any."""
    name, mail = (git(directory, "config", key) for key in ("user.name", "user.email"))
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"  # A container may run as a user that has no name.
    return {
        "user": user,
        "host": socket.gethostname(),
        "git": f"{name} <{mail}>" if name and mail else None,
    }


def author(people: Mapping[str, Any]) -> str:
    """Return one person's name from what `who` found."""
    return str(people["git"] or f"{people['user']}@{people['host']}")


def _folder(output: Path) -> Path:
    """Make a new folder for what is recorded; what an earlier run left would speak for this one."""
    folder = output / FOLDER
    try:
        output.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
    except OSError as error:
        msg = f"{output}: can't be written: {error.strerror}; give another output folder"
        raise RecordingError(msg) from error
    return folder


def _run(command: Sequence[str], output: Path, log: Path) -> tuple[int, Observed | None]:
    with tempfile.TemporaryDirectory(prefix="snowgate-") as folder:
        observed = Path(folder).resolve() / "observed.jsonl"
        path = os.pathsep.join(filter(None, [str(OBSERVER), os.environ.get("PYTHONPATH", "")]))
        variables = os.environ | {
            "PYTHONPATH": path,
            OBSERVED_VARIABLE: str(observed),
            OUTPUT_VARIABLE: str(output.resolve()),
            "PYTHONUNBUFFERED": "1",
        }
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=variables)
        except OSError as error:
            msg = f"{command[0]}: can't be started: {error.strerror}"
            raise RecordingError(msg) from error
        try:
            _pass_through(process, log)
            status = process.wait()
        finally:
            process.kill()  # Nothing when it has ended; when we were interrupted, it must not go on unrecorded.
            process.wait()
        said = [json.loads(line) for line in observed.read_text().splitlines()] if observed.exists() else []
    return status, _understand(said)


def _pass_through(process: subprocess.Popen[bytes], log: Path) -> None:
    """Show what the command says as it says it, on standard error (standard output is for data), and keep it."""
    assert process.stdout is not None, "it was opened as a pipe"
    text = codecs.getincrementaldecoder("utf-8")("replace")
    kept = 0
    with process.stdout, log.open("wb") as file:
        while chunk := os.read(process.stdout.fileno(), 65536):
            sys.stderr.write(text.decode(chunk))
            sys.stderr.flush()
            file.write(chunk[: LOG_BYTES_MAX - kept])
            kept = min(kept + len(chunk), LOG_BYTES_MAX)


def _understand(said: Sequence[Mapping[str, Any]]) -> Observed | None:
    """Make sense of the observers' lines, which are in the order in which things happened in all processes."""
    starts = [one for one in said if "executable" in one]
    if not starts:
        return None
    first: dict[str, Mapping[str, Any]] = {}
    for one in said:
        if "open" in one:
            first.setdefault(one["open"], one)
    interpreter = environment.interpreter() | {key: starts[0][key] for key in ("python", "implementation")}
    read = {path: (one["state"][0], one["state"][1]) for path, one in first.items() if not one["made"]}
    return Observed(starts[0]["path"], interpreter, sorted({name for one in starts for name in one["prefixes"]}), read)


def _data(declared: Sequence[Path], observed: Observed | None, output: Path, directory: Path) -> list[dict[str, Any]]:
    """Every data file with its digest: the declared ones, and those that the command was seen to open."""
    found: dict[Path, dict[str, Any]] = {path.resolve(): {"authority": "declared"} for path in declared}
    ours = [output.resolve(), *(Path(prefix).resolve() for prefix in (observed.prefixes if observed else ()))]
    for name, state in (observed.read if observed else {}).items():
        path = Path(name).resolve()
        skipped = path.suffix in NOT_DATA or ".git" in path.parts or str(path).startswith(SYSTEM)
        if path.is_file() and not skipped and not any(map(path.is_relative_to, ours)):
            now = path.stat()
            changed = {} if (now.st_size, now.st_mtime_ns) == state else {"changed_during_run": True}
            found[path] = {"authority": "observed", **changed}
    named = {path.resolve() for path in declared}
    return [
        {
            "name": str(path.relative_to(directory)) if path.is_relative_to(directory) else path.name,
            "place": os.path.relpath(path, directory),
            "path": path.as_uri(),
            "sha256": sha256_file(path),
            "size": path.stat().st_size,
            "declared": path in named,
            **facts,
        }
        for path, facts in sorted(found.items())
    ]


def _outputs(output: Path) -> list[dict[str, Any]]:
    """Every file in the output folder after the run: `pack` compares, and says what was changed since."""
    return [
        {"name": path.relative_to(output).as_posix(), "sha256": sha256_file(path), "size": path.stat().st_size}
        for path in sorted(output.rglob("*"))
        if path.is_file() and FOLDER not in path.relative_to(output).parts
    ]


def options_of(command: Sequence[str]) -> dict[str, str]:
    """Read `--name value` and `--name=value` off a command line; an option without a value is `true`."""
    found: dict[str, str] = {}
    for position, word in enumerate(command):
        if not word.startswith("--") or len(word) < 3:
            continue
        name, equals, value = word[2:].partition("=")
        following = command[position + 1] if position + 1 < len(command) else "--"
        found[name] = value if equals else ("true" if following.startswith("--") else following)
    return found


def _refuse_secrets(command: Sequence[str], parameters: Mapping[str, str]) -> None:
    assigned = (word.partition("=") for word in command if not word.startswith("-"))  # env API_KEY=… python …
    given = options_of(command) | {name: value for name, equals, value in assigned if equals} | dict(parameters)
    for name, value in given.items():
        if SECRET.search(name) and len(value) >= SECRET_CHARACTERS_MIN:
            msg = f"{name}: looks like a secret, and the command line is recorded; give it by the environment"
            raise RecordingError(msg)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
