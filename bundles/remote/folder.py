"""A folder that fsspec reaches: on a shared disk, in an object store.

    blobs/sha256/<hex>             files and manifests, as in an OCI image layout
    tags/<tag>                     the digest that a tag names
    statements/<hex>/<hex>         an empty file: the second manifest is a statement about the first

There is no list that two writers could overwrite for each other, for object stores have no locks. A tag is written
last, when all that it names is there.
"""

import secrets
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from bundles.digest import CHUNK_BYTES
from bundles.errors import BundleError, RemoteError, UnknownReference
from bundles.manifest import MANIFEST_BYTES_MAX, Descriptor, is_digest
from bundles.remote.address import TAG, Address
from bundles.statement import Statement

TAG_BYTES_MAX = 200


class Folder:
    """One folder, as a source and a destination of bundles (`transfer.py`)."""

    def __init__(self, address: Address) -> None:
        """Open it. Raises BundleError, saying what to install."""
        try:
            from fsspec.core import url_to_fs  # noqa: PLC0415 - an optional extra
        except ImportError as error:
            msg = f"{address}: needs fsspec: pip install 'snowgate[remote]'"
            raise BundleError(msg) from error
        self._name = str(address)
        try:
            # Others write here too: nothing is remembered.
            self._files, root = url_to_fs(address.place, skip_instance_cache=True, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            msg = f"{address}: {error}"
            raise BundleError(msg) from error
        self._root = str(root).rstrip("/")
        protocols = self._files.protocol
        self._local = "file" in ((protocols,) if isinstance(protocols, str) else protocols)

    def tagged(self, tag: str) -> str | None:
        """Return the digest that a tag names, or None."""
        try:
            digest = self._read(f"tags/{tag}", TAG_BYTES_MAX).decode(errors="replace").strip()
        except UnknownReference:
            return None
        if not is_digest(digest):
            raise RemoteError(f"{self._name}: the tag {tag!r} holds {digest[:80]!r}, expected a digest")
        return digest

    def tags(self) -> list[str]:
        """Return the tags that there are."""
        return [tag for tag in self._list("tags") if TAG.fullmatch(tag)]

    def manifest(self, digest: str) -> bytes:
        """Return the manifest that has, they say, this digest. Raises UnknownReference."""
        return self._read(_blob(digest), MANIFEST_BYTES_MAX)

    def statements(self, digest: str) -> list[str]:
        """Return the digests of the manifests of statements about a bundle."""
        found = [f"sha256:{name}" for name in self._list(f"statements/{digest.removeprefix('sha256:')}")]
        return [one for one in found if is_digest(one)]

    def blob(self, descriptor: Descriptor, start: int) -> Generator[bytes]:
        """Yield a blob's bytes from `start` on. Raises UnknownReference, RemoteError."""
        with self._telling(_blob(descriptor.digest)) as path, self._files.open(path, "rb") as file:
            file.seek(start)
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def has(self, descriptor: Descriptor) -> bool:
        """Say whether the folder has a blob, whole."""
        try:
            with self._telling(_blob(descriptor.digest)) as path:
                return bool(self._files.info(path)["size"] == descriptor.size)
        except UnknownReference:
            return False

    def put(self, descriptor: Descriptor, chunks: Callable[[], Iterable[bytes]]) -> None:
        """Write a blob, which is read as it leaves."""
        self._write(_blob(descriptor.digest), chunks())

    def put_manifest(self, digest: str, data: bytes) -> None:
        """Write a manifest, whose blobs are there."""
        self._write(_blob(digest), [data])

    def put_statement(self, statement: Statement) -> None:
        """Write a statement's manifest, whose blobs are there, and where those who look for the bundle's find it."""
        self._write(_blob(statement.digest), [statement.data])
        names = (one.removeprefix("sha256:") for one in (statement.subject, statement.digest))
        self._write(f"statements/{'/'.join(names)}", [])

    def put_tag(self, tag: str, digest: str, data: bytes) -> None:
        """Give a manifest that is there a name."""
        self._write(f"tags/{tag}", [digest.encode()])

    def _list(self, folder: str) -> list[str]:
        try:
            with self._telling(folder) as path:
                return sorted(str(one).rstrip("/").rpartition("/")[2] for one in self._files.ls(path, detail=False))
        except UnknownReference:
            return []

    def _read(self, name: str, limit: int) -> bytes:
        with self._telling(name) as path, self._files.open(path, "rb") as file:
            data = bytes(file.read(limit + 1))
        if len(data) > limit:
            raise RemoteError(f"{self._name}: {name} has more than {limit} bytes")
        return data

    def _write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a file that appears whole: object stores show one when it is closed, elsewhere it is renamed."""
        with self._telling(name) as path:
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            if self._local:
                self._write_beside(path, chunks)
                return
            file = self._files.open(path, "wb", autocommit=False)
            try:
                _fill(file, chunks)
            except BaseException:
                file.discard()
                raise
            file.commit()

    def _write_beside(self, path: str, chunks: Iterable[bytes]) -> None:
        made = f"{path}.new-{secrets.token_hex(8)}"
        try:
            _fill(self._files.open(made, "wb"), chunks)
            self._files.mv(made, path)
        except BaseException:
            if self._files.exists(made):
                self._files.rm_file(made)
            raise

    @contextmanager
    def _telling(self, name: str) -> Iterator[str]:
        """Give the path of a name, and say in our words what the file system says in its own."""
        try:
            yield f"{self._root}/{name}"
        except FileNotFoundError as error:
            raise UnknownReference(f"{self._name}: {name} is not there") from error
        except OSError as error:
            raise RemoteError(f"{self._name}: {name}: {error.strerror or error}") from error


def _fill(file: Any, chunks: Iterable[bytes]) -> None:
    with file:
        for chunk in chunks:
            file.write(chunk)


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"
