"""Recording a training run: what ran, on what, with what, by whom, observed where it can be observed.

    output = record(["python", "train.py", "--seed", "1"], output=Path("model"), …)

The code is the git *tree* as it is on disk at that moment, uncommitted and untracked files included, not a commit that
may never have been what ran. Data files are those that the command opened for reading: an audit hook in the Python
child writes them down, so nobody has to remember. No secret enters: the environment is an allow-list, credentials are
cut out of URLs, and options that look like secrets are refused by their names.
"""

import getpass
import io
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

from bundles import environment
from bundles.digest import sha256_bytes, sha256_file
from bundles.errors import RecordingError

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
SOURCE_BYTES_MAX = 64 * 1024 * 1024
"""The tree of a project is some megabytes of text; beyond this it holds data that belongs elsewhere."""
SECRET = re.compile(r"token|secret|passw|api.?key|credential", re.IGNORECASE)
NOT_DATA = (".py", ".pyc", ".pyi", ".so", ".pth", ".cfg", ".egg-link")
SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/", "/lib/", "/var/lib/")
PLAIN_SOURCES = {".py", ".toml", ".cfg", ".txt", ".md", ".sh", ".ipynb", ".yaml", ".yml"}

HOOK = """
import atexit, importlib.machinery, importlib.util, json, os, sys
_here = os.path.dirname(__file__)
_opened = set()
def _hook(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        mode, flags = args[1], args[2]
        writes = any(c in mode for c in "wax+") if isinstance(mode, str) else flags & (os.O_WRONLY | os.O_RDWR)
        if not writes:
            _opened.add(os.path.abspath(os.fsdecode(args[0])))
sys.addaudithook(_hook)
def _say():
    facts = {"executable": sys.executable, "path": sys.path, "prefixes": [sys.prefix, sys.base_prefix],
             "opened": sorted(_opened), "modules": sorted(sys.modules)}
    with open(os.path.join(_here, "observed-%d.json" % os.getpid()), "w") as file:
        json.dump(facts, file)
atexit.register(_say)
_others = [entry for entry in sys.path if os.path.abspath(entry or ".") != _here]
_spec = importlib.machinery.PathFinder.find_spec("sitecustomize", _others)
if _spec is not None and _spec.loader is not None:
    # The environment's own, which ours stands before.
    _spec.loader.exec_module(importlib.util.module_from_spec(_spec))
"""


@dataclass(frozen=True, slots=True)
class Observed:
    """What the audit hook saw in the Python processes of a run."""

    executable: str
    path: list[str]
    opened: list[str]
    prefixes: list[str]


