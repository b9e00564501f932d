"""Who may speak to the control port: checked below the framework, before any of it runs.

Binding to loopback does not keep web pages out: any page that the operator has open can send requests to 127.0.0.1, or
have its own name resolve to it. So the Host header must be one that is served here, a request that changes something
must come from this origin when a browser sends it, and where keys are set every request but health needs one. A browser
gives the key as the password of HTTP Basic, and is asked for it by itself; its pages may then load nothing from
elsewhere.
"""

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Collection
from hashlib import sha256

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.problems import problem

BODY_BYTES_MAX = 64 * 1024
"""A deployment or a decision with a long reason takes some kilobytes."""
LARGER = {"/api/v1/labels": 4 * 1024 * 1024}
"""Ten thousand labels at some 200 bytes, and as much again."""
IDENTITY = "snowgate.identity"
"""Where in a request's scope the caller's key is named, once it was found to be one."""
OPEN_PATHS = frozenset({"/livez", "/readyz"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: a browser would then send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """Checks each request, and puts the security headers on each answer."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        allowed_hosts: Collection[str],
        key_digests: frozenset[str] | None,
        on_first: Callable[[], None],
    ) -> None:
        """`allowed_hosts` are names without a port, or `*`; `key_digests` are SHA-256 in hex, None asks for no key."""
        self._app = app
        self._hosts = frozenset(host.lower() for host in allowed_hosts)
        self._keys = key_digests
        self._on_first = on_first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        self._on_first()
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def guarded_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is not None:
            status, detail = refusal
            extra = {"WWW-Authenticate": 'Basic realm="snowgate", charset="UTF-8"'} if status == 401 else {}
            await problem(status, detail, scope["path"], headers=extra)(scope, receive, guarded_send)
            return
        await self._app(scope, receive, guarded_send)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if "*" not in self._hosts and _name(host) not in self._hosts:
            return 421, f"Host {host[:64]!r}: expected {', '.join(sorted(self._hosts))}"
        if scope["method"] not in SAFE_METHODS:
            origin, site = headers.get("origin"), headers.get("sec-fetch-site")
            if (origin is not None and origin.partition("://")[2] != host) or site in ("cross-site", "same-site"):
                return (
                    403,
                    f"Origin {(origin or site or '')[:64]!r}: this page is not from here ({host}), so it may only look",
                )
            # Only a body of known length is taken, which the server then holds the sender to.
            length = headers.get("content-length")
            if length is None or not length.isdecimal():
                return 411, "Content-Length: missing, expected the body's bytes"
            longest = LARGER.get(scope["path"], BODY_BYTES_MAX)
            if int(length) > longest:
                return 413, f"body: {length} bytes, expected at most {longest}"
        if self._keys is not None and scope["path"] not in OPEN_PATHS:
            key = given_key(headers)
            digest = None if key is None else sha256(key.encode()).hexdigest()
            scope[IDENTITY] = f"api-key {digest[:12]}" if digest else None
            if digest not in self._keys:
                return (
                    401,
                    "API key: missing or unknown, expected X-API-Key, Authorization: Bearer, or Basic's password",
                )
        return None


def identity(request: Request, claimed: str) -> str:
    """Return who calls: the API key by the beginning of its SHA-256, with the name that is claimed beside it.

    Where no keys are asked for, the claim is all that is known.
    """
    key = request.scope.get(IDENTITY)
    return claimed if key is None else f"{claimed} ({key})"


def given_key(headers: Headers) -> str | None:
    """Return the API key that a request carries, in whichever of the three ways."""
    if "x-api-key" in headers:
        return headers["x-api-key"]
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    basic = _basic(kind, value)
    return None if basic is None else basic[1]


def given_name(headers: Headers) -> str:
    """Return the user name that a browser gives with the key, or nothing."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    basic = _basic(kind, value)
    return "" if basic is None else basic[0]


def _basic(kind: str, value: str) -> tuple[str, str] | None:
    if kind.lower() != "basic":
        return None
    try:
        name, colon, password = b64decode(value, validate=True).decode().partition(":")
    except (Base64Error, UnicodeDecodeError):
        return None
    return (name, password) if colon else None


def _name(host: str) -> str:
    """Cut the port off a Host header.

    >>> _name("localhost:8082"), _name("[::1]:8082"), _name("[::1]")
    ('localhost', '[::1]', '[::1]')
    """
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()
