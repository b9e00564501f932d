"""A virtual environment for each peer, in a cache folder; all of them see one torch, which is large.

An environment is made once. It carries a stamp that says what it was made from, and is made anew when that changes or
when making it was interrupted. torch lies in one environment for each version of Python, and a `.pth` file puts it at
the end of the others' paths; what they install themselves comes first.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# By exact version, as in the Makefile: a plain `torch` takes the build for graphics cards, gigabytes of no use here.
TORCH = os.environ.get("TORCH", "torch==2.13.0")
INSTALL_SECONDS_MAX = 1800  # the slowest has some 150 packages to fetch
STAMP = "made-from.json"
SHARED_TORCH = "shared-torch.pth"
PATHS = "import json, sysconfig; print(json.dumps([sysconfig.get_path('purelib'), sysconfig.get_path('platlib')]))"
VERSIONS = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
def find(name):
    try: return version(name)
    except PackageNotFoundError: return None
print(json.dumps({name: find(name) for name in sys.argv[1:]}))
"""


class InstallError(Exception):
    """An environment can't be made; the text says what failed, where its log is, and what to install."""


@dataclass(frozen=True)
class Environments:
    """The cache folder."""

    cache: Path

    def ensure(self, name: str, requirements: Sequence[str], interpreter: str = sys.executable) -> Path:
        """Return the interpreter of an environment that holds these requirements and torch, made if need be."""
        release = _output([interpreter, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).strip()
        torch = self._make(f"torch-{release}", [TORCH, "numpy", "safetensors"], interpreter, [])
        # Whichever interpreter of that release made it: extension modules of one run in all.
        return self._make(name, [*requirements, "safetensors"], interpreter, _ask(torch, PATHS))

    def _make(self, name: str, requirements: Sequence[str], interpreter: str, see: list[str]) -> Path:
        folder = self.cache / name
        python = folder / "bin" / "python"
        wanted = {"requirements": list(requirements), "see": see}
        stamp = folder / STAMP
        if stamp.exists() and json.loads(stamp.read_text()) == wanted:
            return python
        print(f"installing {name}: {', '.join(requirements)}", file=sys.stderr, flush=True)
        self.cache.mkdir(parents=True, exist_ok=True)
        log = self.cache / f"{name}.log"
        log.write_text("")
        _run([interpreter, "-m", "venv", "--clear", str(folder)], log)
        pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
        _run([*pip, *requirements], log)
        site = Path(_ask(python, PATHS)[0])
        (site / SHARED_TORCH).write_text("".join(f"{path}\n" for path in dict.fromkeys(see)))
        stamp.write_text(json.dumps(wanted))
        return python


def versions(python: Path, distributions: Sequence[str]) -> dict[str, str | None]:
    """Return the installed versions of distributions, None where one is not there."""
    found: dict[str, str | None] = json.loads(_output([str(python), "-c", VERSIONS, *distributions]))
    return found


def _ask(python: Path, program: str) -> list[str]:
    answer: list[str] = json.loads(_output([str(python), "-c", program]))
    return answer


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except FileNotFoundError:
        raise InstallError(f"{command[0]} is not there. On Debian 12: apt-get install python3 python3-venv") from None
    except subprocess.CalledProcessError as error:
        raise InstallError(f"{command[0]} failed: {error.stderr[-500:]}") from error


def _run(command: list[str], log: Path) -> None:
    with log.open("ab") as file:
        try:
            done = subprocess.run(command, stdout=file, stderr=file, check=False, timeout=INSTALL_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise InstallError(f"{command[0]} took more than {INSTALL_SECONDS_MAX} s; see {log}") from None
    if done.returncode:
        said = log.read_text(errors="replace")[-700:]
        raise InstallError(f"{' '.join(command)} failed; the whole log is in {log}:\n{said}")
