"""Clients that do not stop for anything."""

import secrets
import threading
import time

import numpy as np
import orjson
import urllib3


class Load:
    """Clients that call without a pause until they are stopped; what each sent and was told is kept.

    Every call is sent once, with an id of its own.
    """

    def __init__(self, url: str, clients: int = 4) -> None:
        self.sent: dict[str, bytes] = {}
        """By the client's id of a call: the row, as FP32."""
        self.answered: dict[str, str] = {}
        """By prediction id: the client's id of the call that was answered with 200."""
        self.refused: dict[str, int] = {}
        """By prediction id: the status of every other answer."""
        self.statuses: dict[int, int] = {}
        self.broken = 0
        self._url = url
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        http = urllib3.PoolManager(retries=False, timeout=60)
        chance = np.random.default_rng(number)
        name, count = secrets.token_hex(6), 0
        while not self._ending.is_set():
            row = chance.normal(size=3).astype("<f4")
            client_id, count = f"{name}-{count}", count + 1
            self.sent[client_id] = row.tobytes()
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": row.astype(float).tolist()}
            body = orjson.dumps({"id": client_id, "inputs": [tensor]})
            headers = {"Snowgate-Unit": f"unit-{chance.integers(500)}"}
            try:
                answer = http.request("POST", self._url, body=body, headers=headers)
            except urllib3.exceptions.HTTPError:
                with self._lock:
                    self.broken += 1
                time.sleep(0.01)
                continue
            with self._lock:
                self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
                prediction_id = answer.headers["Snowgate-Prediction-Id"]
                if answer.status == 200:
                    self.answered[prediction_id] = client_id
                else:
                    self.refused[prediction_id] = answer.status

    def stop(self) -> None:
        """End the clients."""
        self._ending.set()
        for thread in self._threads:
            thread.join()
