"""A bundle in one file: a tar of an OCI image layout, the same bytes whenever and wherever it is written.

The members are `oci-layout`, `index.json`, then each manifest before what it names. So an archive can be written and
read from a pipe, and what an archive is to hold, and how large it is, is known before the first file arrives. From a
file that can be searched any order is read.

An archive comes from anybody. Its headers are read one by one, and only plain files of the names of a layout are
accepted: no links, no devices, no sparse files (a few bytes that unpack to terabytes), no extended headers (of which
the sizes, up to gigabytes, would be read into memory), no second file of a name. Nothing is compressed.

Source: POSIX.1-1988 ustar; GNU's numbers for files above 8 GiB.
"""

import tarfile
from collections.abc import Callable, Generator, Iterable
from typing import BinaryIO

from bundles.digest import CHUNK_BYTES
from bundles.errors import CorruptBundle, UnknownReference
from bundles.layout import INDEX_BYTES_MAX, INDEX_FILE, LAYOUT, LAYOUT_FILE, Entry, index_bytes, parse_index
from bundles.manifest import ARTIFACT_TYPE, MANIFEST_BYTES_MAX, MANIFEST_TYPE, Descriptor, is_digest
from bundles.statement import EMPTY, EMPTY_BLOB, STATEMENT_TYPE
from bundles.store import SUBJECT_ANNOTATION, BundleStore

BLOCK = tarfile.BLOCKSIZE
USTAR_BYTES_MAX = 8 * 1024**3 - 1
BLOBS = "blobs/sha256/"
# A manifest has up to 16,000 files, a bundle up to a thousand statements of two blobs each.
MEMBERS_MAX = 20_000
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK": "unzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


def write_archive(store: BundleStore, digest: str, file: BinaryIO, say: Callable[[str], None]) -> int:
    """Write a bundle and the statements about it, and return how many bytes that are.

    Raises:
        UnknownReference: it is not in the store.
        CorruptBundle: naming the file that is wrong; what was written until then is no whole archive.
    """
    manifest = store.manifest(digest)
    data = manifest.to_bytes()
    # Not in the order in which they came here, which differs from home to home.
    statements = sorted(store.statements(digest), key=lambda one: one.digest)
    about = {SUBJECT_ANNOTATION: digest}
    said = [Entry(MANIFEST_TYPE, one.digest, len(one.data), STATEMENT_TYPE, about) for one in statements]
    index = index_bytes([Entry(MANIFEST_TYPE, digest, len(data), ARTIFACT_TYPE), *said])
    written = _write(file, LAYOUT_FILE, len(LAYOUT), [LAYOUT])
    written += _write(file, INDEX_FILE, len(index), [index])
    written += _write(file, _blob(digest), len(data), [data])
    for statement in statements:
        written += _write(file, _blob(statement.digest), len(statement.data), [statement.data])
    named: dict[str, Descriptor] = {}
    for one in (*(statement.envelope for statement in statements), manifest.config, *manifest.layers):
        named.setdefault(one.digest, one)
    if statements and EMPTY_BLOB.digest not in named:
        written += _write(file, _blob(EMPTY_BLOB.digest), EMPTY_BLOB.size, [EMPTY])
    for number, blob in enumerate(named.values(), 1):
        say(f"{number} of {len(named)}: {blob.path or 'config.json'}, {blob.size:,} bytes")
        written += _write(file, _blob(blob.digest), blob.size, store.chunks(blob))
    file.write(bytes(2 * BLOCK))
    return written + 2 * BLOCK


