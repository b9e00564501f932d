"""Figures of all faults together, and the libraries that put a fault under a process."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.evidence import Figures

NAMES = ("rounds", "ids", "lost", "phantom")


class Tally:
    """Adds up the figures of all tests, whether they ran here or in processes of pytest-xdist's."""

    def __init__(self) -> None:
        self.tests: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the figures of a test that has ended."""
        if report.when == "teardown":
            found = [one for name, one in report.user_properties if name == "faults"]
            self.tests |= {report.nodeid.rpartition("/")[2]: one for one in found if isinstance(one, dict)}

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print a line for each test."""
        if self.tests:
            terminalreporter.section("faults")
            for name, one in self.tests.items():
                terminalreporter.write_line(f"{name}: {_line(one)} undelivered={one['undelivered']}")

    def pytest_unconfigure(self) -> None:
        """End with the one line that scripts read, where more than the short form was asked for."""
        if self.tests and "ROUNDS" in os.environ:
            total = {name: sum(one[name] for one in self.tests.values()) for name in NAMES}
            print(f"faults: {_line(total)}")  # noqa: T201 - this is what it is for


def _line(figures: dict[str, Any]) -> str:
    return " ".join(f"{name}={figures[name]}" for name in NAMES)


def pytest_configure(config: pytest.Config) -> None:
    """Listen to the tests' ends, where they are told: a process of pytest-xdist's only runs tests."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Tally())


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Iterator[Figures]:
    """Figures of this test's own; they are told when it ends, whether it passed or not."""
    found = Figures()
    yield found
    found.rounds = found.rounds or 1  # A test without rounds is one.
    record_property("faults", found.told())


@pytest.fixture(scope="session")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Builds one of the libraries beside this file, to be put under a process with LD_PRELOAD."""
    folder = tmp_path_factory.mktemp("preloaded")

    def build(name: str) -> Path:
        library = folder / f"{name}.so"
        if not library.exists():
            compiler = shutil.which("gcc") or shutil.which("cc")
            if compiler is None:
                pytest.skip(f"not run: no C compiler to build {name}.c; on Debian and Ubuntu: apt-get install gcc")
            source = Path(__file__).with_name(f"{name}.c")
            subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
        return library

    return build
