"""Environments of their own: interpreter and packages for bundles that need others than those of the gateway.

A bundle that was packed with `requirements` brings a second lock, of exactly what it was measured with: each package
by its version and the digest of its wheel. From that its environment is built, once a lock, whoever asks first:

    HOME/environments/<the lock's digest>/     a virtual environment; removed by hand, it is built again

Only wheels are installed, and nothing of a package runs while its environment is built. Where our own environment has
all that the lock names, in the same versions, that one serves.
"""

import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import tomli_w

from bundles.errors import EnvironmentFailed
from bundles.wheels import PIP, entry

BUILD_SECONDS = 3_600.0
"""Gigabytes of wheels for graphics cards, over a slow line."""
YOUNG_SECONDS = 86_400.0
"""Who packs has an environment before a bundle names it; that takes an hour or two, not a day."""
ASK_SECONDS = 20.0
LOOK_SECONDS = 0.2
OLDEST_PYTHON = (3, 10)
"""What the runner itself is written for."""
NEEDED = "numpy"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Built:
    """An environment, and the lock from which it can be built again."""

    lock: str
    python: Path


class Environments:
    """All environments of one home. Safe to use from several threads and processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()  # Commands in an environment name its interpreter.
        self._installing: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def resolve(self, requirements: Path, python: str | None, say: Say) -> Built:
        """Install what a requirements file asks for, in the newest versions that it allows, and lock what came of it.

        `python` is such as "3.10"; by default it is our own.

        Raises:
            EnvironmentFailed: no such interpreter, or the packages can't be installed.
        """
        wanted = python or ".".join(platform.python_version_tuple()[:2])
        if tuple(map(int, wanted.split("."))) < OLDEST_PYTHON:
            raise EnvironmentFailed(f"python {wanted}: expected {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer")
        base, exact = find_python(wanted)
        with self._building() as folder:
            report = folder / "report.json"
            _make(base, folder)
            self._install(folder, ["--report", str(report), "-r", str(requirements)], None, say)
            packages = [entry(one) for one in json.loads(report.read_text())["install"]]
            report.unlink()
            if NEEDED not in {one["name"] for one in packages}:
                raise EnvironmentFailed(f"{requirements}: has no {NEEDED}, which every runner needs; add it")
            document = {
                "lock-version": "1.0",
                "created-by": "snowgate",
                "requires-python": f"=={exact}",
                "packages": sorted(packages, key=lambda one: str(one["name"])),
            }
            text = tomli_w.dumps(document)
            return Built(text, self._keep(folder, text))

    def python_for(self, lock: str, say: Say, *, own: bool = False) -> Path:
        """Return the interpreter of a lock's environment, which is built when it is not there; ours where it fits.

        `own`: in no case ours, in which there may be more than the lock names.

        Raises:
            EnvironmentFailed: no such interpreter, or the packages can't be installed.
        """
        document = tomllib.loads(lock)
        wanted, packages = document["requires-python"].removeprefix("=="), document["packages"]
        if not own and fits_here(wanted, packages):
            return Path(sys.executable)
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{_name(lock)}.lock").open("w") as file:
            self._wait_for(file, say)
            python = self._python(lock)
            return python if python.exists() else self._build(lock, wanted, packages, say)

    def _wait_for(self, file: IO[str], say: Say) -> None:
        """Take the lock of an environment; who has it is building it, and then we find it built."""
        waited = 0.0
        while not self._stopped and waited < BUILD_SECONDS:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waited:
                    say("another process is building its environment")
                time.sleep(LOOK_SECONDS)
                waited += LOOK_SECONDS
            else:
                return
        raise EnvironmentFailed("another process did not get ready with its environment")

    def _build(self, lock: str, wanted: str, packages: Sequence[dict[str, Any]], say: Say) -> Path:
        base, exact = find_python(wanted)
        if not f"{exact}.".startswith(f"{wanted}."):
            say(f"its environment gets Python {exact}; the bundle was packed with {wanted}")
        with self._building() as folder:
            _make(base, folder)
            lines = [
                " ".join([f"{one['name']}=={one['version']}", *(f"--hash=sha256:{hash_}" for hash_ in _hashes(one))])
                for one in packages
            ]
            listed = folder / "requirements.txt"
            listed.write_text("\n".join(lines) + "\n")
            self._install(folder, ["--no-deps", "--require-hashes", "-r", str(listed)], len(packages), say)
            return self._keep(folder, lock)

    def unused(self, locks: Callable[[], Iterable[str]]) -> list[Path]:
        """Return the folders of environments that none of the locks names, and of builds that broke off.

        Those younger than a day are left out: a bundle may just be made with one.
        """
        named = set(map(_name, locks()))
        oldest = time.time() - YOUNG_SECONDS
        folders = sorted(one for one in self._folder.glob("*") if one.is_dir())
        return [one for one in folders if one.name not in named and one.stat().st_mtime < oldest]

    def remove(self, folder: Path, locks: Callable[[], Iterable[str]]) -> bool:
        """Remove one of the `unused`; False when somebody builds it, or when one of the locks names it by now."""
        with (self._folder / f"{folder.name}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            # Asked for again: who takes it from now on waits for the lock, and finds it gone.
            if folder.name in set(map(_name, locks())):
                return False
            gone = Path(tempfile.mkdtemp(dir=self._folder, prefix="building-"))
            folder.rename(gone)  # At once: half an environment must have no name.
        shutil.rmtree(gone, ignore_errors=True)
        return True

    def stop(self) -> None:
        """End what is being installed; nothing is built any more."""
        self._stopped = True
        for process in list(self._installing):
            _kill(process)

    @contextmanager
    def _building(self) -> Iterator[Path]:
        """Give a folder beside the others, so that a finished environment appears whole."""
        self._folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self._folder, prefix="building-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _keep(self, folder: Path, lock: str) -> Path:
        """Give a finished environment its name, unless another of that lock is there already."""
        python = self._python(lock)
        (folder / "pylock.toml").write_text(lock)
        _move_scripts(folder, python.parent)
        if not python.exists():
            folder.rename(self._folder / _name(lock))
        return python

    def _python(self, lock: str) -> Path:
        return self._folder / _name(lock) / "bin" / "python"

    def _install(self, folder: Path, arguments: Sequence[str], count: int | None, say: Say) -> None:
        """Run pip in a new environment and tell how far it is. Raises EnvironmentFailed."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SNOWGATE_"))}
        process = subprocess.Popen(
            [*PIP, "--python", str(folder / "bin" / "python"), "install", "--only-binary", ":all:", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=ours | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        self._installing.add(process)
        if self._stopped:
            _kill(process)
        limit = threading.Timer(BUILD_SECONDS, _kill, [process])
        limit.start()
        errors, seen, last = [], 0, ""
        assert process.stdout is not None, "it was opened as a pipe"
        with process.stdout:
            for line in process.stdout:
                last = line.strip() or last
                if line.startswith(("Collecting ", "Processing ")):
                    seen += 1
                    say(f"building its environment: {seen}{f' of {count}' if count else ''} packages")
                elif line.startswith("ERROR: "):
                    errors.append(line.removeprefix("ERROR: ").strip())
        status = process.wait()
        limit.cancel()
        self._installing.discard(process)
        if status != 0:
            reason = " ".join(errors) or last or f"pip ended with status {status}"
            raise EnvironmentFailed(f"its environment can't be built: {reason}")


def find_python(wanted: str) -> tuple[str, str]:
    """Return an interpreter of a version ("3.10", "3.10.13": this one or its nearest relative), and its own version.

    Looked for: our own, `python3.10` on the PATH, and where pyenv and uv keep theirs. Raises EnvironmentFailed.
    """
    minor = ".".join(wanted.split(".")[:2])
    known = [sys.executable] if platform.python_version().startswith(f"{minor}.") else []
    known += filter(None, [shutil.which(f"python{minor}")])
    kept = [
        Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions",
        Path.home() / ".local/share/uv/python",
    ]
    for folder, pattern in zip(kept, (f"{minor}.*", f"cpython-{minor}.*"), strict=True):
        known += [str(path) for path in sorted(folder.glob(f"{pattern}/bin/python"), reverse=True)]
    found = {path: answer for path in known if (answer := version_of(path)).startswith(f"{minor}.")}
    if not found:
        raise EnvironmentFailed(
            f"no Python {minor} on this machine: looked for python{minor} on the PATH, and with pyenv and uv; "
            f"install one, such as `apt install python{minor} python{minor}-venv` or `uv python install {minor}`"
        )
    return min(found.items(), key=lambda one: one[1] != wanted)


def version_of(python: str) -> str:
    """Ask an interpreter for its version; what does not answer has none."""
    command = [python, "-I", "-c", "import platform; print(platform.python_version())"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def fits_here(python: str, packages: Sequence[dict[str, Any]]) -> bool:
    """Say whether our own environment has all that a lock names: the same Python up to the patch, the same versions."""
    if python.split(".")[:2] != list(platform.python_version_tuple()[:2]):
        return False
    try:
        return all(version(one["name"]) == one["version"] for one in packages)
    except PackageNotFoundError:
        return False


def _make(base: str, folder: Path) -> None:
    done = subprocess.run(
        [base, "-I", "-m", "venv", "--without-pip", str(folder)],
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise EnvironmentFailed(f"{base} can't make a virtual environment: {said}")


def _move_scripts(folder: Path, place: Path) -> None:
    """Let the commands of packages name the interpreter where it will be: pip wrote down where it is."""
    for script in (folder / "bin").iterdir():
        if script.is_file() and not script.is_symlink() and script.read_bytes().startswith(b"#!"):
            script.write_bytes(script.read_bytes().replace(os.fsencode(folder / "bin"), os.fsencode(place)))


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill pip, and the pip that it has started with the other interpreter."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _hashes(package: dict[str, Any]) -> list[str]:
    return [wheel["hashes"]["sha256"] for wheel in package["wheels"]]


def _name(lock: str) -> str:
    return sha256(lock.encode()).hexdigest()[:32]