def _write(file: BinaryIO, name: str, size: int, chunks: Iterable[bytes]) -> int:
    """Write one member, and return how many bytes it takes."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    file.write(info.tobuf(tarfile.USTAR_FORMAT if size <= USTAR_BYTES_MAX else tarfile.GNU_FORMAT))
    written = 0
    for chunk in chunks:
        file.write(chunk)
        written += len(chunk)
    if written != size:
        raise CorruptBundle(name, f"has {written} bytes, the manifest says {size}")
    file.write(bytes(-size % BLOCK))
    return BLOCK + size + -size % BLOCK


class Archive:
    """An archive that is read, as a source of one bundle (`remote/transfer.py`)."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._searchable = file.seekable()
        self._at = self._next = 0
        self._ended = False
        self._members: dict[str, tuple[int, int]] = {}
        self._entries: list[Entry] = []

    def bundle(self) -> str:
        """Return the digest of the one bundle that is in it. Raises CorruptBundle."""
        layout = self._read(LAYOUT_FILE, len(LAYOUT) * 10)
        if layout.strip() != LAYOUT:
            raise CorruptBundle(self._name, f"has the layout {layout[:100]!r}, expected {LAYOUT!r}")
        self._entries = parse_index(self._read(INDEX_FILE, INDEX_BYTES_MAX), self._name)
        bundles = [one.digest for one in self._entries if one.artifact_type == ARTIFACT_TYPE]
        if len(bundles) != 1:
            raise CorruptBundle(self._name, f"has {len(bundles)} bundles in its index, expected one")
        return bundles[0]

    def manifest(self, digest: str) -> bytes:
        """Return the manifest that has, the archive says, this digest. Raises UnknownReference, CorruptBundle."""
        return self._read(_blob(digest), MANIFEST_BYTES_MAX)

    def statements(self, digest: str) -> list[str]:
        """Return the digests of the manifests of statements about a bundle."""
        return [one.digest for one in self._entries if one.artifact_type == STATEMENT_TYPE]

    def blob(self, descriptor: Descriptor, start: int) -> Generator[bytes]:
        """Yield a blob's bytes from `start` on. Raises UnknownReference, CorruptBundle."""
        place, size = self._find(_blob(descriptor.digest))
        if size != descriptor.size:
            said = f"has {size} bytes in {self._name}, and {descriptor.size} in the manifest"
            raise CorruptBundle(descriptor.path or descriptor.media_type, said)
        self._go_to(place + start)
        left = size - start
        while left:
            chunk = self._take(min(CHUNK_BYTES, left))
            left -= len(chunk)
            yield chunk

    def finish(self) -> None:
        """Look at the rest, of which nothing is used: an archive is whole and harmless, or CorruptBundle is raised."""
        while not self._ended:
            self._scan()

    def _read(self, name: str, limit: int) -> bytes:
        place, size = self._find(name)
        if size > limit:
            raise CorruptBundle(name, f"has {size} bytes in {self._name}, expected at most {limit}")
        self._go_to(place)
        return self._take(size) if size else b""

    def _find(self, name: str) -> tuple[int, int]:
        """Return where a member's bytes are, and how many."""
        while name not in self._members:
            if self._ended:
                raise UnknownReference(f"{self._name}: {name} is not in it; it is no bundle, or not all of one")
            self._scan()
        if self._members[name][0] < self._at and not self._searchable:
            msg = f"comes in {self._name} before the manifest that names it; give the file's name, not a pipe"
            raise CorruptBundle(name, msg)
        return self._members[name]

    def _scan(self) -> None:
        """Read the next header. Raises CorruptBundle, also for what a layout does not have."""
        self._go_to(self._next)
        block = self._take(BLOCK)
        if not any(block):
            self._ended = True
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            program = next((name for magic, name in _COMPRESSED.items() if block.startswith(magic)), None)
            how = f"it is compressed: {program} it first" if program and not self._members else str(error)
            raise CorruptBundle(self._name, f"is no tar archive at byte {self._next}: {how}") from error
        name = info.name.removeprefix("./").rstrip("/")
        if info.isdir() and info.size == 0 and name in ("", ".", "blobs", "blobs/sha256"):
            self._next += BLOCK
            return
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            kind = _KINDS.get(info.type, f"a header of the type {info.type!r}")
            msg = (
                f"holds {kind} named {info.name[:200]!r}; expected plain files, as `snowgate bundle export` writes them"
            )
            raise CorruptBundle(self._name, msg)
        known = name in (LAYOUT_FILE, INDEX_FILE) or is_digest(name.replace(BLOBS, "sha256:", 1))
        if not known or info.size < 0:
            msg = f"holds a file named {info.name[:200]!r}; expected oci-layout, index.json and blobs/sha256/…"
            raise CorruptBundle(self._name, msg)
        if name in self._members or len(self._members) >= MEMBERS_MAX:
            problem = f"holds {name} twice" if name in self._members else f"holds more than {MEMBERS_MAX} files"
            raise CorruptBundle(self._name, problem)
        self._members[name] = (self._at, info.size)
        self._next = self._at + info.size + -info.size % BLOCK

    def _go_to(self, place: int) -> None:
        if self._searchable and place != self._at:
            self._file.seek(place)
            self._at = place
        while self._at < place:
            self._take(min(CHUNK_BYTES, place - self._at))

    def _take(self, count: int) -> bytes:
        """Read `count` bytes. Raises CorruptBundle when the file ends before."""
        data = self._file.read(count)
        self._at += len(data)
        if len(data) < count:
            raise CorruptBundle(self._name, f"is cut off; it should go on at byte {self._at}")
        return data


def _blob(digest: str) -> str:
    return BLOBS + digest.removeprefix("sha256:")
