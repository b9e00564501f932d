"""Where bundles lie: content-addressed blobs in an OCI image layout.

Blobs need no lock to be added (`blobs.py`). Only `index.json`, the list of manifests, is rewritten, under a lock, and
never names a manifest whose blobs are not all there. Signatures and other later words about a bundle are manifests of
their own that name it as their subject, as OCI 1.1 has it: they never change its identity.

Source: OCI image specification 1.1, image-layout.md and manifest.md.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from bundles.blobs import Blobs, write
from bundles.digest import canonical_json
from bundles.errors import BundleError, CorruptBundle, HomeError, UnknownReference
from bundles.layout import INDEX_FILE, LAYOUT, LAYOUT_FILE, Entry, index_bytes, parse_index
from bundles.manifest import (
    ARTIFACT_TYPE,
    MANIFEST_BYTES_MAX,
    MANIFEST_TYPE,
    Descriptor,
    Manifest,
    is_digest,
    parse_manifest,
)
from bundles.statement import (
    EMPTY,
    EMPTY_BLOB,
    EMPTY_TYPE,
    ENVELOPE_BYTES_MAX,
    ENVELOPE_TYPE,
    STATEMENT_TYPE,
    Statement,
    make_statement,
    parse_envelope,
    parse_statement,
)

SUBJECT_ANNOTATION = "dev.snowgate.subject"


class BundleStore(Protocol):
    """A place for bundles; the contract is in `tests/contracts/test_store.py`."""

    def add_blob(self, content: bytes | Path, media_type: str, path: str | None = None) -> Descriptor:
        """Put bytes, or a file's bytes, in the store and return what names them."""
        ...

    def holds(self, descriptor: Descriptor) -> bool:
        """Say whether a blob is in the store and every byte of it is right."""
        ...

    def receive(self, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
        """Put a blob that comes in pieces from somebody who isn't believed in the store. Raises CorruptBundle."""
        ...

    def add_manifest(self, manifest: Manifest) -> str:
        """Put a bundle's manifest in the store, its blobs being there, and return the bundle's digest."""
        ...

    def manifest(self, digest: str) -> Manifest:
        """Return a bundle's manifest. Raises UnknownReference, CorruptBundle."""
        ...

    def read(self, descriptor: Descriptor) -> bytes:
        """Return a blob's bytes, checked against its digest. Raises CorruptBundle, naming its path."""
        ...

    def chunks(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield a blob's bytes; raise CorruptBundle at the end when they were not what its digest says."""
        ...

    def copy(self, descriptor: Descriptor, target: Path) -> None:
        """Put a blob's bytes, checked against its digest, in a file. Raises CorruptBundle, naming its path."""
        ...

    def verify(self, digest: str) -> None:
        """Check every byte of a bundle. Raises CorruptBundle, naming the path of the first file that is wrong."""
        ...

    def attach(self, digest: str, envelope: dict[str, Any]) -> None:
        """Put a signed statement about a bundle beside it."""
        ...

    def statements(self, digest: str) -> list[Statement]:
        """Return the manifests of the statements about a bundle. Raises CorruptBundle."""
        ...

    def attestations(self, digest: str) -> list[dict[str, Any]]:
        """Return the signed statements about a bundle. Raises CorruptBundle."""
        ...

    def list(self) -> list[str]:
        """Return the digests of all bundles, in the order in which they were added."""
        ...


class OciStore:
    """The embedded implementation: a folder."""

    def __init__(self, path: Path) -> None:
        """Open the folder, and make it when it is not there. Raises HomeError."""
        self._index = path / INDEX_FILE
        try:
            self._blobs = Blobs(path / "blobs" / "sha256", path / "index.lock")
            if not (path / LAYOUT_FILE).exists():
                write(path / LAYOUT_FILE, LAYOUT)
            layout = (path / LAYOUT_FILE).read_bytes()
        except OSError as error:
            msg = f"{path}: can't be made: {error.strerror}; give another folder with --home"
            raise HomeError(msg) from error
        if layout.strip() != LAYOUT:
            found = f"{layout[:80]!r}, expected {LAYOUT!r}"
            raise CorruptBundle(LAYOUT_FILE, f"is not that of OCI 1.0.0 ({path / 'oci-layout'}: {found})")

    def add_blob(self, content: bytes | Path, media_type: str, path: str | None = None) -> Descriptor:
        """Put bytes, or a file's bytes, in the store and return what names them."""
        return self._blobs.add(content, media_type, path)

    def holds(self, descriptor: Descriptor) -> bool:
        """Say whether a blob is in the store and every byte of it is right."""
        return self._blobs.holds(descriptor)

    def receive(self, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
        """Put a blob that comes in pieces from somebody who isn't believed in the store. Raises CorruptBundle."""
        self._blobs.receive(descriptor, chunks)

    def add_manifest(self, manifest: Manifest) -> str:
        """Put a bundle's manifest in the store, its blobs being there, and return the bundle's digest."""
        data = manifest.to_bytes()
        descriptor = self.add_blob(data, MANIFEST_TYPE)
        entry = Entry(MANIFEST_TYPE, descriptor.digest, len(data), ARTIFACT_TYPE)
        self._add_to_index(entry, (manifest.config, *manifest.layers, descriptor))
        return descriptor.digest

    def manifest(self, digest: str) -> Manifest:
        """Return a bundle's manifest. Raises UnknownReference, CorruptBundle."""
        if not is_digest(digest) or not self._blobs.path(digest).exists():
            msg = f"bundle {digest}: not in this home; `snowgate bundle list` shows what is"
            raise UnknownReference(msg)
        size = self._blobs.path(digest).stat().st_size
        if size > MANIFEST_BYTES_MAX:
            raise CorruptBundle("manifest", f"has {size} bytes, expected at most {MANIFEST_BYTES_MAX}")
        return parse_manifest(self.read(Descriptor(MANIFEST_TYPE, digest, size, "manifest")))

    def read(self, descriptor: Descriptor) -> bytes:
        """Return a blob's bytes, checked against its digest. Raises CorruptBundle, naming its path."""
        return self._blobs.read(descriptor)

    def chunks(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield a blob's bytes; raise CorruptBundle at the end when they were not what its digest says."""
        return self._blobs.chunks(descriptor)

    def copy(self, descriptor: Descriptor, target: Path) -> None:
        """Put a blob's bytes, checked against its digest, in a file. Raises CorruptBundle, naming its path."""
        self._blobs.copy(descriptor, target)

    def verify(self, digest: str) -> None:
        """Check every byte of a bundle. Raises CorruptBundle, naming the path of the first file that is wrong."""
        manifest = self.manifest(digest)
        for descriptor in (manifest.config, *manifest.layers):
            self._blobs.check(descriptor)
        self.attestations(digest)

    def attach(self, digest: str, envelope: dict[str, Any]) -> None:
        """Put a signed statement about a bundle beside it. Raises BundleError when it is too large."""
        size = len(self.manifest(digest).to_bytes())
        data = canonical_json(envelope)
        if len(data) > ENVELOPE_BYTES_MAX:
            msg = f"a statement about {digest} has {len(data)} bytes, expected at most {ENVELOPE_BYTES_MAX}"
            raise BundleError(msg)
        layer = self.add_blob(data, ENVELOPE_TYPE)
        config = self.add_blob(EMPTY, EMPTY_TYPE)
        statement = make_statement(digest, size, layer)
        manifest = self.add_blob(statement.data, MANIFEST_TYPE)
        about = {SUBJECT_ANNOTATION: digest}
        entry = Entry(MANIFEST_TYPE, manifest.digest, manifest.size, STATEMENT_TYPE, about)
        self._add_to_index(entry, (config, layer, manifest))

    def statements(self, digest: str) -> list[Statement]:
        """Return the manifests of the statements about a bundle, in the order in which they were made."""
        entries = self._entries()
        return [self._statement(one, digest) for one in entries if one.annotations.get(SUBJECT_ANNOTATION) == digest]

    def attestations(self, digest: str) -> list[dict[str, Any]]:
        """Return the signed statements about a bundle. Raises CorruptBundle."""
        statements = self.statements(digest)
        if statements:
            self.read(EMPTY_BLOB)  # Every manifest has a config, and every byte of a bundle is checked.
        return [parse_envelope(self.read(statement.envelope)) for statement in statements]

    def sweep(self, *, remove: bool) -> Iterator[tuple[Path, int]]:
        """Find blobs that no manifest names, and what broken writes left, older than a day; remove them if told to.

        Yields each with its size in bytes. Raises CorruptBundle when a manifest can't be read, before anything is gone.
        """
        with self._blobs.locked():
            for path in self._blobs.garbage(self._named()):
                size = path.stat().st_size
                if remove:
                    path.unlink()
                yield path, size

    def _named(self) -> set[str]:
        """Return the digests of all blobs that a manifest of the index names, and of those manifests."""
        named = {EMPTY_BLOB.digest}
        for entry in self._entries():  # Read once: others wait for the lock meanwhile.
            named.add(entry.digest)
            subject = entry.annotations.get(SUBJECT_ANNOTATION)
            if subject is not None:
                named.add(self._statement(entry, subject).envelope.digest)
            elif entry.artifact_type == ARTIFACT_TYPE:
                manifest = self.manifest(entry.digest)
                named |= {one.digest for one in (manifest.config, *manifest.layers)}
        return named

    def _statement(self, entry: Entry, subject: str) -> Statement:
        named = Descriptor(MANIFEST_TYPE, entry.digest, entry.size, "attestation manifest")
        return parse_statement(self.read(named), subject)

    def _entries(self) -> list[Entry]:
        try:
            return parse_index(self._index.read_bytes(), str(self._index))
        except FileNotFoundError:
            return []

    def _add_to_index(self, entry: Entry, needed: Iterable[Descriptor]) -> None:
        """Add a manifest. Whoever removes garbage waits meanwhile, so what is here now stays."""
        with self._blobs.locked():
            for descriptor in needed:
                if not self._blobs.path(descriptor.digest).exists():
                    raise self._blobs.corrupt(descriptor, "missing")
            entries = self._entries()
            if all(one.digest != entry.digest for one in entries):
                write(self._index, index_bytes([*entries, entry]))

    def list(self) -> list[str]:
        """Return the digests of all bundles, in the order in which they were added."""
        return [entry.digest for entry in self._entries() if entry.artifact_type == ARTIFACT_TYPE]
