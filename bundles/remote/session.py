"""One registry's HTTP server, which may be anybody: signing in, redirects, limits, retries.

- Credentials go to the server that the user named and to the token server that it names, never along a redirect.
- From https no redirect leads to http; plain http is for this machine, or said by the user.
- Every body has a limit in bytes and in seconds, and nothing is decompressed.
- What may pass by itself (no connection, 429, 5xx) is tried again a few times, then it is an error.

Source: OCI distribution specification 1.1; RFC 6750 and docker's token specification for signing in.
"""

import ipaddress
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

import orjson
import urllib3
from urllib3.exceptions import HTTPError, LocationValueError, SSLError

from bundles.digest import CHUNK_BYTES
from bundles.errors import RemoteError, RemoteUnavailable, UnknownReference
from bundles.remote.credentials import PASSWORD, USER, Credentials

CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
# A body may take this long and, for its size, as long as at 16 KiB/s: 1 GiB in 18 hours. Slower is as good as never.
BODY_SECONDS, BODY_BYTES_PER_SECOND = 120.0, 16 * 1024
REDIRECTS_MAX = 5
# Five tries in 15 s, or what the registry asks for, but not for longer than a human would look on.
WAITS_SECONDS = (1.0, 2.0, 4.0, 8.0)
WAIT_SECONDS_MAX = 30.0
ANSWER_BYTES_MAX = 64 * 1024  # Errors and tokens: a few kB.
Body = Callable[[], Iterable[bytes]]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said, its body read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def is_loopback(host: str) -> bool:
    """Say whether a host, perhaps with a port, is this machine.

    >>> is_loopback("localhost:5000"), is_loopback("[::1]"), is_loopback("127.0.0.1.example.org")
    (True, True, False)
    """
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def retried(
    work: Callable[[], Result], waits: Sequence[float], say: Callable[[str], None] = lambda _text: None
) -> Result:
    """Do something that may fail for a moment, with waits between the tries; the last error is raised."""
    for wait in waits:
        try:
            return work()
        except RemoteUnavailable as error:
            seconds = max(wait, min(error.after, WAIT_SECONDS_MAX))
            say(f"{error}; trying again in {seconds:g} s")
            time.sleep(seconds)
    return work()


