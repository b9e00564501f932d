"""What a runner can't do any more: tried from inside a real one, by a model that tries everything."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from bundles import process
from bundles.runner import confine
from tests.bundles.unpacked import tensor, unpack

CURIOUS = """
    import json, os, resource, signal, socket, subprocess, sys, tempfile
    import numpy as np

    def tried(what, *arguments):
        try:
            return str(what(*arguments))
        except OSError as error:
            return type(error).__name__

    def read(path):
        with open(path, "rb") as file:
            return len(file.read(1))

    def write(path):
        with open(path, "wb") as file:
            return file.write(b"x")

    def program(code):
        return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode

    class Model:
        def load(self, directory):
            self.directory = directory

        def predict(self, inputs):
            secret, parent = json.loads(inputs["x"].ravel()[0])
            found = {
                "internet": tried(socket.socket, socket.AF_INET),
                "internet 6": tried(socket.socket, socket.AF_INET6),
                "packets": tried(socket.socket, socket.AF_PACKET, socket.SOCK_RAW),
                "local": tried(lambda: len(socket.socketpair())),
                "secret": tried(read, secret),
                "secret of the system": tried(read, "/etc/shadow"),
                "parent's variables": tried(read, f"/proc/{parent}/environ"),
                "parent's memory": tried(read, f"/proc/{parent}/mem"),
                "signal to the parent": tried(os.kill, parent, 0),
                "write beside the secret": tried(write, secret + ".mine"),
                "write in its bundle": tried(write, os.path.join(self.directory, "mine")),
                "write in the temporary folder": tried(write, os.path.join(tempfile.gettempdir(), "mine")),
                "write in its working folder": tried(write, "mine too"),
                "read its bundle": tried(read, os.path.join(self.directory, "served.py")),
                "what a program that it starts can write": str(program(f"open({secret!r} + '.theirs', 'w')")),
                "core dumps": str(resource.getrlimit(resource.RLIMIT_CORE)),
                "capabilities": [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")][0],
                "descriptors": str(sorted(int(one) for one in os.listdir("/proc/self/fd"))[:3]),
                "variables": " ".join(sorted(os.environ)),
            }
            return np.array([json.dumps(found).encode()], dtype=object)
"""


@pytest.fixture
def tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, str], dict[str, str]]:
    """What was confined, by the runner's own word, and what a model in it found when it tried."""
    secret = tmp_path / "keys" / "signing.pem"
    secret.parent.mkdir()
    secret.write_text("a secret")
    monkeypatch.setenv("SNOWGATE_API_KEY", "a secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    (tmp_path / "bundle").mkdir()
    specs = {"inputs": [tensor("x", [-1], "BYTES")], "outputs": [tensor("y", [-1], "BYTES")]}
    with process.RunnerProcess(unpack(tmp_path / "bundle", CURIOUS, **specs)) as runner:
        asked = json.dumps([str(secret), os.getpid()]).encode()
        outputs, _signals = runner.predict({"x": np.array([asked], dtype=object)})
        found: dict[str, str] = json.loads(outputs["y"][0])
        return runner.ready["confined"], found


def test_a_model_has_what_it_needs_and_no_more(tried: tuple[dict[str, str], dict[str, str]]) -> None:
    """No network, no secrets, no other process, nothing written but in its own folder; its own files and programs."""
    confined, found = tried
    assert confined == confine.offered()
    assert found["local"] == "2"
    assert found["read its bundle"] == "1"
    assert (found["write in the temporary folder"], found["write in its working folder"]) == ("1", "1")
    assert found["core dumps"] == "(0, 0)"
    assert int(found["capabilities"], 16) == 0
    assert not {"SNOWGATE_API_KEY", "AWS_SECRET_ACCESS_KEY"} & set(found["variables"].split())
    if confined["network"] == confine.ON:
        assert [found[one] for one in ("internet", "internet 6", "packets")] == ["PermissionError"] * 3
    if confined["files"] == confine.ON:
        for what in (
            "secret",
            "secret of the system",
            "parent's variables",
            "parent's memory",
            "write beside the secret",
            "write in its bundle",
        ):
            assert found[what] == "PermissionError", what
        assert found["what a program that it starts can write"] == "1"
        assert found["signal to the parent"] in ("PermissionError", "None"), "kernels before 6.12 let it"


def test_nothing_is_confined_unasked(tmp_path: Path) -> None:
    """Without the argument the process keeps what it had, and says so."""
    assert confine.from_arguments(["runner", "--directory", str(tmp_path)]) == {
        "privileges": "not asked for",
        "network": "not asked for",
        "files": "not asked for",
    }
