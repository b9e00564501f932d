"""Clients that do not stop for anything."""

import threading
import time

import numpy as np
import orjson
import urllib3


class Load:
    """Clients that call without a pause until they are stopped; every answered id is kept."""

    def __init__(self, url: str, clients: int = 4) -> None:
        self.answered: list[str] = []
        self.statuses: dict[int, int] = {}
        self.broken = 0
        self._url = url
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        http = urllib3.PoolManager(retries=False, timeout=10)
        chance = np.random.default_rng(number)
        while not self._ending.is_set():
            row = chance.normal(size=3).tolist()
            body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": row}]}
            headers = {"Snowgate-Unit": f"unit-{chance.integers(500)}"}
            try:
                answer = http.request("POST", self._url, body=orjson.dumps(body), headers=headers)
            except urllib3.exceptions.HTTPError:
                with self._lock:
                    self.broken += 1
                time.sleep(0.01)
                continue
            with self._lock:
                self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
                if answer.status == 200:
                    self.answered.append(answer.headers["Snowgate-Prediction-Id"])

    def stop(self) -> None:
        """End the clients."""
        self._ending.set()
        for thread in self._threads:
            thread.join()
