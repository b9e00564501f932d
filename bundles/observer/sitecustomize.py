# ruff: noqa: PTH100, PTH116, PTH120 - every Python process of a run starts with this, and pathlib is slow to import
"""Write down which files this Python process opens, and what it imports, for `bundles.recording`.
Without `SNOWGATE_OBSERVED`, do nothing.

`SNOWGATE_OBSERVED` names a file to which every Python process of the run appends lines of JSON, as things happen: a
process that is killed, or forked and ended without its exit handlers, as data loaders are, has said what it saw. The
file is opened anew for each line, because a program may close descriptors that it did not open.

Python's own `open` is seen; a library that opens files in C++ or Rust is not.
"""

import importlib.machinery
import importlib.util
import json
import os
import platform
import sys
from contextlib import suppress
from typing import Any

VARIABLE = "SNOWGATE_OBSERVED"


def observe(log: str) -> None:
    """Append to `log` a line about this interpreter, and from now on one about each path and module that is new."""
    seen: set[str] = set()
    modules: set[str] = set()

    def say(fact: dict[str, Any]) -> None:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, json.dumps(fact).encode() + b"\n")
        finally:
            os.close(descriptor)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "import":
            module = arguments[0].partition(".")[0]
            if module not in modules:
                modules.add(module)
                with suppress(OSError):
                    say({"import": module})
            return
        if event != "open" or not isinstance(arguments[0], str | bytes):
            return
        try:
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if path == log or path in seen:
                return
            seen.add(path)
            made = _makes(arguments[1], arguments[2])
            found = None if made else os.stat(path)
            say({"open": path, "made": made, "state": found and [found.st_size, found.st_mtime_ns]})
        except OSError:
            # The file is not there, or the line can't be written: the program must not notice.
            return

    say(
        {
            "executable": sys.executable,
            "python": platform.python_version(),
            "implementation": platform.python_implementation(),
            "path": [entry for entry in sys.path if os.path.abspath(entry) != os.path.dirname(__file__)],
            "prefixes": [sys.prefix, sys.base_prefix],
        }
    )
    sys.addaudithook(hook)


def _makes(mode: Any, flags: int) -> bool:
    """Whether an `open` makes a file anew rather than reading what is there."""
    if isinstance(mode, str):
        return any(letter in mode for letter in "wxa")
    return flags & os.O_ACCMODE == os.O_WRONLY or bool(flags & (os.O_CREAT | os.O_TRUNC))


def run_shadowed() -> None:
    """Run the environment's own `sitecustomize`, if it has one: ours stands before it on the path."""
    here = os.path.dirname(os.path.abspath(__file__))
    others = [entry for entry in sys.path if os.path.abspath(entry) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


if __name__ == "sitecustomize" and VARIABLE in os.environ:
    observe(os.environ[VARIABLE])
    run_shadowed()
