"""The story, step by step. Each step types the commands that a user would, prints what they say, and checks it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import urllib3

from gateway.demo.receiver import Receiver
from gateway.demo.traffic import Cameras, Outcome

PROJECT = Path(__file__).parent / "project"
MODEL = "digits"
CANARY_PERCENT = 20
CLEAR_SCANS, RAMP_SCANS, SNOWY_SCANS, AFTER_SCANS = 1_500, 1_200, 2_400, 1_500
SEVERITY = 0.6


class StepFailed(Exception):
    """Something in the story did not come true."""


class Story:
    """One telling of it, in one home."""

    def __init__(self, home: Path, port: int, say: Callable[[str], None]) -> None:
        self.home = home.resolve()
        self.project = self.home / "project"
        self.port = port
        self.say = say
        self.server: subprocess.Popen[str] | None = None
        self.addresses: dict[str, Any] = {}
        self.incident: dict[str, Any] = {}
        self._ids: list[str] = []

    def tell(self, receiver: Receiver) -> None:
        """Tell all of it. Raises StepFailed at the first thing that is not as it must be."""
        self._check_extras()
        self._title(1, "Train: two versions of a classifier, on real scans")
        self.train()
        self._title(2, "Pack: each run has become a bundle")
        self.look_at_bundles()
        self._title(3, f"Serve: version 1 takes the traffic, version 2 is a canary with {CANARY_PERCENT} %")
        self.serve(receiver.url)
        self._title(4, "Predict: cameras send scans by the Open Inference Protocol")
        cameras = self.cameras()
        self.predict(cameras)
        self._title(5, "Log: one answer, and all that stands behind it")
        self.trace()
        self._title(6, "Snow: the same cameras, and it begins to snow, softly at first")
        self.snow(cameras)
        self._title(7, "Page: the on-call tool has been called, once")
        self.page(receiver)
        self._title(8, "Decide: has the world changed, or is the model broken?")
        self.decide(cameras, receiver)
        self._title(9, "Look: the same in numbers")
        self.look()

    def train(self) -> None:
        """Train two versions under `snowgate train`."""
        shutil.copytree(PROJECT, self.project, ignore=shutil.ignore_patterns("__pycache__"))
        (self.project / ".gitignore").write_text("data/\nmodel/\n__pycache__/\n")
        if shutil.which("git"):
            subprocess.run(["git", "init", "--quiet", "."], cwd=self.project, check=True)
        self._run([sys.executable, "prepare.py"], shown="python prepare.py")
        self._snowgate("train", "--model", MODEL, "--", sys.executable, "train.py", "--seed", "1", "--epochs", "4")
        more = ("--seed", "2", "--epochs", "6", "--width", "12")
        self._snowgate("train", "--parent", f"{MODEL}@1", "--", sys.executable, "train.py", *more)

    def look_at_bundles(self) -> None:
        """Show a bundle; flip one bit of it, and see it refused."""
        self._snowgate("bundle", "show", f"{MODEL}@2")
        bundle = self._json("bundle", "show", f"{MODEL}@2")
        weights = next(one for one in bundle["files"] if one["path"] == "model/model.safetensors")
        blob = self.home / "bundles" / "blobs" / "sha256" / weights["digest"].removeprefix("sha256:")
        whole = blob.read_bytes()
        blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        self.say("  one bit of its weights is flipped:")
        refused = self._snowgate("bundle", "verify", f"{MODEL}@2", fails=True)
        blob.write_bytes(whole)
        self._check("model/model.safetensors" in refused, "the altered file is refused, and named")
        self._snowgate("bundle", "verify", f"{MODEL}@2")

    def serve(self, webhook: str) -> None:
        """Start the gateway and deploy."""
        variables = os.environ | {"SNOWGATE_PAGE__WEBHOOK__URL": webhook}
        command = [sys.executable, "-m", "gateway.cli", "serve", "--home", str(self.home), "--port", str(self.port)]
        self.say(f"  $ SNOWGATE_PAGE__WEBHOOK__URL={webhook} snowgate serve --port {self.port}")
        log = (self.home / "serve.log").open("w")
        self.server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=variables)
        assert self.server.stdout is not None, "it was opened as a pipe"
        line = self.server.stdout.readline()
        if not line:
            raise StepFailed(f"serve ended: {(self.home / 'serve.log').read_text()[-800:]}")
        self.addresses = json.loads(line)
        self.say(f"  {line.strip()}")
        self._snowgate("deploy", f"{MODEL}@1", "--to", "production", "--wait")
        canary = ("--canary", str(CANARY_PERCENT))
        self._snowgate("deploy", f"{MODEL}@2", "--to", "production", *canary, "--wait")

    def cameras(self) -> Cameras:
        """Make the clients of the live set, which no training has seen."""
        with np.load(self.project / "data" / "live.npz") as live:
            return Cameras(self.addresses["http"], MODEL, live["image"], live["label"])

    def predict(self, cameras: Cameras) -> None:
        """Clear weather: everything is as expected."""
        outcome = cameras.send(CLEAR_SCANS)
        self.say(f"  clear sky: {outcome}")
        self._ids = outcome.ids
        share = outcome.by_version.get("2", 0) / max(1, outcome.sent)
        self._check(outcome.failed == 0, "no call failed")
        self._check(abs(share - CANARY_PERCENT / 100) < 0.07, f"the canary answered {share:.1%} of the calls")
        self._triton()

    def trace(self) -> None:
        """From one answer to its data."""
        self._snowgate("prediction", "show", self._ids[-1], "--chain")
        found = self._json("prediction", "show", self._ids[-1], "--chain")
        self._check(found["provenance"]["intact"] and bool(found["provenance"]["data"]), "it leads to intact data")

    def snow(self, cameras: Cameras) -> None:
        """The snow begins; nothing that is usually monitored notices."""
        half = SEVERITY / 2
        self._weather(cameras.send(RAMP_SCANS // 2, (0.0, half)), f"severity 0 to {half:g}")
        self._weather(cameras.send(RAMP_SCANS // 2, (half, SEVERITY)), f"severity {half:g} to {SEVERITY:g}")
        self._weather(cameras.send(SNOWY_SCANS, (SEVERITY, SEVERITY)), f"severity {SEVERITY:g}")

    def _weather(self, outcome: Outcome, words: str) -> None:
        self.say(f"  snow, {words}: {outcome}")
        self._check(outcome.failed == 0, "no call failed: error rate and latency see nothing")

    def page(self, receiver: Receiver) -> None:
        """The page must have come, once."""
        page = receiver.wait("open", 20)
        self._check(page is not None, "the page arrived at the webhook")
        assert page is not None, "checked"
        self.incident = page
        self.say(f"  {page['summary']}")
        for signal_ in page["signals"]:
            if signal_["tier"] == "page":
                self.say(f"    version {signal_['version']}: {signal_['sentence']} (since {signal_['onset']})")
        self.say(f"  likely: {page['likely']}: {page['likely_because']}")
        for question in page["questions"]:
            self.say(f"  {question['question']}  {question['command']}")
        keys = {one["dedup_key"] for one in receiver.pages}
        self._check(len(receiver.pages) == 1 and len(keys) == 1, "one incident, one page, one dedup key")
        self._snowgate("incident", "list")

    def decide(self, cameras: Cameras, receiver: Receiver) -> None:
        """It really snows: the data since the onset is how the world is now."""
        name = self.incident["incident"]
        reason = "it snows, and will until March"
        self._snowgate("incident", "decide", name, "world-changed", "--reason", reason)
        resolved = receiver.wait("resolved", 20)
        self._check(resolved is not None, "the incident is resolved, and the on-call tool knows")
        outcome = cameras.send(AFTER_SCANS, (SEVERITY, SEVERITY))
        self.say(f"  the snow goes on: {outcome}")
        time.sleep(2.5)
        self._check(sum(one["event"] == "open" for one in receiver.pages) == 1, "nobody was paged again")
        self._snowgate("incident", "list")
        self._snowgate("monitor", "list")

    def look(self) -> None:
        """The console's page and the metrics."""
        control = self.addresses["control"]
        http = urllib3.PoolManager()
        page = http.request("GET", f"{control}/")
        self._check(page.status == 200 and MODEL in page.data.decode(), f"the console shows it: {control}/")
        text = http.request("GET", f"{control}/metrics").data.decode()
        lines = [line for line in text.splitlines() if line.startswith("snowgate_requests_total")]
        for line in lines:
            self.say(f"  {line}")
        self._check(bool(lines), f"and so do the metrics: {control}/metrics")
        self._snowgate("log", "verify")

    def stop(self) -> None:
        """End the gateway; it drains."""
        if self.server is None:
            return
        self.server.send_signal(signal.SIGTERM)
        status = self.server.wait(40)
        if status != 0:
            raise StepFailed(f"serve ended with exit status {status}: {(self.home / 'serve.log').read_text()[-800:]}")

    def _triton(self) -> None:
        """The reference client of the protocol, as it comes."""
        if find_spec("tritonclient") is None:
            self.say("  (tritonclient is not installed: the reference client was not tried)")
            return
        script = (
            "import sys, numpy as np, tritonclient.http as t\n"
            "c = t.InferenceServerClient(sys.argv[1].removeprefix('http://'))\n"
            "i = t.InferInput('image', [2, 1, 28, 28], 'FP32')\n"
            "i.set_data_from_numpy(np.zeros((2, 1, 28, 28), np.float32))\n"
            f"print('tritonclient:', c.infer('{MODEL}', [i]).as_numpy('logits').shape)\n"
        )
        command = [sys.executable, "-c", script, self.addresses["http"]]
        self._run(command, shown="python -c 'import tritonclient.http …'")

    def _check_extras(self) -> None:
        missing = [name for name in ("torch", "mlxtend") if find_spec(name) is None]
        if missing:
            raise StepFailed(f"{', '.join(missing)} not installed: pip install 'snowgate[demo]'")

    def _title(self, number: int, text: str) -> None:
        self.say(f"\n{number}. {text}")

    def _check(self, true: object, text: str) -> None:
        if not true:
            raise StepFailed(f"not true: {text}")
        self.say(f"  ✔ {text}")

    def _snowgate(self, *arguments: str, fails: bool = False) -> str:
        words = ["python" if word == sys.executable else word for word in arguments]
        command = [sys.executable, "-m", "gateway.cli", arguments[0], *self._with_home(arguments)]
        return self._run(command, shown=f"snowgate {' '.join(words)}", fails=fails)

    def _with_home(self, arguments: tuple[str, ...]) -> list[str]:
        """Options go behind the command's name, and before the words of a command to run."""
        rest = list(arguments[1:])
        groups = {"bundle", "prediction", "incident", "monitor", "log"}
        at = 1 if arguments[0] in groups else 0
        return [*rest[:at], "--home", str(self.home), *rest[at:]]

    def _json(self, *arguments: str) -> Any:
        command = [sys.executable, "-m", "gateway.cli", arguments[0], *self._with_home(arguments), "-o", "json"]
        return json.loads(subprocess.run(command, check=True, capture_output=True, cwd=self.project).stdout)

    def _run(self, command: list[str], *, shown: str, fails: bool = False) -> str:
        self.say(f"  $ {shown}")
        done = subprocess.run(
            command, cwd=self.project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        for line in done.stdout.splitlines():
            self.say(f"    {line}")
        if (done.returncode != 0) != fails:
            raise StepFailed(f"{shown}: exit status {done.returncode}")
        return done.stdout
