"""Debian's docker-registry, a small one of our own, a bundle to send and an empty home to receive it."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from bundles.home import Home
from tests.bundles.portable import store_bundle
from tests.bundles.remote.registries import SmallRegistry
from tests.conftest import wait_until

SETTINGS = """
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


def _answers(host: str) -> bool:
    try:
        return urllib3.request("GET", f"http://{host}/v2/", retries=False).status in (200, 401)
    except urllib3.exceptions.HTTPError:
        return False


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real registry, of another project: its host and port."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("not run: no docker-registry; on Debian and Ubuntu: apt-get install docker-registry")
    folder = tmp_path_factory.mktemp("registry")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "config.yml").write_text(SETTINGS.format(folder=folder / "data", port=port))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    wait_until(lambda: _answers(f"127.0.0.1:{port}"), what="docker-registry")
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait(20)


@pytest.fixture
def small_registry() -> Iterator[SmallRegistry]:
    """A registry that lies where it is told to."""
    registry = SmallRegistry()
    yield registry
    registry.close()


@pytest.fixture
def sender(tmp_path: Path) -> tuple[Home, str]:
    """A home with a signed bundle."""
    home = Home(tmp_path / "sender")
    return home, store_bundle(home)


@pytest.fixture
def receiver(tmp_path: Path) -> Home:
    """An empty home."""
    return Home(tmp_path / "receiver").make()