def record(
    command: Sequence[str],
    *,
    output: Path,
    data: Sequence[Path] = (),
    parameters: Mapping[str, str] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run a training command in the current folder and record it into `output/.snowgate`.

    Returns the facts, as in `run/run.json`.

    Raises:
        RecordingError: the command failed (its exit status is in the text), or an option looks like a secret.
    """
    declared = dict(parameters or {})
    _refuse_secrets(command, declared)
    output.mkdir(parents=True, exist_ok=True)
    folder = output / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    directory = Path.cwd()
    code = _code(directory, output, folder / "source.tar")
    say(f"recording: code {code['tree'] or code['archive']}{' (uncommitted changes)' if code['dirty'] else ''}")
    started, began = _now(), time.monotonic()
    status, observed = _run(command, output, folder / "log.txt")
    seconds = time.monotonic() - began
    if status != 0:
        msg = f"{' '.join(command)}: exit status {status}; nothing was packed"
        raise RecordingError(msg)
    text, summary = environment.lock(None if observed is None else observed.path)
    (folder / "pylock.toml").write_text(text)
    from_options = _options(command)
    run = {
        "schema": 1,
        "id": str(uuid4()),
        "command": list(command),
        "folder": directory.name,
        "started": started,
        "finished": _now(),
        "seconds": round(seconds, 3),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "parameters": from_options | declared,
        "seeds": {key: value for key, value in (from_options | declared).items() if "seed" in key.lower()},
        "environment_variables": {name: os.environ[name] for name in ENVIRONMENT_KEPT if name in os.environ},
        "environment": summary,
        "hardware": environment.hardware() | {"threads": os.cpu_count()},
        "code": code,
        "data": _data(data, observed, output, directory),
        "log": sha256_file(folder / "log.txt"),
        "who": who(directory),
        "authority": {
            "observed": ["code", "data", "environment", "hardware", "log"],
            "declared": ["parameters"],
        },
    }
    (folder / "run.json").write_text(json.dumps(run, indent=2) + "\n")
    return run


def who(directory: Path) -> dict[str, Any]:
    """Say who is at work here: the operating system's user, and the name that git knows, if any."""
    name, mail = (_git(directory, "config", key) for key in ("user.name", "user.email"))
    return {
        "user": getpass.getuser(),
        "host": socket.gethostname(),
        "git": f"{name} <{mail}>" if name and mail else None,
    }


def author(people: Mapping[str, Any]) -> str:
    """Return one person's name from what `who` found."""
    return str(people["git"] or f"{people['user']}@{people['host']}")


def strip_credentials(url: str) -> str:
    """Cut user and password out of a URL.

    >>> strip_credentials("https://me:s3cret@git.example/signs.git")
    'https://git.example/signs.git'
    """
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.scheme else url


def _run(command: Sequence[str], output: Path, log: Path) -> tuple[int, Observed | None]:
    with tempfile.TemporaryDirectory(prefix="snowgate-") as hooks:
        (Path(hooks) / "sitecustomize.py").write_text(HOOK)
        path = os.pathsep.join(filter(None, [hooks, os.environ.get("PYTHONPATH", "")]))
        variables = os.environ | {
            "PYTHONPATH": path,
            OUTPUT_VARIABLE: str(output.resolve()),
            "PYTHONUNBUFFERED": "1",
        }
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=variables)
        except OSError as error:
            msg = f"{command[0]}: can't be started: {error.strerror}"
            raise RecordingError(msg) from error
        assert process.stdout is not None, "it was opened as a pipe"
        with log.open("wb") as file:
            while chunk := os.read(process.stdout.fileno(), 65536):
                file.write(chunk)
                sys.stderr.write(chunk.decode(errors="replace"))
                sys.stderr.flush()
        status = process.wait()
        process.stdout.close()
        said = [json.loads(one.read_text()) for one in sorted(Path(hooks).glob("observed-*.json"))]
    if not said:
        return status, None
    opened = sorted({name for one in said for name in one["opened"]})
    return status, Observed(said[-1]["executable"], said[-1]["path"], opened, said[-1]["prefixes"])


def _data(declared: Sequence[Path], observed: Observed | None, output: Path, directory: Path) -> list[dict[str, Any]]:
    """Every data file with its digest: the declared ones, and those that the command was seen to open."""
    found: dict[Path, str] = {}
    for path in declared:
        if not path.is_file():
            msg = f"--data {path}: no such file"
            raise RecordingError(msg)
        found[path.resolve()] = "declared"
    ours = [output.resolve(), *(Path(prefix).resolve() for prefix in (observed.prefixes if observed else ()))]
    for name in observed.opened if observed else ():
        path = Path(name).resolve()
        skipped = path.suffix in NOT_DATA or str(path).startswith(SYSTEM) or any(map(path.is_relative_to, ours))
        if path.is_file() and not skipped:
            found[path] = "observed"
    return [
        {
            "name": str(path.relative_to(directory)) if path.is_relative_to(directory) else path.name,
            "path": path.as_uri(),
            "sha256": sha256_file(path),
            "size": path.stat().st_size,
            "authority": authority,
        }
        for path, authority in sorted(found.items())
    ]


