"""The demo's clients: cameras that send scans over HTTP, and the snow that falls on them."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import urllib3

Array = np.ndarray[Any, Any]
CAMERAS = 400
CLIENTS = 4


@dataclass
class Outcome:
    """What came back for some scans; latencies in milliseconds."""

    sent: int = 0
    failed: int = 0
    right: int = 0
    latencies: list[float] = field(default_factory=list)
    by_version: dict[str, int] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """One line of numbers."""
        p50, p99 = np.quantile(self.latencies, [0.5, 0.99]) if self.latencies else (0.0, 0.0)
        good = self.right / max(1, self.sent - self.failed)
        return f"{self.sent} sent, {self.failed} failed, p50 {p50:.1f} ms, p99 {p99:.1f} ms, right {good:.1%}"


def snow(images: Array, severity: float, chance: np.random.Generator) -> Array:
    """Let snow fall on images [rows, 1, height, width] with values in [0, 1]; severity 0 is a clear day, 1 a blizzard.

    Flakes are bright spots of a pixel and its neighbours, and the air between them turns white.
    """
    flakes = np.less(chance.random(images.shape), 0.12 * severity).astype(np.float32)
    spread = flakes.copy()
    for axis in (2, 3):
        spread += 0.35 * (np.roll(flakes, 1, axis) + np.roll(flakes, -1, axis))
    veiled = images * (1 - 0.35 * severity) + 0.35 * severity
    whitened: Array = np.clip(np.maximum(veiled, spread), 0, 1).astype(np.float32)
    return whitened


def binary_call(image: Array) -> tuple[bytes, dict[str, str]]:
    """Write one image as a call with a binary tensor, as the protocol's extension has it."""
    described: dict[str, Any] = {"name": "image", "datatype": "FP32", "shape": [1, *image.shape]}
    described["parameters"] = {"binary_data_size": image.nbytes}
    head = orjson.dumps({"inputs": [described]})
    return head + image.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


class Cameras:
    """Clients that send the live scans, each camera under its own name."""

    def __init__(self, url: str, model: str, images: Array, labels: Array) -> None:
        self._url = f"{url}/v2/models/{model}/infer"
        self._images = images
        self._labels = labels
        self._http = urllib3.PoolManager(maxsize=CLIENTS, retries=False, timeout=30)
        self._seed = 0

    def send(self, count: int, severity: tuple[float, float] = (0.0, 0.0)) -> Outcome:
        """Send `count` scans while the severity of the snow goes from the first value to the second."""
        outcome, lock = Outcome(), threading.Lock()
        self._seed += 1
        steps = np.linspace(*severity, count)
        threads = [
            threading.Thread(target=self._client, args=(number, steps[number::CLIENTS], outcome, lock))
            for number in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return outcome

    def _client(self, number: int, severities: Array, outcome: Outcome, lock: threading.Lock) -> None:
        chance = np.random.default_rng([self._seed, number])
        for severity in severities.tolist():
            row = int(chance.integers(len(self._images)))
            image = snow(self._images[row : row + 1], severity, chance)[0] if severity else self._images[row]
            body, headers = binary_call(image)
            headers["Snowgate-Unit"] = f"camera-{chance.integers(CAMERAS)}"
            began = time.perf_counter()
            try:
                answer = self._http.request("POST", self._url, body=body, headers=headers)
                failed = answer.status != 200
            except urllib3.exceptions.HTTPError:
                failed = True
            spent = (time.perf_counter() - began) * 1e3
            with lock:
                outcome.sent += 1
                outcome.latencies.append(spent)
                outcome.failed += failed
                if not failed:
                    self._count(orjson.loads(answer.data), int(self._labels[row]), outcome)

    @staticmethod
    def _count(answer: dict[str, Any], label: int, outcome: Outcome) -> None:
        outcome.right += int(np.argmax(answer["outputs"][0]["data"])) == label
        version = answer["model_version"]
        outcome.by_version[version] = outcome.by_version.get(version, 0) + 1
        outcome.ids.append(answer["parameters"]["snowgate_prediction_id"])
