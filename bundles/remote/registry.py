"""A repository in an OCI registry.

Statements are found by the referrers API of OCI 1.1 where a registry has it, and by the referrers tag where not: an
index under the tag `sha256-<hex>` of the bundle's digest. Two who add to that index at once can overwrite each other,
for a registry has no compare-and-swap; so it is read again after it was written, and written again when it lacks ours.

Source: OCI distribution specification 1.1.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from urllib.parse import quote, urlencode

import msgspec

from bundles.digest import sha256_bytes
from bundles.errors import CorruptBundle, RemoteError, UnknownReference
from bundles.layout import INDEX_BYTES_MAX, INDEX_TYPE, Entry, index_bytes, parse_index
from bundles.manifest import MANIFEST_BYTES_MAX, MANIFEST_TYPE, Descriptor
from bundles.remote.address import TAG, Address
from bundles.remote.session import ANSWER_BYTES_MAX, Session, pieces, retried
from bundles.statement import STATEMENT_TYPE, Statement

PAGES_MAX = 20
# Each round somebody wins, so ten who write at once are done in ten.
TAG_ROUNDS_MAX = 20


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


_decode_tags = msgspec.json.Decoder(_Tags).decode


class Registry:
    """One repository, as a source and a destination of bundles (`transfer.py`)."""

    def __init__(self, address: Address, session: Session) -> None:
        self._session = session
        self._name = f"oci://{address.place}"
        self._path = f"/v2/{quote(address.repository)}"

    def tagged(self, tag: str) -> str | None:
        """Return the digest of the manifest under a tag, or None."""
        try:
            answer = self._session.ask("GET", f"{self._path}/manifests/{tag}", _ACCEPT, limit=MANIFEST_BYTES_MAX)
        except UnknownReference:
            return None
        found, said = sha256_bytes(answer.body), answer.headers.get("Docker-Content-Digest", "")
        if said and said != found:
            raise CorruptBundle(
                "manifest", f"is not what {self._name} says: {found}, and its header has {said[:100]!r}"
            )
        return found

    def tags(self) -> list[str]:
        """Return the tags that there are, some at least, without those of referrers."""
        try:
            answer = self._session.ask("GET", f"{self._path}/tags/list?n=100", limit=ANSWER_BYTES_MAX)
            tags = _decode_tags(answer.body).tags or ()
            return [tag for tag in tags if TAG.fullmatch(tag) and not tag.startswith("sha256-")]
        except (UnknownReference, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return []

    def manifest(self, digest: str) -> bytes:
        """Return the manifest that has, they say, this digest. Raises UnknownReference."""
        return self._session.ask("GET", f"{self._path}/manifests/{digest}", _ACCEPT, limit=MANIFEST_BYTES_MAX).body

    def statements(self, digest: str) -> list[str]:
        """Return the digests of the manifests of statements about a bundle."""
        found = self._referrers(digest)
        if found is None:
            found = self._tagged_referrers(digest)
        return [one.digest for one in found if one.artifact_type == STATEMENT_TYPE]

    def blob(self, descriptor: Descriptor, start: int) -> Generator[bytes]:
        """Yield a blob's bytes from `start` on. Raises RemoteError, RemoteUnavailable."""
        path = f"{self._path}/blobs/{descriptor.digest}"
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._session.stream("GET", path, headers) as response:
            # A server that knows no ranges sends all of it again.
            skip = start if response.status == 200 else 0
            expected, said = descriptor.size - start + skip, response.headers.get("Content-Length")
            if said is not None and said != str(expected):
                name = descriptor.path or descriptor.media_type
                raise CorruptBundle(name, f"is to have {expected} bytes more, and {self._name} sends {said[:30]}")
            for chunk in pieces(response, expected):
                yield chunk[skip:]
                skip = max(0, skip - len(chunk))

    def has(self, descriptor: Descriptor) -> bool:
        """Say whether the registry has a blob."""
        try:
            self._session.ask("HEAD", f"{self._path}/blobs/{descriptor.digest}")
        except UnknownReference:
            return False
        return True

    def put(self, descriptor: Descriptor, chunks: Callable[[], Iterable[bytes]]) -> None:
        """Send a blob, which is read as it leaves; from its beginning again when the connection broke."""
        retried(lambda: self._upload(descriptor, chunks), self._session.waits)

    def put_manifest(self, digest: str, data: bytes) -> None:
        """Send a manifest, whose blobs are there."""
        self._put_manifest(digest, data, MANIFEST_TYPE)

    def put_statement(self, statement: Statement) -> None:
        """Send a statement's manifest, whose blobs are there, so that those who ask for the bundle's find it."""
        headers = self._put_manifest(statement.digest, statement.data, MANIFEST_TYPE)
        if "OCI-Subject" not in headers and self._referrers(statement.subject) is None:
            self._add_to_tag(statement)

    def put_tag(self, tag: str, digest: str, data: bytes) -> None:
        """Give a manifest that is there a name."""
        self._put_manifest(tag, data, MANIFEST_TYPE)

    def _upload(self, descriptor: Descriptor, chunks: Callable[[], Iterable[bytes]]) -> None:
        with self._session.stream("POST", f"{self._path}/blobs/uploads/", {"Content-Length": "0"}) as begun:
            url = self._session.own_url(begun.headers.get("Location"), "the upload")
        url += ("&" if "?" in url else "?") + urlencode({"digest": descriptor.digest})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(descriptor.size)}
        with self._session.stream("PUT", url, headers, chunks):
            pass

    def _put_manifest(self, name: str, data: bytes, media_type: str) -> Mapping[str, str]:
        headers = {"Content-Type": media_type}
        return self._session.ask("PUT", f"{self._path}/manifests/{name}", headers, data).headers

    def _referrers(self, digest: str) -> list[Entry] | None:
        """Ask the referrers API; None where there is none."""
        path, found = f"{self._path}/referrers/{digest}", list[Entry]()
        for _page in range(PAGES_MAX):
            try:
                answer = self._session.ask("GET", path, {"Accept": INDEX_TYPE}, limit=INDEX_BYTES_MAX)
            except UnknownReference:
                return None
            found += parse_index(answer.body, self._name)
            link = answer.headers.get("Link", "")
            if 'rel="next"' not in link:
                return found
            path = self._session.own_url(link.partition("<")[2].partition(">")[0], "us for the next page")
        raise RemoteError(f"{self._name}: lists the statements about {digest} on more than {PAGES_MAX} pages")

    def _tagged_referrers(self, digest: str) -> list[Entry]:
        try:
            path = f"{self._path}/manifests/{_tag_of(digest)}"
            answer = self._session.ask("GET", path, {"Accept": INDEX_TYPE}, limit=INDEX_BYTES_MAX)
        except UnknownReference:
            return []
        return parse_index(answer.body, f"{self._name}:{_tag_of(digest)}")

    def _add_to_tag(self, statement: Statement) -> None:
        """Add a statement to the referrers tag, until it is there."""
        ours = Entry(MANIFEST_TYPE, statement.digest, len(statement.data), STATEMENT_TYPE)
        for _round in range(TAG_ROUNDS_MAX):
            found = self._tagged_referrers(statement.subject)
            if any(one.digest == ours.digest for one in found):
                return
            data = index_bytes([*found, ours])
            self._put_manifest(_tag_of(statement.subject), data, INDEX_TYPE)
        raise RemoteError(f"{self._name}: others write the tag {_tag_of(statement.subject)} all the time; push again")


_ACCEPT = {"Accept": MANIFEST_TYPE}


def _tag_of(digest: str) -> str:
    return digest.replace(":", "-")
