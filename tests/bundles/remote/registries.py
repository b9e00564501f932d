"""A real small HTTP server that is an OCI registry with the referrers API, and lies where a test tells it to."""

import json
import re
import threading
from collections.abc import Callable
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from bundles.home import Home
from bundles.remote.address import Address
from bundles.remote.credentials import Credentials
from bundles.remote.registry import Registry
from bundles.remote.session import Session
from bundles.remote.transfer import Moved, accept, find, push, receive

REPOSITORY = "team/signs"
Lie = Callable[["Handler"], bool]


class Handler(BaseHTTPRequestHandler):
    """One request: perhaps a lie, otherwise what the specification says."""

    registry: ClassVar["SmallRegistry"]
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        line = f"{self.command} {self.path}"
        self.registry.seen.append((line, dict(self.headers)))
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        for pattern, lie in self.registry.lies:
            if re.search(pattern, line) and lie(self):
                return
        parts = urlsplit(self.path)
        kind, _, name = parts.path.removeprefix(f"/v2/{REPOSITORY}/").partition("/")
        getattr(self, f"_{kind}")(name, parse_qs(parts.query))

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815 - the library's names

    def answer(self, status: int, body: bytes = b"", **headers: str) -> bool:
        """Answer, with the body's length unless one is given; header names have underscores for hyphens."""
        self.send_response(status)
        named = {"Content_Length": str(len(body)), **headers}
        for name, value in named.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        return True

    def _blobs(self, name: str, query: dict[str, list[str]]) -> None:
        if self.command == "POST":
            self.answer(202, Location=f"{self.path}1?state=x")
        elif self.command == "PUT":
            (digest,) = query["digest"]
            good = digest == f"sha256:{sha256(self.body).hexdigest()}"
            if good:
                self.registry.blobs[digest] = self.body
            self.answer(201 if good else 400)
        elif name not in self.registry.blobs:
            self.answer(404)
        else:
            start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            data = self.registry.blobs[name]
            self.answer(206 if start else 200, data[int(start[1]) :] if start else data)

    def _manifests(self, name: str, query: dict[str, list[str]]) -> None:
        if self.command == "PUT":
            digest = f"sha256:{sha256(self.body).hexdigest()}"
            self.registry.blobs[digest] = self.body
            self.registry.tags[name] = self.registry.tags[digest] = digest
            subject = json.loads(self.body).get("subject", {}).get("digest", "")
            if subject:
                self.registry.about.setdefault(subject, []).append(digest)
            self.answer(201, OCI_Subject=subject)
        elif name not in self.registry.tags:
            self.answer(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "unknown"}]}')
        else:
            digest = self.registry.tags[name]
            self.answer(200, self.registry.blobs[digest], Docker_Content_Digest=digest)

    def _referrers(self, name: str, query: dict[str, list[str]]) -> None:
        manifests = [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest,
                "size": len(self.registry.blobs[digest]),
                "artifactType": json.loads(self.registry.blobs[digest])["artifactType"],
            }
            for digest in self.registry.about.get(name, [])
        ]
        self.answer(200, json.dumps({"schemaVersion": 2, "manifests": manifests}).encode())

    def _tags(self, name: str, query: dict[str, list[str]]) -> None:
        tags = [tag for tag in self.registry.tags if not tag.startswith("sha256:")]
        self.answer(200, json.dumps({"name": REPOSITORY, "tags": tags}).encode())

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


class SmallRegistry:
    """The server: what it holds, what it was asked, and which lies it tells to whom."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}
        self.about: dict[str, list[str]] = {}
        self.lies: list[tuple[str, Lie]] = []
        self.seen: list[tuple[str, dict[str, Any]]] = []
        handler = type("Handler", (Handler,), {"registry": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def lie(self, pattern: str, how: Lie, times: int = 1_000_000) -> None:
        """Answer requests whose line fits a pattern in another way, so many times."""
        left = [times]

        def some(handler: Handler) -> bool:
            left[0] -= 1
            return left[0] >= 0 and how(handler)

        self.lies.append((pattern, some))

    def asked(self, pattern: str) -> list[dict[str, Any]]:
        """Return the headers of all requests whose line fits."""
        return [headers for line, headers in self.seen if re.search(pattern, line)]

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()


def place(host: str, credentials: Credentials | None = None, waits: tuple[float, ...] = ()) -> Registry:
    """Open the repository of a registry on this machine; without `waits` it is tried once."""
    address = Address("oci", f"{host}/{REPOSITORY}")
    scope = f"repository:{REPOSITORY}:pull,push"
    return Registry(address, Session(host, scope, credentials=lambda: credentials, waits=waits))


def send(home: Home, digest: str, there: Registry, tag: str = "1", *, replace: bool = False) -> Moved:
    """Push."""
    return push(home.store(), digest, there, tag, replace=replace, say=lambda _text: None)


def fetch(home: Home, there: Registry, tag: str = "1", waits: tuple[float, ...] = ()) -> str:
    """Pull, and return the version."""
    arrived = receive(home, there, find(there, "there", tag), say=lambda _text: None, waits=waits)
    return accept(home, arrived, origin="there", actor="a tester")
