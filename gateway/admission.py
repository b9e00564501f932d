"""Who may speak to the data port: by the name it is called by, by the page that calls, by key.

Binding to loopback does not keep web pages out: any page that somebody on this machine has open can send requests to
127.0.0.1, or have its own name resolve to it. So a port that only this machine can reach checks the name that it is
called by, and a page from elsewhere is refused on every port unless its origin is allowed.
"""

import hmac
from collections.abc import Collection
from hashlib import sha256

from gateway.errors import Forbidden, InferenceError, Unauthorized, WrongHost

ELSEWHERE = frozenset({b"cross-site", b"same-site"})


class Admission:
    """What all calls of one worker are held against."""

    def __init__(
        self, *, keys: Collection[str] | None, hosts: Collection[str] | None, origins: Collection[str] = ()
    ) -> None:
        """`keys` are SHA-256 digests in hex, None asks for no key; `hosts` are names without a port, None is any."""
        self._keys = None if keys is None else [key.encode() for key in keys]
        self._hosts = None if hosts is None else frozenset(host.encode() for host in hosts)
        self.origins = frozenset(origin.encode() for origin in origins)

    def refusal(
        self, host: bytes | None, key: bytes | None, origin: bytes | None = None, site: bytes | None = None
    ) -> InferenceError | None:
        """Say why a call may not pass, or None.

        The arguments are the headers Host, X-API-Key (or the bearer's token), Origin and Sec-Fetch-Site. Every stored
        digest is compared, in constant time.
        """
        if self._hosts is not None and host is not None and host_name(host) not in self._hosts:
            return WrongHost(f"Host: {host.decode('latin-1')}, expected a loopback name: this port is local")
        if (origin is not None or site in ELSEWHERE) and origin not in self.origins:
            foreign = origin is not None and origin.partition(b"://")[2] != (host or b"")
            if foreign or site in ELSEWHERE:
                page = (origin or site or b"")[:64].decode("latin-1")
                return Forbidden(f"Origin: {page}, expected no page from elsewhere; [server] allowed_origins allows it")
        if self._keys is None:
            return None
        digest = sha256(key or b"").hexdigest().encode()
        if sum(hmac.compare_digest(digest, known) for known in self._keys) == 0:
            return Unauthorized("API key: missing or unknown, expected X-API-Key or Authorization: Bearer")
        return None


def host_name(host: bytes) -> bytes:
    """The name in a Host header, without the port.

    >>> host_name(b"127.0.0.1:8080"), host_name(b"[::1]:8080"), host_name(b"localhost")
    (b'127.0.0.1', b'[::1]', b'localhost')
    """
    return host[: host.index(b"]") + 1] if host.startswith(b"[") and b"]" in host else host.partition(b":")[0]
