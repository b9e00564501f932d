"""What several tests need: a small real bundle, a home, a real gateway, a real webhook."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import urllib3

from bundles.home import Home
from bundles.packing import Packed, pack

MODEL = '''
import numpy as np

class Model:
    """Two logits from the sum of three numbers; answers {answer}."""

    def __init__(self, sign=1.0):
        self.sign = sign

    def load(self, directory):
        print("loading from", directory)

    def predict(self, inputs):
        x = inputs["x"]
        if (x > 1000).any():
            raise ValueError("larger than 1000")
        total = self.sign * x.sum(axis=1)
        return {{"y": np.stack([total, -total], axis=1)}}
'''
RECIPE = """
loader = "python"
entrypoint = "model:Model"
holdout = "holdout.npz"
parameters = {{ sign = {sign} }}
inputs = [{{ name = "x", datatype = "FP32", shape = [-1, 3] }}]
outputs = [{{ name = "y", datatype = "FP32", shape = [-1, 2], semantic = "logits" }}]
"""


def write_model(folder: Path, *, sign: float = 1.0, answer: str = "truly") -> Path:
    """Write a folder that can be packed: a Python class and a thousand rows of holdout."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(MODEL.format(answer=answer))
    (folder / "bundle.toml").write_text(RECIPE.format(sign=sign))
    rows = np.random.default_rng(3).normal(size=(1000, 3)).astype(np.float32)
    np.savez(folder / "holdout.npz", x=rows)
    return folder


def wait_until(true: Callable[[], Any], seconds: float = 30.0, what: str = "it") -> Any:
    """Poll until something is true, and return it; fail when the deadline passes."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = true()
        if found:
            return found
        time.sleep(0.02)
    pytest.fail(f"{what} did not come true within {seconds} s")


class Gateway:
    """A real `snowgate serve` on a home."""

    def __init__(self, home: Path, log: Path, *arguments: str, variables: dict[str, str] | None = None) -> None:
        self.home = home
        self.log = log
        self.http = urllib3.PoolManager(retries=False, timeout=20, maxsize=8)
        command = [sys.executable, "-m", "gateway.cli", "serve", "--home", str(home), "--port", "0", *arguments]
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=os.environ | (variables or {})
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(10)
            self.process.stdout.close()
            pytest.fail(f"serve ended: {log.read_text()[-2000:]}")
        self.ready: dict[str, Any] = json.loads(line)
        self.url: str = self.ready["http"]
        self.control: str = self.ready["control"]

    def call(self, model: str = "signs", values: list[float] | None = None, **headers: str) -> tuple[int, Any, Any]:
        """Send one row; return status, document and headers."""
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": values or [1, 2, 3]}]}
        return self.post(f"/v2/models/{model}/infer", orjson.dumps(body), **headers)

    def post(self, path: str, body: bytes, **headers: str) -> tuple[int, Any, Any]:
        """Post bytes; header names have underscores for hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.http.request("POST", self.url + path, body=body, headers=named)
        return answer.status, orjson.loads(answer.data), answer.headers

    def get(self, path: str) -> tuple[int, Any]:
        """Get JSON from the data port."""
        answer = self.http.request("GET", self.url + path)
        return answer.status, orjson.loads(answer.data)

    def snowgate(self, *arguments: str, status: int = 0) -> Any:
        """Run a command on this home with -o json, and return what it printed."""
        return snowgate(self.home, *arguments, status=status)

    def children(self, what: str) -> list[int]:
        """Find the processes of this gateway whose command line holds a word."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().decode(errors="replace")
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                except OSError:
                    continue
                if parent == self.process.pid and what in words:
                    found.append(int(entry.name))
        return found

    def stop(self) -> int:
        """End it with SIGTERM and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(40)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


def snowgate(home: Path, *arguments: str, status: int = 0) -> Any:
    """Run a command of the command line on a home, check its exit status, and return the JSON that it printed."""
    groups = {"audit", "bundle", "data", "prediction", "proposal", "incident", "monitor", "log", "rollout", "config"}
    at = 2 if arguments[0] in groups else 1
    command = [*arguments[:at], "--home", str(home), "-o", "json", *arguments[at:]]
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", *command], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == status, f"{arguments}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout) if done.stdout.strip() else done.stderr


class Webhook:
    """A real HTTP server that keeps what is posted to it."""

    def __init__(self) -> None:
        self.pages: list[dict[str, Any]] = []
        self.answers = 200
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if hook.answers == 200:
                    hook.pages.append(document)
                self.send_response(hook.answers)
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/pages"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    """A webhook of one's own."""
    hook = Webhook()
    yield hook
    hook.close()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A new home."""
    return Home(tmp_path / "home").make()


@pytest.fixture
def packed(home: Home, tmp_path: Path) -> Packed:
    """A bundle `signs@1` in the home."""
    return pack(home, write_model(tmp_path / "model"), model="signs")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Start gateways; all of them are ended with the test."""
    started: list[Gateway] = []

    def make(home: Path, *arguments: str, variables: dict[str, str] | None = None) -> Gateway:
        gateway = Gateway(home, tmp_path / "serve.log", *arguments, variables=variables)
        started.append(gateway)
        return gateway

    yield make
    for gateway in started:
        gateway.stop()


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with signs@1 and signs@2, deployed as stable and as canary with 30 %, for tests that only ask."""
    folder = tmp_path_factory.mktemp("shared")
    home = Home(folder / "home").make()
    pack(home, write_model(folder / "one"), model="signs")
    pack(home, write_model(folder / "two", sign=2.0), model="signs", parents=["signs@1"])
    snowgate(home.path, "deploy", "signs@1", "--to", "production")
    return home


@pytest.fixture(scope="session")
def gateway(shared_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A running gateway with a stable version and a canary."""
    running = Gateway(shared_home.path, tmp_path_factory.mktemp("gateway") / "serve.log")
    running.snowgate("deploy", "signs@2", "--to", "production", "--canary", "30", "--wait")
    yield running
    assert running.stop() == 0