def _code(directory: Path, output: Path, archive: Path) -> dict[str, Any]:
    """Archive the code as it is on disk now, and say which git tree that is."""
    top = _git(directory, "rev-parse", "--show-toplevel")
    if top is None:
        data = _archive_folder(directory, output)
        facts: dict[str, Any] = {"tree": None, "commit": None, "dirty": None, "remote": None}
    else:
        tree = _write_tree(Path(top), output)
        data = _normalized(_git_bytes(Path(top), "archive", "--format=tar", tree))
        commit = _git(directory, "rev-parse", "--verify", "--quiet", "HEAD")
        committed = None if commit is None else _git(directory, "rev-parse", f"{commit}^{{tree}}")
        remote = _git(directory, "config", "remote.origin.url")
        facts = {
            "tree": tree,
            "commit": commit,
            "dirty": committed != tree,
            "remote": None if remote is None else strip_credentials(remote),
        }
    if len(data) > SOURCE_BYTES_MAX:
        msg = (
            f"{directory}: the code takes {len(data) >> 20} MiB, expected at most {SOURCE_BYTES_MAX >> 20}; "
            "leave data out of it with .gitignore"
        )
        raise RecordingError(msg)
    archive.write_bytes(data)
    return facts | {"archive": sha256_bytes(data), "bytes": len(data)}


def _write_tree(top: Path, output: Path) -> str:
    """Write the working tree, with an index of our own so that the user's is left as it is."""
    with tempfile.TemporaryDirectory(prefix="snowgate-") as folder:
        variables = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        inside = output.resolve().is_relative_to(top) and output.resolve() != top
        _git_bytes(top, "add", "--all", "--", ".", variables=variables)
        if inside:
            # What the run makes is no part of what ran; leaving it out of `add` fails where git ignores it anyway.
            made = str(output.resolve().relative_to(top))
            _git_bytes(top, "rm", "-r", "--quiet", "--cached", "--ignore-unmatch", "--", made, variables=variables)
        return _git_bytes(top, "write-tree", variables=variables).decode().strip()


def _archive_folder(directory: Path, output: Path) -> bytes:
    """Without git: the source files below the folder, hidden ones and environments left out."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(directory.rglob("*")):
            relative = path.relative_to(directory)
            hidden = any(part.startswith(".") or part in ("__pycache__", "venv", "build") for part in relative.parts)
            if hidden or path.is_relative_to(output) or path.suffix not in PLAIN_SOURCES or not path.is_file():
                continue
            member = tarfile.TarInfo(relative.as_posix())
            data = path.read_bytes()
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _normalized(data: bytes) -> bytes:
    """The same tree must give the same archive: no times, no owners."""
    buffer = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as source,
        tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as target,
    ):
        for member in source:
            member.mtime, member.uid, member.gid, member.uname, member.gname = 0, 0, 0, "", ""
            target.addfile(member, source.extractfile(member) if member.isfile() else None)
    return buffer.getvalue()


def _options(command: Sequence[str]) -> dict[str, str]:
    """Read `--name value` and `--name=value` off a command line."""
    found: dict[str, str] = {}
    for position, word in enumerate(command):
        if not word.startswith("--") or len(word) < 3:
            continue
        name, equals, value = word[2:].partition("=")
        following = command[position + 1] if position + 1 < len(command) else "--"
        found[name] = value if equals else ("true" if following.startswith("--") else following)
    return found


def _refuse_secrets(command: Sequence[str], parameters: Mapping[str, str]) -> None:
    for name in (*_options(command), *parameters):
        if SECRET.search(name):
            msg = f"option --{name} looks like a secret, and the command line is recorded; give it by the environment"
            raise RecordingError(msg)


def _git(directory: Path, *arguments: str) -> str | None:
    """Ask git something; None when there is no git, no repository or no answer."""
    try:
        done = subprocess.run(["git", *arguments], cwd=directory, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _git_bytes(directory: Path, *arguments: str, variables: Mapping[str, str] | None = None) -> bytes:
    done = subprocess.run(
        ["git", *arguments],
        cwd=directory,
        capture_output=True,
        check=False,
        env=os.environ | dict(variables or {}),
    )
    if done.returncode != 0:
        msg = f"git {arguments[0]} in {directory}: {done.stderr.decode(errors='replace').strip()}"
        raise RecordingError(msg)
    return done.stdout


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
