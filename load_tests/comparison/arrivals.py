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
    """Send calls at this rate for so long, wait for their answers, and return quantiles in milliseconds."""
    gaps = np.random.default_rng(11).exponential(1 / rate, size=max(1, round(rate * seconds)))
    due: list[float] = np.cumsum(gaps).tolist()
    latencies, lateness, failed = [0.0] * len(due), [], 0
    selector = selectors.EpollSelector()
    free: deque[Connection] = deque()
    for _number in range(connections):
        opened = socket.create_connection(("127.0.0.1", port))
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(opened)
        selector.register(opened, selectors.EVENT_READ, connection)
        free.append(connection)
    sent, answered, blocked = 0, 0, False
    began = perf_counter()
    while answered < len(due):
        now = perf_counter() - began
        while sent < len(due) and due[sent] <= now and free:
            connection = free.popleft()
            connection.call = sent
            connection.socket.sendall(request)
            if not blocked:
                lateness.append(perf_counter() - began - due[sent])
            sent, now = sent + 1, perf_counter() - began
        blocked = sent < len(due) and due[sent] <= now
        if now > due[-1] + DRAIN_SECONDS_MAX:
            raise TimeoutError(f"{len(due) - answered} of {len(due)} calls had no answer {DRAIN_SECONDS_MAX:g} s later")
        for key, _events in selector.select(0):
            connection = key.data
            arrived = connection.socket.recv(RECEIVE_BYTES)
            if not arrived:
                raise ConnectionError(f"the server closed a connection after {answered} of {len(due)} answers")
            connection.received += arrived
            length = answer_length(connection.received)
            if length is not None and len(connection.received) >= length:
                latencies[connection.call] = perf_counter() - began - due[connection.call]
                failed += not connection.received.startswith(b"HTTP/1.1 2")
                connection.received.clear()
                free.append(connection)
                answered += 1
    wall = perf_counter() - began
    for key in list(selector.get_map().values()):
        key.data.socket.close()
    quantiles = np.quantile(latencies, [0.5, 0.99, 0.999]) * 1e3
    late = float(np.quantile(lateness, 0.99)) * 1e3 if lateness else 0.0
    named = dict(zip(("p50_ms", "p99_ms", "p999_ms"), quantiles.round(3).tolist(), strict=True))
    return {"requests": len(due), "failed": failed, "seconds": wall, "late_p99_ms": round(late, 3), **named}


if __name__ == "__main__":
    words = sys.argv[1:]
    print(json.dumps(run(int(words[0]), Path(words[1]).read_bytes(), float(words[2]), float(words[3]), int(words[4]))))
