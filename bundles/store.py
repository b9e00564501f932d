"""Where bundles lie: content-addressed blobs in an OCI image layout.

A blob appears whole or not at all (temporary file, sync, rename), under the name of its digest, so writers need not
know of each other. Only `index.json`, the list of manifests, is rewritten, under a lock. Signatures and other later
words about a bundle are manifests of their own that name it as their subject, as OCI 1.1 has it: they never change
its identity.

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

import orjson

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
EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


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
                _write(path / "oci-layout", orjson.dumps({"imageLayoutVersion": "1.0.0"}))
        except OSError as error:
            msg = f"{path}: can't be made: {error.strerror}; give another folder with --home"
            raise HomeError(msg) from error

    def add_blob(self, content: bytes | Path, media_type: str, path: str | None = None) -> Descriptor:
        """Put bytes, or a file's bytes, in the store and return what names them."""
        if isinstance(content, bytes):
            digest, size = sha256_bytes(content), len(content)
        else:
            digest, size = sha256_file(content), content.stat().st_size
        target = self._blob(digest)
        if not target.exists():
            if isinstance(content, bytes):
                _write(target, content)
            else:
                _copy_in(content, target, digest)
        return Descriptor(media_type, digest, size, path)

    def add_manifest(self, manifest: Manifest) -> str:
        """Put a bundle's manifest in the store, its blobs being there, and return the bundle's digest."""
        for descriptor in (manifest.config, *manifest.layers):
            if not self._blob(descriptor.digest).exists():
                raise CorruptBundle(descriptor.path or "config", f"is not in the store ({descriptor.digest})")
        data = manifest.to_bytes()
        descriptor = self.add_blob(data, MANIFEST_TYPE)
        self._add_to_index(
            {
                "mediaType": MANIFEST_TYPE,
                "digest": descriptor.digest,
                "size": len(data),
                "artifactType": ARTIFACT_TYPE,
            }
        )
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
            raise self._corrupt(descriptor, error.strerror or "unreadable") from error
        found = sha256_bytes(data)
        if found != descriptor.digest:
            raise self._corrupt(descriptor, f"altered: its digest is {found}")
        return data

    def copy(self, descriptor: Descriptor, target: Path) -> None:
        """Put a blob's bytes, checked against its digest, in a file. Raises CorruptBundle, naming its path.

        The copy is what is hashed, not the blob: what was checked is what will be read.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(self._blob(descriptor.digest), target)
        except OSError as error:
            raise self._corrupt(descriptor, error.strerror or "unreadable") from error
        found = sha256_file(target)
        if found != descriptor.digest:
            target.unlink()
            raise self._corrupt(descriptor, f"altered: its digest is {found}")

    def verify(self, digest: str) -> None:
        """Check every byte of a bundle. Raises CorruptBundle, naming the path of the first file that is wrong."""
        manifest = self.manifest(digest)
        for descriptor in (manifest.config, *manifest.layers):
            blob = self._blob(descriptor.digest)
            if not blob.exists():
                raise self._corrupt(descriptor, "missing")
            found = sha256_file(blob)
            if found != descriptor.digest:
                raise self._corrupt(descriptor, f"altered: its digest is {found}")
        self.attestations(digest)

    def attach(self, digest: str, envelope: dict[str, Any]) -> None:
        """Put a signed statement about a bundle beside it."""
        subject = {"mediaType": MANIFEST_TYPE, "digest": digest, "size": self._blob(digest).stat().st_size}
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
        entry = {"mediaType": MANIFEST_TYPE, "digest": manifest.digest, "size": len(data)}
        self._add_to_index(entry | {"artifactType": STATEMENT_TYPE, "annotations": {SUBJECT_ANNOTATION: digest}})

    def attestations(self, digest: str) -> list[dict[str, Any]]:
        """Return the signed statements about a bundle. Raises CorruptBundle."""
        found = []
        for entry in self._entries():
            if entry.get("annotations", {}).get(SUBJECT_ANNOTATION) != digest:
                continue
            named = Descriptor(MANIFEST_TYPE, entry["digest"], entry["size"], "attestation manifest")
            document = orjson.loads(self.read(named))
            if document["subject"]["digest"] != digest:
                raise self._corrupt(named, "about another bundle than the index says")
            layer = document["layers"][0]
            envelope = Descriptor(ENVELOPE_TYPE, layer["digest"], layer["size"], "attestation")
            found.append(orjson.loads(self.read(envelope)))
        return found

    def _corrupt(self, descriptor: Descriptor, what: str) -> CorruptBundle:
        blob = self._blob(descriptor.digest)
        return CorruptBundle(descriptor.path or "config", f"is {what} (blob {blob}, expected {descriptor.digest})")

    def _blob(self, digest: str) -> Path:
        return self._blobs / digest.removeprefix("sha256:")

    def _entries(self) -> list[dict[str, Any]]:
        try:
            entries: list[dict[str, Any]] = orjson.loads(self._index.read_bytes())["manifests"]
        except FileNotFoundError:
            return []
        except (orjson.JSONDecodeError, KeyError) as error:
            raise CorruptBundle("index.json", f"is not the index of an OCI layout ({self._index}: {error})") from error
        return entries

    def _add_to_index(self, entry: dict[str, Any]) -> None:
        with self._locked():
            entries = self._entries()
            if all(one["digest"] != entry["digest"] for one in entries):
                document = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}
                _write(self._index, orjson.dumps(document | {"manifests": [*entries, entry]}))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._path / "index.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def list(self) -> list[str]:
        """Return the digests of all bundles, in the order in which they were added."""
        return [entry["digest"] for entry in self._entries() if entry.get("artifactType") == ARTIFACT_TYPE]


def _write(target: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".new-", delete=False) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(target)


def _copy_in(source: Path, target: Path, digest: str) -> None:
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".new-", delete=False) as file:
        with source.open("rb") as opened:
            shutil.copyfileobj(opened, file)
        file.flush()
        os.fsync(file.fileno())
    copied = Path(file.name)
    if sha256_file(copied) != digest:
        copied.unlink()
        raise CorruptBundle(str(source), "changed while it was copied; pack it again when nobody writes to it")
    copied.replace(target)
