"""Delivery: events go to one receiver until it has them, several at a time, each connection used again.

What an answer means:

    2xx                 it has arrived
    400, 413, 422       it will never be taken: set aside, counted and logged, and it holds nobody up; of several
                        events in one request only those that are refused alone
    anything else       tried again: no connection, no answer in time, 408, 429, 5xx, and what somebody has to set
                        right first, such as 401, 404 or a redirection

Between two tries lies a pause that doubles, with chance in it, so that many gateways do not come back as one; a
receiver's Retry-After makes it longer. While one event is in trouble no others are tried: they would only wait too.
"""

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import monotonic
from typing import Any

import urllib3

from gateway.audit import now
from gateway.export.events import Event, message

log = logging.getLogger("snowgate.export")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
RETRY_AFTER_SECONDS_MAX = 300.0
"""A receiver that asks for more is asked again after five minutes: it may have meant something else."""
HOPELESS = frozenset({400, 413, 422})
ANSWER_BYTES_MAX = 65_536
"""What is read of an answer, so that its connection can be used again; a longer one costs its connection."""
SAID_CHARACTERS_MAX = 200
SET_ASIDE_KEPT = 100
"""The newest are told one by one; all are counted, and each is in the log."""


@dataclass
class Counts:
    """What has become of the events so far; `failed` counts tries."""

    sent: int = 0
    failed: int = 0
    set_aside: int = 0
    last_success: str | None = None
    last_error: str | None = None
    newest_set_aside: deque[dict[str, str]] = field(default_factory=lambda: deque(maxlen=SET_ASIDE_KEPT))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, as in `export/status`."""
        return asdict(self) | {"newest_set_aside": list(self.newest_set_aside)}


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where events go, and how: see `ExportSettings`."""

    url: str
    format: str
    batch: int = 1
    in_flight: int = 8
    timeout_seconds: float = 10.0
    header_file: str | None = None


class Delivery:
    """Delivers to one receiver. `deliver` is called by one thread; it sends on its own."""

    def __init__(self, receiver: Receiver, ending: threading.Event, *, give_up_seconds: float | None = None) -> None:
        """`ending` makes `deliver` return early; so does a receiver that takes nothing for `give_up_seconds`."""
        self.counts = Counts()
        self._receiver = receiver
        self._ending = ending
        self._give_up_seconds = give_up_seconds
        self._counting = threading.Lock()
        self._http = urllib3.PoolManager(timeout=receiver.timeout_seconds, retries=False, maxsize=receiver.in_flight)
        self._threads = ThreadPoolExecutor(receiver.in_flight, "export")
        self._trouble = threading.Event()
        self._retry_after = 0.0

    def close(self) -> None:
        """End the threads and close the connections."""
        self._threads.shutdown()
        self._http.clear()

    def deliver(self, records: Sequence[Sequence[Event]]) -> bool:
        """Send the events of some records; those of one record in their order.

        Returns whether all of them have arrived or were set aside.
        """
        waiting, pause, progress = self._requests(records), FIRST_PAUSE_SECONDS, monotonic()
        while waiting and not self._ending.is_set():
            before = self.counts.sent + self.counts.set_aside
            waiting = self._round(waiting)
            if self.counts.sent + self.counts.set_aside > before:
                pause, progress = FIRST_PAUSE_SECONDS, monotonic()
            if not waiting:
                return True
            if self._give_up_seconds is not None and monotonic() - progress > self._give_up_seconds:
                return False
            self._ending.wait(max(self._retry_after, pause * random.uniform(0.5, 1.0)))
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        return not waiting

    def _requests(self, records: Sequence[Sequence[Event]]) -> list[list[list[Event]]]:
        """Cut into requests: a list for each thread's piece of work, of requests in their order."""
        if self._receiver.batch == 1:
            return [[[event] for event in events] for events in records if events]
        events = [event for one in records for event in one]
        return [[events[at : at + self._receiver.batch]] for at in range(0, len(events), self._receiver.batch)]

    def _round(self, waiting: list[list[list[Event]]]) -> list[list[list[Event]]]:
        """Try all of them until one is in trouble; return what is left."""
        self._trouble.clear()
        self._retry_after = 0.0
        try:
            headers = read_headers(self._receiver.header_file)
        except (OSError, ValueError) as error:
            self._failed(str(error))
            return waiting
        rest = self._threads.map(lambda requests: self._send_all(requests, headers), waiting)
        return [requests for requests in rest if requests]

    def _send_all(self, requests: list[list[Event]], headers: dict[str, str]) -> list[list[Event]]:
        while requests and not self._trouble.is_set() and not self._ending.is_set():
            requests = [*self._send(requests[0], headers), *requests[1:]]
        return requests

    def _send(self, events: list[Event], headers: dict[str, str]) -> list[list[Event]]:
        """Send one request; return what is to be sent in its place."""
        described, body = message(events, self._receiver.format, self._receiver.batch)
        try:
            answer = self._http.request(
                "POST",
                self._receiver.url,
                body=body,
                headers={"User-Agent": "snowgate", **described, **headers},
                redirect=False,
                preload_content=False,
            )
            said = _read(answer)
        except urllib3.exceptions.HTTPError as error:
            self._failed(f"{_place(self._receiver.url)}: {error}")
            return [events]
        if 200 <= answer.status < 300:
            with self._counting:
                self.counts.sent += len(events)
                self.counts.last_success = now()
            return []
        refusal = f"{_place(self._receiver.url)}: answered {answer.status} {said}".rstrip()
        if answer.status not in HOPELESS:
            self._retry_after = max(self._retry_after, retry_after(answer.headers.get("Retry-After")))
            self._failed(refusal)
            return [events]
        if len(events) > 1:
            middle = len(events) // 2
            return [events[:middle], events[middle:]]
        self._set_aside(events[0], refusal)
        return []

    def _failed(self, error: str) -> None:
        with self._counting:
            first = not self._trouble.is_set()
            self._trouble.set()
            self.counts.failed += 1
            self.counts.last_error = error
        if first:
            log.warning("%s; it is tried again", error)

    def _set_aside(self, event: Event, error: str) -> None:
        with self._counting:
            self.counts.set_aside += 1
            self.counts.last_error = error
            told = {"prediction": event.prediction, "type": event.attributes["type"], "time": now(), "error": error}
            self.counts.newest_set_aside.append(told)
        log.error("%s of prediction %s is set aside: %s", event.attributes["type"], event.prediction, error)


