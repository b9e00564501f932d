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
from bundles.inputs import Declared, check, declarations, read_by
from bundles.observer.sitecustomize import VARIABLE as OBSERVED_VARIABLE
from bundles.secrets import redact, refuse, strip_credentials
from bundles.source import capture, git
from bundles.wheels import Wheels

FOLDER = ".snowgate"
"""In the output folder: what was recorded, for `pack` to take along."""
OUTPUT_VARIABLE = "SNOWGATE_OUTPUT"
ENVIRONMENT_KEPT = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "LANG",
    "LC_ALL",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PL_GLOBAL_SEED",
    "PYTHONHASHSEED",
    "TZ",
)
SEEN = ("data", "environment")
"""What only the audit hook can tell."""
OBSERVER = Path(__file__).parent / "observer"
LOG_BYTES_MAX = 16 * 1024 * 1024
"""What a command says is kept up to here: some 200,000 lines; the rest is passed through only."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What the audit hook saw in the Python processes of a run.

    `path`, `executable` and `interpreter` are those of the first one. `imported` are the top-level modules that any of
    them looked for. `read` has the size and modification time (ns) of each file
    when it was first opened; what the run itself had made before is not in it.
    """

    path: list[str]
    executable: str
    interpreter: dict[str, str]
    imported: set[str]
    prefixes: list[str]
    read: dict[str, tuple[int, int]]


