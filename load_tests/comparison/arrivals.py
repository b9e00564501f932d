"""Calls that arrive whether or not earlier ones were answered: an open loop, as users are.

    python arrivals.py PORT REQUEST_FILE CALLS_A_SECOND SECONDS CONNECTIONS

Calls are due at moments drawn beforehand (exponential gaps, seeded). Each is sent on a connection that is free, and
waits when none is; its latency counts from the moment when it was due, so a server that stalls is charged for every
call that it kept waiting. The loop spins: it takes a CPU of its own, and knows within microseconds when a call is due.
It says how late it was itself (`late_p99_ms`, with a connection free): beside the latencies that must be little.
"""

import json
import selectors
import socket
import sys
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np

DRAIN_SECONDS_MAX = 30.0
RECEIVE_BYTES = 1 << 16


@dataclass
class Connection:
    """A keep-alive connection, with the call that it carries and what has come of the answer."""

    socket: socket.socket
    call: int = -1
    received: bytearray = field(default_factory=bytearray)


def answer_length(received: bytes | bytearray) -> int | None:
    r"""Return how long the answer in front is, head and body, or None while that is not known.

    >>> answer_length(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{"), answer_length(b"HTTP/1.1 2")
    (40, None)
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(received[:end]).lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        raise ValueError(f"an answer without Content-Length: {head[:200]!r}")
    return end + 4 + int(head[at + 17 :].split(b"\r\n", 1)[0])


def run(port: int, request: bytes, rate: float, seconds: float, connections: int) -> dict[str, float]:
    """Send calls at this rate for so long, wait for their answers, and return quantiles in milliseconds.

    Raises:
        ConnectionError: the server closed a connection.
        TimeoutError: answers did not come.
    """
    gaps = np.random.default_rng(11).exponential(1 / rate, size=max(1, round(rate * seconds)))
    calls = Calls(np.cumsum(gaps).tolist(), request)
    with ExitStack() as stack:
        for _number in range(connections):
            opened = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            calls.free.append(Connection(opened))
        selector = stack.enter_context(selectors.EpollSelector())
        for connection in calls.free:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        wall = calls.loop(selector)
    quantiles = np.quantile(calls.latencies, [0.5, 0.99, 0.999]) * 1e3
    late = float(np.quantile(calls.lateness, 0.99)) * 1e3
    named = dict(zip(("p50_ms", "p99_ms", "p999_ms"), quantiles.round(3).tolist(), strict=True))
    return {"requests": len(calls.due), "failed": calls.failed, "seconds": wall, "late_p99_ms": round(late, 3), **named}


@dataclass
class Calls:
    """All calls of a run: when they are due, in seconds from its start, and what became of them."""

    due: list[float]
    request: bytes
    free: deque[Connection] = field(default_factory=deque)
    latencies: list[float] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    failed: int = 0

    def loop(self, selector: selectors.BaseSelector) -> float:
        """Send and receive until all are answered; return how long that took."""
        sent, total, blocked = 0, len(self.due), False
        began = perf_counter()
        while len(self.latencies) < total:
            now = perf_counter() - began
            while sent < total and self.due[sent] <= now and self.free:
                connection = self.free.popleft()
                connection.call = sent
                connection.socket.sendall(self.request)
                now = perf_counter() - began
                if not blocked:
                    self.lateness.append(now - self.due[sent])
                sent += 1
            blocked = sent < total and self.due[sent] <= now  # It waits for a connection: the server's lateness.
            if now > self.due[-1] + DRAIN_SECONDS_MAX:
                left = total - len(self.latencies)
                raise TimeoutError(
                    f"{left} of {total} calls had no answer {DRAIN_SECONDS_MAX:g} s after the last was due"
                )
            for key, _events in selector.select(0):
                if self.answered(key.data):
                    self.latencies.append(perf_counter() - began - self.due[key.data.call])
        return perf_counter() - began

    def answered(self, connection: Connection) -> bool:
        """Take what has arrived; say whether the answer is whole, and then the connection is free."""
        arrived = connection.socket.recv(RECEIVE_BYTES)
        if not arrived:
            known = f"{len(self.latencies)} of {len(self.due)} answers"
            raise ConnectionError(f"the server closed a connection after {known}")
        connection.received += arrived
        length = answer_length(connection.received)
        if length is None or len(connection.received) < length:
            return False
        self.failed += not connection.received.startswith(b"HTTP/1.1 2")
        connection.received.clear()
        self.free.append(connection)
        return True


if __name__ == "__main__":
    words = sys.argv[1:]
    print(json.dumps(run(int(words[0]), Path(words[1]).read_bytes(), float(words[2]), float(words[3]), int(words[4]))))
