"""Addresses of bundles elsewhere, taken apart.

oci://host[:port]/repository[:tag][@sha256:…]
file:///folder[:tag][@sha256:…]       and any other scheme of fsspec's
"""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from bundles.errors import BundleError
from bundles.manifest import is_digest

TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?|\[[0-9a-fA-F:.]+\](:[0-9]{1,5})?")
_REPOSITORY = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
EXPECTED = (
    "expected oci://host:port/repository:tag, or a folder such as file:///shared/models:tag or s3://bucket/models:tag"
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a bundle is, or shall be. `place` is a host and repository, or a folder's URL."""

    scheme: str
    place: str
    tag: str | None = None
    digest: str | None = None

    @property
    def host(self) -> str:
        """The host and port of a registry."""
        return self.place.partition("/")[0]

    @property
    def repository(self) -> str:
        """The repository in a registry."""
        return self.place.partition("/")[2]

    def __str__(self) -> str:
        """Return the address without anything that could be a secret: this is what is shown and recorded."""
        place = f"oci://{self.place}" if self.scheme == "oci" else _without_secrets(self.place)
        return place + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse_address(text: str) -> Address:
    """Take an address apart. Raises BundleError.

    >>> parse_address("oci://localhost:5000/team/signs:7")
    Address(scheme='oci', place='localhost:5000/team/signs', tag='7', digest=None)
    >>> str(parse_address("s3://key:secret@bucket/models:production"))
    's3://bucket/models:production'
    """
    scheme, separator, rest = text.partition("://")
    if not separator or not rest or not _SCHEME.fullmatch(scheme) or not text.isprintable():
        msg = f"{text[:200]!r}: {EXPECTED}"
        raise BundleError(msg)
    digest = tag = None
    if "@sha256:" in rest:
        rest, _at, hexadecimal = rest.rpartition("@")
        digest = hexadecimal
        if not is_digest(digest):
            msg = f"{digest[:100]!r}: expected a whole digest, sha256: and 64 hexadecimal digits"
            raise BundleError(msg)
    before, colon, last = rest.rpartition(":")
    # A colon before the last slash, or right behind a registry's host, is a port.
    if colon and "/" not in last and ("/" in before or scheme != "oci"):
        if not TAG.fullmatch(last):
            msg = f"{str(Address(scheme, rest))[:200]!r}: a tag has up to 128 letters, digits, '.', '_' and '-'"
            raise BundleError(msg)
        rest, tag = before, last
    if scheme != "oci":
        return Address(scheme, f"{scheme}://{rest.rstrip('/')}", tag, digest)
    host, _slash, repository = rest.partition("/")
    if "@" in host:
        msg = "oci://…@…: a password in an address ends up in histories and logs; use docker login, or set "
        raise BundleError(msg + "SNOWGATE_REGISTRY_USER and SNOWGATE_REGISTRY_PASSWORD")
    if not _HOST.fullmatch(host) or not _REPOSITORY.fullmatch(repository) or len(repository) > 255:
        msg = f"{text[:200]!r}: {EXPECTED}; a repository is of lower-case letters, digits, '.', '_', '-' and '/'"
        raise BundleError(msg)
    return Address(scheme, rest, tag, digest)


def _without_secrets(url: str) -> str:
    """Return a URL without user, password and query: signed URLs carry their secret there."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