def record(
    command: Sequence[str],
    *,
    output: Path,
    data: Sequence[str | Path] = (),
    parameters: Mapping[str, str] | None = None,
    wheels: Wheels | None = None,
    carried_bytes_max: int = CARRIED_FILE_BYTES_MAX,
    strict: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run a training command in the current folder and record it into `output/.snowgate`.

    `wheels` finds the wheels of the packages that the run imported; without it the lock has no hashes of them. `data`
    are files and folders, `train=PATH` or `holdout=PATH` with what they are for. With `strict` a data file that was
    read and not declared is an error. Data files of up to `carried_bytes_max` bytes are copied there too, for the
    bundle to carry.

    Returns the facts, as in `run/run.json`.

    Raises:
        CommandFailed: the command failed; its output is in `output/.snowgate/log.txt`, and there are no facts.
        RecordingError: something looks like a secret, a data file is missing or (with `strict`) not declared, or
            there is too much code.
    """
    recorded, declared = _without_secrets(command, parameters or {}, say)
    variables = {name: os.environ[name] for name in ENVIRONMENT_KEPT if name in os.environ}
    refuse(variables)
    roles = declarations(data)
    folder = _folder(output)
    directory = Path.cwd()
    code = capture(directory, folder / "source.tar", [output, *roles])
    say(f"recording: code {code['tree'] or code['archive']}{' (uncommitted changes)' if code['dirty'] else ''}")
    started, began = _now(), time.monotonic()
    status, usage, observed = _run(command, output, folder / "log.txt")
    seconds = time.monotonic() - began
    if status != 0:
        raise _failed(recorded, status, folder / "log.txt")
    text, summary = _lock(observed, wheels, say)
    (folder / "pylock.toml").write_text(text)
    entries = _data(observed, roles, directory, output, say)
    check(entries, strict=strict, observed=observed is not None, say=say)
    known = options_of(recorded) | declared
    run = {
        "schema": 1,
        "id": str(uuid4()),
        "command": recorded,
        "folder": directory.name,
        "output": os.path.relpath(output.resolve(), directory),
        "started": started,
        "finished": _now(),
        "seconds": round(seconds, 3),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_memory_bytes": usage.ru_maxrss * 1024,
        "parameters": known,
        "seeds": {key: value for key, value in (known | variables).items() if "seed" in key.lower()},
        "environment_variables": variables,
        "environment": summary,
        "hardware": environment.hardware(),
        "code": code,
        "data": carry(entries, folder, carried_bytes_max),
        "outputs": _outputs(output),
        "metrics": _metrics(output),
        "log": sha256_file(folder / "log.txt"),
        "who": who(directory),
        "authority": _authority(observed),
    }
    (folder / "run.json").write_text(json.dumps(run, indent=2) + "\n")
    return run


def _failed(command: Sequence[str], status: int, log: Path) -> CommandFailed:
    how = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
    return CommandFailed(f"{' '.join(command)}: {how}; nothing is packed; what it said is in {log}", status)


def _lock(observed: Observed | None, wheels: Wheels | None, say: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    """Lock the environment of the run; ours, when no Python process of it was seen."""
    python = sys.executable if observed is None else observed.executable
    find = (lambda _pins: {}) if wheels is None else (lambda pins: wheels.find(pins, python, say))
    if observed is None:
        say("no Python process was seen: data and environment are not observed (was it started with -I or -E?)")
        text, summary = environment.lock(find=find)
    else:
        text, summary = environment.lock(observed.path, observed.interpreter, observed.imported, find)
    if wheels is not None and summary["without_hash"]:
        say(f"in the lock without a hash: {', '.join(summary['without_hash'])}")
    return text, summary


def _data(
    observed: Observed | None, declared: Declared, directory: Path, output: Path, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    read, prefixes = ({}, []) if observed is None else (observed.read, observed.prefixes)
    return read_by(read, declared, directory, [output, *map(Path, prefixes)], say)


def _authority(observed: Observed | None) -> dict[str, list[str]]:
    seen = [] if observed is None else SEEN
    return {
        "observed": ["command", "code", "hardware", "log", "metrics", "outputs", "who", *seen],
        "declared": ["parameters", "seeds", *(SEEN if observed is None else [])],
    }


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


def _run(command: Sequence[str], output: Path, log: Path) -> tuple[int, resource.struct_rusage, Observed | None]:
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
            pass_through(process, log)
            _pid, ended, usage = os.wait4(process.pid, 0)  # Of this command and of what it waited for, and no other.
            process.returncode = os.waitstatus_to_exitcode(ended)
        finally:
            process.kill()  # Nothing when it has ended; when we were interrupted, it must not go on unrecorded.
            process.wait()
        said = [json.loads(line) for line in observed.read_text().splitlines()] if observed.exists() else []
    _redact(log)
    return process.returncode, usage, _understand(said)


def pass_through(process: subprocess.Popen[bytes], log: Path) -> None:
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


def _redact(log: Path) -> None:
    """Cut tokens and credentials out of what a command said; what is no text stays as it is."""
    before = log.read_bytes().decode("utf-8", "surrogateescape")
    after = redact(before)
    if after != before:
        log.write_bytes(after.encode("utf-8", "surrogateescape"))


def _metrics(output: Path) -> dict[str, float]:
    """Return the numbers that the run left in `metrics.json`; whether it is as it must be, `pack` says."""
    try:
        found = json.loads((output / "metrics.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in found.items() if type(value) in (int, float)} if type(found) is dict else {}


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
    return Observed(
        path=starts[0]["path"],
        executable=starts[0]["executable"],
        interpreter=interpreter,
        imported={one["import"] for one in said if "import" in one},
        prefixes=sorted({name for one in starts for name in one["prefixes"]}),
        read={path: (one["state"][0], one["state"][1]) for path, one in first.items() if not one["made"]},
    )


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


def _without_secrets(
    command: Sequence[str], declared: Mapping[str, str], say: Callable[[str], None]
) -> tuple[list[str], dict[str, str]]:
    """Return command and parameters as they may be recorded; a secret that can't be cut out is refused."""
    recorded = [strip_credentials(word) for word in command]
    parameters = {name: strip_credentials(value) for name, value in declared.items()}
    if recorded != list(command) or parameters != dict(declared):
        say("credentials in URLs are cut out of what is recorded; the command itself runs with them")
    assigned = (word.partition("=") for word in recorded if not word.startswith("-"))  # env API_KEY=… python …
    refuse({f"word {place} of the command": word for place, word in enumerate(recorded, 1)})
    refuse({name: value for name, equals, value in assigned if equals} | options_of(recorded) | parameters)
    return recorded, parameters


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
