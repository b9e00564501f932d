"""The demo's own on-call tool: a webhook that keeps what it gets."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

POLL_SECONDS = 0.05


class Receiver:
    """`with Receiver() as receiver:` takes pages at `receiver.url`."""

    def __enter__(self) -> Self:
        """Begin to listen on a free port of this machine."""
        self.pages: list[dict[str, Any]] = []
        pages = self.pages

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                """Keep a page."""
                pages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(202)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                """Stay silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/pages"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def wait(self, event: str, seconds: float) -> dict[str, Any] | None:
        """Wait for the first page of a kind (`open`, `resolved`)."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = next((page for page in self.pages if page["event"] == event), None)
            if found is not None:
                return found
            time.sleep(POLL_SECONDS)
        return None
