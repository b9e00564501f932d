"""A real receiver of CloudEvents, which reads them with the CloudEvents project's own package."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import HTTPMessage, from_http
from cloudevents.core.formats.json import JSONFormat

from monitors.log.record import Payload, Record, Tensor, new_id

Answer = tuple[int, dict[str, str]]
FINE: Answer = (200, {})


def parse(headers: dict[str, str], body: bytes) -> list[BaseCloudEvent]:
    """Read a request as the HTTP binding says: binary, structured or batched."""
    named = {name.lower(): value for name, value in headers.items()}
    if named["content-type"] == "application/cloudevents-batch+json":
        return [JSONFormat().read(None, json.dumps(one)) for one in json.loads(body)]
    return [from_http(HTTPMessage(named, body), JSONFormat())]


class EventReceiver:
    """Keeps what it has answered with 2xx; `answers` decides, and may wait."""

    def __init__(self) -> None:
        self.events: list[BaseCloudEvent] = []
        self.arrived: set[str] = set()
        self.requests: list[dict[str, str]] = []
        self.connections = 0
        self.answers: Callable[[list[BaseCloudEvent]], Answer] = lambda _events: FINE
        receiver, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                with lock:
                    receiver.connections += 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                events = parse(dict(self.headers.items()), body)
                with lock:
                    receiver.requests.append(dict(self.headers.items()))
                status, headers = receiver.answers(events)
                if 200 <= status < 300:
                    with lock:
                        receiver.events += events
                        receiver.arrived.update(one.get_id() for one in events)
                said = b"" if status < 300 else b'{"error": "not\n now"}'
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(said))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_arguments: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_arguments: object) -> None:
                pass  # An exporter that was killed is not there any more to hear the answer.

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/events"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def ids(self, type_: str | None = None) -> list[str]:
        """The ids that arrived, in their order; of one type, where it is given."""
        return [one.get_id() for one in self.events if type_ is None or one.get_type() == type_]

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[EventReceiver]:
    """A receiver of one's own."""
    made = EventReceiver()
    yield made
    made.close()


def record(**more: Any) -> Record:
    """A record of a call that was answered, with everything in it."""
    payload = Payload(
        unit="camera",
        client_id="mine",
        parameters={"binary_data_output": True, "timeout": 5},
        inputs=[Tensor("x", "FP32", [1, 2], bytes.fromhex("0000803f00000040"))],
        outputs=[Tensor("y", "INT64", [1], (7).to_bytes(8, "little"))],
    )
    fields: dict[str, Any] = {
        "id": new_id(1_700_000_000 * 10**9),
        "kind": "answered",
        "time": 1_700_000_000.0,
        "model": "signs",
        "version": "2",
        "bundle": "sha256:ab",
        "variant": "canary",
        "status": 200,
        "timings": {"total": 250.0},
        "trace_id": "ab" * 16,
        "span_id": "cd" * 8,
        "payload": payload,
    }
    return Record(**(fields | more))
