"""Blobs: files under the names of their digests.

A blob appears whole or not at all (temporary file, sync, rename), so writers need not know of each other. One that has
gone bad is refused by every reader, and made good by adding the same content again.

What a crashed writer leaves is a temporary file, or a blob that no manifest names. Both are garbage once they are a day
old: a writer that finds its blob there already makes it young again, under the lock under which garbage is removed.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from bundles.digest import CHUNK_BYTES, sha256_bytes, sha256_file
from bundles.errors import CorruptBundle, HomeError
from bundles.manifest import Descriptor

TEMPORARY = ".new-"
# What is read whole into memory: documents, golden examples, statements. Weights are copied, never read.
READ_BYTES_MAX = 256 * 1024 * 1024
# A writer stores a bundle's files before the manifest that names them; a day is more than that takes.
YOUNG_SECONDS = 24 * 3600.0


class Blobs:
    """A folder of blobs, and the lock of the store that they belong to."""

    def __init__(self, folder: Path, lock: Path) -> None:
        """Make the folder when it is not there. Raises OSError."""
        self._folder = folder
        self._lock = lock
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Return the file of a digest that is one."""
        return self._folder / digest.removeprefix("sha256:")

    def add(self, content: bytes | Path, media_type: str, path: str | None = None) -> Descriptor:
        """Put bytes, or a file's bytes, in the folder and return what names them. Raises HomeError."""
        if isinstance(content, bytes):
            descriptor = Descriptor(media_type, sha256_bytes(content), len(content), path)
        else:
            descriptor = Descriptor(media_type, sha256_file(content), content.stat().st_size, path)
        if not self.holds(descriptor):
            target = self.path(descriptor.digest)
            if isinstance(content, bytes):
                write(target, content)
            else:
                _copy_in(content, target, descriptor.digest)
        return descriptor

    def holds(self, descriptor: Descriptor) -> bool:
        """Say whether a blob is here and every byte of it is right; if so, it is young again."""
        target = self.path(descriptor.digest)
        try:
            with self.locked():
                os.utime(target)
            return sha256_file(target) == descriptor.digest
        except FileNotFoundError:
            return False

    def receive(self, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
        """Put a blob here that comes in pieces from somebody who isn't believed.

        Raises:
            CorruptBundle: there are more or fewer bytes than its size, or they are not what its digest says.
            HomeError: it can't be written.
        """
        digest, size = sha256(), 0
        name = descriptor.path or descriptor.media_type
        with _arriving(self.path(descriptor.digest)) as made, made.open("wb") as file:
            for chunk in chunks:
                size += len(chunk)
                if size > descriptor.size:
                    raise CorruptBundle(name, f"has more than {descriptor.size} bytes, its size in the manifest")
                digest.update(chunk)
                file.write(chunk)
            if size < descriptor.size:
                raise CorruptBundle(name, f"ended after {size} of {descriptor.size} bytes")
            if f"sha256:{digest.hexdigest()}" != descriptor.digest:
                found = f"its digest is sha256:{digest.hexdigest()}, expected {descriptor.digest}"
                raise CorruptBundle(name, f"arrived altered: {found}")

    def chunks(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield a blob's bytes; raise CorruptBundle at the end when they were not what its digest says."""
        digest = sha256()
        try:
            with self.path(descriptor.digest).open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    yield chunk
        except OSError as error:
            raise self.unreadable(descriptor, error) from error
        self._compare(descriptor, f"sha256:{digest.hexdigest()}")

    def read(self, descriptor: Descriptor) -> bytes:
        """Return a blob's bytes, checked against its digest. Raises CorruptBundle, naming its path."""
        try:
            size = self.path(descriptor.digest).stat().st_size
            if size > READ_BYTES_MAX:
                raise self.corrupt(descriptor, f"too large to be read whole: {size} bytes, at most {READ_BYTES_MAX}")
            data = self.path(descriptor.digest).read_bytes()
        except OSError as error:
            raise self.unreadable(descriptor, error) from error
        self._compare(descriptor, sha256_bytes(data))
        return data

    def copy(self, descriptor: Descriptor, target: Path) -> None:
        """Put a blob's bytes, checked against its digest, in a file. Raises CorruptBundle, naming its path.

        The copy is what is hashed, not the blob: what was checked is what will be read.
        """
        try:
            blob = self.path(descriptor.digest).open("rb")
        except OSError as error:
            raise self.unreadable(descriptor, error) from error
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
        self._compare(descriptor, found)

    def check(self, descriptor: Descriptor) -> None:
        """Check every byte of a blob, and their number. Raises CorruptBundle, naming its path."""
        try:
            found = sha256_file(self.path(descriptor.digest))
            size = self.path(descriptor.digest).stat().st_size
        except OSError as error:
            raise self.unreadable(descriptor, error) from error
        self._compare(descriptor, found)
        if size != descriptor.size:
            raise self.corrupt(descriptor, f"of {size} bytes, the manifest says {descriptor.size}")

    def garbage(self, named: Collection[str]) -> list[Path]:
        """Return the files here that are older than a day and whose digests are not `named`; ask under the lock."""
        found = []
        for path in sorted(self._folder.iterdir()):
            with suppress(FileNotFoundError):
                old = time.time() - path.stat().st_mtime > YOUNG_SECONDS
                if old and (path.name.startswith(TEMPORARY) or f"sha256:{path.name}" not in named):
                    found.append(path)
        return found

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one who changes what the store names, or removes what it does not."""
        with self._lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def unreadable(self, descriptor: Descriptor, error: OSError) -> CorruptBundle:
        """Return the error of a blob that can't be read."""
        missing = isinstance(error, FileNotFoundError)
        return self.corrupt(descriptor, "missing" if missing else f"unreadable: {error.strerror}")

    def corrupt(self, descriptor: Descriptor, what: str) -> CorruptBundle:
        """Return the error of a blob that is not as it must be."""
        blob = self.path(descriptor.digest)
        return CorruptBundle(descriptor.path or "config.json", f"is {what} (blob {blob}, expected {descriptor.digest})")

    def _compare(self, descriptor: Descriptor, found: str) -> None:
        if found != descriptor.digest:
            raise self.corrupt(descriptor, f"altered: its digest is {found}")


def write(target: Path, data: bytes) -> None:
    """Write a file whole or not at all. Raises HomeError."""
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
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=TEMPORARY)
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
