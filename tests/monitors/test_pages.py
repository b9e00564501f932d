"""Pages on their way: at least once, in order, one key, whatever the receiver does."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from monitors.pages import Sender, outbox_change, wall_clock
from state.sqlite import SqliteState
from tests.conftest import Webhook, wait_until


@pytest.fixture
def state(tmp_path: Path) -> Iterator[SqliteState]:
    """An empty store."""
    made = SqliteState(tmp_path / "state.db")
    yield made
    made.close()


@pytest.fixture
def send(state: SqliteState, tmp_path: Path) -> Iterator[Callable[[str | None], Sender]]:
    """Start senders, on connections of their own; they end with the test."""
    started: list[tuple[Sender, SqliteState]] = []

    def start(url: str | None) -> Sender:
        own = SqliteState(tmp_path / "state.db")
        sender = Sender(own, url, 1.0, wall_clock)
        sender.start()
        started.append((sender, own))
        return sender

    yield start
    for sender, own in started:
        sender.stop(10)
        own.close()


def put(state: SqliteState, incident: str, event: str) -> None:
    """Put a page in the outbox."""
    body: dict[str, Any] = {"incident": incident, "event": event, "time": wall_clock(), "dedup_key": f"k/{incident}"}
    state.commit(outbox_change(body))


def test_a_page_is_sent_once_and_noted(
    state: SqliteState, send: Callable[[str | None], Sender], webhook: Webhook
) -> None:
    """A page goes out once, leaves the outbox, and is kept with the time of its delivery; a new sender leaves it."""
    put(state, "a", "open")
    sender = send(webhook.url)
    wait_until(lambda: not state.list("outbox/"), what="an empty outbox")
    sender.stop(5)
    send(webhook.url)
    put(state, "a", "resolved")
    wait_until(lambda: not state.list("outbox/"), what="an empty outbox")
    assert [one["event"] for one in webhook.pages] == ["open", "resolved"]
    document = state.get("pages/a/open")
    assert document is not None
    assert document.body["sent"].endswith("Z")
    assert sender.delivered.to_json()["sent"] == 1


def test_a_receiver_that_fails_gets_it_when_it_is_well(
    state: SqliteState, send: Callable[[str | None], Sender], webhook: Webhook
) -> None:
    """500s first: the page stays in the outbox, is tried again, and arrives."""
    webhook.answers = 500
    sender = send(webhook.url)
    put(state, "a", "open")
    wait_until(lambda: sender.delivered.failed >= 1, what="a failed attempt")
    assert len(state.list("outbox/")) == 1
    assert "answered 500" in str(sender.delivered.last_error)
    webhook.answers = 200
    wait_until(lambda: webhook.pages, what="the page")


def test_nobody_listens(state: SqliteState, send: Callable[[str | None], Sender]) -> None:
    """A refused connection is a failed attempt like any other."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    sender = send(f"http://127.0.0.1:{port}/")
    put(state, "a", "open")
    wait_until(lambda: sender.delivered.failed >= 2, what="two attempts")
    assert len(state.list("outbox/")) == 1


def test_a_page_that_is_refused_holds_up_only_its_own_incident(
    state: SqliteState, send: Callable[[str | None], Sender]
) -> None:
    """The receiver takes everything but incident `a`'s opening: `b` arrives; `a`'s end waits for its opening."""
    got: list[tuple[str, str]] = []

    class Picky(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            page = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            refused = (page["incident"], page["event"]) == ("a", "open")
            if not refused:
                got.append((page["incident"], page["event"]))
            self.send_response(400 if refused else 200)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Picky)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, event in (("a", "open"), ("a", "resolved"), ("b", "open")):
        put(state, name, event)
    sender = send(f"http://127.0.0.1:{server.server_port}/")
    wait_until(lambda: sender.delivered.failed >= 2, what="two attempts")
    server.shutdown()
    server.server_close()
    assert got == [("b", "open")]
    assert [one.key for one in state.list("outbox/")] == ["outbox/a/open", "outbox/a/resolved"]


def test_a_receiver_that_never_answers_blocks_only_the_sender(
    state: SqliteState, send: Callable[[str | None], Sender]
) -> None:
    """It accepts and says nothing: the attempt ends with the timeout, and state is free for others meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = send(f"http://127.0.0.1:{server.getsockname()[1]}/")
        put(state, "a", "open")
        began = time.monotonic()
        put(state, "b", "open")
        assert time.monotonic() - began < 1.0
        wait_until(lambda: sender.delivered.failed >= 1, what="the timeout")
        assert "timed out" in str(sender.delivered.last_error).lower()


def test_without_a_receiver_pages_wait(state: SqliteState, send: Callable[[str | None], Sender]) -> None:
    """No webhook is set: nothing counts as sent, and nothing is lost."""
    put(state, "a", "open")
    sender = send(None)
    sender.stop(5)
    assert sender.delivered.sent == 0
    assert len(state.list("outbox/")) == 1