class Session:
    """Requests to one server. `scope` is what a token must allow, as `repository:team/signs:pull,push`."""

    def __init__(
        self,
        host: str,
        scope: str,
        *,
        insecure: bool = False,
        credentials: Callable[[], Credentials | None] = lambda: None,
        waits: Sequence[float] = WAITS_SECONDS,
    ) -> None:
        self.waits = waits
        self._scope = scope
        self._insecure = insecure
        self._url = f"{'http' if insecure or is_loopback(host) else 'https'}://{host}"
        self._credentials = credentials
        self._authorization: str | None = None
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
        self._pool = urllib3.PoolManager(timeout=timeout, retries=False)

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
        limit: int = ANSWER_BYTES_MAX,
    ) -> Answer:
        """Ask once, or again while the server is not available; read the answer whole, which has `limit` bytes at most.

        Raises:
            UnknownReference: 404.
            RemoteUnavailable: 429, 5xx or no connection, several times.
            RemoteError: anything else that is not 2xx.
        """

        def once() -> Answer:
            with self.stream(method, path, headers, body) as response:
                return Answer(response.status, response.headers, read_whole(response, limit, f"{method} {path}"))

        return retried(once, self.waits)

    @contextmanager
    def stream(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | Body | None = None
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Ask once; the answer's body is still to be read, with `pieces`. Raises as `ask` does."""
        response = self._send(method, urljoin(self._url, path), dict(headers or {}), body)
        try:
            if response.status >= 300:
                self._refuse(response, f"{method} {path}")
            yield response
        except (HTTPError, OSError) as error:
            raise RemoteUnavailable(f"{self._url}: {method} {path} broke off: {_words(error)}") from error
        finally:
            # What is left of a body is not read to keep the connection: it may have no end.
            response.close()

    def own_url(self, location: str | None, what: str) -> str:
        """Return where something goes on, which must be the same server: it gets our bytes, and credentials."""
        url = urljoin(self._url, location or "")
        if not location or not self._is_own(url):
            raise RemoteError(f"{self._url}: sends {what} to {(location or 'nowhere')[:200]!r}, expected itself")
        return url

    def _send(
        self, method: str, url: str, headers: dict[str, str], body: bytes | Body | None
    ) -> urllib3.BaseHTTPResponse:
        redirected = signed_in = False
        for _hop in range(REDIRECTS_MAX + 2):
            response = self._exchange(method, url, headers, body)
            try:
                if response.status == 401 and self._is_own(url) and not signed_in:
                    signed_in = True
                    self._sign_in(response)
                elif response.status in (301, 302, 303, 307, 308) and method in ("GET", "HEAD"):
                    redirected = True
                    url = self._redirected(url, response)
                else:
                    return response
            except BaseException:
                response.close()
                raise
            response.close()
        raise RemoteError(f"{self._url}: {'redirects' if redirected else 'asks to sign in'} again and again")

    def _exchange(
        self, method: str, url: str, headers: dict[str, str], body: bytes | Body | None
    ) -> urllib3.BaseHTTPResponse:
        given = {"Accept-Encoding": "identity", "User-Agent": "snowgate", **headers}
        if self._authorization is not None and self._is_own(url):
            given["Authorization"] = self._authorization
        try:
            content: Any = body() if callable(body) else body
            return self._pool.request(
                method, url, headers=given, body=content, preload_content=False, decode_content=False, redirect=False
            )
        except SSLError as error:
            raise RemoteError(f"{url}: no trusted connection: {_words(error)}") from error
        except LocationValueError as error:
            raise RemoteError(f"{url[:200]!r}: is no address of a server") from error
        except (HTTPError, OSError) as error:
            hint = "" if self._url.startswith("http:") else "; a registry without https needs --insecure"
            raise RemoteUnavailable(f"{self._url}: can't be reached: {_words(error)}{hint}") from error

    def _is_own(self, url: str) -> bool:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc}" == self._url

    def _check_plain(self, url: str, what: str) -> str:
        """Return a URL that may be asked: https, or http where that is all we speak anyway."""
        parts = urlsplit(url)
        plain = self._url.startswith("http:") and parts.scheme == "http"
        if parts.scheme != "https" and not (plain and (self._insecure or is_loopback(parts.netloc))):
            raise RemoteError(f"{self._url}: {what} {url[:200]!r}, expected an https address")
        return url

    def _redirected(self, url: str, response: urllib3.BaseHTTPResponse) -> str:
        return self._check_plain(urljoin(url, response.headers.get("Location", "")), "redirects to")

    def _sign_in(self, response: urllib3.BaseHTTPResponse) -> None:
        """Answer a 401. Raises RemoteError when there is nothing to answer with."""
        challenge = response.headers.get("WWW-Authenticate", "")
        kind, _space, rest = challenge.partition(" ")
        named = dict(re.findall(r'(\w+)="([^"]*)"', rest[:4096]))
        credentials = self._credentials()
        if kind.lower() == "bearer" and "realm" in named:
            self._authorization = f"Bearer {self._token(named, credentials)}"
        elif credentials is not None:
            self._authorization = credentials.basic()
        else:
            self._refuse(response, "signing in")

    def _token(self, challenge: Mapping[str, str], credentials: Credentials | None) -> str:
        realm = self._check_plain(challenge["realm"], "has its token server at")
        words = urlencode({"service": challenge.get("service", ""), "scope": self._scope})
        headers = {} if credentials is None else {"Authorization": credentials.basic()}
        try:
            with closing(
                self._pool.request(
                    "GET",
                    f"{realm}?{words}",
                    headers=headers,
                    preload_content=False,
                    redirect=False,
                    decode_content=False,
                )
            ) as response:
                body = read_whole(response, ANSWER_BYTES_MAX, "the token")
        except (HTTPError, OSError) as error:
            raise RemoteUnavailable(f"{realm}: can't be reached: {_words(error)}") from error
        if response.status != 200:
            raise self._denied(f"{realm}: gives no token", response.status, body)
        try:
            document = orjson.loads(body)
            token = document.get("token") or document["access_token"]
        except (orjson.JSONDecodeError, AttributeError, KeyError):
            token = None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise RemoteError(f"{realm}: what it answered is no token")
        return token

    def _refuse(self, response: urllib3.BaseHTTPResponse, what: str) -> None:
        """Raise the error of an answer that is not a success."""
        status, what = response.status, f"{self._url}: {what}"
        if status == 429 or status >= 500:
            after = response.headers.get("Retry-After", "")
            said = f"{what}: answered {status}, it is busy or broken"
            raise RemoteUnavailable(said, float(after) if re.fullmatch("[0-9]{1,5}", after) else 0.0)
        try:
            body = read_whole(response, ANSWER_BYTES_MAX, what)
        except RemoteError:
            body = b""
        if status in (401, 403):
            raise self._denied(what, status, body)
        if status == 404:
            raise UnknownReference(f"{what}: not there{_said(body)}")
        raise RemoteError(f"{what}: answered {status}{_said(body)}")

    def _denied(self, what: str, status: int, body: bytes) -> RemoteError:
        how = f"sign in with docker login, or set {USER} and {PASSWORD}"
        return RemoteError(f"{what}: not allowed ({status}){_said(body)}; {how}")


def pieces(response: urllib3.BaseHTTPResponse, size: int) -> Iterator[bytes]:
    """Yield a body as it comes. Raises RemoteUnavailable when it takes longer than its `size` in bytes can need."""
    deadline = time.monotonic() + BODY_SECONDS + size / BODY_BYTES_PER_SECOND
    while chunk := response.read1(CHUNK_BYTES):
        yield chunk
        if time.monotonic() > deadline:
            raise RemoteUnavailable(f"slower than {BODY_BYTES_PER_SECOND} bytes a second")


def read_whole(response: urllib3.BaseHTTPResponse, limit: int, what: str) -> bytes:
    """Return a body of at most `limit` bytes. Raises RemoteError when there are more."""
    body = bytearray()
    for chunk in pieces(response, limit):
        body += chunk
        if len(body) > limit:
            raise RemoteError(f"{what}: answered with more than {limit} bytes")
    return bytes(body)


def _said(body: bytes) -> str:
    r"""Return a registry's own words, in a form that can't harm a terminal.

    >>> _said(b'{"errors": [{"code": "DENIED", "message": "no\\u001b[31m"}]}')
    ": 'DENIED: no\\x1b[31m'"
    """
    try:
        first = orjson.loads(body)["errors"][0]
        return f": {str(first.get('code', '')) + ': ' + str(first.get('message', ''))[:200]!r}"
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return ""


def _words(error: Exception) -> str:
    """Say what went wrong with a connection, without the objects that the library puts before it."""
    return re.sub(r"^<?[\w.]+\(.*?\)>?: |^\w+\(.*?\): ", "", str(error))[:200]
