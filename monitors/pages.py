"""Pages: the words that reach a human, and the way they take.

A page is put in the outbox in the same commit as the incident's change, and leaves it when the receiver has said that
it has it. So it arrives at least once, whatever dies; it arrives twice only when a process died between sending and
noting it, and then with the same dedup key.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import orjson
import urllib3

from state import Change, Conflict, State

log = logging.getLogger("snowgate.pages")

OUTBOX = "outbox/"
SENT = "pages/"
QUESTIONS = ["Has the world changed?", "Is the model broken?"]
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
POLL_SECONDS = 0.2


def page(incident: dict[str, Any], event: str, console_url: str | None) -> dict[str, Any]:
    """Return the body that a webhook gets when an incident opens or is resolved."""
    name = incident["id"]
    links = {} if console_url is None else {"console": f"{console_url}/incidents/{name}", "overview": f"{console_url}/"}
    return {
        "incident": name,
        "dedup_key": incident["dedup_key"],
        "event": event,
        "time": incident["updated"],
        "summary": incident["summary"],
        "model": incident["model"],
        "version": incident["version"],
        "bundle": incident["bundle"],
        "onset": incident["onset"],
        "rows_since_onset": incident["rows_since_onset"],
        "signals": incident["signals"],
        "evidence": incident["evidence"],
        "likely": incident["likely"],
        "likely_because": incident["likely_because"],
        "decision": incident["decision"],
        "questions": _questions(incident),
        "links": links,
    }


def _questions(incident: dict[str, Any]) -> list[dict[str, str]]:
    name, version = incident["id"], incident["version"]
    if incident.get("cause") == "log":
        return [
            {
                "question": "Has the disk of the log room, and does it work?",
                "command": "snowgate doctor",
                "effect": "once the log can be written the incident ends by itself",
            }
        ]
    if incident.get("cause") == "retention":
        return [
            {
                "question": "Who does not read the log any more, and may it take more room?",
                "command": "snowgate log seal",
                "effect": "once no follower lags behind what was removed the incident ends by itself",
            }
        ]
    changed = {
        "question": QUESTIONS[0],
        "command": f"snowgate incident decide {name} world-changed --reason '…'",
        "effect": "the data since the onset becomes the new baseline",
    }
    if incident.get("cause") == "runner":
        changed = {
            "question": "Is what it died of mended?",
            "command": f"snowgate deploy {incident['model']}@{version} --again --reason '…'",
            "effect": "its runners are started again",
        }
    broken = {
        "question": QUESTIONS[1],
        "command": f"snowgate incident decide {name} model-broken --reason '…'",
        "effect": f"version {version} is rolled back and does not come back by itself",
    }
    return [changed, broken]


def outbox_change(body: dict[str, Any]) -> Change:
    """Return the change that puts a page in the outbox; the same page twice is one."""
    return Change(f"{OUTBOX}{body['incident']}/{body['event']}", {"page": body, "attempts": 0, "error": None})


@dataclass
class Delivered:
    """What the sender has done so far."""

    sent: int = 0
    failed: int = 0
    last_success: str | None = None
    last_error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, as in `monitor/status`."""
        return asdict(self)


class Sender:
    """Sends what is in the outbox, on a thread of its own, so that a slow receiver never holds up the watching."""

    def __init__(self, state: State, url: str | None, timeout_seconds: float, now: Callable[[], str]) -> None:
        self._state = state
        self._url = url
        self._http = urllib3.PoolManager(timeout=timeout_seconds, retries=False)
        self._now = now
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pages", daemon=True)
        self.delivered = Delivered()

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """End after the attempt under way, `seconds` at most; what was not sent stays in the outbox."""
        self._ending.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        if self._url is None:
            # Without a receiver the pages wait. A home that gets one later tells what happened, once each.
            log.info("no page.webhook.url is set: pages wait in the outbox, incidents are in `snowgate incident list`")
            return
        pause, seen = FIRST_PAUSE_SECONDS, -1
        while not self._ending.is_set():
            version = self._state.version()
            if version == seen:
                self._ending.wait(POLL_SECONDS)
                continue
            if self._send_all():
                seen, pause = version, FIRST_PAUSE_SECONDS
                continue
            self._ending.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _send_all(self) -> bool:
        """Send every page of the outbox in order; say whether all of them arrived.

        A page that the receiver does not take holds up those of its own incident, whose order matters, and no others.
        """
        stuck: set[str] = set()
        for document in sorted(self._state.list(OUTBOX), key=lambda one: (one.body["page"]["time"], one.key)):
            if self._ending.is_set():
                return False
            incident = document.body["page"]["incident"]
            if incident in stuck:
                continue
            error = self._post(document.body["page"])
            if error is not None:
                self.delivered.failed += 1
                self.delivered.last_error = error
                log.warning("page %s: %s; it is tried again", document.key, error)
                stuck.add(incident)
                continue
            self.delivered.sent += 1
            self.delivered.last_success = self._now()
            sent = document.body | {"sent": self.delivered.last_success}
            try:
                self._state.commit(
                    Change(document.key, None, document.revision),
                    Change(SENT + document.key.removeprefix(OUTBOX), sent),
                )
            except Conflict:
                # The page was renewed while it was sent: the renewed one goes out too, with the same dedup key.
                stuck.add(incident)
        return not stuck

    def _post(self, body: dict[str, Any]) -> str | None:
        """Post one page; return what went wrong, or None."""
        assert self._url is not None, "the thread ends without one"
        headers = {"Content-Type": "application/json", "User-Agent": "snowgate"}
        try:
            answer = self._http.request("POST", self._url, body=orjson.dumps(body), headers=headers, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            return f"webhook {self._url}: {error}"
        return None if 200 <= answer.status < 300 else f"webhook {self._url}: answered {answer.status}"


def wall_clock() -> str:
    """Return this moment as RFC 3339 in UTC."""
    return rfc3339(time.time())


def rfc3339(seconds: float) -> str:
    """Write a time (seconds since the epoch) as RFC 3339 in UTC, with microseconds.

    >>> rfc3339(1_700_000_000.25)
    '2023-11-14T22:13:20.250000Z'
    """
    whole, fraction = divmod(round(seconds * 1e6), 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{fraction:06d}Z"
