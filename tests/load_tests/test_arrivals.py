import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from load_tests.comparison.arrivals import run

REQUEST = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}"


class Site:
    """A real HTTP server; how it answers is changed by the test."""

    def __init__(self) -> None:
        self.status = 200
        self.first_takes = 0.0
        self.closes = False
        self.calls = 0
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                site.calls += 1
                if site.calls == 1:
                    time.sleep(site.first_takes)  # The stall is what is tested.
                if site.closes:
                    self.close_connection = True
                    return
                self.send_response(site.status)
                self.send_header("Content-Length", "5")
                self.end_headers()
                self.wfile.write(b"hello")

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def site() -> Iterator[Site]:
    """A server of one's own."""
    made = Site()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_every_call_is_sent_and_answered(site: Site) -> None:
    """As many calls as rate and time say arrive, over as many connections as are needed."""
    found = run(site.port, REQUEST, rate=200.0, seconds=0.5, connections=8)
    assert (found["requests"], found["failed"], site.calls) == (100, 0, 100)
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["p999_ms"]


def test_calls_kept_waiting_by_a_stall_are_charged_to_it(site: Site) -> None:
    """One answer takes half a second while the others wait for the connection: all of them are late, not only that one.

    A closed loop would have sent nothing meanwhile, and have seen one slow answer among twenty.
    """
    site.first_takes = 0.5
    found = run(site.port, REQUEST, rate=200.0, seconds=0.1, connections=1)
    assert found["requests"] == site.calls == 20
    assert found["p50_ms"] > 250


def test_answers_that_are_not_2xx_are_counted(site: Site) -> None:
    """Refusals are answers, and fail."""
    site.status = 503
    assert run(site.port, REQUEST, rate=100.0, seconds=0.1, connections=2)["failed"] == 10


def test_a_connection_that_is_closed_ends_the_run(site: Site) -> None:
    """Without an answer there is no number: the run ends with an error, and does not wait."""
    site.closes = True
    with pytest.raises(ConnectionError, match="closed a connection after 0 of 10"):
        run(site.port, REQUEST, rate=100.0, seconds=0.1, connections=2)
