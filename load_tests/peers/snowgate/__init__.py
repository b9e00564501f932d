"""Snowgate as a user sets it up: bundles packed and deployed by the command line, default settings."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import urllib3

from load_tests.comparison.machine import durable_sync_ms
from load_tests.comparison.models import INPUT, OUTPUT, Array
from load_tests.comparison.server import Peer, Place, ServerError

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "gateway.cli"]
COMMAND_SECONDS_MAX = 120.0
READ_SECONDS_MAX = 120.0  # The monitor reads tens of thousands of records a second once it has a CPU.
POLL_SECONDS = 0.5  # Its counter moves once a second, and each look costs the gateway some milliseconds.
HOLDOUT_ROWS = 1000
SHAPES = {"mlp": ((30,), 2), "cnn": ((3, 32, 32), 10)}
RECIPE = """\
model = "{name}"
loader = "{loader}"
entrypoint = "{entrypoint}"
holdout = "holdout.npz"
inputs = [{{ name = "{input}", datatype = "FP32", shape = {shape} }}]
outputs = [{{ name = "{output}", datatype = "FP32", shape = [-1, {classes}], semantic = "logits" }}]
"""


@dataclass(frozen=True)
class Recipe:
    """What is packed into a bundle: its files, and how it is loaded."""

    name: str
    loader: str
    entrypoint: str
    files: Sequence[Path]
    holdout: Array  # [rows, …]: the answers to the first ones are recorded, and compared when it is loaded
    shape: Sequence[int]
    classes: int


class Snowgate(Peer):
    """The checkout that this file lies in, with its log durable and its monitor on, as by default."""

    name = "snowgate"
    versions = ("snowgate", "torch", "onnxruntime", "uvicorn", "uvloop")
    bodies = ("json", "binary")

    def configuration(self, cores: int) -> str:
        """Say how it is set up."""
        return f"`snowgate serve --workers {cores}`, default settings: every answer durable in the log, monitor on"

    def variables(self, place: Place) -> dict[str, str]:
        """Find the checkout, not an installed release."""
        return {"PYTHONPATH": str(ROOT)}

    def commands(self, place: Place) -> list[list[str]]:
        """Copy a home in which both models are deployed, and serve it."""
        home = place.folder / "home"
        shutil.copytree(self.home(place), home)
        return [[*COMMAND, "serve", "--home", str(home), "--port", str(place.ports[0]), "--workers", str(place.cores)]]

    def home(self, place: Place) -> Path:
        """Return a home in which everything is deployed; it is copied for each turn."""
        return deployed(place.models, tuple(place.served))

    def facts(self, place: Place) -> dict[str, Any]:
        """Say that log and monitor are on, and what a durable write costs beside the log just now."""
        return {"log": "commit", "monitor": True, "durable_sync_ms": durable_sync_ms(place.folder / "home" / "log")}

    def settled(self, place: Place, requests: int) -> str | None:
        """Wait until the monitor has read a record from the log for every answer: proof that both were on."""
        deadline = time.monotonic() + READ_SECONDS_MAX
        while True:
            try:
                read = monitor_records(place.ports[2])
            except urllib3.exceptions.HTTPError as error:
                return f"the control port does not answer: {error}"
            if read >= requests:
                return None
            if time.monotonic() > deadline:
                return f"{requests} answers, but the monitor has read {read} records after {READ_SECONDS_MAX:g} s"
            time.sleep(POLL_SECONDS)


def monitor_records(control_port: int) -> int:
    """Return how many records the monitor has read from the log, by `/metrics`."""
    page = urllib3.request("GET", f"http://127.0.0.1:{control_port}/metrics", timeout=10, retries=False).data.decode()
    lines = [line for line in page.splitlines() if line.startswith("snowgate_monitor_records_total ")]
    return int(float(lines[0].split()[1])) if lines else 0


@cache
def deployed(models: Path, names: tuple[str, ...]) -> Path:
    """Make a home with these models packed and deployed, once for all turns."""
    home = models.parent / "snowgate-home"
    for name in names:
        shape, classes = SHAPES[name]
        rows = np.random.default_rng(8).normal(size=(HOLDOUT_ROWS, *shape)).astype(np.float32)
        files = [models / "network.py", models / f"{name}.safetensors"]
        deploy(Recipe(name, "torch", f"network:{name}", files, rows, [-1, *shape], classes), home)
    return home


def deploy(recipe: Recipe, home: Path) -> None:
    """Pack a bundle from a folder, and say that it shall be served."""
    with tempfile.TemporaryDirectory(dir=home.parent) as made:
        folder = Path(made)
        for file in recipe.files:
            shutil.copy(file, folder)
        np.savez(folder / "holdout.npz", allow_pickle=False, **{INPUT: recipe.holdout})
        words = RECIPE.format(
            name=recipe.name,
            loader=recipe.loader,
            entrypoint=recipe.entrypoint,
            input=INPUT,
            shape=list(recipe.shape),
            output=OUTPUT,
            classes=recipe.classes,
        )
        (folder / "bundle.toml").write_text(words)
        command("bundle", "pack", str(folder), home=home)
    command("deploy", f"{recipe.name}@1", "--to", "production", home=home)


def command(*words: str, home: Path) -> Any:
    """Run a command of the command line on a home, and return its JSON."""
    done = subprocess.run(
        [*COMMAND, *words, "--home", str(home), "-o", "json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_SECONDS_MAX,
        cwd=ROOT,
    )
    if done.returncode:
        raise ServerError(f"snowgate {' '.join(words)} failed: {done.stderr[-1000:]}")
    return json.loads(done.stdout)