def read_headers(file: str | Path | None) -> dict[str, str]:
    """Read headers, one a line, as in `Authorization: Bearer …`; they are read anew, so that a secret can be changed.

    Raises:
        OSError: the file can't be read.
        ValueError: a line is no header; it does not say the line, which may be a secret.
    """
    if file is None:
        return {}
    headers = {}
    for number, line in enumerate(Path(file).read_text().splitlines(), 1):
        name, colon, value = line.partition(":")
        if not line.strip():
            continue
        if not colon or not name.strip() or not (line.isascii() and line.isprintable()):
            msg = f"{file} line {number}: expected a header, as in 'Authorization: Bearer …'"
            raise ValueError(msg)
        headers[name.strip()] = value.strip()
    return headers


def retry_after(value: str | None, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float:
    """Return the seconds that a Retry-After header asks for, 0 when it asks for none.

    >>> retry_after("7"), retry_after("soon"), retry_after("86400")
    (7.0, 0.0, 300.0)
    >>> retry_after("Wed, 21 Oct 2015 07:28:00 GMT", lambda: datetime(2015, 10, 21, 7, 27, 30, tzinfo=UTC))
    30.0
    """
    if value is None:
        return 0.0
    try:
        seconds = float(value) if value.strip().isdigit() else (parsedate_to_datetime(value) - clock()).total_seconds()
    except (ValueError, TypeError):
        return 0.0
    return min(max(0.0, seconds), RETRY_AFTER_SECONDS_MAX)


def _read(answer: urllib3.BaseHTTPResponse) -> str:
    """Read an answer to its end, so that its connection can be used again, and return its first words."""
    raw = answer.read(ANSWER_BYTES_MAX)
    if len(raw) == ANSWER_BYTES_MAX:
        answer.close()
    answer.release_conn()
    return " ".join(raw.decode(errors="replace").split())[:SAID_CHARACTERS_MAX]


def _place(url: str) -> str:
    """Name the receiver without what may be a secret in its path.

    >>> _place("https://hooks.example/T0/secret")
    'https://hooks.example'
    """
    parsed = urllib3.util.parse_url(url)
    return f"{parsed.scheme}://{parsed.netloc.rpartition('@')[2] if parsed.netloc else ''}"
