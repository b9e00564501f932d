"""Where bundles lie: content-addressed blobs in an OCI image layout.

A blob appears whole or not at all (temporary file, sync, rename), under the name of its digest, so writers need not
know of each other. Only `index.json`, the list of manifests, is rewritten, under a lock. Signatures and other later
words about a bundle are manifests of their own that name it as their subject, as OCI 1.1 has it: they never change
its identity. A blob that has gone bad is refused by every reader, and made good by adding the same content again.

Source: OCI image specification 1.1, image-layout.md and manifest.md.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from bundles.digest import canonical_json, sha256_bytes, sha256_file
from bundles.errors import CorruptBundle, HomeError, UnknownReference
from bundles.manifest import (
    ARTIFACT_TYPE,
    MANIFEST_BYTES_MAX,
    MANIFEST_TYPE,
    Descriptor,
    Manifest,
    is_digest,
    parse_manifest,
)

ENVELOPE_TYPE = "application/vnd.dsse.envelope.v1+json"
STATEMENT_TYPE = "application/vnd.in-toto+json"
SUBJECT_ANNOTATION = "dev.snowgate.subject"
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


class _Entry(msgspec.Struct, rename="camel", omit_defaults=True):
    """One manifest as `index.json` and an attestation name it."""

    media_type: str
    digest: str
    size: int
    artifact_type: str = ""
    annotations: dict[str, str] = {}


class _Index(msgspec.Struct, rename="camel"):
    """`index.json`."""

    manifests: list[_Entry]
    schema_version: int = 2
    media_type: str = "application/vnd.oci.image.index.v1+json"


class _Attestation(msgspec.Struct):
    """A manifest about another manifest."""

    subject: _Entry
    config: _Entry
    layers: list[_Entry]


# Built at import, not at first use by two threads at once: see `manifest.py`.
_decode_index = msgspec.json.Decoder(_Index).decode
_decode_attestation = msgspec.json.Decoder(_Attestation).decode


class BundleStore(Protocol):
    """A place for bundles; the contract is in `tests/contracts/test_store.py`."""

    def add_blob(self, content: bytes | Path, media_type: str, path: str | None = None) -> Descriptor:
        """Put bytes, or a file's bytes, in the store and return what names them."""
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

    def copy(self, descriptor: Descriptor, target: Path) -> None:
        """Put a blob's bytes, checked against its digest, in a file. Raises CorruptBundle, naming its path."""
        ...

    def verify(self, digest: str) -> None:
        """Check every byte of a bundle. Raises CorruptBundle, naming the path of the first file that is wrong."""
        ...

    def attach(self, digest: str, envelope: dict[str, Any]) -> None:
        """Put a signed statement about a bundle beside it."""
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
        self._path = path
        self._blobs = path / "blobs" / "sha256"
        self._index = path / "index.json"
        try:
            self._blobs.mkdir(parents=True, exist_ok=True)
            if not (path / "oci-layout").exists():
                _write(path / "oci-layout", LAYOUT)
            layout = (path / "oci-layout").read_bytes()
        except OSError as error:
            msg = f"{path}: can't be made: {error.strerror}; give another folder with --home"
            raise HomeError(msg) from error
        if layout.strip() != LAYOUT:
            found = f"{layout[:80]!r}, expected {LAYOUT!r}"
            raise CorruptBundle("oci-layout", f"is not that of OCI 1.0.0 ({path / 'oci-layout'}: {found})")

    def add_blob(self, content: bytes | Path, media_type: str, path: str | None = None) -> Descriptor:
        """Put bytes, or a file's bytes, in the store and return what names them."""
        if isinstance(content, bytes):
            digest, size = sha256_bytes(content), len(content)
        else:
            digest, size = sha256_file(content), content.stat().st_size
        target = self._blob(digest)
        if not target.exists() or sha256_file(target) != digest:
            if isinstance(content, bytes):
                _write(target, content)
            else:
                _copy_in(content, target, digest)
        return Descriptor(media_type, digest, size, path)

    def add_manifest(self, manifest: Manifest) -> str:
        """Put a bundle's manifest in the store, its blobs being there, and return the bundle's digest."""
        for descriptor in (manifest.config, *manifest.layers):
            if not self._blob(descriptor.digest).exists():
                raise self._corrupt(descriptor, "missing")
        data = manifest.to_bytes()
        descriptor = self.add_blob(data, MANIFEST_TYPE)
        self._add_to_index(_Entry(MANIFEST_TYPE, descriptor.digest, len(data), ARTIFACT_TYPE))
        return descriptor.digest

    def manifest(self, digest: str) -> Manifest:
        """Return a bundle's manifest. Raises UnknownReference, CorruptBundle."""
        if not is_digest(digest) or not self._blob(digest).exists():
            msg = f"bundle {digest}: not in this home; `snowgate bundle list` shows what is"
            raise UnknownReference(msg)
        size = self._blob(digest).stat().st_size
        if size > MANIFEST_BYTES_MAX:
            raise CorruptBundle("manifest", f"has {size} bytes, expected at most {MANIFEST_BYTES_MAX}")
        return parse_manifest(self.read(Descriptor(MANIFEST_TYPE, digest, size, "manifest")))

    def read(self, descriptor: Descriptor) -> bytes:
        """Return a blob's bytes, checked against its digest. Raises CorruptBundle, naming its path."""
        try:
            data = self._blob(descriptor.digest).read_bytes()
        except OSError as error:
            raise self._unreadable(descriptor, error) from error
        found = sha256_bytes(data)
        if found != descriptor.digest:
            raise self._corrupt(descriptor, f"altered: its digest is {found}")
        return data

    def copy(self, descriptor: Descriptor, target: Path) -> None:
        """Put a blob's bytes, checked against its digest, in a file. Raises CorruptBundle, naming its path.

        The copy is what is hashed, not the blob: what was checked is what will be read.
        """
        try:
            blob = self._blob(descriptor.digest).open("rb")
        except OSError as error:
            raise self._unreadable(descriptor, error) from error
        with blob:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    shutil.copyfileobj(blob, file)
            except OSError as error:
                msg = f"{target}: can't be written: {error.strerror}; give the home folder room, or another place"
                raise HomeError(msg) from error
        found = sha256_file(target)
        if found != descriptor.digest:
            target.unlink()
            raise self._corrupt(descriptor, f"altered: its digest is {found}")

    def verify(self, digest: str) -> None:
        """Check every byte of a bundle. Raises CorruptBundle, naming the path of the first file that is wrong."""
        manifest = self.manifest(digest)
        for descriptor in (manifest.config, *manifest.layers):
            try:
                found = sha256_file(self._blob(descriptor.digest))
            except OSError as error:
                raise self._unreadable(descriptor, error) from error
            if found != descriptor.digest:
                raise self._corrupt(descriptor, f"altered: its digest is {found}")
        self.attestations(digest)

    def attach(self, digest: str, envelope: dict[str, Any]) -> None:
        """Put a signed statement about a bundle beside it."""
        size = len(self.manifest(digest).to_bytes())
        subject = {"mediaType": MANIFEST_TYPE, "digest": digest, "size": size}
        layer = self.add_blob(canonical_json(envelope), ENVELOPE_TYPE)
        config = self.add_blob(EMPTY, EMPTY_TYPE)
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": STATEMENT_TYPE,
            "config": config.to_json(),
            "layers": [layer.to_json()],
            "subject": subject,
        }
        data = canonical_json(document)
        manifest = self.add_blob(data, MANIFEST_TYPE)
        about = {SUBJECT_ANNOTATION: digest}
        self._add_to_index(_Entry(MANIFEST_TYPE, manifest.digest, len(data), STATEMENT_TYPE, about))

    def attestations(self, digest: str) -> list[dict[str, Any]]:
        """Return the signed statements about a bundle. Raises CorruptBundle."""
        found: list[dict[str, Any]] = []
        for entry in self._entries():
            if entry.annotations.get(SUBJECT_ANNOTATION) != digest:
                continue
            named = Descriptor(MANIFEST_TYPE, entry.digest, entry.size, "attestation manifest")
            try:
                document = _decode_attestation(self.read(named))
                self.read(Descriptor(EMPTY_TYPE, document.config.digest, document.config.size, "attestation config"))
                envelopes = [
                    self.read(Descriptor(ENVELOPE_TYPE, layer.digest, layer.size, "attestation"))
                    for layer in document.layers
                ]
                said = [msgspec.json.decode(envelope, type=dict[str, Any]) for envelope in envelopes]
            except msgspec.DecodeError as error:
                raise self._corrupt(named, f"not an attestation ({error})") from error
            if document.subject.digest != digest:
                raise self._corrupt(named, "about another bundle than the index says")
            found += said
        return found

    def _unreadable(self, descriptor: Descriptor, error: OSError) -> CorruptBundle:
        missing = isinstance(error, FileNotFoundError)
        return self._corrupt(descriptor, "missing" if missing else f"unreadable: {error.strerror}")

    def _corrupt(self, descriptor: Descriptor, what: str) -> CorruptBundle:
        blob = self._blob(descriptor.digest)
        return CorruptBundle(descriptor.path or "config.json", f"is {what} (blob {blob}, expected {descriptor.digest})")

    def _blob(self, digest: str) -> Path:
        return self._blobs / digest.removeprefix("sha256:")

    def _entries(self) -> list[_Entry]:
        try:
            entries = _decode_index(self._index.read_bytes()).manifests
        except FileNotFoundError:
            return []
        except msgspec.DecodeError as error:
            raise CorruptBundle("index.json", f"is not the index of an OCI layout ({self._index}: {error})") from error
        for entry in entries:
            # It becomes a file's name.
            if not is_digest(entry.digest):
                raise CorruptBundle("index.json", f"names {entry.digest!r}, expected a digest ({self._index})")
        return entries

    def _add_to_index(self, entry: _Entry) -> None:
        with self._locked():
            entries = self._entries()
            if all(one.digest != entry.digest for one in entries):
                _write(self._index, msgspec.json.encode(_Index([*entries, entry])))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._path / "index.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def list(self) -> list[str]:
        """Return the digests of all bundles, in the order in which they were added."""
        return [entry.digest for entry in self._entries() if entry.artifact_type == ARTIFACT_TYPE]


def _write(target: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with _arriving(target) as made:
        made.write_bytes(data)


def _copy_in(source: Path, target: Path, digest: str) -> None:
    """Copy a file whole or not at all; what was copied must be what was hashed."""
    with _arriving(target) as made:
        shutil.copyfile(source, made)
        if sha256_file(made) != digest:
            raise CorruptBundle(str(source), "changed while it was copied; pack it again when nobody writes to it")


@contextmanager
def _arriving(target: Path) -> Iterator[Path]:
    """Give a temporary file to fill, that becomes `target`, on disk, when all went well, and is gone when not."""
    made = None
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".new-")
        os.close(descriptor)
        made = Path(name)
        yield made
        _sync(made)
        made.replace(target)
        # Without this a power cut can take the name back, and leave an index that points at nothing.
        _sync(target.parent)
    except OSError as error:
        msg = f"{error.filename or target}: can't be written: {error.strerror}; make room, or give another --home"
        raise HomeError(msg) from error
    finally:
        if made is not None:
            made.unlink(missing_ok=True)  # When all went well it has the target's name, and this one is free.


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
